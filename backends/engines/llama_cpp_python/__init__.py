"""llama-cpp-python's server."""
