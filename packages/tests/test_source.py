"""The source archive: it builds and installs with a compiler, and holds nothing by accident."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

from rootkit import built

import fastgate


def test_it_installs_into_a_fresh_environment(tmp_path: Path) -> None:
    archive = built("fastgate-*.tar.gz")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=120)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", archive], cwd=tmp_path, check=True, timeout=1800
    )
    said = subprocess.run(
        [python.with_name("fastgate"), "--version"],
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    assert said.startswith(f"fastgate {fastgate.__version__} (")
    subprocess.run(
        [python, "-c", "import fastgate._core.engine, fastgate._core.shared.credentials"],
        cwd=tmp_path, check=True, timeout=60,
    )  # fmt: skip


def test_it_holds_no_generated_file() -> None:
    with tarfile.open(built("fastgate-*.tar.gz")) as tar:
        names = tar.getnames()
    assert not [n for n in names if n.endswith((".so", ".c", ".o", ".pyc")) or "__pycache__" in n]
