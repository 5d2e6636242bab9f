"""Ray Serve LLM applications."""
