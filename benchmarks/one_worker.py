"""A gateway with one worker, for the small measurements that are not rows of `make compare`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import orjson

HERE = Path(__file__).resolve().parents[1]


class OneWorker(NamedTuple):
    """Where it serves, and the process id of the worker."""

    address: tuple[str, int]
    worker: int


@contextmanager
def one_worker(folder: str, document: Mapping[str, Any]) -> Iterator[OneWorker]:
    """Run it in `folder`, until the block ends. Raises OSError: it does not start."""
    Path(folder, "fastgate.json").write_bytes(orjson.dumps(document))
    gateway = subprocess.Popen(
        [sys.executable, "-m", "fastgate", "run", "fastgate.json", "--workers", "1"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(HERE)},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert gateway.stderr is not None
        for line in gateway.stderr:
            if found := re.search(r"serving generation 1 on ([\d.]+):(\d+)", line):
                break
        else:
            raise OSError("the gateway does not start")
        threading.Thread(target=gateway.stderr.read, daemon=True).start()
        children = Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text().split()
        names = {Path(f"/proc/{pid}/comm").read_text().strip(): int(pid) for pid in children}
        yield OneWorker((found[1], int(found[2])), names["fg-worker-0"])
    finally:
        gateway.terminate()
        gateway.wait()
