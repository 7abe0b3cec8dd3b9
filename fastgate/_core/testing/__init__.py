"""What only tests and benchmarks need of the core. No gateway imports it."""
