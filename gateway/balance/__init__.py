"""Choosing one of several targets."""
