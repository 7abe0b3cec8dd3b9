"""The keyring: what is written is read; what is not a sealed keyring is refused."""

from __future__ import annotations

import os

import pytest

from fastgate._core.tls import keyring
from fastgate._core.tls.keyring import (
    AuthorityEntry,
    CertificateEntry,
    Keyring,
    ListenerTls,
    TicketKey,
)
from fastgate.errors import KeyringError

FULL = Keyring(
    serial=7,
    certificates=[
        CertificateEntry(
            name="api",
            hosts=["api.example.com"],
            chain=[memoryview(b"leaf")],
            key=memoryview(b"key"),
        )
    ],
    authorities=[AuthorityEntry(name="partners", certificates=[memoryview(b"root")])],
    listeners=[ListenerTls(key="127.0.0.1:443", certificates=[0])],
    tickets=[TicketKey(name=bytes(16), made=0, secret=memoryview(bytes(32)))],
)


def memfd(content: bytes, seals: int = 0) -> int:
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, content)
    if seals:
        keyring.fcntl.fcntl(fd, keyring.fcntl.F_ADD_SEALS, seals)
    return fd


def test_read_gives_what_was_written() -> None:
    fd = keyring.write(FULL)
    found = keyring.read(fd)
    os.close(fd)
    assert found == FULL
    assert bytes(found.certificates[0].key) == b"key"


def test_the_memfd_can_never_change() -> None:
    fd = keyring.write(FULL)
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    os.close(fd)


@pytest.mark.parametrize(
    ("content", "sealed", "why"),
    [
        (b"x", False, "not sealed"),
        (b"", True, "0 bytes"),
        (b"\xc1", True, "cannot be read"),
        (b"\x82\xa5magic\xb2fastgate keyring 0\xa6serial\x01", True, "cannot be read"),
    ],
)
def test_something_else_is_refused(content: bytes, sealed: bool, why: str) -> None:
    fd = memfd(content, keyring._SEALS if sealed else 0)
    with pytest.raises(KeyringError, match=why):
        keyring.read(fd)
    os.close(fd)


def test_ids_are_not_zero_and_differ_by_kind() -> None:
    assert 0 < keyring.authority_id("a") < 1 << 64
    assert len({keyring.authority_id("a"), keyring.upstream_id("a"), keyring.listener_id("a")}) == 3
