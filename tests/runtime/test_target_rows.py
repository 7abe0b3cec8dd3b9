"""The rows of targets: who has them, and which targets start slowly."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
from compilerkit import decode

from fastgate._core.shared.segment import Segment
from fastgate._core.snapshot.snapshot import Snapshot
from fastgate.config.compiler import compile_gateway
from fastgate.config.slots import SlotBook
from fastgate.runtime.control.target_rows import claim_rows, targets_of

ONE, TWO, THREE = (f"http://10.0.0.{n}" for n in (1, 2, 3))


class Publishing:
    """Publishes upstreams as control does."""

    def __init__(self) -> None:
        self.segment = Segment.create(1, targets=8)
        self.slots = SlotBook()
        self.served: Snapshot | None = None

    def publish(self, *targets: str, addresses: Any = None) -> dict[str, Any]:
        """Target or its address → its row."""
        image = compile_gateway(
            decode({"upstreams": [{"name": "up", "targets": list(targets)}]}),
            generation=self.segment.generation + 1, slots=self.slots, addresses=addresses or {},
        )  # fmt: skip
        snapshot = Snapshot(image.fd)
        os.close(image.fd)
        claim_rows(self.segment, snapshot, before=self.served)
        self.served = snapshot
        self.segment.generation = snapshot.generation
        return {
            target["name"].decode() if not addresses else target["sockaddr"][4:8]: (
                self.segment.target_row(target["slot"])
            )
            for target in targets_of(snapshot)
        }


@pytest.fixture
def control() -> Publishing:
    return Publishing()


def test_at_the_start_of_the_gateway_nothing_starts_slowly(control: Publishing) -> None:
    rows = control.publish(ONE, TWO)
    assert [row.started_ns for row in rows.values()] == [0, 0]
    assert len({row.identity for row in rows.values()}) == 2


def test_added_targets_start_when_they_are_added(control: Publishing) -> None:
    control.publish(ONE)
    began = time.monotonic_ns()
    rows = control.publish(ONE, TWO, THREE)
    assert rows[ONE].started_ns == 0
    assert began <= rows[TWO].started_ns == rows[THREE].started_ns <= time.monotonic_ns()
    again = control.publish(ONE, TWO, THREE)
    assert again[TWO].started_ns == rows[TWO].started_ns


def test_one_that_was_removed_and_comes_back_starts_again(control: Publishing) -> None:
    """Also if its row has not had another owner in the meantime."""
    control.publish(ONE, TWO)
    rows = control.publish(ONE)
    began = time.monotonic_ns()
    rows = control.publish(ONE, TWO)
    assert rows[TWO].started_ns >= began
    assert rows[ONE].started_ns == 0


def test_addresses_that_a_name_gets_start_too(control: Publishing) -> None:
    name = "http://app.internal:81"

    def resolved(*hosts: str) -> dict[str, Any]:
        return {"app.internal:81": [(2, (host, 81)) for host in hosts]}

    control.publish(name, addresses=resolved("10.0.0.1"))
    began = time.monotonic_ns()
    rows = control.publish(name, addresses=resolved("10.0.0.1", "10.0.0.2"))
    assert rows[b"\x0a\0\0\x01"].started_ns == 0
    assert rows[b"\x0a\0\0\x02"].started_ns >= began


def test_another_control_process_continues(control: Publishing) -> None:
    rows = control.publish(ONE)
    rows = control.publish(ONE, TWO)
    started = rows[TWO].started_ns
    control.served = None  # it has just started
    began = time.monotonic_ns()
    rows = control.publish(ONE, TWO, THREE)
    assert (rows[ONE].started_ns, rows[TWO].started_ns) == (0, started)
    assert rows[THREE].started_ns >= began


def test_targets_beyond_the_rows_have_none() -> None:
    control = Publishing()
    control.segment = Segment.create(1, targets=1)
    image = compile_gateway(
        decode({"upstreams": [{"name": "up", "targets": [ONE, TWO]}]}),
        generation=1, slots=control.slots, addresses={},
    )  # fmt: skip
    snapshot = Snapshot(image.fd)
    os.close(image.fd)
    claim_rows(control.segment, snapshot, before=None)
    first = targets_of(snapshot)[0]
    assert control.segment.target_row(0).identity == first["identity"]
