"""Models from hubs: their names, what a hub has of one, fetching it, and what is on this machine."""
