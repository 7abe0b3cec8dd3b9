"""An empty store for a gateway to find: to make one takes half of a first start."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
import tempfile
from pathlib import Path

from gatewaykit import PROJECT


@functools.cache
def _empty_store() -> bytes:
    """An SQLite store with its tables and nothing in them, as a first start makes it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fastgate.db"
        subprocess.run(
            [sys.executable, "-m", "fastgate.store.migrate"],
            input=f"sqlite:///{path}\n",
            text=True,
            check=True,
            cwd=PROJECT,
        )
        return path.read_bytes()


def put_store(state: Path) -> None:
    """Give a state directory that has no store an empty one: to make it takes half of a start."""
    path = state / "fastgate.db"
    with contextlib.suppress(OSError):  # there can be none: the gateway says so
        if not path.exists():
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_bytes(_empty_store())
