"""Heartbeats of workers: how often one is due, and when its absence means that a worker is away."""

HEARTBEAT_S = 0.5
AWAY_S = 2.0
"""Without a heartbeat for so long a worker serves nothing: others accept in its place by then (see
`fastgate.runtime.supervisor.standby`), nothing waits for it, and it is reported."""
