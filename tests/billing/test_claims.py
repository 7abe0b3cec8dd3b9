"""Claims: exclusive over processes, given up by death, kept over restarts, swept in time."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgate.billing.x402 import claims as claims_module
from fastgate.billing.x402.claims import Answer, Busy, ClaimRecord, Claims

KEY = bytes(range(32))


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def record(**more: Any) -> ClaimRecord:
    fields = {
        "request": "r", "route": "paid", "payer": "0xab",
        "created": 1_800_000_000, "expires": 1_800_000_060,
    }  # fmt: skip
    return ClaimRecord(**{**fields, **more})


def store(folder: Path, clock: Clock | None = None) -> Claims:
    return Claims(folder / "claims", clock or Clock())


def test_one_holder_at_a_time(tmp_path):
    first, second = store(tmp_path), store(tmp_path)
    claim = first.open(KEY)
    assert claim.record is None
    for each in (first, second):
        with pytest.raises(Busy):
            each.open(KEY)
    claim.write(record())
    claim.close()
    again = second.open(KEY)
    assert again.record == record()
    again.close()


def test_a_shared_claim_is_held_until_all_let_go(tmp_path):
    claims = store(tmp_path)
    claim = claims.open(KEY)
    claim.write(record())
    task = claim.share()
    claim.close()
    with pytest.raises(Busy):
        claims.open(KEY)
    task.write(record(state="settled"))
    task.close()
    again = claims.open(KEY)
    assert again.record is not None
    assert again.record.state == "settled"
    again.close()


def test_released_is_as_if_it_had_never_been(tmp_path):
    claims = store(tmp_path)
    claim = claims.open(KEY)
    claim.write(record())
    claim.keep(Answer(200, [], b"x"))
    claim.release()
    assert list((tmp_path / "claims").glob("??/*")) == []
    fresh = claims.open(KEY)
    assert fresh.record is None
    claim.release()  # once more: not the other's
    with pytest.raises(Busy):
        claims.open(KEY)
    fresh.close()


def test_answers_are_kept_beside_their_claim(tmp_path):
    claims = store(tmp_path)
    answer = Answer(201, [("Content-Type", "text/plain"), ("X", "ü")], b"\x00\xff" * 1000)
    claim = claims.open(KEY)
    claim.write(record())
    assert claim.kept() is None
    claim.keep(answer)
    claim.close()
    again = store(tmp_path).open(KEY)
    assert again.kept() == answer
    again.forget_answer()
    assert again.kept() is None
    again.close()


def test_a_holder_that_is_killed_holds_no_longer(tmp_path):
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        claim = store(tmp_path).open(KEY)
        claim.write(record(state="settling"))
        os.write(told, b"!")
        signal.pause()
    assert os.read(ready, 1) == b"!"
    claims = store(tmp_path)
    try:
        with pytest.raises(Busy):
            claims.open(KEY)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(told)
    claim = claims.open(KEY)
    assert claim.record == record(state="settling")
    claim.close()


def test_of_many_processes_one_gets_each_claim(tmp_path):
    """Eight processes try for the same hundred payments, and keep what they get."""
    keys = [bytes([i]) * 32 for i in range(100)]
    gate_read, gate_write = os.pipe()
    results: list[int] = []
    children = []
    for _ in range(8):
        out_read, out_write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(gate_write)
            os.read(gate_read, 1)
            claims, won = store(tmp_path), bytearray()
            for i, key in enumerate(keys):
                try:
                    claim = claims.open(key)
                except Busy:
                    continue
                if claim.record is None:
                    claim.write(record())
                    won.append(i)
                claim.close()
            os.write(out_write, bytes([len(won)]) + bytes(won))
            os._exit(0)
        os.close(out_write)
        children.append((pid, out_read))
    os.close(gate_read)
    os.close(gate_write)  # all begin
    for pid, out_read in children:
        with os.fdopen(out_read, "rb") as file:
            results += file.read()[1:]
        assert os.waitpid(pid, 0)[1] == 0
    assert sorted(results) == list(range(100))


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["running", "settling", "settled", "served", "unknown", "failed"]),
            st.text(max_size=300),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_the_last_record_is_the_one_that_is_read(tmp_path_factory, steps):
    claims = store(tmp_path_factory.mktemp("c"))
    for state, code in steps:
        claim = claims.open(KEY)
        claim.write(record(state=state, code=code))
        claim.close()
    claim = claims.open(KEY)
    assert claim.record == record(state=steps[-1][0], code=steps[-1][1])
    claim.close()
    assert dict(claims.records()) == {KEY.hex(): claim.record}


def test_a_record_that_is_damaged_is_an_error_and_not_a_fresh_payment(tmp_path):
    claims = store(tmp_path)
    claim = claims.open(KEY)
    claim.write(record())
    claim.close()
    (path,) = (tmp_path / "claims").glob("??/*")
    path.write_bytes(b'{"state":"run')
    with pytest.raises(OSError, match="cannot be read"):
        claims.open(KEY)
    with pytest.raises(OSError, match="cannot be read"):  # and the lock was let go
        claims.open(KEY)


def test_sweeping(tmp_path):
    clock = Clock()
    claims = store(tmp_path, clock)
    made = []
    for i in range(3):
        made.append(claims.open(bytes([i]) * 32))
        made[i].write(record(expires=1_800_000_060 + 100 * i))
        made[i].keep(Answer(200, [], b"x"))
    for claim in made[1:]:
        claim.close()
    assert claims.sweep() == 0
    clock.now += 150
    # The first is in use: its answer has had its time, its record stays.
    assert claims.sweep() == 1
    clock.now += 1000
    assert claims.sweep() == 4
    made[0].close()
    assert claims.sweep() == 1
    assert list(claims.records()) == []


def test_when_to_sweep(tmp_path):
    clock = Clock()
    claims = store(tmp_path, clock)
    assert claims.time_to_sweep()
    assert not claims.time_to_sweep()
    clock.now += 61
    assert claims.time_to_sweep()


def test_the_claims_of_a_process(tmp_path, monkeypatch):
    monkeypatch.setattr(claims_module, "_claims", None)
    with pytest.raises(RuntimeError, match="no place for claims"):
        claims_module.current()
    used = claims_module.use(tmp_path, Clock())
    assert claims_module.current() is used
