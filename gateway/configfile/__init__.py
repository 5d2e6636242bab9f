"""Behind `gateway.config`: the shape of the file, how it is read, and how its mistakes are told."""
