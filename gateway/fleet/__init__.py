"""The engines as live things: processes, connections, health, load."""
