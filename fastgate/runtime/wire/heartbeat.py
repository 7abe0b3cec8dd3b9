"""Heartbeats of workers: their interval, and when a worker without one counts as away."""

HEARTBEAT_S = 0.5
AWAY_S = 2.0
"""After this time without a heartbeat, a worker counts as away: others accept for it (see
`fastgate.runtime.supervisor.standby`), nothing waits for it, and it is reported."""
