"""The dispatch of requests: waiting for a slot, choosing a backend, attempts and retries."""
