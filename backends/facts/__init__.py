"""What several engines share as data: options and command lines, metrics, actions, logs, units."""
