"""Opaque tokens: the issuer is asked (RFC 7662), once, and its answer is believed for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs

import orjson
import pytest
from enginekit import Backend, Plane, Reply, Seen, proxied, until
from test_token_auth import bearer, problem
from tokenkit import Issuer, Key, ring_of

from fastgate._core.tls.keyring import TokenHeader
from fastgate.config.issuer_ids import id_of
from fastgate.model import digests
from fastgate.model.codec import decode

ALICE = digests.subject("corp", "alice")
ACTIVE = {"active": True, "sub": "alice", "scope": "r", "email": "alice@example.com"}
KEY = Key("ES256", "k")


class Asked(Backend):
    """An issuer that is asked about tokens. `answers`: token → the answer, or what makes it."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.answers: dict[str, Any] = {}
        self.gate = asyncio.Event()
        self.gate.set()

    async def _answer(self, _: Backend, seen: Seen) -> bytes | None:
        await self.gate.wait()
        [token] = parse_qs(seen.body.decode())["token"]
        found = self.answers.get(token, {"active": False})
        if found is None:
            return None
        if isinstance(found, bytes):
            return found
        body = orjson.dumps(found)
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@pytest.fixture
async def issuer() -> AsyncIterator[Asked]:
    asked = Asked()
    await asked.start()
    yield asked
    await asked.stop()


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    backend = await Backend().start()
    yield backend
    await backend.stop()


def document(asked: Asked, url: str = "", auth: Any = None, **corp: Any) -> dict[str, Any]:
    entry = {
        "name": "corp",
        "issuer": "https://id.example.com",
        "jwks_uri": "https://id.example.com/keys",
        "introspection": {
            "endpoint": f"{asked.url}/introspect?v=1",
            "token": "env:PATH",
            **corp.pop("introspection", {}),
        },
        **corp,
    }
    auth = auth or {"introspection": "corp"}
    route = {"name": "r", "path": "/{rest*}", "auth": auth, "respond": {"body": "hello"}}
    return {"issuers": [entry], **(proxied(url, auth=auth) if url else {"routes": [route]})}


def plane_of(config: dict[str, Any], cache_s: int = 60, **entry: Any) -> Plane:
    model = decode({"version": 1, **config}).issuers[0]
    corp = Issuer(
        KEY,
        url=model.issuer,
        id=id_of(model),
        audiences=list(model.audience),
        headers=[
            TokenHeader(name=name, claim=list(path.names)) for name, path in model.headers.items()
        ],
        unknown=model.unknown,
        authorization="Basic Z3c6c2VjcmV0",
        introspection="/introspect?v=1",
        cache_s=cache_s,
        **entry,
    )
    config["upstreams"] = config.get("upstreams", [])
    return Plane(config, keyring=ring_of([corp]), keys={ALICE: "alice", "key-1": "bob"})


async def ask(plane: Plane, token: str, **kw: Any) -> Reply:
    return await plane.get("/x", headers=bearer(token), **kw)


async def test_the_issuer_is_asked_once(issuer: Asked, backend: Backend) -> None:
    issuer.answers["t-1"] = ACTIVE
    config = document(issuer, backend.url, headers={"X-Email": "email"})
    async with plane_of(config) as plane:
        for _ in range(3):
            assert (await ask(plane, "t-1")).status == 200
    [seen] = issuer.requests
    assert (seen.method, seen.target) == ("POST", "/introspect?v=1")
    assert seen.headers["authorization"] == "Basic Z3c6c2VjcmV0"
    assert seen.headers["content-type"] == "application/x-www-form-urlencoded"
    assert seen.body == b"token=t-1&token_type_hint=access_token"
    asked = backend.requests[-1].headers
    assert (asked["x-consumer-id"], asked["x-email"]) == ("alice", "alice@example.com")
    assert "authorization" not in asked


async def test_a_token_is_encoded(issuer: Asked) -> None:
    issuer.answers["a+b/c=&x=1"] = ACTIVE
    async with plane_of(document(issuer)) as plane:
        assert (await ask(plane, "a+b/c=&x=1")).status == 200
    assert issuer.requests[-1].body == b"token=a%2Bb%2Fc%3D%26x%3D1&token_type_hint=access_token"


NOW = int(time.time())
REFUSED: list[tuple[Any, str]] = [
    ({"active": False}, "token_not_active"),
    ({}, "token_not_active"),
    ({"active": "true", "sub": "alice"}, "token_not_active"),
    ({**ACTIVE, "exp": NOW - 31}, "token_expired"),
    ({**ACTIVE, "exp": "soon"}, "token_claims_invalid"),
    ({**ACTIVE, "nbf": NOW + 100_000}, "token_not_yet_valid"),
    ({**ACTIVE, "iss": "https://evil.example"}, "token_issuer_unknown"),
    ({**ACTIVE, "aud": "users"}, "token_wrong_audience"),
    ({"active": True, "aud": "orders"}, "token_without_subject"),
]


@pytest.mark.parametrize(("answer", "fault"), REFUSED)
async def test_a_token_that_the_issuer_does_not_accept(
    issuer: Asked, answer: Any, fault: str
) -> None:
    from fastgate._core.logs.drain import LogDrain

    issuer.answers["t"] = answer
    if "aud" not in answer and fault not in ("token_not_active", "token_wrong_audience"):
        answer["aud"] = "orders"
    async with plane_of(document(issuer, audience=["orders"])) as plane:
        for _ in range(2):
            reply = await ask(plane, "t")
            assert (reply.status, problem(reply)["reason"]) == (401, "token_invalid")
        lines = [orjson.loads(line) for line in LogDrain(plane.segment).drain(0).splitlines()]
        assert [line["fault"] for line in lines] == [fault, fault]
    assert len(issuer.requests) == 1


def answer(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


@pytest.mark.parametrize(
    "said",
    [
        answer(401, b"{}"),
        answer(500, b"{}"),
        answer(302, b""),
        answer(200, b""),
        answer(200, b"no"),
        answer(200, b"[]"),
        answer(200, b'{"active": true, "active": false}'),
        answer(200, b'{"active": true, "x": "' + b"y" * 7000 + b'"}'),
        b"SPDY\r\n\r\n",
        None,
    ],
)
async def test_an_issuer_that_does_not_say(issuer: Asked, said: Any) -> None:
    issuer.answers["t"] = said
    async with plane_of(document(issuer)) as plane:
        reply = await ask(plane, "t")
        assert (reply.status, problem(reply)["reason"]) == (503, "authorization_unavailable")
        issuer.answers["t"] = ACTIVE  # nothing is remembered
        assert (await ask(plane, "t")).status == 200


async def test_an_issuer_that_is_away(issuer: Asked) -> None:
    async with plane_of(document(issuer)) as plane:
        issuer.answers["known"] = ACTIVE
        assert (await ask(plane, "known")).status == 200
        await issuer.stop()
        assert (await ask(plane, "other")).status == 503
        assert (await ask(plane, "known")).status == 200


async def test_an_issuer_that_is_too_slow(issuer: Asked) -> None:
    issuer.gate.clear()
    config = document(issuer, introspection={"timeout": "50ms"})
    async with plane_of(config) as plane:
        assert (await ask(plane, "t")).status == 503
        issuer.answers["t"] = ACTIVE
        issuer.gate.set()
        for _ in range(50):  # the late answer is not lost
            if (await ask(plane, "t")).status == 200:
                break
        else:
            raise AssertionError("never accepted")


async def test_many_requests_wait_for_one_answer(issuer: Asked) -> None:
    issuer.gate.clear()
    issuer.answers["t"] = ACTIVE
    async with plane_of(document(issuer)) as plane:
        first = await plane.client()
        await first.send("GET", "/x", bearer("t"))
        replies = [asyncio.create_task(ask(plane, "t")) for _ in range(20)]
        await until(lambda: issuer.connections)
        await first.reset()  # whose request was the reason to ask
        await asyncio.sleep(0.05)
        issuer.gate.set()
        assert {(await each).status for each in replies} == {200}
    assert len(issuer.requests) == 1


async def test_an_answer_is_asked_for_again_when_it_is_old(issuer: Asked) -> None:
    issuer.answers["t"] = ACTIVE
    async with plane_of(document(issuer, introspection={"cache": "0s"}), cache_s=0) as plane:
        for _ in range(3):
            assert (await ask(plane, "t")).status == 200
        issuer.answers["t"] = {"active": False}
        assert problem(await ask(plane, "t"))["reason"] == "token_invalid"
    assert len(issuer.requests) == 4


async def test_an_answer_that_is_good_for_those_that_wait_only(issuer: Asked) -> None:
    issuer.gate.clear()
    issuer.answers["t"] = ACTIVE
    config = document(issuer, introspection={"cache": "0s"})
    async with plane_of(config, cache_s=0) as plane:
        replies = [asyncio.create_task(ask(plane, "t")) for _ in range(20)]
        await until(lambda: plane.engine.stats()["exchanges"] == 20)
        issuer.gate.set()
        assert {(await each).status for each in replies} == {200}
    assert len(issuer.requests) == 1


async def test_a_signature_is_no_answer_of_the_issuer(issuer: Asked) -> None:
    config = document(issuer)
    config["routes"].append(
        {"name": "s", "path": "/signed", "auth": {"jwt": "corp"}, "respond": {"body": "signed"}}
    )
    async with plane_of(config) as plane:
        token = Issuer(KEY).token()
        signed = await plane.get("/signed", headers=bearer(token))
        assert (signed.status, signed.body) == (200, b"signed")
        assert problem(await ask(plane, token))["reason"] == "token_invalid"
        assert (await plane.get("/signed", headers=bearer(token))).status == 200


async def test_bad_tokens_are_bounded_by_address(issuer: Asked) -> None:
    async with plane_of(document(issuer)) as plane:
        client = await plane.client()
        statuses = []
        for i in range(80):
            statuses.append((await client.request("GET", "/x", bearer(f"t-{i}"))).status)
        assert statuses[:50] == [401] * 50
        assert 429 in statuses
    assert len(issuer.requests) < 80


async def test_signed_tokens_are_not_asked_about(issuer: Asked) -> None:
    issuer.answers["opaque"] = ACTIVE
    config = document(issuer, auth={"any": ["api_key", {"jwt": "corp"}, {"introspection": "corp"}]})
    async with plane_of(config) as plane:
        corp = Issuer(Key("ES256", "x"))
        reply = await ask(plane, corp.token())
        assert problem(reply)["reason"] == "token_invalid"
        assert issuer.requests == []
        # a key in Bearer and an opaque token look alike: the first method decides
        assert (await ask(plane, "key-1")).status == 200
        assert (await plane.get("/x", headers={"X-Api-Key": "key-1"})).status == 200
        assert problem(await ask(plane, "opaque"))["reason"] == "credential_unknown"


async def test_a_reload_and_a_new_keyring_while_it_is_asked(issuer: Asked) -> None:
    issuer.gate.clear()
    issuer.answers["t"] = ACTIVE
    config = document(issuer)
    async with plane_of(config) as plane:
        reply = asyncio.create_task(ask(plane, "t"))
        await until(lambda: issuer.connections)
        plane.install({"routes": [{"name": "r", "path": "/{rest*}", "respond": {"body": "new"}}]})
        issuer.gate.set()
        assert (await reply).body == b"hello"
        assert (await plane.get("/x")).body == b"new"
