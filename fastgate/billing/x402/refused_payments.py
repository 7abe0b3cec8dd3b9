"""Refused payments: what was presented with a request, and why it was not taken.

A worker that refuses an x402 payment writes a note of it for the diagnosis of that request, which
control reads. Notes stand in a folder of `SLOTS` files, a request's in the one that its id says;
the next that falls there takes its place. So the size is limited, no cleanup is needed, and a
client that floods a route with bad payments only displaces notes. A note that two workers write at
once, or that is read half written, is none.

Nothing secret is in it: addresses, amounts, times and the nonce are what a chain shows everybody,
and signatures are left out.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

import msgspec

log = logging.getLogger("fastgate.x402")

FOLDER = "refused"
"""Below that of the claims."""
SLOTS = 4096
MOST = 4000
"""Bytes of a note."""
LONGEST = 200
"""Characters of one value that a client sent."""


class PaymentField(msgspec.Struct, frozen=True):
    """One field of a payment, as asked for and as sent."""

    name: str
    wanted: str
    sent: str


class RefusedPayment(msgspec.Struct, frozen=True, kw_only=True):
    """One note. `facilitator`: its word for why, or "": the gateway itself refused."""

    request: str
    """Id of the request."""
    route: str
    reason: str
    """Code of the refusal."""
    detail: str
    payer: str = ""
    network: str = ""
    asset: str = ""
    facilitator: str = ""
    message: str = ""
    """What the facilitator said besides."""
    fields: list[PaymentField] = []


def text_of(value: object) -> str:
    """A value as a note has it."""
    return "" if value is None else str(value)[:LONGEST]


class RefusedPayments:
    """The notes below the claims' folder."""

    def __init__(self, claims: Path) -> None:
        self._folder = claims / FOLDER

    def _slot(self, request: str) -> Path | None:
        try:
            return self._folder / f"{int(request, 16) % SLOTS:03x}"
        except ValueError:
            return None

    def put(self, note: RefusedPayment) -> None:
        """Keep a note. What cannot be written is logged: the refusal itself is not touched."""
        line = msgspec.json.encode(note)
        slot = self._slot(note.request)
        if slot is None or len(line) > MOST:
            return
        try:
            try:
                self._write(slot, line)
            except FileNotFoundError:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._write(slot, line)
        except OSError as error:
            log.warning("x402: why a payment was refused cannot be noted: %s", error)

    @staticmethod
    def _write(slot: Path, line: bytes) -> None:
        fd = os.open(slot, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)

    def get(self, request: str) -> RefusedPayment | None:
        """The note of a request; None: there is none, or it was displaced."""
        slot = self._slot(request)
        if slot is None:
            return None
        with contextlib.suppress(OSError, msgspec.DecodeError):
            note = msgspec.json.decode(slot.read_bytes()[:MOST], type=RefusedPayment)
            if note.request == request:
                return note
        return None
