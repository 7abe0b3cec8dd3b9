"""Refusals as they go out: which form, which numbers, to whom; and the tokens in their links."""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import string
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

import h11
import pytest
from enginekit import Plane
from hypothesis import given
from hypothesis import strategies as st

from fastgate._core.exchange.refusal import CAPABILITY_SECONDS, tag
from fastgate._core.snapshot.image import ImageBuilder
from fastgate._core.snapshot.snapshot import Snapshot
from fastgate._core.testing.money_text import money_text
from fastgate._core.testing.refusal_sample import Sample
from fastgate.billing.amounts import show
from fastgate.billing.moments import moment_of
from fastgate.billing.payments.base import exponent
from fastgate.config.compiler import compile_gateway
from fastgate.config.public_route import PublicSide
from fastgate.config.slots import SlotBook
from fastgate.errors import REASON_BY_CODE, REASONS
from fastgate.model.codec import decode
from fastgate.refusal.remedies import REMEDIES
from fastgate.refusal.templates import refusals

KEY = bytes(range(16))
NOW = 1_800_000_000
REQUEST = bytes.fromhex("0af7651916cd43dd8448eb211c80319c")
PUBLIC = PublicSide("/run/fastgate/public.sock", KEY)
CONFIG: dict[str, Any] = {
    "version": 1,
    "routes": [
        {
            "name": "paid",
            "path": "/paid",
            "respond": {"status": 200},
            "limits": [{"name": "burst", "rate": "2/s", "by": ["address"]}],
        }
    ],
}
BROWSER = b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
PAYMENT = "PAYMENT-REQUIRED: eyJ4NDAyVmVyc2lvbiI6Mn0=\r\n"


def snapshot_of(config: dict[str, Any], public: PublicSide | None = PUBLIC) -> Snapshot:
    image = compile_gateway(
        decode(config), generation=1, slots=SlotBook(), addresses={}, public=public
    )
    try:
        return Snapshot(image.fd, verify=True)
    finally:
        os.close(image.fd)


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    return snapshot_of(CONFIG)


class Answer:
    """A refusal as a client understands it."""

    def __init__(self, raw: bytes) -> None:
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
        client.send(h11.EndOfMessage())
        client.receive_data(raw)
        response = client.next_event()
        assert isinstance(response, h11.Response)
        data = client.next_event()
        assert isinstance(data, h11.Data)
        assert isinstance(client.next_event(), h11.EndOfMessage)
        self.status = response.status_code
        self.headers = {n.decode(): v.decode() for n, v in response.headers}
        self.text = bytes(data.data).decode()
        assert "\1" not in self.text

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        problem: dict[str, Any] = json.loads(self.text)
        return problem


def refuse(snapshot: Snapshot, code: str, **how: Any) -> Answer:
    how = {"now": NOW, "request_id": REQUEST, "host": b"api.example:8080", **how}
    return Answer(Sample(snapshot, **how).render(REASON_BY_CODE[code].number))


MONEY = {"balance": 2_000, "required": 10_000, "currency": "USD"}


# ---- which form ------------------------------------------------------------------------


def test_accept_may_come_in_several_fields(snapshot: Snapshot) -> None:
    answer = refuse(snapshot, "no_route", accept=[b"application/json;q=0.1", b"text/html"])
    assert answer.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("accept", [b"*/*", BROWSER, b"text/markdown"])
@pytest.mark.parametrize("reason", [r for r in REASONS if r.status], ids=lambda r: r.code)
@pytest.mark.parametrize("known", [False, True])
def test_every_reason_is_whole_in_every_form(
    snapshot: Snapshot, reason: Any, accept: bytes, known: bool
) -> None:
    how: dict[str, Any] = {"route": 0, "limit": 0, "consumer": 77, "spending": 5, **MONEY}
    answer = refuse(snapshot, reason.code, accept=[accept], **(how if known else {}))
    assert answer.status == reason.status
    assert answer.headers["cache-control"] == "no-store"
    assert "Accept" in answer.headers["vary"]
    assert ("Authorization" in answer.headers["vary"]) == (reason.status == 402)
    assert REQUEST.hex() in answer.text
    assert reason.code in answer.text
    if accept == BROWSER:
        well_formed(answer.text)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    elif accept == b"text/markdown":
        assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
        assert answer.text.startswith(f"# {reason.status} ")
    else:
        assert answer.problem["detail"].startswith(reason.text)


def well_formed(text: str) -> list[str]:
    """Every element is closed in order, nothing is loaded; returns the links."""
    links, open_, empty = [], [], {"meta", "input", "br"}

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in ("script", "img", "link", "iframe")
            assert not any(name.startswith("on") or name == "src" for name, _ in attrs)
            links.extend(value or "" for name, value in attrs if name == "href")
            if tag not in empty:
                open_.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_.pop() == tag

    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not open_
    return links


# ---- money -----------------------------------------------------------------------------


@given(st.integers(-(2**63), 2**63 - 1))
def test_money_is_told_exactly_and_shortly(micros: int) -> None:
    text = money_text(micros)
    assert Decimal(text) * 1_000_000 == micros
    assert re.fullmatch(r"-?\d+(\.\d{0,5}[1-9])?", text)


def test_a_caller_who_is_known_is_told_the_balance(snapshot: Snapshot) -> None:
    problem = refuse(snapshot, "insufficient_balance", consumer=7, **MONEY).problem
    assert problem["balance"] == "0.002"
    assert problem["required"] == "0.01"
    assert problem["shortfall"] == "0.008"
    assert problem["currency"] == "USD"
    assert problem["retry"] == "after_payment"
    assert problem["remedies"][0]["action"] == "top_up"


@pytest.mark.parametrize("accept", [b"*/*", BROWSER, b"text/markdown"])
def test_a_stranger_is_not(snapshot: Snapshot, accept: bytes) -> None:
    how = {**MONEY, "spending": 123_456_000}
    for code in ("insufficient_balance", "spending_limit_reached", "hold_in_flight"):
        text = refuse(snapshot, code, accept=[accept], **how).text
        assert "0.01" in text
        for secret in ("0.002", "0.008", "123.456", 'balance":', "shortfall"):
            assert secret not in text, (code, secret)


@pytest.mark.parametrize(
    ("balance", "required", "shortfall"),
    [
        (0, 1, "0.000001"),
        (-5_000_000, 1_000_000, "6"),
        (3, 3, "0"),
        (9, 3, "0"),
        (-(2**63), 2**63 - 1, "9223372036854.775807"),
    ],
)
def test_what_is_missing_is_never_negative(
    snapshot: Snapshot, balance: int, required: int, shortfall: str
) -> None:
    how = {"balance": balance, "required": required, "currency": "EUR", "consumer": 1}
    assert refuse(snapshot, "insufficient_balance", **how).problem["shortfall"] == shortfall


def test_without_money_at_stake_there_are_no_numbers(snapshot: Snapshot) -> None:
    problem = refuse(snapshot, "insufficient_balance", consumer=7).problem
    assert not {"balance", "required", "shortfall", "currency"} & problem.keys()


def test_a_spending_limit_says_when_it_resets(snapshot: Snapshot) -> None:
    how = {**MONEY, "consumer": 7, "spending": 20_000_000, "resets": NOW + 60, "limit": 0}
    problem = refuse(snapshot, "spending_limit_reached", route=0, **how).problem
    assert problem["limit"] == "20"
    assert problem["remaining"] == "0.002"
    assert problem["resets_at"] == "2027-01-15T08:01:00Z"
    assert problem["remedies"][0]["until"] == problem["resets_at"]
    assert problem["retry"] == "after_delay"
    how["resets"] = 0
    assert "resets_at" not in refuse(snapshot, "spending_limit_reached", route=0, **how).problem


# ---- links -----------------------------------------------------------------------------


def token_of(address: str) -> tuple[int, int, bytes]:
    token = base64.urlsafe_b64decode(address.rpartition("cap=")[2].partition("&")[0] + "==")
    assert len(token) == 28
    return int.from_bytes(token[:4], "big"), int.from_bytes(token[4:12], "little"), token[12:]


def test_links_carry_a_token_that_only_the_gateway_can_make(snapshot: Snapshot) -> None:
    problem = refuse(snapshot, "insufficient_balance", consumer=0xFEED, **MONEY).problem
    address = problem["diagnose"]
    assert address.startswith(f"http://api.example:8080/_fastgate/requests/{REQUEST.hex()}?cap=")
    expires, consumer, proof = token_of(address)
    assert expires == NOW + CAPABILITY_SECONDS
    assert consumer == 0xFEED
    assert proof == tag(KEY, REQUEST, expires, consumer)
    for remedy in problem["remedies"]:
        assert remedy["href"].startswith("http://api.example:8080/_fastgate/account/")
    top_up = problem["remedies"][0]["href"]
    assert f"request={REQUEST.hex()}" in top_up
    assert token_of(top_up) == (expires, consumer, proof)


def test_a_stranger_has_a_token_of_nobody(snapshot: Snapshot) -> None:
    _, consumer, proof = token_of(refuse(snapshot, "credential_unknown").problem["diagnose"])
    assert consumer == 0
    assert proof == tag(KEY, REQUEST, NOW + CAPABILITY_SECONDS, 0)


def test_every_part_of_a_token_counts() -> None:
    proof = tag(KEY, REQUEST, 5, 6)
    other = bytes([KEY[0] ^ 1]) + KEY[1:]
    assert proof not in {
        tag(other, REQUEST, 5, 6),
        tag(KEY, REQUEST[::-1], 5, 6),
        tag(KEY, REQUEST, 6, 6),
        tag(KEY, REQUEST, 5, 7),
    }
    with pytest.raises(ValueError, match="16 bytes"):
        tag(KEY[1:], REQUEST, 5, 6)
    with pytest.raises(OverflowError):
        tag(KEY, REQUEST, 2**32, 6)


def siphash_2_4_128(key: bytes, message: bytes) -> bytes:
    """The reference algorithm, with numbers instead of words."""
    mask = 2**64 - 1
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, 0]
    v[1] ^= 0xEE
    v[3] = k1 ^ 0x7465646279746573

    def turn(x: int, by: int) -> int:
        return (x << by | x >> (64 - by)) & mask

    def rounds(n: int) -> None:
        for _ in range(n):
            v[0] = (v[0] + v[1]) & mask
            v[1] = turn(v[1], 13) ^ v[0]
            v[0] = turn(v[0], 32)
            v[2] = (v[2] + v[3]) & mask
            v[3] = turn(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & mask
            v[3] = turn(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & mask
            v[1] = turn(v[1], 17) ^ v[2]
            v[2] = turn(v[2], 32)

    padded = message + bytes(7 - len(message) % 8) + bytes([len(message) & 255])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xEE
    rounds(4)
    first = v[0] ^ v[1] ^ v[2] ^ v[3]
    v[1] ^= 0xDD
    rounds(4)
    return first.to_bytes(8, "little") + (v[0] ^ v[1] ^ v[2] ^ v[3]).to_bytes(8, "little")


def test_the_reference_algorithm_gives_the_published_vector() -> None:
    assert siphash_2_4_128(KEY, b"").hex() == "a3817f04ba25a8e66df67214c7550293"


@given(
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=16, max_size=16),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
)
def test_a_tag_is_siphash(key: bytes, request: bytes, expires: int, consumer: int) -> None:
    message = request + expires.to_bytes(4, "little") + consumer.to_bytes(8, "little")
    assert tag(key, request, expires, consumer) == siphash_2_4_128(key, message)


@pytest.mark.parametrize("host", [b"", b"a&b", b"a'b", b"a/b", b"x" * 256, b'a"'])
def test_links_are_relative_where_the_host_is_in_doubt(snapshot: Snapshot, host: bytes) -> None:
    problem = refuse(snapshot, "rate_limited", host=host, route=0, limit=0).problem
    assert problem["diagnose"].startswith("/_fastgate/requests/")


def test_links_begin_with_the_public_address_where_one_is_set() -> None:
    billing = {"public_url": "https://api.example.com/"}
    snapshot = snapshot_of({**CONFIG, "billing": billing})
    problem = refuse(snapshot, "insufficient_balance").problem
    assert problem["type"] == "https://api.example.com/_fastgate/problems/insufficient_balance"
    assert problem["diagnose"].startswith("https://api.example.com/_fastgate/requests/")


def test_the_page_links_to_what_helps(snapshot: Snapshot) -> None:
    for code, remedies in REMEDIES.items():
        links = well_formed(refuse(snapshot, code, accept=[BROWSER]).text)
        pages = [one for one in remedies if one.page]
        assert len(links) == len(pages) + 2  # the diagnosis, and the reason's page
        assert all(link.startswith("/_fastgate/") for link in links)


def test_without_pages_nothing_links_to_them() -> None:
    for config, public in (
        (CONFIG, None),
        ({**CONFIG, "billing": {"public": "off"}}, PUBLIC),
    ):
        snapshot = snapshot_of(config, public)
        for accept in (b"*/*", BROWSER, b"text/markdown"):
            for code in ("insufficient_balance", "rate_limited", "credential_missing"):
                how: dict[str, Any] = {"accept": [accept], "consumer": 7, **MONEY}
                text = refuse(snapshot, code, **how).text
                assert "_fastgate" not in text
        problem = refuse(snapshot, "insufficient_balance").problem
        assert problem["type"] == "urn:fastgate:reason:insufficient_balance"
        assert "diagnose" not in problem


def test_a_configured_type_is_kept() -> None:
    base = "https://docs.example.com/errors/"
    snapshot = snapshot_of({**CONFIG, "problems": {"base": base}})
    assert refuse(snapshot, "no_route").problem["type"] == base + "no_route"


# ---- per route -------------------------------------------------------------------------


@pytest.fixture
def priced() -> Iterator[Snapshot]:
    """A snapshot whose route 0 asks for payment and route 1 speaks OpenAI's shape."""
    image = ImageBuilder()
    image.add_route("x402", slot=0, payment_required=PAYMENT)
    image.add_route("ai", slot=1, flags=128)
    for refusal in refusals():
        image.set_refusal(
            refusal.number,
            fields=refusal.fields,
            body=refusal.body,
            status=refusal.status,
            close=refusal.close,
        )
    fd = image.finish(1)
    yield Snapshot(fd, verify=True)
    os.close(fd)


def test_402s_of_a_route_carry_its_payment_header(priced: Snapshot) -> None:
    asked = refuse(priced, "payment_required", route=0)
    assert asked.headers["payment-required"] == "eyJ4NDAyVmVyc2lvbiI6Mn0="
    assert "payment-required" not in refuse(priced, "payment_required", route=1).headers
    assert "payment-required" not in refuse(priced, "rate_limited", route=0).headers
    assert "payment-required" not in refuse(priced, "payment_required").headers


def test_a_payment_header_is_at_most_8_kib() -> None:
    ImageBuilder().add_route("r", slot=0, payment_required=f"A: {'x' * 8189}\r\nB: y\r\n")
    with pytest.raises(ValueError, match="8 KiB"):
        ImageBuilder().add_route("r", slot=0, payment_required=f"A: {'x' * 8190}\r\n")


def test_openais_error_only_where_a_route_asks_for_it(priced: Snapshot) -> None:
    problem = refuse(priced, "insufficient_balance", route=1).problem
    assert problem["error"] == {
        "message": problem["detail"],
        "type": "insufficient_quota",
        "param": None,
        "code": "insufficient_balance",
    }
    assert "error" not in refuse(priced, "insufficient_balance", route=0).problem
    assert refuse(priced, "rate_limited", route=1).problem["error"]["type"] == "rate_limit_error"


def test_a_snapshot_without_pages_answers_json_in_any_case(priced: Snapshot) -> None:
    assert refuse(priced, "no_route", accept=[BROWSER]).problem["status"] == 404


def test_a_capability_key_has_16_bytes() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        ImageBuilder().set_capability_key(b"short")


def test_the_key_is_not_shown(snapshot: Snapshot) -> None:
    assert "capability_key" not in snapshot.settings()


def test_only_reasons_with_an_answer_have_one(snapshot: Snapshot) -> None:
    for number in (0, -1, 100, 5000):
        with pytest.raises(ValueError, match="no answer"):
            Sample(snapshot).render(number)


# ---- over the wire ---------------------------------------------------------------------


async def test_a_browser_an_agent_and_a_program_get_what_they_read() -> None:
    config = {
        "routes": [
            {
                "name": "open",
                "path": "/x",
                "respond": {"status": 200, "body": "x"},
                "limits": [{"name": "one", "rate": "1/h", "burst": 1, "by": ["address"]}],
            }
        ]
    }
    async with Plane(config, public=PUBLIC) as plane:
        assert (await plane.get("/x")).status == 200
        program = await plane.get("/x")
        agent = await plane.get("/x", headers={"Accept": "text/markdown, */*;q=0.5"})
        person = await plane.get("/x", headers={"Accept": BROWSER.decode()})
        assert {program.status, agent.status, person.status} == {429}
        problem = json.loads(program.body)
        assert problem["type"] == "/_fastgate/problems/rate_limited"
        assert problem["diagnose"].startswith("http://test.example/_fastgate/requests/")
        assert problem["instance"].rpartition(":")[2] in problem["diagnose"]
        assert agent.headers["content-type"] == "text/markdown; charset=utf-8"
        assert b"- Limit: 1 request an hour for each address\n- Used: 1 of 1\n" in agent.body
        assert person.headers["content-type"] == "text/html; charset=utf-8"
        well_formed(person.body.decode())
        head = await plane.request("HEAD", "/x", headers={"Accept": "text/html"})
        assert head.body == b""
        assert int(head.headers["content-length"]) > 1000


@pytest.mark.parametrize(
    ("said", "trusted", "scheme"),
    [
        ("https", True, "https"),
        ("HTTPS, http", True, "https"),
        ("http", True, "http"),
        ("http, https", True, "http"),
        ("httpsx", True, "http"),
        (None, True, "http"),
        ("https", False, "http"),
    ],
)
async def test_links_begin_as_the_client_called_it_behind_a_trusted_proxy(
    said: str | None, trusted: bool, scheme: str
) -> None:
    config = {
        "trusted_proxies": ["127.0.0.0/8"] if trusted else ["192.0.2.0/24"],
        "routes": [
            {
                "name": "open",
                "path": "/x",
                "respond": {"status": 200, "body": "x"},
                "limits": [{"name": "one", "rate": "1/h", "burst": 1, "by": ["route"]}],
            }
        ],
    }
    headers = {} if said is None else {"X-Forwarded-Proto": said}
    async with Plane(config, public=PUBLIC) as plane:
        await plane.get("/x")
        problem = json.loads((await plane.get("/x", headers=headers)).body)
        assert problem["diagnose"].startswith(f"{scheme}://test.example/_fastgate/requests/")


# ---- for people ----------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1))
def test_times_are_in_the_words_of_all_pages(unix: int) -> None:
    shown = refuse(WORDS, "quota_exhausted", accept=[BROWSER], **TIMED, resets=unix).text
    assert (f"<dd>{moment_of(unix)}</dd>" in shown) == (unix != 0)


@given(st.integers(1, 2**32 - 1))
def test_times_for_programs_are_rfc_3339(unix: int) -> None:
    problem = refuse(WORDS, "quota_exhausted", **TIMED, resets=unix).problem
    assert problem["resets_at"] == f"{datetime.fromtimestamp(unix, UTC):%Y-%m-%dT%H:%M:%SZ}"


@pytest.mark.parametrize("currency", ["USD", "EUR", "JPY", "KWD", "ISK", "XOF", "TND", "CHF"])
@given(micros=st.integers(0, 10**15))
def test_money_on_pages_is_written_as_elsewhere(currency: str, micros: int) -> None:
    how = {"consumer": 7, "balance": micros, "required": 2**61, "currency": currency}
    shown = refuse(WORDS, "insufficient_balance", accept=[b"text/markdown"], **how).text
    assert f"- Balance: {show(micros, currency)}\n" in shown


def test_each_currency_has_the_decimals_of_its_coins() -> None:
    for first in string.ascii_uppercase:
        for rest in itertools.product(string.ascii_uppercase, repeat=2):
            currency = first + "".join(rest)
            if exponent(currency) == 2 and currency not in ("USD", "XKM", "RJP"):
                continue  # one by one they take too long
            how = {"consumer": 7, "balance": 5_000_000, "required": 2**61, "currency": currency}
            shown = refuse(WORDS, "insufficient_balance", accept=[b"text/markdown"], **how).text
            assert f"- Balance: {show(5_000_000, currency)}\n" in shown


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ({"rate": "2/s", "by": ["address"]}, "2 requests a second for each address"),
        ({"rate": "100/min", "by": ["consumer"]}, "100 requests a minute for each consumer"),
        ({"rate": "1/h", "by": ["credential"]}, "1 request an hour for each key"),
        ({"rate": "7/d", "by": ["consumer", "route"]}, "7 requests a day for each route and"),
    ],
)
def test_limits_are_in_words(limit: dict[str, Any], words: str) -> None:
    config = {**CONFIG, "routes": [{**CONFIG["routes"][0], "auth": "api_key", "limits": [limit]}]}
    shown = refuse(snapshot_of(config), "rate_limited", route=0, limit=0, accept=[BROWSER]).text
    assert f"<dd>{words}" in shown


WORDS = snapshot_of(CONFIG)
TIMED: dict[str, Any] = {"spending": 5, **MONEY}
