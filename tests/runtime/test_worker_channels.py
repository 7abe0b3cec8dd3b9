"""Control's channels to its workers, tried with fake workers: all install a generation, or none."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fastgate.errors import ApplyError, ConfigurationError, KeyringError
from fastgate.runtime.control import worker_channels
from fastgate.runtime.control.worker_channels import Image, SealedKeyring, WorkerChannels
from fastgate.runtime.wire.channel import Channel, ChannelClosed, socket_pair
from fastgate.runtime.wire.messages import (
    Abort,
    Answered,
    Commit,
    KeyringInstalled,
    Listener,
    Prepare,
    Prepared,
    Problem,
    Question,
    Serving,
    ToWorker,
    UseCredentials,
    UseKeyring,
)


class FakeWorker:
    """Answers at once, unless told otherwise. `serves` is what it would serve."""

    def __init__(self, index: int, *, serves: int = 0) -> None:
        self.index = index
        self.serves = serves
        self.problems: list[Problem] = []
        self.silent = False
        self.silent_after_prepare = False
        self.heard: list[Any] = []
        self.listening: list[str] = []
        self.keyring = 0  # serial of the one it uses
        self.keyring_error = ""
        self._prepared: Prepare | None = None
        self._changed = asyncio.Event()
        theirs, self.control_end = socket_pair()
        self._channel: Channel[ToWorker] = Channel(theirs, ToWorker)
        asyncio.get_running_loop().add_reader(theirs.fileno(), self._read)

    def _read(self) -> None:
        try:
            while (received := self._channel.receive()) is not None:
                message, fds = received
                self.heard.append(message)
                if not self.silent:
                    self._answer(message)
                for fd in fds:
                    os.close(fd)
                self._changed.set()
        except ChannelClosed:
            self.die()

    def _answer(self, message: Any) -> None:
        if isinstance(message, Prepare):
            self._prepared = message
            if not self.silent_after_prepare:
                self._channel.send(Prepared(seq=message.seq, problems=self.problems))
        elif isinstance(message, Abort):
            self._prepared = None
        elif isinstance(message, Commit) and (prepared := self._prepared) is not None:
            assert message.seq == prepared.seq
            self.serves = prepared.generation
            self.keyring = prepared.keyring or self.keyring
            self.listening += [each.bind for each in prepared.listen]
            self._channel.send(Serving(seq=message.seq, generation=self.serves))
        elif isinstance(message, UseKeyring):
            if not self.keyring_error:
                self.keyring = message.serial
            answer = KeyringInstalled(serial=message.serial, error=self.keyring_error)
            self._channel.send(answer)

    def ask(self, question: Question) -> None:
        self._channel.send(question)

    def hold(self) -> None:
        """Read nothing, as a stopped process."""
        asyncio.get_running_loop().remove_reader(self._channel.fileno())

    def go_on(self) -> None:
        asyncio.get_running_loop().add_reader(self._channel.fileno(), self._read)

    def die(self) -> None:
        if self._channel.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._channel.close()

    async def until(self, count: int, kind: type) -> None:
        """Wait until it has heard so many messages of a kind."""
        async with asyncio.timeout(20):
            while self.count(kind) < count:
                self._changed.clear()
                await self._changed.wait()

    def count(self, kind: type) -> int:
        return sum(isinstance(message, kind) for message in self.heard)


class Rig:
    """Rig to fake workers."""

    def __init__(self, count: int) -> None:
        self.ages = [0.0] * count  # of their heartbeats
        self.channels = WorkerChannels(count, lambda index: self.ages[index])
        self.workers: list[FakeWorker] = []
        self.kept: list[int] = []
        for index in range(count):
            self.workers.append(FakeWorker(index))
            self.join(self.workers[index])

    def join(self, worker: FakeWorker, binds: set[str] | None = None) -> None:
        self.channels.add(
            worker.index,
            1000 + worker.index,
            worker.control_end,
            generation=worker.serves,
            binds=binds or set(),
            keyring=worker.keyring,
        )

    async def install(self, generation: int, *binds: str, keyring: int = 0) -> None:
        sockets = {bind: [socket.socket() for _ in self.workers] for bind in binds}
        listeners = [Listener(name=bind, bind=bind) for bind in binds]
        ring = SealedKeyring(keyring, os.memfd_create("keyring")) if keyring else None
        image = Image(generation, os.memfd_create("image"), listeners, sockets, ring)

        async def keep() -> None:
            self.kept.append(generation)

        try:
            await self.channels.install(image, keep)
        finally:
            for each in sockets.values():
                for sock in each:
                    sock.close()

    async def use_keyring(self, serial: int) -> None:
        await self.channels.use_keyring(SealedKeyring(serial, os.memfd_create("keyring")))

    @property
    def keyrings(self) -> list[int]:
        return [worker.keyring for worker in self.workers]

    @property
    def serves(self) -> list[int]:
        return [worker.serves for worker in self.workers]


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    found = Rig(3)
    yield found
    for worker in found.workers:
        worker.die()
    found.channels.close()


async def test_all_workers_get_the_image_and_their_own_sockets(rig: Rig) -> None:
    await rig.install(1, "a", "b")
    assert rig.serves == [1, 1, 1]
    assert rig.kept == [1]
    assert all(worker.listening == ["a", "b"] for worker in rig.workers)
    assert [rig.channels.generation_of(i) for i in range(3)] == [1, 1, 1]


async def test_sockets_are_sent_once(rig: Rig) -> None:
    await rig.install(1, "a")
    await rig.install(2, "a", "b")
    assert all(worker.listening == ["a", "b"] for worker in rig.workers)


async def test_one_that_cannot_serve_it_keeps_all_from_it(rig: Rig) -> None:
    await rig.install(1)
    rig.workers[1].problems = [Problem("shop:cart", "No module named 'shop'")]
    rig.workers[2].problems = [Problem("shop:cart", "No module named 'shop'")]
    with pytest.raises(ConfigurationError, match="No module named 'shop'") as found:
        await rig.install(2)
    assert len(list(found.value)) == 1  # the same problem of two workers is one
    assert rig.serves == [1, 1, 1]
    assert rig.kept == [1]
    rig.workers[1].problems = rig.workers[2].problems = []
    await rig.install(3)
    assert rig.serves == [3, 3, 3]
    assert [worker.count(Abort) for worker in rig.workers] == [1, 1, 1]


async def test_a_worker_that_does_not_answer_is_named_and_nothing_changes(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_channels, "PREPARE_S", 0.05)
    await rig.install(1)
    rig.workers[2].silent = True
    with pytest.raises(ApplyError, match=r"worker 2 \(pid 1002\) is not ready"):
        await rig.install(2)
    assert rig.serves == [1, 1, 1]
    assert rig.kept == [1]


async def test_a_worker_without_a_heartbeat_delays_no_other_and_catches_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_channels, "LOOK_S", 0.01)
    await rig.install(1)
    away = rig.workers[2]
    away.hold()
    rig.ages[2] = 5.0
    async with asyncio.timeout(worker_channels.PREPARE_S / 2):
        await rig.install(2, "a")
        await rig.install(3, "a")
    assert rig.serves == [3, 3, 1]
    assert rig.kept == [1, 2, 3]
    assert "worker 2 (pid 1002) has had no heartbeat for 5.0 s" in caplog.text
    away.go_on()
    await away.until(3, Commit)
    assert rig.serves == [3, 3, 3]
    rig.ages[2] = 0.0
    await rig.install(4, "a")
    assert rig.serves == [4, 4, 4]


async def test_a_worker_that_is_busy_with_the_image_itself_is_waited_for(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no heartbeat since it was asked: it imports handlers."""
    monkeypatch.setattr(worker_channels, "LOOK_S", 0.01)
    monkeypatch.setattr(worker_channels, "AWAY_S", 0.1)
    began = asyncio.get_running_loop().time()
    rig.channels._heartbeat_age = lambda index: asyncio.get_running_loop().time() - began
    rig.workers[1].hold()
    task = asyncio.ensure_future(rig.install(1))
    done, _ = await asyncio.wait([task], timeout=0.5)
    assert not done
    rig.workers[1].go_on()
    await task
    assert rig.serves == [1, 1, 1]


async def test_where_no_worker_has_a_heartbeat_nothing_changes(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_channels, "PREPARE_S", 0.05)
    for worker in rig.workers:
        worker.hold()
    rig.ages = [5.0] * 3
    with pytest.raises(ApplyError, match=r"worker 0 .*, worker 1 .*, worker 2 .* is not ready"):
        await rig.install(1)
    assert rig.kept == []


async def test_a_worker_born_during_prepare_is_waited_for(rig: Rig) -> None:
    await rig.install(1)
    rig.workers[0].silent_after_prepare = True
    task = asyncio.ensure_future(rig.install(2, "a"))
    await rig.workers[0].until(2, Prepare)
    rig.channels.remove(0)
    rig.workers[0] = FakeWorker(0, serves=1)
    rig.join(rig.workers[0])
    await task
    assert rig.serves == [2, 2, 2]
    assert rig.workers[0].listening == ["a"]


async def test_a_worker_born_with_something_old_catches_up(rig: Rig) -> None:
    await rig.install(1, "a")
    await rig.install(2, "a")
    rig.channels.remove(1)
    rig.workers[1] = FakeWorker(1, serves=1)
    rig.join(rig.workers[1], {"a"})
    await rig.workers[1].until(1, Commit)
    assert rig.workers[1].serves == 2
    assert rig.workers[1].listening == []


async def test_a_worker_born_up_to_date_is_left_alone(rig: Rig) -> None:
    await rig.install(1)
    rig.channels.remove(1)
    rig.workers[1] = FakeWorker(1, serves=1)
    rig.join(rig.workers[1])
    await rig.install(2)
    assert rig.workers[1].count(Prepare) == 1


async def test_answers_to_questions_of_another_life_are_dropped(rig: Rig) -> None:
    rig.workers[0]._channel.send(Prepared(seq=5, problems=[Problem("old", "old")]))
    rig.workers[0]._channel.send(Serving(seq=5, generation=99))
    await rig.install(1)
    assert rig.channels.generation_of(0) == 1


async def test_workers_now_and_to_come_get_the_credentials(rig: Rig) -> None:
    rig.channels.use_credentials(os.memfd_create("index"))
    late = FakeWorker(1)
    rig.workers.append(late)
    rig.join(late)
    await late.until(1, UseCredentials)
    await rig.workers[0].until(1, UseCredentials)


async def test_nothing_is_left_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    rig = Rig(2)
    await rig.install(1, "a")
    await rig.install(2, "a", "b")
    rig.workers[0].problems = [Problem("x", "y")]
    with pytest.raises(ConfigurationError):
        await rig.install(3, "a", "c")
    rig.channels.use_credentials(os.memfd_create("index"))
    rig.channels.use_credentials(os.memfd_create("index"))
    rig.channels.close()
    for worker in rig.workers:
        worker.die()
    assert len(os.listdir("/proc/self/fd")) == before


# ---- keyrings ---------------------------------------------------------------------------


async def test_a_keyring_comes_with_its_generation(rig: Rig) -> None:
    await rig.install(1, keyring=7)
    assert rig.keyrings == [7, 7, 7]
    await rig.install(2)  # no other one: nothing is sent again
    assert [worker.heard[-2].keyring for worker in rig.workers] == [0, 0, 0]
    assert rig.keyrings == [7, 7, 7]


async def test_a_keyring_of_a_generation_that_is_refused_is_forgotten(rig: Rig) -> None:
    await rig.install(1, keyring=7)
    rig.workers[1].problems = [Problem("keyring", "a key cannot be parsed")]
    with pytest.raises(ConfigurationError, match=r"^a key cannot be parsed$"):
        await rig.install(2, keyring=8)
    assert rig.keyrings == [7, 7, 7]
    rig.workers[1].problems = []
    await rig.install(3, keyring=8)  # it is sent again
    assert rig.keyrings == [8, 8, 8]


async def test_a_keyring_changes_alone(rig: Rig) -> None:
    await rig.install(1, keyring=7)
    await rig.use_keyring(8)
    assert rig.keyrings == [8, 8, 8]
    assert rig.serves == [1, 1, 1]


async def test_new_workers_get_the_current_keyring(rig: Rig) -> None:
    """With the generation if they need it too; alone if the supervisor had an older one."""
    await rig.install(1, keyring=7)
    await rig.use_keyring(8)
    for index, (serves, has) in enumerate(((0, 0), (1, 7), (1, 8))):
        rig.workers[index].die()
        worker = rig.workers[index] = FakeWorker(index, serves=serves)
        worker.keyring = has
        rig.join(worker)
    await rig.install(2)  # each has answered what came before
    assert rig.keyrings == [8, 8, 8]
    assert [worker.count(UseKeyring) for worker in rig.workers] == [0, 1, 0]
    first = [message for message in rig.workers[0].heard if isinstance(message, Prepare)]
    assert [message.keyring for message in first] == [8, 0]


async def test_a_worker_that_cannot_use_a_keyring_is_said(rig: Rig) -> None:
    rig.workers[2].keyring_error = "a certificate cannot be parsed"
    with pytest.raises(KeyringError, match="a certificate cannot be parsed"):
        await rig.use_keyring(5)
    assert rig.keyrings == [5, 5, 0]
    rig.workers[2].keyring_error = ""
    await rig.use_keyring(6)
    assert rig.keyrings == [6, 6, 6]


async def test_a_worker_that_does_not_use_a_keyring_is_named(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_channels, "COMMIT_S", 0.05)
    rig.workers[1].silent = True
    with pytest.raises(ApplyError, match=r"worker 1 .* does not use the new certificates"):
        await rig.use_keyring(5)


async def test_a_worker_that_is_away_gets_the_keyring_when_it_is_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_channels, "LOOK_S", 0.01)
    await rig.install(1)
    rig.workers[2].hold()
    rig.ages[2] = 5.0
    async with asyncio.timeout(worker_channels.COMMIT_S / 2):
        await rig.use_keyring(5)
    assert rig.keyrings == [5, 5, 0]
    rig.workers[2].go_on()
    await rig.workers[2].until(1, UseKeyring)
    assert rig.keyrings == [5, 5, 5]


async def test_a_worker_that_dies_meanwhile_is_not_waited_for(rig: Rig) -> None:
    await rig.install(1)
    rig.workers[0].silent = True
    using = asyncio.create_task(rig.use_keyring(5))
    await rig.workers[0].until(1, UseKeyring)
    rig.workers[0].die()
    rig.channels.remove(0)
    assert not using.done()  # its successor is waited for
    worker = rig.workers[0] = FakeWorker(0, serves=1)
    rig.join(worker)
    await using
    assert rig.keyrings == [5, 5, 5]


# ---- questions --------------------------------------------------------------------------


async def test_what_a_worker_asked_for_is_there_before_its_answer(rig: Rig) -> None:
    """The keyring and the index come before the answer, on the same channel; only to who asked."""
    await rig.install(1, keyring=7)
    asked: list[tuple[int, Question]] = []
    rig.channels.on_question = lambda *each: asked.append(each)
    question = Question(kind="keys", issuer=1 << 63, text="k1")
    rig.workers[1].ask(question)
    await rig.use_keyring(8)  # each worker has answered, so the question before it has come
    assert asked == [(1, question)]
    rig.channels.use_credentials(os.memfd_create("index"))
    answer = Answered(kind="keys", issuer=1 << 63, text="k1", ok=True)
    rig.channels.answer(1, answer)
    await rig.workers[1].until(1, Answered)
    assert [type(each) for each in rig.workers[1].heard[-3:]] == [
        UseKeyring, UseCredentials, Answered,
    ]  # fmt: skip
    assert rig.workers[1].heard[-1] == answer
    assert rig.workers[0].count(Answered) == 0


async def test_an_answer_for_a_worker_that_is_gone(rig: Rig) -> None:
    await rig.install(1)
    rig.channels.remove(2)
    rig.channels.answer(2, Answered(kind="subject", issuer=1, text="x"))
    rig.channels.answer(9, Answered(kind="subject", issuer=1, text="x"))
