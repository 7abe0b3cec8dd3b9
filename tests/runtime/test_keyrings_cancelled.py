"""Certificates that change while control is cancelled, at each await: nothing is lost or left."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cancelkit import cancelled_at
from pkikit import Authority
from test_worker_channels import Rig

from fastgate._core.tls import keyring
from fastgate.model.codec import decode
from fastgate.model.gateway import Gateway
from fastgate.runtime.control.certificates import Certificates
from fastgate.runtime.wire.messages import KeepKeyring, Message

ROOT = Authority.root()


class Supervisor:
    """Keeps what it is sent, as the supervisor does."""

    def __init__(self) -> None:
        self.serial = 0
        self.leaf = b""

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        assert isinstance(message, KeepKeyring)
        kept = keyring.read(fds[0])
        assert kept.serial == message.serial
        self.serial, self.leaf = kept.serial, bytes(kept.certificates[0].chain[0])


class Control:
    """Certificates as control has them, with three workers that answer at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rig = Rig(3)
        self.supervisor: Any = Supervisor()
        self.certificates = Certificates(self.rig.channels, self.supervisor)
        cert, key = ROOT.issue("api.example").write(folder / "api")
        self.gateway: Gateway = decode(
            {
                "version": 1,
                "listeners": [{"bind": "127.0.0.1:8443", "tls": True}],
                "certificates": [{"name": "api", "cert": f"path:{cert}", "key": f"path:{key}"}],
            }
        )

    async def apply(self) -> None:
        async with self.certificates.lock:
            new = await self.certificates.prepare(self.gateway)
            assert new is not None
            try:
                serial = new.sealed.serial
                await self.rig.install(self.rig.serves[0] + 1, keyring=serial)
                self.certificates.keep(new)
            finally:
                os.close(new.sealed.fd)


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    gc.collect()  # keyrings of other tests, whose descriptors would be counted for a while
    found = Control(tmp_path)
    await found.apply()
    yield found
    for worker in found.rig.workers:
        worker.die()
    found.rig.channels.close()


def keyrings_open() -> int:
    """How many descriptors of keyrings this process has."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += "keyring" in os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the directory's own
    return found


async def test_a_look_that_is_cancelled_is_made_up_for_by_the_next(control: Control) -> None:
    open_before = keyrings_open()
    at = 0
    while True:
        renewed = ROOT.issue("api.example")
        renewed.write(control.folder / "api")
        fired = await cancelled_at(at, control.certificates.look())
        await control.certificates.look()
        assert control.supervisor.leaf == renewed.der
        assert set(control.rig.keyrings) == {control.supervisor.serial}
        assert not control.certificates.lock.locked()
        assert keyrings_open() == open_before
        if not fired:
            break
        at += 1
    assert at >= 3


async def test_an_apply_that_is_cancelled_leaves_the_old_certificates(control: Control) -> None:
    open_before = keyrings_open()
    at = 0
    while True:
        fired = await cancelled_at(at, control.apply())
        await asyncio.sleep(0)
        assert keyrings_open() == open_before
        assert not control.certificates.lock.locked()
        assert control.certificates.status()[0].state == "valid"
        if not fired:
            break
        at += 1
    assert at >= 3
