"""The messages between processes: msgpack frames, one tagged struct per message.

    supervisor ⇄ control        sockets, snapshots, signals
    control    ⇄ worker         two-step installation of a generation

A file descriptor is ancillary data of the message that names it. The docstring of each struct gives
the order, and `descriptors` the required number: the receiver refuses a message with more or fewer.
A message never contains a configuration or an image: those are in memfds, so every message is small
(a few hundred bytes) and fits into a socket buffer.

Installing generation G in all workers::

    control                     worker (each)
      │ Prepare(seq, G) + fds ──▶ maps snapshot and keyring, imports the handlers
      │ ◀── Prepared(seq, problems)
      │   any problem: Abort(seq) to all; nothing was changed
      │ Published(G) + fd ──▶ supervisor (a worker forked from now on starts with G)
      │ Commit(seq) ──────────▶ swaps both, listens, stops listening
      │ ◀── Serving(seq, G)

A keyring (certificates, keys, authorities: `_core/tls/keyring.py`) can also change alone::

      │ KeepKeyring(serial) + fd ──▶ supervisor
      │ UseKeyring(serial) + fd ───▶ uses it for new connections
      │ ◀── KeyringInstalled(serial, error)

A worker can miss something that control may have a moment later: a key of an issuer, a consumer::

      │ ◀── Question(kind, issuer, text)
      │ …  UseKeyring, UseCredentials, or an entry in the index: what there is
      │ Answered(kind, issuer, text, ok) ──▶ whoever waits for it goes on

Messages keep their order, so what is answered is there when the answer comes. A worker asks again
if no answer comes, since control may have been replaced; control answers a question once, however
often it is asked meanwhile.

`seq` is unique over all control processes, so that a new control process recognises and drops an
answer for a dead one.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from fastgate.sockaddr import listener_key

QuestionKind = Literal["keys", "subject"]

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
        """The listener's key, by which processes know it."""
        key = listener_key(self.name, self.bind)
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
    """Keep this snapshot for future workers. Descriptors: the snapshot, and the keyring if one
    belongs to it.

    `binds` are the keys of the listeners from now on; others are closed (and their files removed).
    """

    generation: int
    binds: list[str]
    drain_s: float
    keyring: int = 0  # its serial; 0: the old one is kept

    def descriptors(self) -> int:
        return 2 if self.keyring else 1


class KeepCredentials(Message):
    """Keep this credential index for future workers. Descriptors: the index."""

    def descriptors(self) -> int:
        return 1


class KeepKeyring(Message):
    """Keep this keyring for future workers and control processes. Descriptors: the keyring."""

    serial: int

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
    Bind
    | Release
    | Published
    | KeepCredentials
    | KeepKeyring
    | Ready
    | ReloadDone
    | Fatal
    | Alive
    | DrainWanted
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
    keyring: int = 0  # serial of the keyring it starts with; 0: none

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
    """Prepare to serve `generation`. Descriptors: the snapshot, the keyring if one belongs to it,
    then `listen`'s sockets.

    `binds` are the keys of all its listeners; `listen` are those that it may not have yet.
    """

    seq: int
    generation: int
    binds: list[str]
    listen: list[Listener]
    keyring: int = 0  # its serial; 0: the worker keeps the one that it has

    def descriptors(self) -> int:
        return 1 + bool(self.keyring) + len(self.listen)


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


class UseKeyring(Message):
    """Use this keyring for new connections; answered by `KeyringInstalled`. Descriptors: the
    keyring."""

    serial: int

    def descriptors(self) -> int:
        return 1


class Answered(Message):
    """Answer to `Question`, with its members. ok: whether there is something new."""

    kind: QuestionKind
    issuer: int
    text: str
    ok: bool = False


ToWorker = Prepare | Peers | Commit | Abort | UseCredentials | UseKeyring | Answered


# ---- worker → control --------------------------------------------------------------------


class Problem(msgspec.Struct, frozen=True):
    """Why a worker cannot serve a snapshot."""

    about: str  # a handler's name, "snapshot" or "keyring"
    error: str


class Prepared(Message):
    seq: int
    problems: list[Problem] = []


class Serving(Message):
    seq: int
    generation: int


class KeyringInstalled(Message):
    """Answer to `UseKeyring`. `error`: why it cannot be used; then the old one stays in use."""

    serial: int
    error: str = ""


class Question(Message):
    """Something is missing: of kind "keys" the key of an issuer with this id ("": a token without
    one cannot be verified), of kind "subject" the consumer that has this subject of it."""

    kind: QuestionKind
    issuer: int  # its id in the keyring
    text: str


FromWorker = Prepared | Serving | KeyringInstalled | Question
