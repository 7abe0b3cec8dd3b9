"""Tasks that must not end unnoticed, and work that must not end early."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from fastgate import tasks
from fastgate.tasks import keep_running, to_the_end

log = logging.getLogger("fastgate.test")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "SHORTEST_S", 0.001)
    monkeypatch.setattr(tasks, "LONGEST_S", 0.004)


async def test_what_ends_is_started_again_and_the_reason_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runs = 0
    goes_on = asyncio.Event()

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise ValueError("the reason")
        if runs == 2:
            return
        goes_on.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(keep_running("some work", work, log))
    await asyncio.wait_for(goes_on.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert runs == 3
    first, second = caplog.messages
    assert "some work ended (ValueError: the reason); starting it again in" in first
    assert "some work ended (it returned)" in second


async def test_the_wait_grows_to_a_bound_and_a_traceback_comes_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runs = 0
    enough = asyncio.Event()

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs > 6:
            enough.set()
        raise ValueError("the same each time")

    task = asyncio.create_task(keep_running("some work", work, log))
    await asyncio.wait_for(enough.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    waits = [record.args[2] for record in caplog.records]  # type: ignore[index]
    assert waits[:5] == [0.001, 0.002, 0.004, 0.004, 0.004]
    assert [bool(record.exc_info) for record in caplog.records[:3]] == [True, False, False]


async def test_work_goes_to_its_end_before_a_cancellation_is_raised() -> None:
    go_on = asyncio.Event()
    ended = False

    async def work() -> None:
        nonlocal ended
        await go_on.wait()
        ended = True

    caller = asyncio.ensure_future(to_the_end(work()))
    for _ in range(3):  # a shutdown, a timeout and a client that leaves
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.sleep(0)
        assert not caller.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended


@pytest.mark.parametrize("cancelled", [False, True])
async def test_an_error_of_the_work_is_raised_unless_the_caller_was_cancelled(
    cancelled: bool,
) -> None:
    go_on = asyncio.Event()
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    async def work() -> None:
        await go_on.wait()
        raise ValueError("its own")

    caller = asyncio.ensure_future(to_the_end(work()))
    await asyncio.sleep(0)
    if cancelled:
        caller.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError if cancelled else ValueError):
        await caller
    del caller
    gc.collect()
    assert reported == []


async def test_the_result_of_the_work_is_returned() -> None:
    assert await to_the_end(asyncio.sleep(0, 7)) == 7
