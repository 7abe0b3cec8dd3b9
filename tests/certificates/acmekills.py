"""A program for the kill tests: obtains a certificate in a process that is killed at each step.

    python acmekills.py FOLDER HTTP-PORT TLS-PORT DIRECTORY CA.pem CHALLENGE EVERY

A step is a request that is about to be sent, or a change of a file that is about to be made: what
the interpreter reports to an audit hook. For each n, or every so many, a process is forked that is
killed (SIGKILL) at its n-th step, another one that is killed at its n-th, and one that is not.
After each, the parent looks at the disk. One line of JSON is printed for each n.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

from acmekit import FakeClock, Proofs, World

from fastgate.certificates.acme import keeper  # noqa: F401  before the forks: quicker
from fastgate.certificates.acme.settings import AcmeSettings, Authority, Wanted
from fastgate.certificates.acme.storage import FOLDER, Storage
from fastgate.certificates.pairs import read_pair
from fastgate.certificates.sources import Content

STEPS = {"http.client.send", "os.rename", "os.remove", "os.mkdir", "os.chmod"}


class Ports(NamedTuple):
    """What `Proofs` needs of pebble."""

    http_port: int
    tls_port: int


class Hook:
    """Kills this process at its n-th step; counts the orders that it sends."""

    def __init__(self, state: Path, at: int | None) -> None:
        self._state = state
        self._at = at
        self._passed = 0
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event not in STEPS and not (writes and FOLDER in str(arguments[0])):
            return
        self._passed += 1
        if self._at is not None and self._passed > self._at:
            os.kill(os.getpid(), signal.SIGKILL)
        if event == "http.client.send" and b"POST /order-plz" in bytes(arguments[1]):
            fd = os.open(self._state / "orders", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(fd, b".")
            os.close(fd)


async def obtain(state: Path, ports: Ports, settings: AcmeSettings) -> None:
    proofs = Proofs(ports, state)  # type: ignore[arg-type]
    async with proofs.served():
        clock = FakeClock()
        world = World(state, proofs, clock)
        await world.service.reload(settings)
        await clock.idle()
        await world.service.stop()
        assert world.service.orders["failed"] == world.service.orders["refused"] == 0, (
            world.failures
        )


def run(state: Path, ports: Ports, settings: AcmeSettings, at: int | None) -> bool:
    """In a process of its own, killed at a step; whether it came to its end."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            Hook(state, at)
            asyncio.run(obtain(state, ports, settings))
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return False
    assert os.WEXITSTATUS(status) == 0, f"{state} {at}"
    return True


class Seen(NamedTuple):
    """What is on disk when a process has ended."""

    orders: int
    """Sent until now."""
    placed: bool
    """Whether an order can be continued."""
    issued: bool


def look(state: Path) -> Seen:
    """Look at the disk; a certificate that is there is whole."""
    storage = Storage(state)
    stored = storage.certificate("shop")
    if stored is not None:
        read_pair(Content("it", stored.pem.encode()), None)
    orders = state / "orders"
    sent = orders.stat().st_size if orders.exists() else 0
    return Seen(sent, storage.order("shop") is not None, stored is not None)


def main(folder: Path, ports: Ports, authority: Authority, every: int) -> None:
    at, ended = 0, False
    while not ended:
        state = folder / str(at)
        state.mkdir()
        wanted = Wanted("shop", (f"k{at}.example",), "pebble")
        settings = AcmeSettings({"pebble": authority}, (wanted,))
        ended = run(state, ports, settings, at)
        seen = [look(state)]
        for kill in [] if ended else [at, None]:
            run(state, ports, settings, kill)
            seen.append(look(state))
        print(json.dumps({"at": at, "seen": seen}), flush=True)
        at += every


if __name__ == "__main__":
    place, http, tls, url, roots, kind, steps = sys.argv[1:]
    asked: Any = kind
    one = Authority("pebble", url, challenge=asked, ca=Path(roots).read_bytes())
    main(Path(place), Ports(int(http), int(tls)), one, int(steps))
