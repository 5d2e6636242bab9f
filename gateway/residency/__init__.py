"""Which launched engines run at one time: decided from facts, without a clock, a process or a socket."""
