"""llama.cpp's server, attached to or launched as the embedded engine."""
