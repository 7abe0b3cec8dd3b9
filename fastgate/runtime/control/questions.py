"""Questions of workers: answered once for all who ask, when what is missing is there.

    worker 0 ── Question ──┐                          ┌── Answered ──▶ worker 0
    worker 1 ── Question ──┴─▶ one task for each ─────┴── Answered ──▶ worker 1
    worker 0 ── again ─────────▶ (it waits already)

What a task finds is sent before the answer, on the same channel: a keyring, or a new index of
credentials; an entry of the index is in memory that workers share. A question that cannot be
answered is answered too: whoever waits must not wait in vain. Only until this process serves its
first configuration (`begin`), questions wait, since nothing is known before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from fastgate.runtime.control.worker_channels import WorkerChannels
from fastgate.runtime.wire.messages import Answered, Question, QuestionKind

log = logging.getLogger("fastgate.control")

MOST = 1024
"""Questions that are being answered at a time; further ones get a no."""
LONGEST = 1024
"""Characters of a question's text."""

Answer = Callable[[int, str], Awaitable[bool]]
"""Answers a question about an issuer (its id); whether there is something new."""
_Key = tuple[QuestionKind, int, str]


class Questions:
    """Answers the questions of all workers."""

    def __init__(self, workers: WorkerChannels) -> None:
        self.answers: dict[QuestionKind, Answer] = {}
        """What answers each kind; a kind without one gets a no."""
        self._workers = workers
        self._begun = asyncio.Event()
        self._waiting: dict[_Key, set[int]] = {}  # who waits for it, by place
        self._tasks: set[asyncio.Task[None]] = set()
        workers.on_question = self.ask

    def ask(self, index: int, question: Question) -> None:
        """A worker asks."""
        key = (question.kind, question.issuer, question.text)
        if key in self._waiting:
            self._waiting[key].add(index)
            return
        answer = self.answers.get(question.kind)
        if answer is None or len(self._waiting) >= MOST or len(question.text) > LONGEST:
            self._tell({index}, key, False)
            return
        self._waiting[key] = {index}
        task = asyncio.ensure_future(self._answer(key, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def begin(self) -> None:
        """The first configuration is served."""
        self._begun.set()

    async def stop(self) -> None:
        """End what is running, without answers: the successor of this process is asked again."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _answer(self, key: _Key, answer: Answer) -> None:
        kind, issuer, text = key
        ok = False
        try:
            await self._begun.wait()
            ok = await answer(issuer, text)
        except asyncio.CancelledError:
            del self._waiting[key]
            raise
        except Exception:
            log.exception("a question of workers (%s) could not be answered", kind)
        self._tell(self._waiting.pop(key), key, ok)

    def _tell(self, places: set[int], key: _Key, ok: bool) -> None:
        kind, issuer, text = key
        for index in sorted(places):
            self._workers.answer(index, Answered(kind=kind, issuer=issuer, text=text, ok=ok))
