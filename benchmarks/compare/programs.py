"""Programs that are installed on the machine: where they are, and which version they are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from benchmarks.compare.subjects import Unavailable


def said_by(command: list[str], pattern: str) -> str:
    """The version that a program prints. Raises Unavailable if it is not installed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except OSError as e:
        raise Unavailable(f"{command[0]} is not installed") from e
    found = re.search(pattern, done.stdout + done.stderr)
    if not found:
        raise Unavailable(f"{' '.join(command)} printed no version")
    return found.group(1)


def program(name: str, package: str) -> str:
    """The path of a program, /usr/sbin included. Raises Unavailable."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    if found := shutil.which(name, path=path):
        return found
    raise Unavailable(f"apt-get install {package}")
