"""Tables and types that several engines share: launch options, signals, actions, log lines."""
