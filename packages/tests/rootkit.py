"""Small Debian systems to install packages into: a folder made by mmdebstrap, entered with chroot.

A system is made once and kept as an archive in build/roots; each test unpacks its own. What runs in
it has its own process numbers and its own network with nothing but a loopback device, so that
default ports are free and nothing is downloaded. That needs root; tests that cannot have it are
skipped and say why.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
DIST = PROJECT / "dist"
ROOTS = PROJECT / "build" / "roots"
PATIENCE = 300  # seconds; bounds every command, is reached by none that is well


def missing(*programs: str) -> str:
    """Why a root cannot be made and entered here; "" if it can."""
    if os.geteuid() != 0:
        return "needs root, for chroot"
    absent = [name for name in ("mmdebstrap", *programs) if not shutil.which(name)]
    return f"needs {', '.join(absent)}: tools/debian-packages packages" if absent else ""


def built(pattern: str) -> Path:
    """The one file of dist/ by that name. Skips the test if it was not built."""
    found = sorted(DIST.glob(pattern))
    if not found:
        pytest.skip(f"dist/{pattern} is not there: make packages")
    assert len(found) == 1, found
    return found[0]


def base(name: str, suite: str, packages: str) -> Path:
    """The archive of a system with these packages, made if it is not there yet."""
    archive = ROOTS / f"{name}.tar"
    if not archive.exists():
        ROOTS.mkdir(parents=True, exist_ok=True)
        partial = archive.with_suffix(".partial.tar")
        subprocess.run(
            [
                "mmdebstrap", "--quiet", "--variant=minbase", f"--include={packages}",
                suite, str(partial),
            ],
            check=True, timeout=4 * PATIENCE,
        )  # fmt: skip
        partial.rename(archive)
    return archive


class Root:
    """A system in a folder."""

    def __init__(self, folder: Path, archive: Path) -> None:
        self.folder = folder
        folder.mkdir()
        subprocess.run(["tar", "-xf", archive, "-C", folder], check=True, timeout=PATIENCE)

    def put(self, *files: Path, into: str = "/srv") -> None:
        """Copy files from outside into a folder of the system."""
        place = self.folder / into.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy(file, place)

    def path(self, name: str) -> Path:
        """Where a file of the system is, seen from outside."""
        return self.folder / name.lstrip("/")

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command as the system's root; all that it started ends with it."""
        ran = subprocess.run(
            [
                "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child",
                f"--root={self.folder}", "--wd=/", "--mount-proc", "--", *command,
            ],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root",
                 "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        if check:
            assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"
        return ran


def wheelhouse(wheel: Path) -> Path:
    """A folder with a wheel and the wheels of all that it and two extras need, from the index."""
    version = wheel.name.split("-")[2].removeprefix("cp")
    machine = os.uname().machine
    folder = PROJECT / "build" / "wheelhouse" / f"cp{version}"
    shutil.rmtree(folder, ignore_errors=True)
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in (34, 28, 17)]
    subprocess.run(
        [
            sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder),
            "--only-binary=:all:", "--implementation=cp", f"--python-version={version}",
            f"--abi=cp{version}", "--abi=abi3", *platforms, f"--platform=manylinux2014_{machine}",
            f"{wheel}[postgresql,stripe]",
        ],
        check=True, timeout=4 * PATIENCE,
    )  # fmt: skip
    return folder
