"""Questions of workers: sent again without an answer, answered once for all who ask."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from fastgate.runtime.control.questions import LONGEST, MOST
from fastgate.runtime.control.questions import Questions as ControlQuestions
from fastgate.runtime.control.worker_channels import WorkerChannels
from fastgate.runtime.wire.messages import Answered, Message, Question, QuestionKind
from fastgate.runtime.worker.questions import AGAIN_S, TRIES
from fastgate.runtime.worker.questions import MOST as MOST_OPEN
from fastgate.runtime.worker.questions import Questions as WorkerQuestions

# ---- in a worker ------------------------------------------------------------------------


class Clock:
    """As much of a loop as timers need."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def call_later(self, delay: float, call: Callable[[], None]) -> Any:
        assert delay == AGAIN_S
        self.calls.append(call)
        return object()

    def pass_time(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


class Worker:
    """An engine that asks, and a channel that can be full."""

    def __init__(self) -> None:
        self.on_questions: Callable[[], None] | None = None
        self.new: list[tuple[QuestionKind, int, str]] = []
        self.sent: list[Message] = []
        self.full = False
        self.told: list[tuple[str, int, str]] = []
        self.clock = Clock()
        self.questions = WorkerQuestions(self, self._send, self.clock)  # type: ignore[arg-type]

    def take_questions(self) -> list[tuple[QuestionKind, int, str]]:
        new, self.new = self.new, []
        return new

    def answered(self, kind: QuestionKind, issuer: int, text: str) -> None:
        self.told.append((kind, issuer, text))

    def _send(self, message: Message) -> bool:
        if not self.full:
            self.sent.append(message)
        return not self.full

    def ask(self, *texts: str) -> None:
        self.new += [("keys", 7, text) for text in texts]
        assert self.on_questions is not None
        self.on_questions()

    @property
    def asked(self) -> list[str]:
        sent, self.sent = self.sent, []
        return [message.text for message in sent if isinstance(message, Question)]


def answer(text: str) -> Answered:
    return Answered(kind="keys", issuer=7, text=text, ok=True)


def test_a_question_is_sent_again_until_it_is_answered() -> None:
    worker = Worker()
    worker.ask("a", "b")
    assert worker.asked == ["a", "b"]
    worker.clock.pass_time()
    assert worker.asked == ["a", "b"]
    worker.questions.answered(answer("a"))
    assert worker.told == [("keys", 7, "a")]
    worker.clock.pass_time()
    assert worker.asked == ["b"]
    worker.questions.answered(answer("b"))
    worker.clock.pass_time()
    assert (worker.asked, worker.clock.calls) == ([], [])


def test_it_is_not_sent_for_ever() -> None:
    """Nobody waits for it any more."""
    worker = Worker()
    worker.ask("a")
    for _ in range(2 * TRIES):
        worker.clock.pass_time()
    assert worker.asked == ["a"] * TRIES
    assert worker.clock.calls == []
    worker.questions.answered(answer("a"))  # a late answer harms nobody
    worker.ask("a")
    assert (worker.asked, len(worker.clock.calls)) == (["a"], 1)


def test_it_is_asked_again_for_somebody_new() -> None:
    worker = Worker()
    worker.ask("a")
    for _ in range(TRIES - 1):
        worker.clock.pass_time()
    worker.ask("a")
    assert worker.asked == ["a"] * (TRIES + 1)
    assert len(worker.clock.calls) == 1
    worker.clock.pass_time()
    assert worker.asked == ["a"]


def test_a_channel_without_room() -> None:
    worker = Worker()
    worker.full = True
    worker.ask("a")
    assert worker.asked == []
    worker.full = False
    worker.clock.pass_time()
    assert worker.asked == ["a"]


def test_open_questions_are_bounded() -> None:
    worker = Worker()
    worker.ask(*map(str, range(MOST_OPEN + 5)))
    assert len(worker.asked) == MOST_OPEN + 5
    worker.clock.pass_time()
    assert len(worker.asked) == MOST_OPEN


# ---- in control -------------------------------------------------------------------------


class Control:
    """Control's side, with workers that only hear."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.workers = WorkerChannels(2)
        self.told: list[tuple[int, Answered]] = []
        monkeypatch.setattr(self.workers, "answer", lambda *told: self.told.append(told))
        self.questions = ControlQuestions(self.workers)
        self.questions.answers["keys"] = self._answer
        self.questions.begin()
        self.asked: list[tuple[int, str]] = []
        self.gate = asyncio.Event()

    async def _answer(self, issuer: int, text: str) -> bool:
        self.asked.append((issuer, text))
        if text == "broken":
            raise RuntimeError("a fault of ours")
        await self.gate.wait()
        return text == "good"

    def ask(self, index: int, text: str, kind: QuestionKind = "keys") -> None:
        self.workers.on_question(index, Question(kind=kind, issuer=7, text=text))

    async def rest(self) -> list[tuple[int, str, bool]]:
        """Who was told what, when nothing is left to do."""
        while tasks := self.questions._tasks:
            await asyncio.wait(tasks)
        told, self.told = self.told, []
        return [(index, each.text, each.ok) for index, each in told]


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> Control:
    return Control(monkeypatch)


async def test_all_who_ask_are_answered_once(control: Control) -> None:
    for index, text in ((0, "good"), (1, "good"), (0, "good"), (1, "bad")):
        control.ask(index, text)
    await asyncio.sleep(0)
    assert (control.asked, control.told) == ([(7, "good"), (7, "bad")], [])
    control.gate.set()
    assert await control.rest() == [(0, "good", True), (1, "good", True), (1, "bad", False)]
    control.ask(0, "good")
    assert await control.rest() == [(0, "good", True)]
    assert len(control.asked) == 3


async def test_what_cannot_be_answered_gets_a_no_at_once(control: Control) -> None:
    control.ask(0, "x", kind="subject")
    control.ask(1, "x" * (LONGEST + 1))
    assert [(index, each.ok) for index, each in control.told] == [(0, False), (1, False)]
    assert control.asked == []


async def test_questions_are_bounded(control: Control) -> None:
    for number in range(MOST + 1):
        control.ask(0, str(number))
    control.ask(1, "0")  # it is being answered, so one more may wait for it
    assert [each.text for _, each in control.told] == [str(MOST)]
    control.gate.set()
    assert len(await control.rest()) == MOST + 2


async def test_a_fault_is_a_no(control: Control, caplog: pytest.LogCaptureFixture) -> None:
    control.ask(0, "broken")
    assert await control.rest() == [(0, "broken", False)]
    assert "a question of workers (keys) could not be answered" in caplog.text
    control.gate.set()
    control.ask(0, "good")
    assert await control.rest() == [(0, "good", True)]


async def test_questions_wait_for_the_first_configuration(control: Control) -> None:
    """A successor knows no issuer before; a no would refuse good tokens."""
    control.questions._begun.clear()
    control.gate.set()
    control.ask(0, "good")
    control.ask(1, "good")
    await asyncio.sleep(0)
    assert (control.asked, control.told) == ([], [])
    control.questions.begin()
    assert await control.rest() == [(0, "good", True), (1, "good", True)]


async def test_an_end_answers_nothing(control: Control) -> None:
    """A no would end the wait of requests that the successor can help."""
    control.ask(0, "good")
    await asyncio.sleep(0)
    await control.questions.stop()
    assert control.told == []
