"""What tests against pebble leave to the garbage collector."""

from __future__ import annotations

import gc
import warnings

import pytest

NAMES = {"plain", "trusting", "bound"}
"""Fixtures that are a running pebble."""


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """pebble looks at a proof from several places, the last time perhaps when the order is complete
    and the test's event loop is about to end. asyncio then drops what it has accepted without
    closing it. That is collected here, or another test would be blamed for it."""
    if NAMES & set(getattr(item, "fixturenames", ())):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
