"""Bytes: the HTTP server side, the HTTP client side, and the relay between them."""
