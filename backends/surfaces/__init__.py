"""The dialects of clients: how their requests are read, and how answers and errors are written."""
