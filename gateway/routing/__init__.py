"""From a requested model name to the backends that serve it."""
