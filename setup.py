"""Builds the Cython core: one extension module for each `.pyx` of `fastgate/_core`.

Environment:
    FASTGATE_BUILD   release (default) | debug | asan | tsan | coverage;
                     profile, then trained: see tools/trained-build
    FASTGATE_ONLY    comma-separated module names: build only these (while developing),
                     as `engine` or `exchange.admission`
    FASTGATE_MARCH   value for -march= (default: the compiler's, so that a build is portable)
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup

CORE = Path("fastgate/_core")

RELEASE = ["-O3", "-g1", "-fno-plt", "-fno-semantic-interposition"]
# What training did not reach is compiled as in a release, not for size: it may be traffic too.
TRAINED = ["-fprofile-use", "-fprofile-partial-training", "-fprofile-correction"]
BUILDS = {
    "release": (RELEASE, []),
    "profile": ([*RELEASE, "-fprofile-generate"], ["-fprofile-generate"]),
    "trained": ([*RELEASE, *TRAINED, "-Wno-missing-profile"], []),
    "debug": (["-O0", "-g3"], []),
    "coverage": (["-O0", "-g1"], []),
    "asan": (
        ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"],
        ["-fsanitize=address,undefined"],
    ),
    "tsan": (["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=thread"], ["-fsanitize=thread"]),
}

build = os.environ.get("FASTGATE_BUILD", "release")
if build not in BUILDS:
    sys.exit(f"FASTGATE_BUILD={build!r} is not one of {', '.join(BUILDS)}")
if sys.platform != "linux":
    sys.exit("FastGate's core is built on Linux's epoll; it runs on Linux (x86-64 and arm64) only.")

cflags, ldflags = BUILDS[build]
cflags = [*cflags, "-std=gnu11", "-Wno-unused-function"]
if platform.machine() in ("x86_64", "AMD64"):
    # The double-word compare-and-swap of cells and wallets. arm64 needs no flag: see atomics.pxd.
    cflags.append("-mcx16")
if march := os.environ.get("FASTGATE_MARCH"):
    cflags.append(f"-march={march}")

checked = build not in ("release", "profile", "trained")
macros: list[tuple[str, str | None]] = [("FASTGATE_DEBUG", "1")] if checked else []
if build == "coverage":
    macros.append(("CYTHON_TRACE_NOGIL", "1"))

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": checked,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": checked,
    "embedsignature": True,
    "linetrace": build == "coverage",
}

only = {name for name in os.environ.get("FASTGATE_ONLY", "").split(",") if name}
named = {".".join(p.relative_to(CORE).with_suffix("").parts): p for p in CORE.rglob("*.pyx")}
sources = {name: named[name] for name in sorted(named) if not only or name in only}
if unknown := only - sources.keys():
    sys.exit(f"FASTGATE_ONLY names no module of {CORE}: {', '.join(sorted(unknown))}")

JOBS = len(os.sched_getaffinity(0))

# What a module links besides libc.
LIBSSL = [
    "tls.callbacks",
    "tls.choice",
    "tls.contexts",
    "tls.peer",
    "io.tls",
    "io.tls_bio",
    "upstream.pool",
]
LIBRARIES = {
    "exchange.basic_auth": ["crypto"],
    "io.libuv": ["dl"],
    "platform.openssl": ["crypto"],
    "shared.credentials": ["crypto"],
    "shared.lookup": ["crypto"],
    "tokens.issuers": ["crypto"],
    "tokens.signature": ["crypto"],
    "tokens.verdicts": ["crypto"],
    **{name: ["ssl", "crypto"] for name in LIBSSL},
}

Options.docstrings = True
# A profile belongs to its object file's path: these three have the same C, at the same place.
C_FILES = f"build/cython-{build if checked else 'release'}"
HINT = re.compile(rb"^performance hint: (\S+?\.p[yx][xd]):(?!.*boundscheck)", re.MULTILINE)


@contextmanager
def hints_are_errors() -> Iterator[None]:
    """Stop at Cython's "performance hint": it means the GIL where there must be none.

    Cython runs in several processes, which only share the descriptor that they write to. C that
    was written along with a hint is removed, or the next build would take it for good.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            said.seek(0)
            text = said.read()
            os.write(2, text)
    if hinted := {Path(os.fsdecode(name)) for name in HINT.findall(text)}:
        for path in hinted:
            Path(C_FILES, os.path.relpath(path)).with_suffix(".c").unlink(missing_ok=True)
        sys.exit("Cython's performance hints are errors here; see above.")


# Cython's processes are forked from this one. Python 3.14 would have them import this file anew.
multiprocessing.set_start_method("fork", force=True)

with hints_are_errors():
    modules = cythonize(
        [
            Extension(
                f"fastgate._core.{name}",
                [str(path)],
                extra_compile_args=cflags,
                extra_link_args=ldflags,
                define_macros=macros,
                libraries=LIBRARIES.get(name, []),
            )
            for name, path in sources.items()
        ],
        compiler_directives=DIRECTIVES,
        build_dir=C_FILES,
        annotate=False,
        nthreads=JOBS,
    )

setup(ext_modules=modules, options={"build_ext": {"parallel": JOBS}})
