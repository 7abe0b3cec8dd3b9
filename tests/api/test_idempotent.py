"""Idempotency-Key: done once, answered alike, readable by nobody else."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from apikit import Client, is_problem
from hypothesis import given
from hypothesis import strategies as st

from fastgate.api.idempotent import seal, unseal
from fastgate.store.idempotency import ABANDONED, KEEP, IdempotencyKeys, KeyState
from fastgate.store.parties import now_utc
from fastgate.store.tables import idempotency


@given(st.text(min_size=1), st.binary(max_size=500))
def test_what_is_sealed_opens_for_its_owner_only(secret: str, plain: bytes) -> None:
    sealed = seal(secret, plain)
    assert unseal(secret, sealed) == plain
    assert seal(secret, plain) != sealed
    with pytest.raises(ValueError, match="does not open"):
        unseal(secret + "x", sealed)
    with pytest.raises(ValueError, match="does not open"):
        unseal(secret, sealed[:-1] + bytes([sealed[-1] ^ 1]))


async def test_a_repeated_write_is_done_once(api: Client, world: Any) -> None:
    await api.post("/v1/consumers", json={"name": "acme"})
    headers = {"idempotency-key": "first"}
    path = "/v1/consumers/acme/credentials"
    once = await api.post(path, json={"label": "a"}, headers=headers)
    twice = await api.post(path, json={"label": "a"}, headers=headers)
    assert once.status_code == twice.status_code == 201
    assert once.content == twice.content
    assert once.headers["location"] == twice.headers["location"]
    assert twice.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in once.headers
    assert len((await api.get(path)).json()["items"]) == 1
    other = await api.post(path, json={"label": "b"}, headers=headers)
    is_problem(other, 409, "idempotency_conflict")
    second = await api.post(path, json={"label": "a"}, headers={"idempotency-key": "second"})
    assert second.json()["key"] != once.json()["key"]


async def test_a_key_belongs_to_its_principal(api: Client, as_role: Any) -> None:
    operator = await as_role("operator")
    headers = {"idempotency-key": "same"}
    assert (await api.post("/v1/accounts", json={"name": "a"}, headers=headers)).status_code == 201
    body = {"name": "b"}
    done = await api.post("/v1/accounts", json=body, headers={**headers, **operator})
    assert done.status_code == 201


async def test_nothing_of_the_answer_is_readable_in_the_database(api: Client, world: Any) -> None:
    await api.post("/v1/consumers", json={"name": "acme"})
    headers = {"idempotency-key": "first"}
    made = await api.post("/v1/consumers/acme/credentials", headers=headers)
    key = made.json()["key"]
    async with world.store.read() as connection:
        (row,) = (await connection.execute(sa.select(idempotency))).all()
    assert key.encode() not in row.answer
    assert b"fg_" not in row.answer
    assert world.admin.encode() not in row.answer


async def test_a_refused_write_may_be_mended_under_the_same_key(api: Client) -> None:
    headers = {"idempotency-key": "first"}
    wrong = await api.post("/v1/accounts", json={"nam": "a"}, headers=headers)
    is_problem(wrong, 422, "invalid_member")
    assert (await api.post("/v1/accounts", json={"name": "a"}, headers=headers)).status_code == 201


async def test_of_two_at_once_one_is_done(api: Client) -> None:
    headers = {"idempotency-key": "race"}
    answers = await asyncio.gather(
        *(api.post("/v1/accounts", json={"name": "a"}, headers=headers) for _ in range(5))
    )
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert any(answer.status_code == 201 for answer in answers)
    for answer in answers:
        if answer.status_code == 409:
            is_problem(answer, 409, "idempotency_open")
            assert answer.headers["retry-after"] == "1"
    assert len((await api.get("/v1/accounts")).json()["items"]) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "a b"])
async def test_a_bad_key_is_refused(api: Client, key: str) -> None:
    response = await api.post("/v1/accounts", json={"name": "a"}, headers={"idempotency-key": key})
    is_problem(response, 400, "bad_request")


async def test_conditions_are_part_of_the_request(api: Client) -> None:
    await api.post("/v1/accounts", json={"name": "a"})
    path = "/v1/accounts/a"
    key = {"idempotency-key": "k"}
    done = await api.patch(path, json={"name": "b"}, headers={**key, "if-match": '"1"'})
    assert done.status_code == 200
    again = await api.patch(path, json={"name": "b"}, headers={**key, "if-match": '"1"'})
    assert again.content == done.content
    other = await api.patch(path, json={"name": "b"}, headers={**key, "if-match": "*"})
    is_problem(other, 409, "idempotency_conflict")


async def test_an_abandoned_key_is_taken_over_and_an_old_one_forgotten(store: Any) -> None:
    keys = IdempotencyKeys(store)
    key, mark = b"k" * 32, b"f" * 32
    first = await keys.begin("me", key, mark)
    assert first.verdict is KeyState.FRESH
    assert (await keys.begin("me", key, mark)).verdict is KeyState.OPEN

    async def age(by: timedelta) -> None:
        async with store.write() as connection:
            await connection.execute(sa.update(idempotency).values(created=now_utc() - by))

    await age(ABANDONED + timedelta(seconds=1))
    second = await keys.begin("me", key, mark)
    assert second.verdict is KeyState.FRESH
    await keys.finish("me", key, first.attempt, b"late")  # whoever began first is out of it
    assert (await keys.begin("me", key, mark)).verdict is KeyState.OPEN
    await keys.finish("me", key, second.attempt, b"done")
    assert await keys.begin("me", key, mark) == type(second)(KeyState.ANSWERED, answer=b"done")
    assert (await keys.begin("me", key, b"g" * 32)).verdict is KeyState.OTHER
    await age(KEEP + timedelta(seconds=1))
    assert (await keys.begin("me", key, b"g" * 32)).verdict is KeyState.FRESH
