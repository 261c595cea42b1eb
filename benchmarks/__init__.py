"""Side-by-side timings: every figure is a ratio measured within one run."""
