"""What the processes say to each other: msgpack frames, one tagged struct a message.

    supervisor ⇄ control        sockets, snapshots, signals
    control    ⇄ worker         two-step installation of a generation

A file descriptor travels as ancillary data of the message that names it; the comment at
each struct gives the order, and `descriptors` how many there must be: a message with more or
fewer is refused where it is received. A message never carries configuration or an image: those are
memfds, so every message is small (a few hundred bytes) and fits a socket buffer.

Installing generation G over all workers::

    control                     worker (each)
      │ Prepare(seq, G) + fds ──▶ maps the snapshot, imports the handlers
      │ ◀── Prepared(seq, problems)
      │   any problem: Abort(seq) to all; nothing was touched
      │ Published(G) + fd ──▶ supervisor (a worker forked from now on starts with G)
      │ Commit(seq) ──────────▶ swaps, listens, stops listening
      │ ◀── Serving(seq, G)

`seq` is unique over all control processes, so that an answer meant for a dead one
is recognised and dropped by its successor.
"""

from __future__ import annotations

import msgspec

PRIVATE = "private "  # how the keys of private listeners begin


class Message(msgspec.Struct, tag=True, kw_only=True, omit_defaults=True):
    """Base of every frame; the class name is its tag."""

    def descriptors(self) -> int | None:
        """How many come with it; None: as many as there are."""
        return 0


class Listener(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An address to listen on: `host:port`, `[v6]:port`, `unix:/path`, `unix:@name` (abstract)."""

    name: str
    bind: str
    mode: int = 0o660  # of a Unix socket's file
    backlog: int = 4096  # connections that may wait; the kernel caps it at net.core.somaxconn
    private: bool = False  # control's own: one socket, which no worker ever gets

    @property
    def key(self) -> str:
        """What it is known by: its address, so that renaming one binds nothing again. Several
        may leave the port to the system (0): those are distinguished by name."""
        key = f"{self.name} {self.bind}" if self.bind.endswith(":0") else self.bind
        return f"{PRIVATE}{key}" if self.private else key


# ---- control → supervisor ----------------------------------------------------------------


class Bind(Message):
    """Bind an address, now; answered by `Bound` with the same id."""

    id: int
    listener: Listener


class Release(Message):
    """Close what was bound for an apply that failed."""

    binds: list[str]


class Published(Message):
    """Keep this snapshot for workers to come. Descriptors: the snapshot.

    `binds` are the keys of the listeners from now on; others are closed (and their files removed).
    """

    generation: int
    binds: list[str]
    drain_s: float

    def descriptors(self) -> int:
        return 1


class KeepCredentials(Message):
    """Keep this credential index for workers to come. Descriptors: the index."""

    def descriptors(self) -> int:
        return 1


class Ready(Message):
    """Every worker serves `generation`. Addresses are as bound."""

    generation: int
    listeners: list[str]
    control: str


class ReloadDone(Message):
    """The reload asked for by signal is over; `error` is empty when it was applied."""

    error: str = ""


class Fatal(Message):
    """The gateway cannot start: end everything with this exit code."""

    error: str
    code: int = 1


class Alive(Message):
    """Control's loop turns; said every few seconds."""


class DrainWanted(Message):
    """Someone asked the API for the graceful end."""


ToSupervisor = (
    Bind | Release | Published | KeepCredentials | Ready | ReloadDone | Fatal | Alive | DrainWanted
)


# ---- supervisor → control ----------------------------------------------------------------


class Bound(Message):
    """Answer to `Bind`. Descriptors: one socket for each worker (one in all if private)."""

    id: int
    address: str = ""  # as bound; tells the port where 0 was asked for
    error: str = ""
    hint: str = ""

    def descriptors(self) -> int | None:
        return 0 if self.error else None


class WorkerStarted(Message):
    """A worker was forked. Descriptors: control's end of its channel."""

    index: int
    pid: int
    generation: int  # of the snapshot it starts with; 0: none
    binds: list[str]  # keys of what it listens on from the start

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
    """The gateway drains: let go of the clients' listening sockets, so that none stays open."""


ToControl = Bound | WorkerStarted | WorkerStopped | Reload | ReopenLogs | StopAccepting


# ---- control → worker --------------------------------------------------------------------


class Prepare(Message):
    """Make ready to serve `generation`. Descriptors: the snapshot, then `listen`'s sockets.

    `binds` are the keys of all listeners it shall have; `listen` are those it may not have yet.
    """

    seq: int
    generation: int
    binds: list[str]
    listen: list[Listener]

    def descriptors(self) -> int:
        return 1 + len(self.listen)


class Peers(Message):
    """The sockets of all workers for a listener, sent before the `Prepare` that brings it: while a
    worker does not accept, others do. Descriptors: the sockets, in the order of the workers."""

    bind: str

    def descriptors(self) -> int | None:
        return None


class Commit(Message):
    seq: int


class Abort(Message):
    seq: int


class UseCredentials(Message):
    """Look credentials up in this index from now on. Descriptors: the index."""

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
