"""What `lawkit` says of tests is about tests that are there."""

from __future__ import annotations

import importlib

import lawkit
import pytest


@pytest.mark.parametrize("module", sorted({*lawkit.TRANSPORTS, *lawkit.EXEMPT, *lawkit.FINS}))
def test_tables_name_tests_that_are_there(module: str) -> None:
    assert module in lawkit.TRANSPORTS
    there = vars(importlib.import_module(module))
    for test in (*lawkit.EXEMPT.get(module, ()), *lawkit.FINS.get(module, ())):
        assert test in there, f"{module}.{test}"
