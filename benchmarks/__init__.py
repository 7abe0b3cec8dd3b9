"""FastGate's benchmarks: `micro` (pytest-benchmark) and `compare` (beside other proxies)."""
