"""Capabilities: the tokens in the links of refusals, made here and in the core, checked here.

A link such as `/_fastgate/requests/<id>?cap=<token>` lets anyone who has it see why one request was
refused, and pay for the account of its caller, without a key and for a limited time.

    token = base64url( expires u32, big-endian | consumer u64 | tag[16] )       38 characters

The tag is a keyed hash over the request's id and the other two (`_core/exchange/refusal.pyx`). The
consumer is the hash of its id; 0 means that the caller is unknown, and the page shows no account.
The key is made once for each gateway and kept in its state directory. Outside it, only the
snapshots that workers map contain the key.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from pathlib import Path

import msgspec

from fastgate._core.exchange.refusal import CAPABILITY_SECONDS, tag
from fastgate.errors import IdentityError, ProcessError
from fastgate.files import replace_file

KEY_BYTES = 16
TOKEN_BYTES = 28
FILE = "capability.key"


class Capability(msgspec.Struct, frozen=True):
    """The content of a valid token."""

    request: str
    """32 hex digits."""
    consumer: int
    """Hash of the caller's id; 0: unknown."""
    expires: int
    """Unix seconds."""


class Capabilities:
    """Makes and checks tokens with one gateway's key."""

    def __init__(self, key: bytes) -> None:
        """`key`: 16 secret bytes. Raises ValueError."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"a capability key has {KEY_BYTES} bytes, not {len(key)}")
        self._key = key

    def make(
        self, request: str, consumer: int, now: float, seconds: int = CAPABILITY_SECONDS
    ) -> str:
        """A token for the request with this id (32 hex digits), valid for this many seconds."""
        expires = int(now) + seconds
        proof = tag(self._key, bytes.fromhex(request), expires, consumer)
        raw = expires.to_bytes(4, "big") + consumer.to_bytes(8, "little") + proof
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")

    def read(self, request: str, token: str, now: float) -> Capability:
        """The token's content. Raises IdentityError: not ours, for another request, expired."""
        try:
            ident = bytes.fromhex(request)
            raw = base64.b64decode(token + "==", altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            ident, raw = b"", b""
        if len(ident) != 16 or len(raw) != TOKEN_BYTES:
            raise IdentityError("The link is not complete. Copy all of it.")
        expires = int.from_bytes(raw[:4], "big")
        consumer = int.from_bytes(raw[4:12], "little")
        if not hmac.compare_digest(raw[12:], tag(self._key, ident, expires, consumer)):
            raise IdentityError("The link was not made by this gateway, or was changed.")
        if now >= expires:
            raise IdentityError(
                "The link is too old. Send the request again: its answer has a new one."
            )
        return Capability(ident.hex(), consumer, expires)


def load_key(state: Path) -> bytes:
    """The gateway's key, created if needed. Raises ProcessError if it cannot be read or created.

    A damaged file is replaced. Existing links then stop working; nothing else changes.
    """
    path = state / FILE
    try:
        if path.exists() and len(key := path.read_bytes()) == KEY_BYTES:
            return key
        key = secrets.token_bytes(KEY_BYTES)
        replace_file(path, [key])
    except OSError as error:
        raise ProcessError(f"the key of links, {path}, cannot be kept: {error.strerror}") from error
    return key
