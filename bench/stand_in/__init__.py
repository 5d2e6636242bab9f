"""GPUs and engines that a run makes up: what they hold lies in a folder, one file for each engine."""
