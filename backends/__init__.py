"""What is known of inference engines: pure knowledge, bytes in and values out. Imports nothing of `gateway`."""
