"""The HTTP endpoints for clients and operators."""
