"""The benchmarks live beside the tests, in the project's root, and are not installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))


@pytest.fixture(scope="session")
def compiled_tools() -> None:
    """The tools written in C. Without a compiler, the tests that use them are skipped."""
    from benchmarks.tools import TOOLS, NoCompiler, tool

    try:
        for name in TOOLS:
            tool(name)
    except NoCompiler as e:
        pytest.skip(str(e))
