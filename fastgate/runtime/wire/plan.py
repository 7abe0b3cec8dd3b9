"""What to run, as data: the plan of a supervisor, and the start record of a child.

The supervisor has no configuration and no engine. It gets a `Plan` with the functions of its
children, and gives each child a start record. So it can be tested with very small children, and no
user code can affect it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from fastgate.runtime.wire.messages import Listener, Ready


class SharedSegment(Protocol):
    """The part of the shared segment that the supervisor uses (see `_core/shared/segment.pyx`)."""

    draining: int

    def worker_started(self, index: int, pid: int) -> None: ...
    def worker_stopped(self, index: int) -> None: ...
    def heartbeat_age(self, index: int) -> float | None: ...


class SharedMoneyMap(Protocol):
    """The part of the money map that the supervisor uses (see `_core/money/money_map.pyx`)."""

    def stopped(self, worker: int) -> None: ...


@dataclass(slots=True)
class WorkerStart:
    """The start record of a worker, which owns its descriptors."""

    index: int
    generation: int  # 0: no snapshot yet
    snapshot_fd: int  # -1: none yet
    credentials_fd: int  # -1: none yet
    keyring_fd: int  # -1: none yet
    listeners: list[tuple[Listener, socket.socket]]
    channel: socket.socket
    peers: dict[str, list[socket.socket]] = field(default_factory=dict)
    """By the key of a listener: the sockets of all workers, if each has its own."""


@dataclass(slots=True)
class ControlStart:
    """The start record of a control process."""

    starts: int  # the number of control processes before it
    channel: socket.socket
    workers: list[tuple[int, int, socket.socket]]  # index, pid, control's end of the channel
    listeners: list[tuple[Listener, list[socket.socket], str]]  # sockets, address as bound
    pending_reload: bool = False
    keyring_fd: int = -1  # the keyring that workers have; -1: none


@dataclass(slots=True)
class Companion:
    """Another child for the life of the gateway, such as the demonstration upstream."""

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
    drain_delay_s: float = 0.0  # readiness is 503 for this time before accepting stops
    hang_s: float = 60.0  # a child without a heartbeat for this time is killed; 0: never
    start_failures: int = 5  # maximum deaths in a row before the first readiness
    money_map: SharedMoneyMap | None = None  # informed about workers that ended
    on_ready: Callable[[Ready], None] | None = None  # called once, when it first serves
