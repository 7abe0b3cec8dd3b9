"""Observability: what the core counted and recorded, for people and their tools.

- `metrics`: the counters of all workers as a Prometheus text exposition.
- `accesslog`: the workers' log rings, as lines in a file and as recent requests in memory.

Nothing here is in a request's path; workers only count and write to shared memory.
"""
