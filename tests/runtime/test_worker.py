"""A worker process with an engine that only remembers: prepare, commit, drain, rebirth."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from gatewaykit import eventually
from waitkit import readable

from fastgate._core.shared.credentials import CredentialIndex
from fastgate._core.shared.segment import Segment
from fastgate._core.snapshot.snapshot import Snapshot
from fastgate._core.tls import keyring
from fastgate._core.tls.keyring import Keyring
from fastgate.config.compiler import compile_gateway
from fastgate.config.slots import SlotBook
from fastgate.errors import KeyringError
from fastgate.model import codec
from fastgate.runtime.supervisor.process import spawn
from fastgate.runtime.wire.channel import Channel, socket_pair
from fastgate.runtime.wire.messages import (
    Abort,
    Answered,
    Commit,
    FromWorker,
    KeyringInstalled,
    Listener,
    Peers,
    Prepare,
    Prepared,
    Problem,
    Question,
    QuestionKind,
    Serving,
    UseCredentials,
    UseKeyring,
)
from fastgate.runtime.wire.plan import WorkerStart
from fastgate.runtime.worker.worker import Worker

PATIENCE = 60.0
UNSERVABLE, UNUSABLE = 13, 14
PUZZLING = 15  # with an index of this epoch, requests need what only control has


class MemoEngine:
    """Notes what it is told, as JSON lines on a pipe; idle when `busy` is closed."""

    def __init__(self, notes: int, busy: int) -> None:
        self._notes = notes
        self._busy = busy
        self.on_questions: Any = None
        self._questions: list[tuple[QuestionKind, int, str]] = []

    def note(self, what: str, **more: Any) -> None:
        os.write(self._notes, json.dumps({"what": what, **more}).encode() + b"\n")

    @property
    def idle(self) -> bool:
        return not readable(self._busy, 0)

    def run_in(self, loop: asyncio.AbstractEventLoop) -> None:
        assert loop.is_running() is False

    def listen(self, fd: int, key: str) -> None:
        self.note("listen", key=key, port=socket.socket(fileno=os.dup(fd)).getsockname()[1])

    def unlisten(self, fd: int) -> None:
        self.note("unlisten", port=socket.socket(fileno=os.dup(fd)).getsockname()[1])

    def install(self, snapshot: Snapshot, handlers: list[Any]) -> None:
        if snapshot.generation == UNSERVABLE:
            raise RuntimeError("this one cannot be installed")
        self.note("install", generation=snapshot.generation, handlers=len(handlers))

    def check_keyring(self, keyring: Keyring) -> None:
        if keyring.serial == UNUSABLE:
            raise KeyringError("this one cannot be used")

    def set_keyring(self, keyring: Keyring) -> None:
        self.check_keyring(keyring)
        self.note("keyring", serial=keyring.serial)

    def set_credentials(self, index: CredentialIndex) -> None:
        self.note("credentials", epoch=index.epoch)
        if index.epoch == PUZZLING:
            self._questions = [("keys", 1 << 63, "k1"), ("subject", 7, "Jürgen")]
            self.on_questions()

    def take_questions(self) -> list[tuple[QuestionKind, int, str]]:
        taken, self._questions = self._questions, []
        return taken

    def answered(self, kind: QuestionKind, issuer: int, text: str) -> None:
        self.note("answered", kind=kind, issuer=issuer, text=text)

    def take_failed_tls(self) -> tuple[int, str, str, str]:
        return 0, "", "", ""

    def take_bad_headers(self) -> tuple[int, int, str, str]:
        return 0, 0, "", ""

    def drain(self) -> None:
        self.note("drain")

    def close(self) -> None:
        self.note("close")


def image(generation: int, handler: str = "asyncio:sleep") -> int:
    """The descriptor of a compiled configuration with one handler."""
    gateway = codec.decode(
        {"version": 1, "routes": [{"name": "one", "path": "/one", "handler": handler}]}
    )
    compiled = compile_gateway(gateway, generation=generation, slots=SlotBook(), addresses={})
    return compiled.fd


def ring(serial: int) -> int:
    """The descriptor of a keyring."""
    return keyring.write(Keyring(serial=serial))


class Running:
    """A worker in a process of its own; the test is its control."""

    def __init__(
        self, start_with: int = 0, handler: str = "asyncio:sleep", keyring_fd: int = -1
    ) -> None:
        self.segment = Segment.create(1)
        self.row = self.segment.worker_row(0)
        theirs, ours = socket_pair()
        self.channel: Channel[FromWorker] = Channel(ours, FromWorker)
        self._notes, notes = os.pipe()
        self.busy, hold = os.pipe()
        self.finish = hold
        self._buffer = b""
        self.sock = socket.create_server(("127.0.0.1", 0))
        listener = Listener(name="kept", bind="kept")
        start = WorkerStart(
            index=0,
            generation=start_with,
            snapshot_fd=image(start_with, handler) if start_with else -1,
            credentials_fd=-1,
            keyring_fd=keyring_fd,
            listeners=[(listener, self.sock)] if start_with else [],
            channel=theirs,
        )

        def main() -> int:
            os.close(self._notes)
            ours.close()
            return Worker(start, self.segment, MemoEngine(notes, self.busy)).run(start)

        self.pid = spawn("worker", main)
        theirs.close()
        os.close(notes)

    def note(self, what: str) -> dict[str, Any]:
        """The next note, which must be this one."""
        while b"\n" not in self._buffer:
            assert readable(self._notes, PATIENCE), f"no {what}"
            chunk = os.read(self._notes, 65536)
            assert chunk, f"the worker ended before {what}"
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        assert found["what"] == what, found
        return found

    def heard(self) -> Any:
        """The next message of the worker."""
        assert readable(self.channel, PATIENCE)
        received = self.channel.receive()
        assert received is not None
        return received[0]

    def prepare(
        self, seq: int, generation: int, binds: list[str], sockets: dict[str, socket.socket],
        handler: str = "asyncio:sleep", serial: int = 0,
    ) -> Any:  # fmt: skip
        """serial: of the keyring that comes with it; 0: none."""
        fds = [image(generation, handler)] + ([ring(serial)] if serial else [])
        listen = [Listener(name=f"the {bind}", bind=bind) for bind in sockets]
        self.channel.send(
            Prepare(seq=seq, generation=generation, binds=binds, listen=listen, keyring=serial),
            [*fds, *(sock.fileno() for sock in sockets.values())],
        )
        for fd in fds:
            os.close(fd)
        return self.heard()

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def end(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        self.channel.close()
        self.sock.close()
        for fd in (self._notes, self.busy, self.finish):
            os.close(fd)


@pytest.fixture
def worker() -> Iterator[Running]:
    running = Running()
    yield running
    running.end()


def test_prepare_touches_nothing_and_commit_swaps(worker: Running) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert worker.prepare(1, 5, ["a"], {"a": sock}) == Prepared(seq=1)
        assert worker.row.generation == 0
        worker.channel.send(Commit(seq=1))
        assert worker.note("install") == {"what": "install", "generation": 5, "handlers": 1}
        note = worker.note("listen")
        assert (note["port"], note["key"]) == (sock.getsockname()[1], "a")
        assert worker.heard() == Serving(seq=1, generation=5)
        assert worker.row.generation == 5
        assert worker.row.state_name == "serving"


def test_listeners_come_and_go_with_a_commit(worker: Running) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as first,
        socket.create_server(("127.0.0.1", 0)) as second,
    ):
        worker.prepare(1, 1, ["a"], {"a": first})
        worker.channel.send(Commit(seq=1))
        worker.heard()
        # Its sockets are sent again to a worker that has them: no second listen.
        worker.prepare(2, 2, ["a", "b"], {"a": first, "b": second})
        worker.channel.send(Commit(seq=2))
        worker.heard()
        worker.prepare(3, 3, ["b"], {})
        worker.channel.send(Commit(seq=3))
        worker.heard()
        for what, sock in (
            ("install", None), ("listen", first), ("install", None), ("listen", second),
            ("install", None), ("unlisten", first),
        ):  # fmt: skip
            found = worker.note(what)
            if sock is not None:
                assert found["port"] == sock.getsockname()[1]


def test_what_cannot_be_imported_is_said_before_anything_is_touched(worker: Running) -> None:
    answer = worker.prepare(1, 1, [], {}, handler="no_such_module_at_all:handle")
    assert isinstance(answer, Prepared)
    assert [problem.about for problem in answer.problems] == ["no_such_module_at_all:handle"]
    assert "No module named" in answer.problems[0].error
    worker.channel.send(Abort(seq=1))
    assert worker.prepare(2, 2, [], {}) == Prepared(seq=2)
    worker.channel.send(Commit(seq=2))
    assert worker.note("install")["generation"] == 2


def test_a_commit_of_something_else_does_nothing(worker: Running) -> None:
    worker.prepare(1, 1, [], {})
    worker.channel.send(Commit(seq=99))
    assert worker.prepare(2, 2, [], {}) == Prepared(seq=2)
    worker.channel.send(Commit(seq=2))
    assert worker.note("install")["generation"] == 2


def test_a_damaged_image_is_a_problem(worker: Running) -> None:
    fd = os.memfd_create("junk")
    os.write(fd, b"junk" * 1000)
    worker.channel.send(Prepare(seq=1, generation=1, binds=[], listen=[]), [fd])
    os.close(fd)
    answer = worker.heard()
    assert isinstance(answer, Prepared)
    assert [problem.about for problem in answer.problems] == ["snapshot"]


def test_a_keyring_is_swapped_with_its_generation(worker: Running) -> None:
    assert worker.prepare(1, 5, [], {}, serial=3) == Prepared(seq=1)
    worker.channel.send(Commit(seq=1))
    assert worker.note("keyring")["serial"] == 3
    assert worker.note("install")["generation"] == 5
    worker.heard()
    worker.prepare(2, 6, [], {}, serial=4)
    worker.channel.send(Abort(seq=2))
    worker.prepare(3, 7, [], {})  # without one: the old one stays
    worker.channel.send(Commit(seq=3))
    assert worker.note("install")["generation"] == 7


def test_a_keyring_comes_before_the_sockets(worker: Running) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        worker.prepare(1, 5, ["a"], {"a": sock}, serial=3)
        worker.channel.send(Commit(seq=1))
        worker.note("keyring")
        worker.note("install")
        assert worker.note("listen")["port"] == sock.getsockname()[1]


def test_a_keyring_that_cannot_be_used_is_a_problem(worker: Running) -> None:
    answer = worker.prepare(1, 5, [], {}, serial=UNUSABLE)
    assert answer == Prepared(seq=1, problems=[Problem("keyring", "this one cannot be used")])
    fds = [image(5), os.memfd_create("junk")]
    worker.channel.send(Prepare(seq=2, generation=5, binds=[], listen=[], keyring=1), fds)
    for fd in fds:
        os.close(fd)
    (problem,) = worker.heard().problems
    assert problem.about == "keyring"
    assert "is not sealed" in problem.error
    worker.channel.send(Commit(seq=2))  # does nothing
    assert worker.prepare(3, 6, [], {}, serial=4) == Prepared(seq=3)
    worker.channel.send(Commit(seq=3))
    assert worker.note("keyring")["serial"] == 4


def use(worker: Running, serial: int, fd: int) -> KeyringInstalled:
    worker.channel.send(UseKeyring(serial=serial), [fd])
    os.close(fd)
    answer: KeyringInstalled = worker.heard()
    return answer


def test_a_keyring_changes_alone(worker: Running) -> None:
    assert use(worker, 8, ring(8)) == KeyringInstalled(serial=8)
    assert worker.note("keyring")["serial"] == 8
    refused = use(worker, UNUSABLE, ring(UNUSABLE))
    assert refused == KeyringInstalled(serial=UNUSABLE, error="this one cannot be used")
    assert "is not sealed" in use(worker, 9, os.memfd_create("junk")).error
    assert use(worker, 10, ring(10)) == KeyringInstalled(serial=10)
    assert worker.note("keyring")["serial"] == 10


def test_one_that_replaces_a_dead_one_begins_with_the_keyring() -> None:
    fd = ring(21)
    worker = Running(start_with=9, keyring_fd=fd)
    os.close(fd)
    try:
        assert worker.note("keyring")["serial"] == 21
        assert worker.note("install")["generation"] == 9
    finally:
        worker.end()


def test_credentials_are_taken_over(worker: Running) -> None:
    index = CredentialIndex.create(epoch=77)
    worker.channel.send(UseCredentials(), [index.fd])
    assert worker.note("credentials")["epoch"] == 77


def test_questions_go_to_control_and_answers_to_the_engine(worker: Running) -> None:
    """The id of an issuer has 64 bits. A question without an answer is sent again."""
    index = CredentialIndex.create(epoch=PUZZLING)
    worker.channel.send(UseCredentials(), [index.fd])
    assert worker.note("credentials")
    keys = Question(kind="keys", issuer=1 << 63, text="k1")
    subject = Question(kind="subject", issuer=7, text="Jürgen")
    assert [worker.heard(), worker.heard()] == [keys, subject]
    worker.channel.send(Answered(kind="keys", issuer=1 << 63, text="k1", ok=True))
    assert worker.note("answered") == {
        "what": "answered", "kind": "keys", "issuer": 1 << 63, "text": "k1",
    }  # fmt: skip
    assert worker.heard() == subject
    worker.channel.send(Answered(kind="subject", issuer=7, text="Jürgen"))
    assert worker.note("answered")["text"] == "Jürgen"


def test_one_that_replaces_a_dead_one_serves_without_control() -> None:
    worker = Running(start_with=9)
    try:
        assert worker.note("install")["generation"] == 9
        assert worker.note("listen")["port"] == worker.sock.getsockname()[1]
        eventually(lambda: worker.row.generation == 9, "the generation in its row")
    finally:
        worker.end()


def test_one_that_replaces_a_dead_one_serves_also_without_a_handler() -> None:
    worker = Running(start_with=9, handler="no_such_module_at_all:handle")
    try:
        assert worker.note("install")["handlers"] == 1
    finally:
        worker.end()


def test_it_drains_and_ends_when_it_is_idle() -> None:
    worker = Running(start_with=1)
    try:
        worker.note("install")
        worker.note("listen")
        os.write(worker.finish, b"x")  # an exchange is under way
        os.kill(worker.pid, signal.SIGTERM)
        worker.note("drain")
        assert worker.row.state_name == "draining"
        os.read(worker.busy, 1)  # it is over
        worker.note("close")
        assert worker.wait() == 0
    finally:
        worker.end()


def test_it_ends_when_the_gateway_has_ended(worker: Running) -> None:
    worker.channel.close()
    assert worker.wait() == 0


def test_one_that_cannot_go_on_ends_to_be_replaced(worker: Running) -> None:
    worker.prepare(1, UNSERVABLE, [], {})
    worker.channel.send(Commit(seq=1))
    worker.note("close")
    assert worker.wait() == 70


def test_messages_that_cannot_be_used_are_survived(worker: Running) -> None:
    junk = os.memfd_create("junk")
    worker.channel.send(UseCredentials(), [junk])  # no credential index
    worker.channel.send(UseCredentials(), [])
    worker.channel.send(Prepare(seq=1, generation=1, binds=[], listen=[]), [])
    worker.channel.send(Prepare(seq=2, generation=1, binds=[], listen=[]), [junk, junk])
    worker.channel.send(Peers(bind="x"), [junk])  # no socket, and not one for each worker
    worker.channel.send(Peers(bind="x"), [])
    worker.channel.send(Commit(seq=9))
    worker.channel.send(Serving(seq=1, generation=1))  # of the other direction
    listener = Listener(name="n", bind="b")
    worker.channel.send(Prepare(seq=3, generation=1, binds=["b"], listen=[listener]), [junk, junk])
    os.close(junk)
    answer = worker.heard()
    assert isinstance(answer, Prepared)
    assert (answer.seq, answer.problems[0].about) == (3, "snapshot")
    worker.prepare(4, 1, [], {})
    worker.channel.send(Commit(seq=4))
    assert worker.note("install")["generation"] == 1


def test_it_shows_that_it_lives(worker: Running) -> None:
    worker.prepare(1, 1, [], {})
    age = worker.segment.heartbeat_age(0)
    assert age is not None
    assert age < PATIENCE
