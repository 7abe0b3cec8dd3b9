"""Dry runs: the data plane's decision about a request, for a diagnosis in control."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from fastgate._core.exchange.dry_run import DryRun, Outcome
from fastgate._core.money.money_file import MoneyFile
from fastgate._core.shared.segment import Segment
from fastgate._core.snapshot.snapshot import Snapshot
from fastgate.billing.diagnosis.evidence import DryRunQuery
from fastgate.identity.directory import Directory


class DryRuns:
    """Uses the shared memory of a running gateway. `snapshot`: the current one."""

    def __init__(
        self,
        segment: Segment,
        money_map: MoneyFile | None,
        directory: Directory,
        snapshot: Callable[[], Snapshot | None],
    ) -> None:
        self._segment = segment
        self._money_map = money_map
        self._directory = directory
        self._snapshot = snapshot

    def decide(self, asked: DryRunQuery) -> Outcome | None:
        """The outcome; None: nothing is served yet, or the route or the consumer is unknown."""
        snapshot = self._snapshot()
        if snapshot is None:
            return None
        route = -1
        if asked.route is not None:
            names = snapshot.routes()
            if asked.route not in names:
                return None
            route = names.index(asked.route)
        run = DryRun(
            self._segment,
            self._money_map,
            snapshot,
            route=route,
            address=_packed(asked.address),
            service=asked.service,
        )
        if asked.digest is not None:
            return run.of_key(self._directory.index, asked.digest)
        if asked.consumer is None:
            return run.of_nobody()
        found = self._directory.alone(asked.consumer)
        return None if found is None else run.of_consumer(*found)


def _packed(address: str | None) -> bytes:
    """The data plane's 16 bytes; empty: unknown, or a Unix socket."""
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return b""
    if isinstance(found, ipaddress.IPv4Address):
        return bytes(10) + b"\xff\xff" + found.packed
    return found.packed
