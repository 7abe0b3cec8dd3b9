"""Idempotency-Key: a write that is sent again is not repeated, and gets the same answer.

The key is the caller's own: 1 to 255 printable characters, unique for each write (a UUID). Its
answer is kept for 24 hours. The same key with another request is 409 `idempotency_conflict`; while
the first is being worked on, 409 `idempotency_open` with Retry-After. Only what was done is kept:
a write that was refused or failed may be tried again with the same key.

Answers can hold a new API key, which only the caller may ever see. So they are kept sealed:
the key stream is SHAKE-256 over the caller's token, which the store does not have, and a fresh
nonce; an HMAC under a second key of the same origin detects tampering. The database alone is not
enough to read an answer, and with the token the database is not needed.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from typing import Any, cast

import msgspec
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from fastgate.api.auth import Principal
from fastgate.api.problems import Problem
from fastgate.errors import StoreError
from fastgate.store.idempotency import IdempotencyKeys, KeyState

log = logging.getLogger("fastgate.api")

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
NONCE = 16
TAG = 32


class Answer(msgspec.Struct, array_like=True, frozen=True):
    """A stored answer."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def _keys(secret: str, nonce: bytes, size: int) -> tuple[bytes, bytes]:
    root = hashlib.sha256(b"fastgate idempotency\0" + secret.encode()).digest()
    stream = hashlib.shake_256(b"stream" + nonce + root).digest(size)
    return stream, hashlib.shake_256(b"tag" + nonce + root).digest(TAG)


def seal(secret: str, plain: bytes) -> bytes:
    """nonce │ tag │ text that only the holder of `secret` can read."""
    nonce = secrets.token_bytes(NONCE)
    stream, tag_key = _keys(secret, nonce, len(plain))
    hidden = _xor(plain, stream)
    return nonce + hmac.digest(tag_key, hidden, "sha256") + hidden


def unseal(secret: str, sealed: bytes) -> bytes:
    """Raises ValueError when it was sealed by another secret, or altered."""
    nonce, tag, hidden = sealed[:NONCE], sealed[NONCE : NONCE + TAG], sealed[NONCE + TAG :]
    stream, tag_key = _keys(secret, nonce, len(hidden))
    if not hmac.compare_digest(hmac.digest(tag_key, hidden, "sha256"), tag):
        raise ValueError("the sealed answer does not open")
    return _xor(hidden, stream)


def _xor(left: bytes, right: bytes) -> bytes:
    size = len(left)
    return (int.from_bytes(left) ^ int.from_bytes(right)).to_bytes(size)


def _key_of(scope: Scope) -> bytes | None:
    values = [v for name, v in cast(Any, scope)["headers"] if name == b"idempotency-key"]
    if not values:
        return None
    key = bytes(values[0])
    if len(values) > 1 or not 1 <= len(key) <= 255 or not all(0x21 <= c <= 0x7E for c in key):
        raise Problem("bad_request", "Idempotency-Key must be 1 to 255 printable characters.")
    return key


def _fingerprint(scope: Scope, body: bytes) -> bytes:
    raw = cast(Any, scope)
    digest = hashlib.sha256()
    conditions = sorted(
        (name, value)
        for name, value in raw["headers"]
        if name in (b"content-type", b"if-match", b"if-none-match")
    )
    for part in (
        raw["method"].encode(),
        raw.get("raw_path") or raw["path"].encode(),
        raw["query_string"],
        *(b"%s:%s" % pair for pair in conditions),
        body,
    ):
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.digest()


async def _whole(receive: Receive, cap: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Problem("bad_request", "The client disconnected while it sent the request.")
        parts.append(message["body"])
        size += len(message["body"])
        if size > cap:
            raise Problem("body_too_large", f"The body is larger than {cap} bytes.")
        if not message["more_body"]:
            return b"".join(parts)


def idempotency(table: IdempotencyKeys, body_cap: int) -> Any:
    """The middleware. It runs after `auth`, since keys belong to principals."""

    def wrap(app: ASGIApp) -> ASGIApp:
        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            raw = cast(Any, scope)
            if (
                raw["type"] != "http"
                or raw["method"] not in WRITES
                or not raw["route_handler"].opt.get("idempotent", False)
                or (key := _key_of(scope)) is None
            ):
                await app(scope, receive, send)
                return
            principal: Principal = raw["user"]
            body = await _whole(receive, body_cap)
            digest = hashlib.sha256(key).digest()
            begun = await table.begin(principal.id, digest, _fingerprint(scope, body))
            if begun.verdict is KeyState.OTHER:
                raise Problem(
                    "idempotency_conflict",
                    "This key was sent with another request. Every write needs its own key.",
                )
            if begun.verdict is KeyState.OPEN:
                raise Problem(
                    "idempotency_open",
                    "A request with this key is in progress. Try again in a moment.",
                    headers={"Retry-After": "1"},
                )
            if begun.verdict is KeyState.ANSWERED:
                await _replay(principal, begun.answer, send)
                return
            recorder = _Recorder(send)
            try:
                await app(scope, _again(body, receive), recorder.send)
            finally:
                await _settle(table, principal, digest, begun.attempt, recorder)

        return call

    return wrap


async def _replay(principal: Principal, sealed: bytes, send: Send) -> None:
    try:
        answer = msgspec.msgpack.decode(unseal(principal.secret, sealed), type=Answer)
    except (ValueError, msgspec.DecodeError):
        raise Problem(
            "idempotency_conflict",
            "The write was done, but its answer was sealed for another token.",
        ) from None
    headers = [*answer.headers, (b"idempotency-replayed", b"true")]
    start = {"type": "http.response.start", "status": answer.status, "headers": headers}
    await send(cast(Message, start))
    end = {"type": "http.response.body", "body": answer.body, "more_body": False}
    await send(cast(Message, end))


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that first gives the body that was already read."""
    given = False

    async def again() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


class _Recorder:
    """Passes an answer on and keeps a copy."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.parts: list[bytes] = []
        self.complete = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = [(bytes(n), bytes(v)) for n, v in message["headers"]]
        elif message["type"] == "http.response.body":
            self.parts.append(bytes(message["body"]))
            self.complete = not message["more_body"]
        await self._send(message)


async def _settle(
    table: IdempotencyKeys, principal: Principal, key: bytes, attempt: str, recorder: _Recorder
) -> None:
    try:
        if recorder.complete and recorder.status < 400:
            answer = Answer(recorder.status, recorder.headers, b"".join(recorder.parts))
            sealed = seal(principal.secret, msgspec.msgpack.encode(answer))
            await table.finish(principal.id, key, attempt, sealed)
        else:
            await table.abandon(principal.id, key, attempt)
    except StoreError as error:
        log.warning("The answer to an idempotent request could not be kept: %s", error)
