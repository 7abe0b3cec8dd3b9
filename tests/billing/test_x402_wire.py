"""x402 on the wire: the same as the official library reads and writes it, and what is concluded."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from x402.http.utils import (
    decode_payment_required_header,
    decode_payment_signature_header,
    encode_payment_signature_header,
)
from x402.schemas import PaymentPayload

from fastgate.billing.x402.facilitator import (
    MAX_ANSWER,
    FacilitatorClient,
    Refused,
    Settled,
    Unavailable,
)
from fastgate.billing.x402.wire import Invalid, Payment, PaymentOffer, Presented, encode
from fastgate.model.x402 import Terms, read_terms

NOW = 1_800_000_000
TERMS = Terms(
    route="paid",
    upstream="app",
    pay_to="0x" + "aB" * 20,
    network="eip155:84532",
    asset="0x" + "Cd" * 20,
    amount="1000",
    asset_name="Test USD",
    asset_version="2",
    facilitator="http://facilitator.test",
    version1="base-sepolia",
)
PAYER = "0x" + "12" * 20
URLS = st.text("abcxyz0123456789/%._-~", max_size=3000)


def offer(path: str = "/w", query: str = "", method: str = "GET") -> PaymentOffer:
    return PaymentOffer.of(TERMS, method, "http://shop.test", path, query)


def signed(**more: str) -> dict[str, Any]:
    authorization = {
        "from": PAYER, "to": TERMS.pay_to, "value": "1000", "validAfter": "0",
        "validBefore": str(NOW + 60), "nonce": "0x" + "5a" * 32, **more,
    }  # fmt: skip
    return {"signature": "0x" + "77" * 65, "authorization": authorization}


def payment(for_: PaymentOffer | None = None, **more: str) -> Payment:
    for_ = for_ or offer()
    accepted = for_.requirements
    body = {"x402Version": 2, "payload": signed(**more), "accepted": accepted}
    return for_.take(Presented(2, encode(body)), NOW)


# ---- offers ------------------------------------------------------------------------------


@given(path=URLS, query=URLS, description=st.text(max_size=500), error=st.text(max_size=300))
def test_the_official_library_reads_every_offer_and_the_field_fits(path, query, description, error):
    terms = read_terms(json.dumps({**_plain(), "description": description}))
    made = PaymentOffer.of(terms, "GET", "http://shop.test", "/" + path, query)
    field = made.required(error)
    assert len(field) < 8192
    found = decode_payment_required_header(field)
    assert found.accepts[0].model_dump(by_alias=True) == made.requirements
    assert found.resource is not None
    assert made.url.startswith(found.resource.url)


def _plain() -> dict[str, Any]:
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(TERMS)
    return found


@given(
    a=st.tuples(st.sampled_from(["GET", "POST"]), URLS, URLS),
    b=st.tuples(st.sampled_from(["GET", "POST"]), URLS, URLS),
)
def test_a_payment_fits_the_offer_it_was_made_for_and_no_other(a, b):
    one, other = (offer("/" + path, query, method) for method, path, query in (a, b))
    body = encode({"x402Version": 2, "payload": signed(), "accepted": one.requirements})
    assert one.take(Presented(2, body), NOW).payer == PAYER
    if (one.method, one.url) != (other.method, other.url):
        with pytest.raises(Invalid, match=r"accepted\.extra\.fastgate"):
            other.take(Presented(2, body), NOW)


def test_what_the_official_client_writes_is_read_and_passed_on_whole():
    made = offer()
    theirs = PaymentPayload.model_validate(
        {
            "x402Version": 2,
            "payload": signed(),
            "accepted": made.requirements,
            "resource": {"url": made.url},
            "extensions": {"payment-identifier": {"info": {"required": False}, "schema": {}}},
        }
    )
    field = encode_payment_signature_header(theirs)
    ours = made.take(Presented(2, field), NOW)
    read = decode_payment_signature_header(field)
    assert ours.payload["payload"] == read.payload
    assert (ours.identifier, ours.valid_before) == (None, NOW + 60)


def test_addresses_compare_in_any_case():
    made = offer()
    accepted = made.requirements
    accepted["payTo"] = accepted["payTo"].lower()
    body = {"x402Version": 2, "payload": signed(to=TERMS.pay_to.upper().replace("0X", "0x"))}
    taken = made.take(Presented(2, encode({**body, "accepted": accepted})), NOW)
    assert taken.requirements["payTo"] == TERMS.pay_to


def test_the_nonce_belongs_to_payer_token_and_network():
    made = offer()
    same = made.nonce(payment(nonce="0x" + "5A" * 32))
    assert same == made.nonce(payment())
    assert same == made.nonce(payment(validBefore=str(NOW + 50)))
    others = [payment(nonce="0x" + "5b" * 32), payment(**{"from": "0x" + "13" * 20})]
    assert same not in [made.nonce(each) for each in others]


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_and_never_crash(data):
    for text in (data.decode("latin-1"), base64.b64encode(data).decode()):
        for version in (1, 2):
            with pytest.raises(Invalid):
                offer().take(Presented(version, text), NOW)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
        max_leaves=12,
    ),
    st.sampled_from(["payload", "accepted", "resource", "extensions", "more"]),
)
def test_any_json_in_place_of_a_member_is_refused(value, member):
    made = offer()
    body = {"x402Version": 2, "payload": signed(), "accepted": made.requirements, member: value}
    try:
        taken = made.take(Presented(2, encode(body)), NOW)
    except Invalid:
        return
    assert member in ("resource", "extensions")
    assert taken.payload["payload"] == signed()


# ---- what is concluded from a facilitator's answers -----------------------------------------


async def settle(status: int, body: object, headers: dict[str, str] | None = None) -> Any:
    async with answering(status, body, headers) as facilitator:
        return await facilitator.settle(payment())


class answering:
    """A facilitator that answers like this, below the official client."""

    def __init__(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()

        def answer(request: httpx.Request) -> httpx.Response:
            return httpx.Response(
                status, headers=headers, stream=httpx.ByteStream(content), request=request
            )

        self.facilitator = FacilitatorClient(
            "http://facilitator.test", {}, 5.0, httpx.MockTransport(answer)
        )

    async def __aenter__(self) -> FacilitatorClient:
        return self.facilitator

    async def __aexit__(self, *_: object) -> None:
        await self.facilitator.aclose()


DONE = {"success": True, "transaction": "0xt", "network": "eip155:84532", "payer": PAYER}
NOT = {"success": False, "transaction": "", "network": "eip155:84532", "errorReason": "no_funds"}


@pytest.mark.parametrize(
    ("status", "body", "state"),
    [
        (200, DONE, Settled.YES),
        (200, {**DONE, "payer": PAYER.upper().replace("0X", "0x")}, Settled.YES),
        (200, {**DONE, "payer": "0x" + "34" * 20}, Settled.UNKNOWN),
        (200, {**DONE, "network": "eip155:1"}, Settled.UNKNOWN),
        (200, {**DONE, "transaction": ""}, Settled.UNKNOWN),
        (200, {"success": True}, Settled.UNKNOWN),
        (200, NOT, Settled.NO),
        (200, {**NOT, "transaction": "0xt"}, Settled.UNKNOWN),
        (200, {**NOT, "errorReason": "settlement_pending"}, Settled.UNKNOWN),
        (200, {**NOT, "errorReason": "unexpected_settle_error"}, Settled.UNKNOWN),
        (200, {**NOT, "errorReason": None}, Settled.UNKNOWN),
        (200, {**NOT, "errorReason": "invalid_exact_evm_nonce_already_used"}, Settled.UNKNOWN),
        (400, NOT, Settled.NO),
        (400, {**NOT, "errorReason": "settlement_pending"}, Settled.UNKNOWN),
        (400, DONE, Settled.UNKNOWN),
        (400, b"<html>", Settled.UNKNOWN),
        (500, NOT, Settled.UNKNOWN),
        (503, DONE, Settled.UNKNOWN),
        (201, DONE, Settled.UNKNOWN),
        (302, b"", Settled.UNKNOWN),
        (200, b"", Settled.UNKNOWN),
        (200, b"[]", Settled.UNKNOWN),
        (200, b'{"success": tr', Settled.UNKNOWN),
        (200, json.dumps(DONE).encode() + b" " * MAX_ANSWER, Settled.UNKNOWN),
    ],
)
async def test_what_an_answer_to_settle_means(status, body, state):
    assert (await settle(status, body)).state is state


async def test_what_is_compressed_is_not_read():
    settlement = await settle(200, b"\x1f\x8b garbage", {"Content-Encoding": "gzip"})
    assert settlement.state is Settled.UNKNOWN


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (httpx.ConnectError("refused"), Settled.UNSENT),
        (httpx.ConnectTimeout("slow"), Settled.UNSENT),
        (httpx.ReadTimeout("slow"), Settled.UNKNOWN),
        (httpx.ReadError("reset"), Settled.UNKNOWN),
        (httpx.WriteError("reset"), Settled.UNKNOWN),
        (httpx.RemoteProtocolError("cut"), Settled.UNKNOWN),
    ],
)
async def test_what_a_failure_on_the_way_means(error, state):
    def fail(request: httpx.Request) -> httpx.Response:
        raise error

    facilitator = FacilitatorClient("http://facilitator.test", {}, 5.0, httpx.MockTransport(fail))
    assert (await facilitator.settle(payment())).state is state
    with pytest.raises(Unavailable):
        await facilitator.verify(payment())
    await facilitator.aclose()


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (200, {"isValid": True, "payer": PAYER}, None),
        (200, {"isValid": True}, None),
        (200, {"isValid": False, "invalidReason": "insufficient_funds"}, "insufficient_funds"),
        (200, {"isValid": False}, ""),
        (400, {"isValid": False, "invalidReason": "invalid_payload"}, "invalid_payload"),
    ],
)
async def test_what_an_answer_to_verify_means(status, body, code):
    async with answering(status, body) as facilitator:
        if code is None:
            await facilitator.verify(payment())
        else:
            with pytest.raises(Refused) as refused:
                await facilitator.verify(payment())
            assert refused.value.code == code


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"isValid": True, "payer": "0x" + "34" * 20}),
        (200, {"isValid": False, "invalidReason": "unexpected_verify_error"}),
        (200, {"valid": True}),
        (200, b"<html>"),
        (400, {"isValid": True}),
        (400, {"error": "bad request"}),
        (401, b""),
        (500, {"isValid": False, "invalidReason": "invalid_payload"}),
        (503, {"isValid": True}),
    ],
)
async def test_doubt_about_verify(status, body):
    async with answering(status, body) as facilitator:
        with pytest.raises(Unavailable):
            await facilitator.verify(payment())
