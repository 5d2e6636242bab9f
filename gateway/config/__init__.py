"""The configuration file: its schema, reading and checking."""
