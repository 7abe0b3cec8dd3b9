"""Observability: the core's counts and records, for people and their tools.

- `metrics`: the counters of all workers in Prometheus's text format.
- `accesslog`: the records of the workers' log rings: lines in a file, recent ones in memory.

No request waits for anything here; workers only count and write to shared memory.
"""
