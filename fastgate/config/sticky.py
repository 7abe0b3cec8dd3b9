"""What sticky cookies say: a value for each target, and the rest of the Set-Cookie.

A value is a keyed hash of the target's address: it is the same in each worker, after each reload
and restart, and with a configured secret in each gateway. It tells a client nothing about the
address, not even whether a guess is right.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterator

from fastgate._core.snapshot.snapshot import StickySecure
from fastgate.errors import ConfigurationError
from fastgate.model.gateway import Sticky
from fastgate.model.sticky import StickyCookie

VALUE_BYTES = 12
SECURE = {
    False: StickySecure.STICKY_CLEAR,
    True: StickySecure.STICKY_SECURE,
    "auto": StickySecure.STICKY_AUTO,
}


def secret_of(sticky: Sticky, own: bytes | None, place: str) -> bytes:
    """The bytes that values are made with. own: the gateway's key; None: nothing is to be served,
    and no secret is read. Raises ConfigurationError."""
    if own is None:
        return b""
    if sticky.secret is None:
        return hmac.digest(own, b"sticky cookies", "sha256")
    try:
        return sticky.secret.reveal().encode()
    except ConfigurationError as error:
        error.path = f"{place}.secret"
        raise


def value_of(secret: bytes, place: str) -> str:
    """The cookie's value for a target at this place, in every upstream that has it."""
    made = hmac.digest(secret, f"sticky:{place}".encode(), "sha256")
    return base64.urlsafe_b64encode(made[:VALUE_BYTES]).decode()


def attributes_of(sticky: StickyCookie) -> str:
    """What follows the value, except for Secure."""
    return "".join(f"; {part}" for part in _attributes(sticky))


def _attributes(sticky: StickyCookie) -> Iterator[str]:
    yield f"Path={sticky.path}"
    if sticky.max_age is not None:
        yield f"Max-Age={int(sticky.max_age.seconds)}"
    yield "HttpOnly"
    yield f"SameSite={sticky.same_site.capitalize()}"
