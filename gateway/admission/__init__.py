"""Bounded concurrency and bounded queues."""
