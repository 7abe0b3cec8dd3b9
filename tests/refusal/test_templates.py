"""Refusals as templates: filled in, they are valid HTTP and valid problem documents."""

import json
import re
from http import HTTPStatus
from typing import get_args

import h11
import pytest

from fastgate._core.http.phrases import PHRASES
from fastgate._core.snapshot import snapshot
from fastgate.errors import REASON_BY_CODE, REASON_BY_NUMBER, REASONS
from fastgate.refusal.remedies import REMEDIES, Action, Retry
from fastgate.refusal.templates import MEMBERS, Links, Refusal, refusals

HOLES = {
    "I": "0af7651916cd43dd8448eb211c80319c",
    "L": "100",
    "U": "100",
    "R": "0",
    "A": "30",
    "T": "2026-11-20T12:00:00Z",
    "P": "burst",
    "N": "orders-read",
    "D": "A line ends with a line feed alone.",
    "M": "GET, HEAD",
    "W": 'Bearer realm="fastgate"',
    "B": "0.002",
    "Q": "0.01",
    "S": "0.008",
    "E": "20",
    "C": "USD",
    "F": "0.5",
    "V": "key",
    "O": "pro",
    "J": "50",
    "Y": "EUR",
    "X": "2026-12-01T00:00:00Z",
    "K": "INV-2026-000001",
    "Z": "2026-11-30T00:00:00Z",
    "1": "tokens",
    "2": "4000",
    "3": "1200",
    "4": "20 November 2026, 12:00 UTC",
    "5": "1 December 2026, 00:00 UTC",
    "6": "30 November 2026, 00:00 UTC",
    "7": "30 seconds",
    "8": "100 requests a minute for each consumer",
    "9": "503",
    "0": "We are back at noon.",
    "=": '[{"pointer":"/count","detail":"must be at least 1"}]',
    "@": "1",
    ";": "2026-11-30T12:00:00Z",
    ":": "2026-11-30T12:00:05Z",
    "?": "orders:read",
    "G": "a" * 38,
    "H": "http://api.example.com",
}
ALL = refusals()
LINKED = refusals(links=Links("", True))


def fill(template: bytes, sections: str = "") -> bytes:
    """What a worker does, in Python; `sections` are those whose condition holds."""

    def section(match: re.Match[bytes]) -> bytes:
        return match[2] if match[1].decode() in sections else b""

    inner = rb"\x01([a-z])((?:[^\x01]|\x01[^a-z.])*)\x01\."  # sections may stand within others
    shown = template
    while re.search(inner, shown):
        shown = re.sub(inner, section, shown)
    return re.sub(rb"\x01(.)", lambda match: HOLES[match[1].decode()].encode(), shown)


def templates(refusal: Refusal) -> list[bytes]:
    return [refusal.fields, refusal.body, *refusal.html, *refusal.markdown]


def test_the_marks_are_those_of_the_core() -> None:
    holes = {chr(int(hole)) for hole in snapshot.Hole.__members__.values()}
    sections = {chr(int(mark)) for mark in snapshot.Section.__members__.values()}
    assert holes == set(HOLES)
    used = {
        mark.decode()
        for refusal in [*ALL, *LINKED]
        for template in templates(refusal)
        for mark in re.findall(rb"\x01(.)", template)
    }
    assert used <= holes | sections
    assert sections <= used


@pytest.mark.parametrize("refusal", LINKED, ids=lambda r: REASON_BY_NUMBER[r.number].code)
def test_sections_are_closed(refusal: Refusal) -> None:
    for template in templates(refusal):
        depth = 0
        for mark in re.findall(rb"\x01([a-z.])", template):
            depth += -1 if mark == b"." else 1
            assert depth >= 0
        assert depth == 0


@pytest.mark.parametrize("refusal", LINKED, ids=lambda r: REASON_BY_NUMBER[r.number].code)
@pytest.mark.parametrize(
    "sections", ["", "g", "bq", "q", "f", "w", "fu", "wf", "pds", "bqeltgo", "bqeltgohpdsufw"]
)
def test_the_body_is_json_whatever_is_known(refusal: Refusal, sections: str) -> None:
    problem = json.loads(fill(refusal.body, sections))
    reason = REASON_BY_NUMBER[refusal.number]
    assert problem["type"] == f"/_fastgate/problems/{reason.code}"
    assert problem["retry"] in get_args(Retry)
    assert ("error" in problem) == ("o" in sections)
    for remedy in problem.get("remedies", []):
        assert remedy["action"] in get_args(Action)
        if remedy["action"] in ("wait", "reduce") or reason.code == "payment_invalid":
            assert "href" not in remedy  # there is no page on which it is done
        else:
            assert ("href" in remedy) == ("g" in sections)
    if reason.status == 402:
        assert ("diagnose" in problem) == ("g" in sections)


def test_remedies_are_of_reasons_that_exist_and_paying_helps_after_402s() -> None:
    assert set(REMEDIES) <= set(REASON_BY_CODE)
    # Nobody pays for the caller, so none of the pages would help.
    without = {"payment_required"}
    assert {r.code for r in REASONS if r.status == 402} - without <= set(REMEDIES)


def test_a_remedy_is_there_only_where_it_helps() -> None:
    def remedies(code: str, sections: str) -> list[str]:
        refusal = next(r for r in LINKED if REASON_BY_NUMBER[r.number].code == code)
        return [one["action"] for one in json.loads(fill(refusal.body, sections))["remedies"]]

    # Fewer units help only where units were asked for, and some would fit.
    assert remedies("insufficient_balance", "bq") == ["top_up"]
    assert remedies("insufficient_balance", "bqu") == ["top_up"]
    assert remedies("insufficient_balance", "bquf") == ["top_up", "reduce"]
    # A request that costs more than the whole limit is not allowed after it has reset either.
    assert remedies("spending_limit_reached", "bqe") == []
    assert remedies("spending_limit_reached", "bqew") == ["wait"]
    assert remedies("spending_limit_reached", "bqefu") == ["reduce"]
    assert remedies("spending_limit_reached", "bqefuw") == ["wait", "reduce"]
    assert remedies("hold_in_flight", "bqh") == ["wait", "top_up"]
    assert remedies("rate_limited", "l") == ["wait"]


@pytest.mark.parametrize("refusal", LINKED, ids=lambda r: REASON_BY_NUMBER[r.number].code)
def test_no_page_shows_times_and_names_as_programs_write_them(refusal: Refusal) -> None:
    for _, body in (refusal.html, refusal.markdown):
        shown = fill(body, "bqeltghpdsufw").decode()
        assert not re.search(r"\d{4}-\d\d-\d\dT", shown)
        assert "resets_at" not in shown
        assert "burst" not in shown  # a limit's label


def test_only_what_is_done_on_a_page_is_a_button() -> None:
    refusal = next(r for r in LINKED if REASON_BY_NUMBER[r.number].code == "quota_exhausted")
    page = fill(refusal.html[1], "ltg").decode()
    assert '<ul class="act">' not in page
    assert "<p>Wait for the limit to reset on 20 November 2026, 12:00 UTC.</p>" in page


def test_a_top_up_link_brings_what_is_missing() -> None:
    refusal = next(r for r in LINKED if REASON_BY_NUMBER[r.number].code == "insufficient_balance")
    (top_up, *_) = json.loads(fill(refusal.body, "bqg"))["remedies"]
    assert top_up["href"].endswith("&amount=0.008&currency=USD")
    (top_up, *_) = json.loads(fill(refusal.body, "g"))["remedies"]
    assert "amount" not in top_up["href"]


def test_every_reason_with_a_status_has_one() -> None:
    assert {refusal.number for refusal in ALL} == {r.number for r in REASONS if r.status}


@pytest.mark.parametrize("refusal", ALL, ids=lambda r: REASON_BY_NUMBER[r.number].code)
def test_filled_in_it_is_a_valid_answer(refusal: Refusal) -> None:
    body = fill(refusal.body)
    head = b"HTTP/1.1 %d \r\n%bContent-Length: %d\r\n\r\n" % (
        refusal.status, fill(refusal.fields), len(body)
    )  # fmt: skip
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(head + body)
    response = client.next_event()
    data = client.next_event()
    assert isinstance(response, h11.Response)
    assert isinstance(data, h11.Data)
    assert isinstance(client.next_event(), h11.EndOfMessage)
    assert response.status_code == refusal.status
    headers = dict(response.headers)
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"cache-control"] == b"no-store"
    assert (b"allow" in headers) == (refusal.status == 405)
    problem = json.loads(bytes(data.data))
    reason = REASON_BY_NUMBER[refusal.number]
    challenged = refusal.status == 401 or reason.code == "insufficient_scope"
    assert (b"www-authenticate" in headers) == challenged
    assert problem["type"] == f"urn:fastgate:reason:{reason.code}"
    assert problem["reason"] == reason.code
    assert problem["status"] == refusal.status
    assert problem["title"] == reason.title
    assert problem["detail"].startswith(reason.text)
    assert problem["instance"] == f"urn:fastgate:request:{HOLES['I']}"
    assert (b"retry-after" in headers) == ("retry_after" in problem)


def test_numbers_are_numbers_and_texts_are_texts() -> None:
    refusal = next(r for r in ALL if REASON_BY_NUMBER[r.number].code == "quota_exhausted")
    problem = json.loads(fill(refusal.body, "lt"))
    assert problem["limit"] == 100
    assert problem["used"] == 100
    assert problem["remaining"] == 0
    assert problem["retry_after"] == 30
    assert problem["policy"] == "burst"
    assert problem["resets_at"] == "2026-11-20T12:00:00Z"


def test_only_what_waiting_fixes_says_when() -> None:
    for refusal in ALL:
        if b"Retry-After" in refusal.fields:
            assert REASON_BY_NUMBER[refusal.number].retryable


def test_everything_that_is_counted_out_says_so_in_numbers() -> None:
    for reason in REASONS:
        if reason.status == 429 and reason.code != "hold_in_flight":
            assert {"policy", "limit", "retry_after"} <= set(MEMBERS[reason.code])


def test_types_can_be_addresses_of_pages() -> None:
    (first, *_) = refusals("https://api.example.com/problems/", server="gate")
    assert json.loads(fill(first.body))["type"].startswith("https://api.example.com/problems/")
    assert b"\r\nServer: gate\r\n" in first.fields


def test_templates_fit_where_workers_fill_them() -> None:
    for refusal in refusals("https://" + "x" * 500, "s" * 128, Links("https://" + "x" * 400, True)):
        for head, body in (refusal[2:4], refusal.html, refusal.markdown):
            assert len(body) + 2048 < 10240
            assert len(head) + 1024 < 2048


def test_phrases_are_of_statuses_that_exist() -> None:
    assert set(PHRASES) <= {int(status) for status in HTTPStatus}
