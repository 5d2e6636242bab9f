"""Cut byte streams into events, lines and form parts, without any I/O."""
