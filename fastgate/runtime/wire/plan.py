"""What to run, as data: what a supervisor gets, and what a child gets when it starts.

The supervisor knows no configuration and no engine. It gets a `Plan` with the functions that
its children run, and gives each child a start record. So it can be tested with children of a
few lines, and nothing that users write can touch it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from fastgate.runtime.wire.messages import Listener, Ready


class SharedSegment(Protocol):
    """What the supervisor does with the shared segment (see `_core/shared/segment.pyx`)."""

    draining: int

    def worker_started(self, index: int, pid: int) -> None: ...
    def worker_stopped(self, index: int) -> None: ...
    def heartbeat_age(self, index: int) -> float | None: ...


class SharedMoneyMap(Protocol):
    """The little that the supervisor does with the money map (see `_core/money/money_map.pyx`)."""

    def stopped(self, worker: int) -> None: ...


@dataclass(slots=True)
class WorkerStart:
    """What a worker starts with. Descriptors are its own."""

    index: int
    generation: int  # 0: no snapshot yet
    snapshot_fd: int  # -1: none yet
    credentials_fd: int  # -1: none yet
    listeners: list[tuple[Listener, socket.socket]]
    channel: socket.socket
    peers: dict[str, list[socket.socket]] = field(default_factory=dict)
    """By the key of a listener: the sockets of all workers, where each has its own."""


@dataclass(slots=True)
class ControlStart:
    """What a control process starts with."""

    starts: int  # how many came before it
    channel: socket.socket
    workers: list[tuple[int, int, socket.socket]]  # index, pid, control's end of the channel
    listeners: list[tuple[Listener, list[socket.socket], str]]  # sockets, address as bound
    pending_reload: bool = False


@dataclass(slots=True)
class Companion:
    """Another child that lives as long as the gateway, such as the demonstration upstream."""

    name: str
    main: Callable[[], int]


@dataclass(slots=True)
class Plan:
    """Everything a supervisor needs."""

    workers: int
    segment: SharedSegment
    worker_main: Callable[[WorkerStart], int]
    control_main: Callable[[ControlStart], int]
    companions: list[Companion] = field(default_factory=list)
    inherited: list[tuple[str, socket.socket]] = field(default_factory=list)
    drain_s: float = 30.0  # until control sends the configured value
    drain_delay_s: float = 0.0  # readiness is 503 for so long before accepting stops
    hang_s: float = 60.0  # a child that shows no life for so long is killed; 0: never
    start_failures: int = 5  # deaths in a row before the first readiness: give up
    money_map: SharedMoneyMap | None = None  # informed of workers that ended
    on_ready: Callable[[Ready], None] | None = None  # once, when it first serves
