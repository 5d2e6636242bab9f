"""Dialects that clients speak: how their requests are read, and how answers and errors are written."""
