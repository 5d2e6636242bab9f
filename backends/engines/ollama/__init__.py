"""Ollama, by its native API and by its OpenAI-compatible one."""
