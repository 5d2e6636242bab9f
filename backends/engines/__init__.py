"""One adapter for each engine: a module, or a package where it needs several files."""
