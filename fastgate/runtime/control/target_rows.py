"""The rows of targets in the shared segment: who has them, and since when a target starts slowly.

A row has the identity of its target. When a target is removed, its slot is free, and its row gets
another owner with the next new target.
"""

from __future__ import annotations

import time
from typing import Any

from fastgate._core.shared.segment import Segment
from fastgate._core.snapshot.snapshot import Snapshot


def targets_of(snapshot: Snapshot) -> list[dict[str, Any]]:
    """All targets of a snapshot, each with the name of its upstream."""
    found = []
    for i, name in enumerate(snapshot.upstreams()):
        for index in snapshot.upstream(i)["targets"]:
            found.append({**snapshot.target(index), "upstream_name": name})
    return found


def claim_rows(segment: Segment, snapshot: Snapshot, *, before: Snapshot | None) -> None:
    """Give the targets of a snapshot, which is about to be served, their rows.

    Those that were not served before start from now on, unless the gateway itself starts. before:
    what is served; None: a control process that has just started does not know it, but rows keep
    their owners.
    """
    known = {target["identity"] for target in targets_of(before)} if before is not None else set()
    now = time.monotonic_ns() if segment.generation else 0
    for target in targets_of(snapshot):
        if target["slot"] >= segment.targets:
            continue
        row, identity = segment.target_row(target["slot"]), target["identity"]
        new = row.identity != identity if before is None else identity not in known
        row.claim(identity)
        if new:
            row.started_ns = now
