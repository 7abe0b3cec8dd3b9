"""Refusals as templates: filled in, they are valid HTTP and valid problem documents."""

import json
import re
from http import HTTPStatus
from typing import get_args

import h11
import pytest

from fastgate._core import snapshot
from fastgate.errors import REASON_BY_CODE, REASON_BY_NUMBER, REASONS
from fastgate.refusals import MEMBERS, PHRASES, Links, Refusal, refusals
from fastgate.remedies import REMEDIES, Action, Retry

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
    "G": "a" * 38,
    "H": "http://api.example.com",
}
ALL = refusals()
LINKED = refusals(links=Links("", True))


def fill(template: bytes, sections: str = "") -> bytes:
    """What a worker does, in Python; `sections` are those whose condition holds."""

    def section(match: re.Match[bytes]) -> bytes:
        return match[2] if match[1].decode() in sections else b""

    shown = re.sub(rb"\x01([a-z])(.*?)\x01\.", section, template, flags=re.DOTALL)
    return re.sub(rb"\x01(.)", lambda match: HOLES[match[1].decode()].encode(), shown)


def templates(refusal: Refusal) -> list[bytes]:
    return [refusal.head, refusal.body, *refusal.html, *refusal.markdown]


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
def test_sections_are_closed_and_do_not_nest(refusal: Refusal) -> None:
    for template in templates(refusal):
        open_ = False
        for mark in re.findall(rb"\x01([a-z.])", template):
            assert (mark == b".") == open_
            open_ = mark != b"."
        assert not open_


@pytest.mark.parametrize("refusal", LINKED, ids=lambda r: REASON_BY_NUMBER[r.number].code)
@pytest.mark.parametrize("sections", ["", "g", "bq", "q", "bqeltgo"])
def test_the_body_is_json_whatever_is_known(refusal: Refusal, sections: str) -> None:
    problem = json.loads(fill(refusal.body, sections))
    reason = REASON_BY_NUMBER[refusal.number]
    assert problem["type"] == f"/_fastgate/problems/{reason.code}"
    assert problem["retry"] in get_args(Retry)
    assert ("error" in problem) == ("o" in sections)
    for remedy in problem.get("remedies", []):
        assert remedy["action"] in get_args(Action)
        assert ("href" in remedy) == ("g" in sections)
    if reason.status == 402:
        assert problem["remedies"]
        assert ("diagnose" in problem) == ("g" in sections)


def test_remedies_are_of_reasons_that_exist_and_paying_mends_402s() -> None:
    assert set(REMEDIES) <= set(REASON_BY_CODE)
    assert {reason.code for reason in REASONS if reason.status == 402} <= set(REMEDIES)


def test_every_reason_with_a_status_has_one() -> None:
    assert {refusal.number for refusal in ALL} == {r.number for r in REASONS if r.status}


@pytest.mark.parametrize("refusal", ALL, ids=lambda r: REASON_BY_NUMBER[r.number].code)
def test_filled_in_it_is_a_valid_answer(refusal: Refusal) -> None:
    body = fill(refusal.body)
    head = fill(refusal.head) + b"%d\r\n\r\n" % len(body)
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
    assert (b"www-authenticate" in headers) == (refusal.status == 401)
    assert (b"allow" in headers) == (refusal.status == 405)
    problem = json.loads(bytes(data.data))
    reason = REASON_BY_NUMBER[refusal.number]
    assert problem["type"] == f"urn:fastgate:reason:{reason.code}"
    assert problem["reason"] == reason.code
    assert problem["status"] == refusal.status
    assert problem["title"] == reason.title
    assert problem["detail"] == reason.text
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
        if b"Retry-After" in refusal.head:
            assert REASON_BY_NUMBER[refusal.number].retryable


def test_everything_that_is_counted_out_says_so_in_numbers() -> None:
    for reason in REASONS:
        if reason.status == 429 and reason.code != "hold_in_flight":
            assert {"policy", "limit", "retry_after"} <= set(MEMBERS[reason.code])


def test_types_can_be_addresses_of_pages() -> None:
    (first, *_) = refusals("https://api.example.com/problems/", server="gate")
    assert json.loads(fill(first.body))["type"].startswith("https://api.example.com/problems/")
    assert b"\r\nServer: gate\r\n" in first.head


def test_templates_fit_where_workers_fill_them() -> None:
    for refusal in refusals("https://" + "x" * 500, "s" * 128, Links("https://" + "x" * 400, True)):
        for head, body in (refusal[2:4], refusal.html, refusal.markdown):
            assert len(body) + 2048 < 10240
            assert len(head) + 1024 < 2048


def test_phrases_are_of_statuses_that_exist() -> None:
    assert set(PHRASES) <= {int(status) for status in HTTPStatus}
