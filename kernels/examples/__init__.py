"""Arguments for each kernel, of given sizes: what tests, benchmark and profiler call them with."""
