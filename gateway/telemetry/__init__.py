"""The metrics of the gateway and the timeline of each request."""
