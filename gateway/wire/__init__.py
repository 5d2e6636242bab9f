"""The HTTP protocol code: the server for clients, the client for backends, and the relay between them."""
