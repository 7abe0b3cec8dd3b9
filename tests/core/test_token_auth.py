"""Callers with a token, through an engine: who they are, what they may, what upstreams learn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from enginekit import Backend, Plane, Reply, proxied
from tokenkit import Issuer, Key, ring_of, token

from fastgate._core.logs.drain import LogDrain
from fastgate._core.tls.keyring import TokenHeader
from fastgate.config.issuer_ids import id_of
from fastgate.model import digests
from fastgate.model.codec import decode

NOW = int(time.time())
URL = "https://id.example.com"
KEY = Key("ES256", "k1")
ALICE = digests.subject("corp", "alice")
HEADERS = {"X-Email": "email", "X-Groups": "groups"}


def document(
    auth: Any, url: str = "", issuers: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """A route with this `auth`, to an upstream or a fixed answer; and the issuer `corp`."""
    corp = {
        "name": "corp",
        "issuer": URL,
        "jwks_uri": f"{URL}/keys",
        "audience": [],
        **(issuers or {}),
    }
    route = {"name": "r", "path": "/{rest*}", "auth": auth}
    base = proxied(url, auth=auth) if url else {"routes": [{**route, "respond": {"body": "hello"}}]}
    return {"issuers": [corp], **base, **more}


def issuer_in(config: dict[str, Any], *keys: Key, **entry: Any) -> Issuer:
    """The issuer of the configuration, with what its entry in the keyring has."""
    model = decode({"version": 1, **config}).issuers[0]
    entry.setdefault(
        "headers",
        [TokenHeader(name=n, claim=[c]) for n, c in HEADERS.items()] if model.headers else [],
    )
    entry.setdefault("audiences", list(model.audience))
    entry.setdefault("unknown", model.unknown)
    return Issuer(*(keys or (KEY,)), url=URL, id=id_of(model), **entry)


def plane_of(config: dict[str, Any], issuer: Issuer | None = None, **more: Any) -> Plane:
    issuer = issuer or issuer_in(config)
    more.setdefault("keys", {ALICE: "alice"})
    return Plane(config, keyring=ring_of([issuer]), **more)


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def problem(reply: Reply) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(reply.body)
    assert found["status"] == reply.status
    return found


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    backend = await Backend().start()
    yield backend
    await backend.stop()


# ---- who calls --------------------------------------------------------------------------------


async def test_a_subject_is_a_consumer(backend: Backend) -> None:
    config = document({"jwt": "corp"}, backend.url)
    issuer = issuer_in(config)
    async with plane_of(config) as plane:
        for _ in range(3):
            assert (await plane.get("/x", headers=bearer(issuer.token()))).status == 200
    seen = backend.requests[-1].headers
    assert seen["x-consumer-id"] == "alice"
    assert "authorization" not in seen


async def test_the_token_may_be_forwarded(backend: Backend) -> None:
    config = document({"jwt": {"issuer": "corp", "forward": True}}, backend.url)
    text = issuer_in(config).token()
    async with plane_of(config) as plane:
        assert (await plane.get("/x", headers=bearer(text))).status == 200
    assert backend.requests[-1].headers["authorization"] == f"Bearer {text}"


MISSING: list[dict[str, str]] = [
    {},
    {"Authorization": "Basic dTpw"},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer opaque"},
    {"X-Api-Key": "k"},
]


@pytest.mark.parametrize("headers", MISSING)
async def test_a_request_without_a_token(headers: dict[str, str]) -> None:
    async with plane_of(document({"jwt": "corp"})) as plane:
        reply = await plane.get("/x", headers=headers)
        assert (reply.status, problem(reply)["reason"]) == (401, "credential_missing")
        assert reply.headers["www-authenticate"] == 'Bearer realm="fastgate"'
        plane.install(document({"jwt": "corp", "optional": True}))
        assert (await plane.get("/x", headers=headers)).status == 200


async def test_a_bad_token_says_which_check_failed() -> None:
    config = document({"jwt": "corp"}, issuers={"audience": ["orders"]})
    issuer = issuer_in(config)
    stranger = token(Key("ES256", "k1"), issuer.claims(aud="orders"))
    now = int(time.time())
    cases = [
        (issuer.token(aud="orders", exp=now - 100), "The token has expired.", now - 100),
        (
            issuer.token(aud="orders", nbf=now + 100),
            "The token is not valid yet (nbf). Check the clock of the machine that issued it.",
            now + 100,
        ),
        (issuer.token(aud="users"), "The token is for another audience (aud).", 0),
        (stranger, "The token's signature is not valid.", 0),
        (
            issuer.token(aud="orders", iss="https://evil.example"),
            "The token's issuer (iss) is not one that is trusted here.",
            0,
        ),
    ]
    async with plane_of(config) as plane:
        for text, fault, when in cases:
            for _ in range(2):
                reply = await plane.get("/x", headers=bearer(text))
                found = problem(reply)
                assert (reply.status, found["reason"]) == (401, "token_invalid")
                assert found["fault"] == fault
                assert reply.headers["www-authenticate"] == (
                    f'Bearer realm="fastgate", error="invalid_token", error_description="{fault}"'
                )
                assert ("token_time" in found) == (when != 0)
                if when:
                    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
                    assert found["token_time"] == stamp
                    assert found["gateway_time"].startswith(time.strftime("%Y-%m-%d"))
                assert "users" not in reply.body.decode()
                assert "evil" not in reply.body.decode()
        records = [orjson.loads(line) for line in LogDrain(plane.segment).drain(0).splitlines()]
    faults = [record["fault"] for record in records]
    assert faults == [
        each
        for name in (
            "expired",
            "not_yet_valid",
            "wrong_audience",
            "signature_invalid",
            "issuer_unknown",
        )
        for each in 2 * [f"token_{name}"]
    ]


async def test_an_unknown_subject() -> None:
    config = document({"jwt": "corp"})
    text = issuer_in(config).token(sub="mallory")
    async with plane_of(config) as plane:
        reply = await plane.get("/x", headers=bearer(text))
        assert (reply.status, problem(reply)["reason"]) == (403, "subject_unknown")


async def test_an_unknown_subject_may_be_nobody(backend: Backend) -> None:
    config = document({"jwt": "corp"}, backend.url, issuers={"unknown": "anonymous"})
    issuer = issuer_in(config)
    async with plane_of(config) as plane:
        assert (await plane.get("/x", headers=bearer(issuer.token(sub="m")))).status == 200
        assert "x-consumer-id" not in backend.requests[-1].headers
        assert (await plane.get("/x", headers=bearer(issuer.token()))).status == 200
        assert backend.requests[-1].headers["x-consumer-id"] == "alice"


async def test_a_suspended_consumer_and_a_revoked_token_are_refused_at_once() -> None:
    config = document({"jwt": "corp"})
    issuer = issuer_in(config)
    first, second, third = (issuer.token(jti=name) for name in "abc")
    async with plane_of(config) as plane:
        for text in (first, second, third):
            assert (await plane.get("/x", headers=bearer(text))).status == 200
        row = plane.index.set_consumer("gone", identity=1, name="gone")
        for digest in (digests.token(digests.signed_part(first)), digests.token_id("corp", "b")):
            plane.index.put(digest, row, expires_at=1, identity=2)
            plane.index.revoke(digest)
        for text, status in ((first, 401), (second, 401), (third, 200)):
            reply = await plane.get("/x", headers=bearer(text))
            assert reply.status == status
            if status == 401:
                assert problem(reply)["reason"] == "credential_revoked"
                assert reply.headers["www-authenticate"].endswith('error="invalid_token"')
        plane.index.revoke(ALICE)
        reply = await plane.get("/x", headers=bearer(third))
        assert problem(reply)["reason"] == "credential_revoked"


# ---- what it may ------------------------------------------------------------------------------

SCOPES: list[tuple[Any, str, str, str]] = [
    # scopes of the route, method, scopes of the token, scopes that are missing ("": none)
    (["a"], "GET", "a", ""),
    (["a"], "GET", "b", "a"),
    (["a"], "GET", "", "a"),
    (["a"], "GET", "aa", "a"),
    (["a", "b"], "GET", "b c a", ""),
    (["a", "b"], "GET", "b", "a b"),
    ({"GET": ["r"], "*": ["w"]}, "GET", "r", ""),
    ({"GET": ["r"], "*": ["w"]}, "HEAD", "r", ""),
    ({"GET": ["r"], "*": ["w"]}, "POST", "r", "w"),
    ({"GET": ["r"], "*": ["w"]}, "BREW", "r", "w"),
    ({"GET": ["r"], "HEAD": ["h"], "*": []}, "HEAD", "h", ""),
    ({"GET": ["r"], "*": []}, "HEAD", "", "r"),
    ({"GET": ["r"], "*": []}, "POST", "", ""),
]


@pytest.mark.parametrize(("needed", "method", "granted", "missing"), SCOPES)
async def test_scopes(needed: Any, method: str, granted: str, missing: str) -> None:
    config = document({"jwt": {"issuer": "corp", "scopes": needed}})
    text = issuer_in(config).token(scope=granted)
    async with plane_of(config) as plane:
        for _ in range(2):
            client = await plane.client()
            head = (
                f"{method} /x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {text}\r\n"
                "Connection: close\r\n\r\n"
            )
            await client.raw(head.encode())
            answer = (await client.reader.read()).decode()
            if not missing:
                assert answer.startswith("HTTP/1.1 200")
                continue
            assert answer.startswith("HTTP/1.1 403")
            assert f'error="insufficient_scope", scope="{missing}"' in answer
            if method != "HEAD":
                assert f'"scope":"{missing}"' in answer


async def test_a_token_may_name_its_plan() -> None:
    limits = {
        "plans": [
            {"name": "small", "limits": [{"name": "l", "rate": "1/h"}]},
            {"name": "large", "limits": [{"name": "l", "rate": "100/h"}]},
        ],
        "consumers": [{"name": "alice", "plan": "small"}],
    }
    config = document({"jwt": "corp"}, issuers={"plan": {"claim": "tier"}}, **limits)
    issuer = issuer_in(config, plan=["tier"])
    async with plane_of(config, issuer) as plane:
        for _ in range(3):
            assert (await plane.get("/x", headers=bearer(issuer.token(tier="large")))).status == 200
        assert (await plane.get("/x", headers=bearer(issuer.token()))).status == 200
        reply = await plane.get("/x", headers=bearer(issuer.token()))
        assert problem(reply)["reason"] == "rate_limited"
        reply = await plane.get("/x", headers=bearer(issuer.token(tier="gigantic")))
        assert problem(reply)["reason"] == "not_subscribed"


# ---- what upstreams learn -----------------------------------------------------------------------

FORGED = [
    "X-Email",
    "x-email",
    "X_Email",
    "X.Email",
    "x-EMAIL",
    "X_EMAIL",
    "X+Email",
    "X-Groups",
    "x_groups",
    "X~Groups",
]


@pytest.mark.parametrize("underscores", ["drop", "allow"])
@pytest.mark.parametrize("name", FORGED)
async def test_a_field_from_a_claim_cannot_be_forged(
    backend: Backend, name: str, underscores: str
) -> None:
    config = document(
        {"jwt": "corp", "optional": True},
        backend.url,
        issuers={"headers": HEADERS},
        headers={"underscores": underscores},
    )
    issuer = issuer_in(config)
    text = issuer.token(email="alice@example.com")
    async with plane_of(config) as plane:
        for credentials in ([("Authorization", f"Bearer {text}")], []):
            fields = [
                (name, "evil"),
                ("Authorization2", "x"),
                *credentials,
                (name, "evil"),
                (name.upper(), "evil"),
            ]
            assert (await plane.get("/x", headers=fields)).status == 200
            raw = backend.requests[-1].raw.decode().lower()
            assert "evil" not in raw
            assert raw.count("x-email: alice@example.com") == bool(credentials)
            assert "authorization2: x" in raw


async def test_a_field_in_a_trailer_does_not_arrive(backend: Backend) -> None:
    config = document({"jwt": "corp"}, backend.url, issuers={"headers": HEADERS})
    text = issuer_in(config).token(email="alice@example.com")
    async with plane_of(config) as plane:
        client = await plane.client()
        await client.raw(
            f"POST /x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {text}\r\nTE: trailers\r\n"
            "Trailer: X-Email\r\n"
            "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Email: evil\r\n\r\n".encode()
        )
        line = await asyncio.wait_for(client.reader.readline(), 20)
        assert line.split()[1] == b"200"
    assert backend.requests[-1].body == b"abc"
    assert "evil" not in backend.requests[-1].raw.decode()


# ---- several methods ----------------------------------------------------------------------------


async def test_the_first_credential_that_is_there_decides() -> None:
    config = document({"any": ["api_key", {"jwt": "corp"}]})
    issuer = issuer_in(config)
    good, bad = issuer.token(), issuer.token(exp=NOW - 100)
    async with plane_of(config, keys={"key-1": "bob", ALICE: "alice"}) as plane:
        for headers, wanted in (
            ({"X-Api-Key": "key-1"}, ""),
            (bearer(good), ""),
            (bearer("key-1"), ""),
            ({}, "credential_missing"),
            ({"X-Api-Key": "wrong"}, "credential_unknown"),
            (bearer(bad), "token_invalid"),
            ({"X-Api-Key": "wrong", **bearer(good)}, "credential_unknown"),
            ({"X-Api-Key": "key-1", **bearer(bad)}, ""),
        ):
            reply = await plane.get("/x", headers=headers)
            assert (problem(reply)["reason"] if reply.status != 200 else "") == wanted, headers
        reply = await plane.get("/x")
        assert reply.headers["www-authenticate"] == (
            'ApiKey realm="fastgate", header="X-Api-Key", Bearer realm="fastgate"'
        )


async def test_all_methods_must_accept_and_agree() -> None:
    config = document({"all": ["api_key", {"jwt": "corp"}]})
    issuer = issuer_in(config)
    keys = {"of-alice": "alice", "of-bob": "bob", ALICE: "alice"}
    async with plane_of(config, keys=keys) as plane:
        for headers, wanted in (
            ({"X-Api-Key": "of-alice", **bearer(issuer.token())}, ""),
            ({"X-Api-Key": "of-bob", **bearer(issuer.token())}, "forbidden"),
            ({"X-Api-Key": "of-alice"}, "credential_missing"),
            (bearer(issuer.token()), "credential_missing"),
            ({"X-Api-Key": "of-alice", **bearer(issuer.token(exp=NOW - 99))}, "token_invalid"),
            ({"X-Api-Key": "wrong", **bearer(issuer.token())}, "credential_unknown"),
            ({}, "credential_missing"),
        ):
            reply = await plane.get("/x", headers=headers)
            assert (problem(reply)["reason"] if reply.status != 200 else "") == wanted, headers


async def test_requests_without_a_credential_may_be_a_consumers(backend: Backend) -> None:
    guest = {"consumers": [{"name": "guest"}]}
    for auth in ({"jwt": "corp", "anonymous": "guest"}, {"api_key": {}, "anonymous": "guest"}):
        config = document(auth, backend.url, **guest)
        keys = {ALICE: "alice", "k": "alice", digests.consumer("guest"): "guest"}
        async with plane_of(config, keys=keys) as plane:
            assert (await plane.get("/x")).status == 200
            assert backend.requests[-1].headers["x-consumer-id"] == "guest"
            credential = bearer(issuer_in(config).token()) if "jwt" in auth else {"X-Api-Key": "k"}
            assert (await plane.get("/x", headers=credential)).status == 200
            assert backend.requests[-1].headers["x-consumer-id"] == "alice"
            wrong = bearer(issuer_in(config).token(exp=1)) if "jwt" in auth else {"X-Api-Key": "w"}
            assert (await plane.get("/x", headers=wrong)).status == 401
            plane.index.revoke(digests.consumer("guest"))
            assert (await plane.get("/x")).status == 401


# ---- floods -------------------------------------------------------------------------------------


async def test_bad_tokens_are_bounded_by_address_before_they_are_verified() -> None:
    config = document({"jwt": "corp"}, trusted_proxies=["127.0.0.1"])
    issuer = issuer_in(config)
    known = issuer.token()
    stranger = Key("ES256", "k1")
    async with plane_of(config) as plane:
        client = await plane.client()

        async def ask(text: str, address: str) -> Reply:
            return await client.request(
                "GET", "/x", headers={**bearer(text), "X-Forwarded-For": address}
            )

        assert (await ask(known, "192.0.2.1")).status == 200
        statuses = [
            (await ask(token(stranger, issuer.claims(n=i)), "192.0.2.1")).status for i in range(60)
        ]
        assert statuses[:50] == [401] * 50
        assert 429 in statuses[50:]
        while (
            reply := await ask(token(stranger, issuer.claims(m=time.time())), "192.0.2.1")
        ).status == 401:
            pass
        assert (reply.status, problem(reply)["reason"]) == (429, "rate_limited")
        assert int(reply.headers["retry-after"]) >= 1
        assert (await ask(known, "192.0.2.1")).status == 200  # it is known
        assert (await ask(issuer.token(n=2), "192.0.2.2")).status == 200  # another address


# ---- keys that are not here yet -----------------------------------------------------------------


async def asked(plane: Plane) -> tuple[str, int, str]:
    """The one question that comes."""
    event = asyncio.Event()
    plane.engine.on_questions = event.set
    await asyncio.wait_for(event.wait(), 20)
    [question] = plane.engine.take_questions()
    return question


async def test_a_token_by_a_new_key_waits_for_it() -> None:
    config = document({"jwt": "corp"})
    new = Key("ES256", "k2")
    before, after = issuer_in(config, fetches=True), issuer_in(config, KEY, new, fetches=True)
    text = after.token()
    async with plane_of(config, before) as plane:
        replies = [asyncio.create_task(plane.get("/x", headers=bearer(text))) for _ in range(5)]
        kind, issuer, kid = await asked(plane)
        assert (kind, issuer, kid) == ("keys", before.settings["id"], "k2")
        plane.engine.set_keyring(ring_of([after], serial=2))
        plane.engine.answered(kind, issuer, kid)
        assert [(await each).status for each in replies] == [200] * 5
        assert plane.engine.take_questions() == []


async def test_a_key_that_nobody_has() -> None:
    config = document({"jwt": "corp"})
    issuer = issuer_in(config, fetches=True)
    text = token(Key("ES256", "k9"), issuer.claims())
    async with plane_of(config, issuer) as plane:
        reply = asyncio.create_task(plane.get("/x", headers=bearer(text)))
        plane.engine.answered(*await asked(plane))
        assert problem(await reply)["fault"].startswith(
            "The token's issuer has no key with this id"
        )
        # it is remembered, and not asked again
        assert (await plane.get("/x", headers=bearer(text))).status == 401
        assert plane.engine.take_questions() == []


async def test_control_that_does_not_answer_is_waited_for_two_seconds() -> None:
    config = document({"jwt": "corp"})
    issuer = issuer_in(config, fetches=True)
    text = token(Key("ES256", "k9"), issuer.claims())
    async with plane_of(config, issuer) as plane:
        reply = await asyncio.wait_for(plane.get("/x", headers=bearer(text)), 20)
        assert (reply.status, problem(reply)["reason"]) == (503, "authorization_unavailable")
        assert int(reply.headers["retry-after"]) >= 1


async def test_a_client_may_leave_while_it_waits() -> None:
    config = document({"jwt": "corp"})
    issuer = issuer_in(config, fetches=True)
    text = token(Key("ES256", "k9"), issuer.claims())
    async with plane_of(config, issuer) as plane:
        client = await plane.client()
        await client.send("POST", "/x", bearer(text), b"body")
        question = await asked(plane)
        await client.reset()
        for _ in range(200):
            if plane.engine.stats()["exchanges"] == 0:
                break
            await asyncio.sleep(0.01)
        assert plane.engine.stats()["exchanges"] == 0
        plane.engine.answered(*question)
        assert (await plane.get("/x", headers=bearer(issuer.token()))).status == 200


async def test_a_reload_while_it_waits() -> None:
    """It is decided by the configuration that it was routed with."""
    config = document({"jwt": "corp"})
    new = Key("ES256", "k2")
    before, after = issuer_in(config, fetches=True), issuer_in(config, KEY, new, fetches=True)
    async with plane_of(config, before) as plane:
        reply = asyncio.create_task(plane.get("/x", headers=bearer(after.token())))
        question = await asked(plane)
        plane.install({"routes": [{"name": "r", "path": "/{rest*}", "respond": {"body": "other"}}]})
        plane.engine.set_keyring(ring_of([after], serial=2))
        plane.engine.answered(*question)
        assert (await reply).body == b"hello"


async def test_a_subject_that_is_created() -> None:
    config = document(
        {"jwt": "corp"}, issuers={"unknown": "create", "plan": "free"}, plans=[{"name": "free"}]
    )
    issuer = issuer_in(config)
    text = issuer.token(sub="carol")
    async with plane_of(config, issuer) as plane:
        reply = asyncio.create_task(plane.get("/x", headers=bearer(text)))
        kind, number, subject = await asked(plane)
        assert (kind, subject) == ("subject", "carol")
        row = plane.index.set_consumer("carol", identity=5, name="carol")
        plane.index.put(digests.subject("corp", "carol"), row, identity=6)
        plane.engine.answered(kind, number, subject)
        assert (await reply).status == 200
        # and one that could not be made
        reply = asyncio.create_task(plane.get("/x", headers=bearer(issuer.token(sub="dave"))))
        plane.engine.answered(*await asked(plane))
        assert problem(await reply)["reason"] == "authorization_unavailable"
