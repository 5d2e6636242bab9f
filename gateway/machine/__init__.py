"""What the machine tells of itself: its GPUs, its memory and processors, and what launched engines use of them."""
