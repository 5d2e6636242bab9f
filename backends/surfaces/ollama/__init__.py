"""Ollama's API as clients speak it, and how it is said in OpenAI's, which every engine has."""
