"""Wheels: what is in them, and that they need nothing but Python where they are installed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from rootkit import DIST, PROJECT, Root, base, built, missing, wheelhouse

import fastgate

SYSTEMS = {"bookworm": "cp311", "trixie": "cp313"}
"""A release of Debian, and the wheel that its Python takes."""
LIBC = {
    "libc.so.6",
    "libdl.so.2",
    "libm.so.6",
    "libpthread.so.0",
    "ld-linux-x86-64.so.2",
    "ld-linux-aarch64.so.1",
}
BUNDLED = re.compile(r"lib(ssl|crypto)-[0-9a-f]{8}\.so\.3")

WHEELS = sorted(DIST.glob("*.whl"))


@pytest.mark.skipif(not WHEELS, reason="no wheels in dist/: make wheel")
def test_every_wheel_is_of_this_version_and_of_one_platform() -> None:
    tags = {wheel.stem.split("-")[-1] for wheel in WHEELS}
    assert len(tags) == 1, tags
    assert re.fullmatch(r"manylinux_2_\d+_(x86_64|aarch64)", tags.pop())
    assert {wheel.name.split("-")[1] for wheel in WHEELS} == {fastgate.__version__}


@pytest.mark.parametrize("wheel", WHEELS, ids=lambda wheel: wheel.name.split("-")[2])
def test_modules_need_the_c_library_and_one_openssl(wheel: Path, tmp_path: Path) -> None:
    """And look for it in the wheel only, not where the machine that built it had libraries."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        archive.extractall(tmp_path)
    assert {name.split("/")[0] for name in names} == {
        "fastgate", "fastgate.libs", f"fastgate-{fastgate.__version__}.dist-info"
    }  # fmt: skip
    assert not [name for name in names if name.endswith((".c", ".o", ".pyc", ".a"))]
    bundled = [name.split("/")[1] for name in names if name.startswith("fastgate.libs/")]
    assert all(BUNDLED.fullmatch(name) for name in bundled), bundled
    assert len({BUNDLED.fullmatch(name)[1] for name in bundled}) == len(bundled)  # type: ignore[index]
    modules = sorted(tmp_path.rglob("*.so*"))
    sources = sorted((Path(fastgate.__file__).parent / "_core").rglob("*.pyx"))
    assert len(modules) == len(sources) + len(bundled)
    read = subprocess.run(
        ["readelf", "--dynamic", "--wide", *modules], capture_output=True, text=True, check=True
    ).stdout
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", read))
    assert needed - LIBC == set(bundled)
    paths = set(re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.*)\]", read))
    assert all(re.fullmatch(r"\$ORIGIN(/\.\.)*(/fastgate\.libs)?", path) for path in paths), paths


@pytest.mark.skipif(bool(missing("unshare")), reason=missing("unshare"))
@pytest.mark.parametrize("suite", SYSTEMS)
def test_a_bare_system_needs_no_compiler(suite: str, tmp_path: Path) -> None:
    wheel = built(f"fastgate-*-{SYSTEMS[suite]}-*.whl")
    root = Root(tmp_path / "root", base(f"{suite}-venv", suite, "python3-venv"))
    for absent in ("usr/bin/cc", "usr/bin/gcc", "usr/include/openssl", "usr/include/python3"):
        assert not root.path(absent).exists()
    root.put(*wheelhouse(wheel).iterdir(), into="/wheels")
    root.put(Path(__file__).with_name("inside.py"))
    root.run("python3", "-m", "venv", "/opt/fastgate")
    root.run(
        "/opt/fastgate/bin/pip", "install", "--no-index", "--find-links", "/wheels", "fastgate"
    )
    found = json.loads(root.run("python3", "/srv/inside.py", "/opt/fastgate/bin/fastgate").stdout)
    assert found["version"].startswith(f"fastgate {fastgate.__version__} (Python 3.")
    assert found["check"] == "Valid: 1 listener, 1 route.\n"
    assert found["requests"] == [200, 401, 200]
    assert found["ready"] is True
    assert found["ended"] == 0
    own = [path for path in found["mapped"] if "/site-packages/fastgate.libs/" in path]
    assert own, found["mapped"]
    assert all(BUNDLED.fullmatch(path.rpartition("/")[2]) for path in own)
    root.run("/opt/fastgate/bin/pip", "uninstall", "--yes", "fastgate")
    left = root.run("find", "/opt/fastgate", "-name", "fastgate*").stdout
    assert left.split() == ["/opt/fastgate"]


def test_the_first_commands_of_the_readme_install_it(tmp_path: Path) -> None:
    block = re.search(r"```sh\n(make wheel\n.*?)```", (PROJECT / "README.md").read_text(), re.S)
    assert block is not None
    _, install, start = block[1].splitlines()
    built(f"fastgate-*-cp{sys.version_info[0]}{sys.version_info[1]}-*.whl")
    assert start.endswith("/fastgate demo")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-ec", f"{install}\n{start} --help"], cwd=PROJECT, check=True, timeout=600,
        env={**os.environ, "HOME": str(tmp_path), "PATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert "Usage: fastgate demo" in ran.stdout
