"""Questions of the engine to control, and the answers.

The engine has requests that wait for something that control may have (`_core/exchange/asking.pyx`);
it stops waiting after two seconds. A question without an answer is sent again while requests wait,
because the control process may have been replaced between question and answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from fastgate.runtime.wire.messages import Answered, Message, Question, QuestionKind

AGAIN_S = 0.5
"""Seconds until a question is sent again."""
TRIES = 4
"""How often it is sent; later, nobody waits any more."""
MOST = 512
"""Open questions; the answer to a further one is not waited for."""


class Asking(Protocol):
    """The part of the engine that asks."""

    on_questions: Callable[[], None] | None

    def take_questions(self) -> list[tuple[QuestionKind, int, str]]: ...
    def answered(self, kind: QuestionKind, issuer: int, text: str) -> None: ...


class Questions:
    """The open questions of a worker."""

    def __init__(
        self,
        engine: Asking,
        send: Callable[[Message], bool],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """send: whether the message could be sent."""
        self._engine = engine
        self._send = send
        self._loop = loop
        self._open: dict[tuple[QuestionKind, int, str], int] = {}  # how often it was sent
        self._timer: asyncio.TimerHandle | None = None
        engine.on_questions = self._ask

    def answered(self, answer: Answered) -> None:
        """Control has answered: whoever waits for it goes on."""
        self._open.pop((answer.kind, answer.issuer, answer.text), None)
        self._engine.answered(answer.kind, answer.issuer, answer.text)

    def _ask(self) -> None:
        """The engine has questions. One that is open is asked again: somebody new waits for it."""
        for kind, issuer, text in self._engine.take_questions():
            self._send(Question(kind=kind, issuer=issuer, text=text))
            if len(self._open) < MOST:
                self._open[kind, issuer, text] = 1
        if self._open and self._timer is None:
            self._timer = self._loop.call_later(AGAIN_S, self._again)

    def _again(self) -> None:
        self._timer = None
        for key, times in list(self._open.items()):
            if times == TRIES:
                del self._open[key]
                continue
            kind, issuer, text = key
            self._send(Question(kind=kind, issuer=issuer, text=text))
            self._open[key] = times + 1
        if self._open:
            self._timer = self._loop.call_later(AGAIN_S, self._again)
