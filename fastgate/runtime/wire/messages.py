"""The messages between processes: msgpack frames, one tagged struct per message.

    supervisor ⇄ control        sockets, snapshots, signals
    control    ⇄ worker         two-step installation of a generation

A file descriptor is ancillary data of the message that names it. The docstring of each struct gives
the order, and `descriptors` the required number: the receiver refuses a message with more or fewer.
A message never contains a configuration or an image: those are in memfds, so every message is small
(a few hundred bytes) and fits into a socket buffer.

Installing generation G in all workers::

    control                     worker (each)
      │ Prepare(seq, G) + fds ──▶ maps the snapshot, imports the handlers
      │ ◀── Prepared(seq, problems)
      │   any problem: Abort(seq) to all; nothing was changed
      │ Published(G) + fd ──▶ supervisor (a worker forked from now on starts with G)
      │ Commit(seq) ──────────▶ swaps, listens, stops listening
      │ ◀── Serving(seq, G)

`seq` is unique over all control processes, so that a new control process recognises and drops an
answer for a dead one.
"""

from __future__ import annotations

import msgspec

PRIVATE = "private "  # prefix of the keys of private listeners


class Message(msgspec.Struct, tag=True, kw_only=True, omit_defaults=True):
    """Base of every frame; the class name is its tag."""

    def descriptors(self) -> int | None:
        """The number of descriptors of a message; None: any number."""
        return 0


class Listener(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An address to listen on: `host:port`, `[v6]:port`, `unix:/path`, `unix:@name` (abstract)."""

    name: str
    bind: str
    mode: int = 0o660  # of a Unix socket's file
    backlog: int = 4096  # connections that may wait; the kernel limits it to net.core.somaxconn
    private: bool = False  # for control only: one socket, which workers never get

    @property
    def key(self) -> str:
        """The listener's key: its address, so that renaming it does not bind it again. With port 0,
        several may have the same address, so the name is added."""
        key = f"{self.name} {self.bind}" if self.bind.endswith(":0") else self.bind
        return f"{PRIVATE}{key}" if self.private else key


# ---- control → supervisor ----------------------------------------------------------------


class Bind(Message):
    """Bind an address, now; answered by `Bound` with the same id."""

    id: int
    listener: Listener


class Release(Message):
    """Close the sockets that were bound for an apply that failed."""

    binds: list[str]


class Published(Message):
    """Keep this snapshot for future workers. Descriptors: the snapshot.

    `binds` are the keys of the listeners from now on; others are closed (and their files removed).
    """

    generation: int
    binds: list[str]
    drain_s: float

    def descriptors(self) -> int:
        return 1


class KeepCredentials(Message):
    """Keep this credential index for future workers. Descriptors: the index."""

    def descriptors(self) -> int:
        return 1


class Ready(Message):
    """Every worker serves `generation`. Addresses are as bound."""

    generation: int
    listeners: list[str]
    control: str


class ReloadDone(Message):
    """The reload requested by a signal is over; `error` is empty if it was applied."""

    error: str = ""


class Fatal(Message):
    """The gateway cannot start: end everything with this exit code."""

    error: str
    code: int = 1


class Alive(Message):
    """Control's event loop is running; sent every few seconds."""


class DrainWanted(Message):
    """A graceful end was requested through the API."""


ToSupervisor = (
    Bind | Release | Published | KeepCredentials | Ready | ReloadDone | Fatal | Alive | DrainWanted
)


# ---- supervisor → control ----------------------------------------------------------------


class Bound(Message):
    """Answer to `Bind`. Descriptors: one socket for each worker (one in all if private)."""

    id: int
    address: str = ""  # as bound, with the actual port instead of 0
    error: str = ""
    hint: str = ""

    def descriptors(self) -> int | None:
        return 0 if self.error else None


class WorkerStarted(Message):
    """A worker was forked. Descriptors: control's end of its channel."""

    index: int
    pid: int
    generation: int  # of the snapshot it starts with; 0: none
    binds: list[str]  # keys of its initial listeners

    def descriptors(self) -> int:
        return 1


class WorkerStopped(Message):
    index: int
    pid: int
    status: str  # "exit 0", "signal 9 (SIGKILL)"


class Reload(Message):
    """SIGHUP: read the configuration again; answered by `ReloadDone`."""


class ReopenLogs(Message):
    """SIGUSR1."""


class StopAccepting(Message):
    """The gateway drains: close the clients' listening sockets, so that none stays open."""


ToControl = Bound | WorkerStarted | WorkerStopped | Reload | ReopenLogs | StopAccepting


# ---- control → worker --------------------------------------------------------------------


class Prepare(Message):
    """Prepare to serve `generation`. Descriptors: the snapshot, then `listen`'s sockets.

    `binds` are the keys of all its listeners; `listen` are those that it may not have yet.
    """

    seq: int
    generation: int
    binds: list[str]
    listen: list[Listener]

    def descriptors(self) -> int:
        return 1 + len(self.listen)


class Peers(Message):
    """The sockets of all workers for a listener, sent before the `Prepare` with the listener, so
    that others can accept for a worker. Descriptors: the sockets, in the order of the workers."""

    bind: str

    def descriptors(self) -> int | None:
        return None


class Commit(Message):
    seq: int


class Abort(Message):
    seq: int


class UseCredentials(Message):
    """Use this index of credentials from now on. Descriptors: the index."""

    def descriptors(self) -> int:
        return 1


ToWorker = Prepare | Peers | Commit | Abort | UseCredentials


# ---- worker → control --------------------------------------------------------------------


class Problem(msgspec.Struct, frozen=True):
    """Why a worker cannot serve a snapshot."""

    about: str  # a handler's name, or "snapshot"
    error: str


class Prepared(Message):
    seq: int
    problems: list[Problem] = []


class Serving(Message):
    seq: int
    generation: int


FromWorker = Prepared | Serving
