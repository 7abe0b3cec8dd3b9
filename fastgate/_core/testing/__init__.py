"""What only tests and benchmarks need of the core. The gateway never imports it."""
