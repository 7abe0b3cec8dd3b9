"""The C tools of the benchmarks, compiled by the machine's compiler when first needed.

`load` (load generator), `backend` (upstream), `relay` (the limit for a proxy) and `hello` (half
handshakes) are one C file each, with their manual at the top. Programs go to `build/benchmarks/`
under a name that carries the digest of their sources, so a change is compiled again and nothing
stale is ever run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

SOURCES = Path(__file__).parent
BUILD = SOURCES.parent.parent / "build" / "benchmarks"
FLAGS = ["-O2", "-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"]
TOOLS = ("load", "backend", "relay", "hello")
LIBSSL = ["-Wl,--as-needed", "-lssl", "-lcrypto"]


class NoCompiler(RuntimeError):
    """There is no C compiler to build the tools with."""


def compiler() -> str:
    """The C compiler's path. Raises NoCompiler."""
    for name in (os.environ.get("CC"), "gcc", "cc", "clang"):
        if name and (path := shutil.which(name)):
            return path
    raise NoCompiler("the benchmark tools need a C compiler: apt-get install gcc")


def tool(name: str) -> Path:
    """The program `name`, one of TOOLS, compiled if it is not there yet.

    Raises NoCompiler, and subprocess.CalledProcessError when the source does not compile.
    """
    digest = hashlib.sha256()
    for source in (SOURCES / f"{name}.c", *sorted(SOURCES.glob("*.h"))):
        digest.update(source.read_bytes())
    program = BUILD / f"{name}-{digest.hexdigest()[:12]}"
    if not program.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        fresh = program.with_suffix(f".{os.getpid()}")
        source = str(SOURCES / f"{name}.c")
        subprocess.run([compiler(), *FLAGS, "-o", str(fresh), source, *LIBSSL], check=True)
        fresh.rename(program)
    return program
