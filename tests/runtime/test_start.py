"""What is settled at the start: how many workers, how large the segment, which file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgate.config.file import load
from fastgate.errors import ConfigurationError
from fastgate.model import codec
from fastgate.model.gateway import Gateway
from fastgate.runtime.launch import Launch, costs_money
from fastgate.runtime.start import (
    make_segment,
    open_money_map,
    power_of_two,
    workers_of,
)


@given(st.integers(1, 2**40))
def test_a_power_of_two_is_the_next_one(count: int) -> None:
    found = power_of_two(count)
    assert found & (found - 1) == 0
    assert found >= count > found // 2


def test_the_segment_has_the_sizes_of_the_configuration() -> None:
    memory = {"limit_cells": 3000, "quota_cells": 2048, "route_rows": 10, "targets": 20}
    segment = make_segment(codec.decode({"version": 1, "memory": memory}), 3)
    assert segment.workers == 3
    assert segment.limiter_cells == 4096
    assert segment.quota_cells == 2048
    assert segment.route_rows == 11  # one more, for all the others
    assert segment.targets == 20


def test_workers_are_as_many_as_asked_for() -> None:
    assert workers_of(codec.decode({"version": 1, "workers": 7})) == 7
    assert workers_of(codec.decode({"version": 1})) == min(64, len(os.sched_getaffinity(0)))


def test_a_file_is_read_again_but_not_twice_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "fastgate.yaml"
    path.write_text("version: 1\nworkers: 1\n")
    launch = Launch(state=tmp_path, config=path, first=load(path))
    path.write_text("version: 1\nworkers: 2\n")
    assert launch.read(first=True)[0].workers == 1
    gateway, digest, loaded = launch.read()
    assert gateway.workers == 2
    assert loaded is not None
    assert digest == codec.digest(gateway) == loaded.digest


def test_an_error_found_late_is_given_its_line(tmp_path: Path) -> None:
    path = tmp_path / "fastgate.yaml"
    path.write_text("version: 1\nlisteners:\n  - {name: public, bind: '127.0.0.1:1'}\n")
    error = Launch(state=tmp_path, config=path).located(
        ConfigurationError("is in use", path="listeners[0].bind")
    )
    assert (error.file, error.line) == (str(path), 3)


def test_a_document_is_served_without_a_file(tmp_path: Path) -> None:
    gateway, digest, loaded = Launch(state=tmp_path, document={"version": 1}).read()
    assert loaded is None
    assert digest == codec.digest(gateway)


def test_handlers_are_looked_for_beside_the_file_and_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    beside = Launch(state=tmp_path, config=tmp_path / "fastgate.yaml")
    assert beside.handler_paths() == [str(tmp_path), str(here)]
    assert Launch(state=tmp_path).handler_paths() == [str(here)]


# ---- money ------------------------------------------------------------------------------

PRICED = {
    "version": 1,
    "routes": [{"name": "a", "path": "/", "respond": {"status": 200}, "price": "0.002 USD"}],
}


@pytest.mark.parametrize(
    ("document", "costs"),
    [
        ({"version": 1}, False),
        (PRICED, True),
        ({"version": 1, "plans": [{"name": "p", "price": {"per_request": "1 USD"}}]}, True),
        ({"version": 1, "plans": [{"name": "p"}]}, False),
        ({"version": 1, "billing": {"currency": "EUR"}}, True),
    ],
)
def test_what_costs_money(document: dict[str, object], costs: bool) -> None:
    assert costs_money(codec.decode(document)) is costs


def test_there_is_a_money_map_only_where_something_costs_money(tmp_path: Path) -> None:
    free: Gateway = codec.decode({"version": 1})
    segment = make_segment(free, 2)
    assert open_money_map(tmp_path, free, segment) is None
    assert not (tmp_path / "money.map").exists()
    money = open_money_map(tmp_path, codec.decode(PRICED), segment)
    assert money is not None
    assert (money.workers, money.boots) == (2, 1)
    del money
    # What it may still hold has to reach the ledger, also when nothing costs money any more.
    again = open_money_map(tmp_path, free, segment)
    assert again is not None
    assert again.boots == 2
