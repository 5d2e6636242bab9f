"""Metrics and the timeline of a request."""
