"""What is compared: a subject writes its configuration, names its command and knows its reload.

Peers are configured as their users would for the same duty, and tuned where it is usual:
keep-alive to the upstream with a pool that never runs short, no request bound on a connection,
`X-Forwarded-For` and `-Proto` set. With policies on, everyone looks the key up among a thousand,
limits the rate by its consumer, tells the upstream who calls, strips the key and writes its own
usual access log to a file. Where the duties differ the peer has the lighter one: FastGate also
counts a quota, makes request ids, continues traces and logs JSON. docs/benchmarks.md lists it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.compare.processes import Tree

NAME = "api.example.com"  # the host that is asked for, and that certificates are for
KEY = "bench-key-5c1d2f7e9a4b"
KEY_HEADER = f"X-Api-Key: {KEY}"
PROBLEM_401 = (
    '{"type":"about:blank","title":"Unauthorized","status":401,'
    '"detail":"This route needs an API key.","reason":"credential_missing"}'
)
OTHER_KEYS = 999  # besides KEY: a table of one entry would flatter everybody


class Unavailable(RuntimeError):
    """A subject cannot run here; the text says what to install."""


class NotServing(RuntimeError):
    """A subject was started and did not serve."""


def all_keys() -> dict[str, str]:
    """Key → consumer's name, KEY among them."""
    return {KEY: "bench"} | {f"other-key-{i:012d}": f"consumer-{i}" for i in range(OTHER_KEYS)}


@dataclass(frozen=True)
class Setup:
    """One running of a subject."""

    port: int
    backend: int  # port
    folder: Path
    socket: str = ""  # the path of the backend's Unix socket, for subjects that are `unix`
    workers: int = 1
    policies: bool = False  # key, rate limit, quota where there is one, access log
    rate: int = 1_000_000  # requests/s a consumer may; with policies
    burst: int = 1_000_000
    routes: int = 1  # more: /r/<i>/… besides the one that serves everything
    descriptors: int = 20_000  # the limit that processes inherit
    spare: int = 0  # another free port, for those that need a second listener
    mark: str = ""  # changes with every reload: the header X-Mark of responses
    tls: bool = False  # clients speak TLS
    upstream_tls: bool = False  # the backend does; `backend` is then its port for that
    cert: str = ""  # PEM files, with either: a certificate, which is also its own authority
    key: str = ""
    token: str = ""  # a JWT, which the question whether it serves carries beside the key
    algorithm: str = ""  # of the tokens
    issuer_pem: str = ""  # files with the public key of their issuer
    issuer_jwks: str = ""


class Subject(ABC):
    """One thing to be measured."""

    product: str
    name: str
    policies = False
    unix = False  # whether it reaches the backend through its Unix socket, not over TCP
    reloads = False  # whether `reload` works
    start_patience = 20.0  # seconds until it must serve

    @property
    @abstractmethod
    def description(self) -> str:
        """One line for the report."""

    def ready(self, *, build: bool) -> None:
        """Raises Unavailable unless the program is there. One that is built from source is built
        for that, if it may be (`build`), which can take minutes."""
        self.version()

    @abstractmethod
    def version(self) -> str:
        """The product's version. Raises Unavailable when it is not installed."""

    @abstractmethod
    def files(self, setup: Setup) -> dict[str, str]:
        """Configuration: file name → text. Pure; the same setup gives the same text."""

    @abstractmethod
    def command(self, setup: Setup) -> list[str]:
        """The command line, run in the setup's folder."""

    def environment(self) -> dict[str, str]:
        """Additions to the environment."""
        return {}

    def write(self, setup: Setup) -> None:
        """Writes the configuration."""
        for name, text in self.files(setup).items():
            (setup.folder / name).write_text(text)

    def reload(self, tree: Tree, setup: Setup) -> None:
        """Makes a running tree take the configuration as it now is. Does not wait for it."""
        raise NotImplementedError(self.name)

    def workers_of(self, tree: Tree, count: int) -> list[int]:
        """The pids that serve requests: by default all but the root, or the root when alone."""
        pids = tree.pids()
        return pids[1:] or pids

    def start(self, setup: Setup, cores: tuple[int, ...]) -> Tree:
        """Writes, starts, and waits until it serves. Raises NotServing."""
        setup.folder.mkdir(parents=True, exist_ok=True)
        self.write(setup)
        tree = Tree(
            self.command(setup), cores=cores, folder=setup.folder, environment=self.environment()
        )
        try:
            key = self.key(tree, setup)
            tree.served_after = wait_serving(tree, setup, self.start_patience, key)
        except BaseException:
            tree.stop()
            raise
        return tree

    def key(self, tree: Tree, setup: Setup) -> str:
        """What requests to a started tree carry. Raises NotServing."""
        return KEY


@dataclass(frozen=True)
class Answer:
    """What a probe got."""

    status: int
    mark: str


def unverified() -> ssl.SSLContext:
    """For a client that asks whether anybody is there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@contextlib.contextmanager
def connected(port: int, *, tls: bool) -> Iterator[socket.socket]:
    """A connection, ended on leaving. Raises OSError."""
    with socket.create_connection(("127.0.0.1", port), 2) as plain:
        plain.settimeout(2)
        if not tls:
            yield plain
            return
        with unverified().wrap_socket(plain, server_hostname=NAME) as secure:
            yield secure


def probe(
    port: int,
    path: str = "/bytes/100",
    key: str | None = KEY,
    *,
    tls: bool = False,
    token: str = "",
) -> Answer | None:
    """One request on a connection of its own; None when there was no whole head in answer."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {NAME}", "Connection: close"]
    if key:
        lines.append(f"X-Api-Key: {key}")
    if token:
        lines.append(f"Authorization: Bearer {token}")
    data = b""
    with contextlib.suppress(OSError), connected(port, tls=tls) as s:
        s.sendall("\r\n".join([*lines, "", ""]).encode())
        while b"\r\n\r\n" not in data and (more := s.recv(65536)):
            data += more
    head, found, _ = data.partition(b"\r\n\r\n")
    if not found or not head.startswith(b"HTTP/1."):
        return None
    mark = ""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"x-mark":
            mark = value.strip().decode()
    return Answer(int(head[9:12]), mark)


def wait_serving(tree: Tree, setup: Setup, patience: float, key: str = KEY) -> float:
    """Asks every millisecond until a request is answered with 200; seconds since the start.

    Raises NotServing with the program's last words when it ends or takes longer than `patience`.
    """
    answer: Answer | None = None
    while time.monotonic() - tree.started < patience:
        if not tree.alive():
            raise NotServing(f"ended at once: {tree.last_words()}")
        answer = probe(setup.port, key=key, tls=setup.tls, token=setup.token)
        if answer and answer.status == 200:
            return time.monotonic() - tree.started
        time.sleep(0.001)
    raise NotServing(f"no 200 within {patience:g} s (last: {answer}): {tree.last_words()}")


PORTS = range(20100, 32000)  # below the ephemeral ones
APART = 97  # ports between the first ones of two processes with neighbouring ids
_handed_out: set[int] = set()


def free_port() -> int:
    """A free TCP port of PORTS, not handed out before by this program.

    Two programs at once begin at different ones: a port is free until what it is for listens, and
    then two gateways that share ports among their workers would share one.
    """
    first = os.getpid() * APART % len(PORTS)
    for port in (*PORTS[first:], *PORTS[:first]):
        if port in _handed_out:
            continue
        with socket.socket() as s, contextlib.suppress(OSError):
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("127.0.0.1", port))
            _handed_out.add(port)
            return port
    raise RuntimeError(f"no free port from {PORTS[0]} to {PORTS[-1]}")


def release_port(*ports: int) -> None:
    """Lets ports be handed out again."""
    _handed_out.difference_update(ports)
