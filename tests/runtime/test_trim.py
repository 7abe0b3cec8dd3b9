"""Giving back what only the start needed: which mappings, and that all goes on."""

from __future__ import annotations

import hashlib
import ssl
import subprocess
import sys

import pytest

from fastgate.runtime.trim import trim, unchanged


def mapping(header: str, anonymous: int = 0) -> list[str]:
    return [
        f"{header}\n", "Size:                  8 kB\n", "Rss:                   8 kB\n",
        f"Anonymous:             {anonymous} kB\n", "VmFlags: rd ex mr mw me \n",
    ]  # fmt: skip


CODE = "7f1000000000-7f1000002000 r-xp 00001000 fe:00 1234      /usr/lib/libssl.so.3"


@pytest.mark.parametrize(
    "header",
    [
        CODE,
        "7f1000000000-7f1000002000 r--p 00000000 fe:00 1234      /usr/lib/libssl.so.3",
        "7f1000000000-7f1000002000 r-xp 00000000 00:2f 1234      /opt/a file of a container.so",
    ],
)
def test_code_and_constants_are_unmapped(header: str) -> None:
    assert list(unchanged(mapping(header))) == [(0x7F1000000000, 0x2000)]


@pytest.mark.parametrize(
    "header",
    [
        "7f1000000000-7f1000002000 rw-p 00003000 fe:00 1234      /usr/lib/libssl.so.3",
        "7f1000000000-7f1000002000 rw-p 00000000 00:00 0         [heap]",
        "7f1000000000-7f1000002000 r--p 00000000 00:00 0 ",
        "7ffd51fe0000-7ffd51fe2000 r-xp 00000000 00:00 0         [vdso]",
        "7f1000000000-7f1000002000 r--s 00000000 00:01 99        /memfd:fastgate-snapshot",
    ],
)
def test_everything_else_stays(header: str) -> None:
    assert list(unchanged(mapping(header))) == []


def test_what_the_loader_has_written_stays() -> None:
    relocated = mapping(CODE.replace("r-xp", "r--p"), anonymous=4)
    assert list(unchanged([*relocated, *mapping(CODE)])) == [(0x7F1000000000, 0x2000)]


def test_a_process_goes_on() -> None:
    before = hashlib.sha256(b"same").digest()
    trim()
    assert hashlib.sha256(b"same").digest() == before
    ssl.create_default_context()
    assert subprocess.run([sys.executable, "-c", "print(1)"], check=True).returncode == 0


def test_a_kernel_without_smaps_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", missing)
    trim()
