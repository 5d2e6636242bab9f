"""The journey of one request through its attempts."""
