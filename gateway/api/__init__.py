"""What clients see: the HTTP endpoints."""
