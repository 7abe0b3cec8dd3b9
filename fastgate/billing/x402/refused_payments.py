"""Refused payments: what was presented with a request, and why it was not accepted.

A worker that refuses an x402 payment writes a note for the diagnosis of that request, and control
reads it. The notes are in a folder of `SLOTS` files; the request's id selects the file, and a later
note replaces an earlier one. So the size is limited, no cleanup is needed, and a client that floods
a route with bad payments only displaces notes. A note that two workers write at once, or that is
read while being written, is ignored.

Notes contain no secrets: addresses, amounts, times and the nonce are public on the chain, and
signatures are left out.
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
"""Maximum bytes of a note."""
LONGEST = 200
"""Maximum characters of one value from a client."""


class PaymentField(msgspec.Struct, frozen=True):
    """One field of a payment, as offered and as sent."""

    name: str
    wanted: str
    sent: str


class RefusedPayment(msgspec.Struct, frozen=True, kw_only=True):
    """One note. `facilitator`: its reason; "": the gateway itself refused."""

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
    """The facilitator's additional message."""
    fields: list[PaymentField] = []


def text_of(value: object) -> str:
    """A value in the form of a note."""
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
        """Store a note. An error is logged and does not affect the refusal."""
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
            log.warning("x402: the note about a refused payment cannot be written: %s", error)

    @staticmethod
    def _write(slot: Path, line: bytes) -> None:
        fd = os.open(slot, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)

    def get(self, request: str) -> RefusedPayment | None:
        """The note of a request; None if there is none, or it was displaced."""
        slot = self._slot(request)
        if slot is None:
            return None
        with contextlib.suppress(OSError, msgspec.DecodeError):
            note = msgspec.json.decode(slot.read_bytes()[:MOST], type=RefusedPayment)
            if note.request == request:
                return note
        return None
