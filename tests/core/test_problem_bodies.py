"""Bodies of refusals that the operator wrote: which one, with what filled in, and what is wrong."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from enginekit import Plane
from hypothesis import given
from hypothesis import strategies as st
from test_refusal import BROWSER, CONFIG, MONEY, PAYMENT, REQUEST, refuse, snapshot_of

from fastgate._core.snapshot.image import ImageBuilder
from fastgate._core.snapshot.snapshot import Snapshot
from fastgate.config.compiler import compile_gateway
from fastgate.config.file import load
from fastgate.config.slots import SlotBook
from fastgate.errors import REASONS, ConfigurationError
from fastgate.model.codec import decode
from fastgate.refusal.templates import refusals

AGENT = b"text/markdown"
LIMITED = {"route": 0, "limit": 0}


def configured(**bodies: Any) -> Snapshot:
    return snapshot_of({**CONFIG, "problems": {"bodies": bodies}})


def wrong(**bodies: Any) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        configured(**bodies)
    return caught.value


# ---- which one -----------------------------------------------------------------------------


async def test_clients_get_it_with_the_fields_of_the_refusal() -> None:
    limits = [{"name": "one", "rate": "1/h", "burst": 1, "by": ["route"]}]
    page = "<h1>{{title}}</h1><p title='{{route}}'>{{detail}}</p>"
    config = {
        "routes": [{"name": "open", "path": "/x", "respond": 200, "limits": limits}],
        "problems": {
            "bodies": {
                "rate_limited": {"json": {"wait": "{{retry_after}}"}, "html": page},
                "404": "Nothing here. {{request_id}}\n",
            }
        },
    }
    async with Plane(config) as plane:
        assert (await plane.get("/x")).status == 200
        refused = await plane.get("/x")
        assert refused.status == 429
        assert refused.headers["content-type"] == "application/json"
        assert refused.headers["cache-control"] == "no-store"
        assert json.loads(refused.body)["wait"] == int(refused.headers["retry-after"]) > 3000
        shown = await plane.get("/x", headers={"Accept": "text/html"})
        assert shown.headers["content-type"] == "text/html; charset=utf-8"
        assert "content-security-policy" not in shown.headers
        text = shown.body.decode()
        assert text.startswith("<h1>Too many requests</h1><p title='open'>")
        # What was not replaced is the gateway's own.
        agent = await plane.get("/x", headers={"Accept": "text/markdown"})
        assert agent.body.startswith(b"# ")
        for accept in ("*/*", "text/html", "text/markdown"):
            lost = await plane.get("/y", headers={"Accept": accept})
            assert lost.status == 404
            assert lost.headers["content-type"] == "text/plain; charset=utf-8"
            ident = lost.headers["x-request-id"].replace("-", "")
            assert lost.body.decode() == f"Nothing here. {ident}\n"
        head = await plane.request("HEAD", "/y")
        assert int(head.headers["content-length"]) == len(lost.body)
        # A reload takes it back.
        plane.install({"routes": config["routes"]})
        assert json.loads((await plane.get("/y")).body)["reason"] == "no_route"


def test_a_reason_before_its_status_before_their_class() -> None:
    snapshot = configured(**{"rate_limited": "reason", "429": "status", "4xx": "class", "502": "x"})

    def body(code: str) -> str:
        return refuse(snapshot, code).text

    assert body("rate_limited") == "reason"
    assert body("quota_exhausted") == "status"
    assert body("no_route") == "class"
    assert body("upstream_invalid_response") == "x"
    assert json.loads(body("overloaded"))["reason"] == "overloaded"


def test_a_402_is_replaced_on_purpose_only() -> None:
    snapshot = configured(**{"4xx": "class", "payment_required": {"html": "<p>{{required}}</p>"}})
    for reason in REASONS:
        if reason.status == 402:
            assert refuse(snapshot, reason.code, consumer=7, **MONEY).problem["reason"]
    assert refuse(snapshot, "payment_required", accept=[BROWSER], **MONEY).text == "<p>0.01</p>"
    snapshot = configured(**{"402": {"json": {"pay": "{{required}}", "how": "{{remedies}}"}}})
    found = json.loads(refuse(snapshot, "insufficient_balance", consumer=7, **MONEY).text)
    assert found["pay"] == "0.01"
    assert [one["action"] for one in found["how"]] == ["top_up"]


def test_a_body_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "404.html").write_text("<h1>{{title}}</h1>\n")
    document = tmp_path / "fastgate.yaml"
    document.write_text("version: 1\nproblems: {bodies: {no_route: {html: {file: 404.html}}}}\n")
    image = compile_gateway(load(document).gateway, generation=1, slots=SlotBook(), addresses={})
    shown = refuse(Snapshot(image.fd), "no_route", accept=[BROWSER])
    os.close(image.fd)
    assert shown.text == "<h1>No such route</h1>"


# ---- what is filled in ---------------------------------------------------------------------


def test_members_of_data_are_what_they_are_in_problems() -> None:
    names = ["status", "reason", "title", "detail", "type", "instance", "retry", "limit", "used"]
    names += ["policy", "remaining", "retry_after", "remedies", "diagnose"]
    snapshot = configured(rate_limited={"json": {name: f"{{{{{name}}}}}" for name in names}})
    problem = refuse(snapshot_of(CONFIG), "rate_limited", **LIMITED, resets=2**31).problem
    found = json.loads(refuse(snapshot, "rate_limited", **LIMITED, resets=2**31).text)
    assert found == {name: problem[name] for name in names}


def test_what_is_not_known_is_left_out() -> None:
    body = {
        "reason": "{{reason}}",
        "limit": "{{ limit }}",
        "inner": {"policy": "{{policy}}", "always": None},
        "list": ["{{limit}}", "a", 1, {"b": "{{status}}"}],
        "text": "at most {{limit}}.",
        "kept": None,
    }
    snapshot = configured(rate_limited={"json": body})
    assert json.loads(refuse(snapshot, "rate_limited", **LIMITED).text) == {
        "reason": "rate_limited",
        "limit": 2,
        "inner": {"policy": "burst", "always": None},
        "list": ["2", "a", 1, {"b": 429}],
        "text": "at most 2.",
        "kept": None,
    }
    assert json.loads(refuse(snapshot, "rate_limited").text) == {
        "reason": "rate_limited",
        "inner": {"always": None},
        "list": ["", "a", 1, {"b": 429}],
        "text": "at most .",
        "kept": None,
    }


def test_an_object_may_be_all_of_what_belongs_together() -> None:
    snapshot = configured(rate_limited={"json": {"max": "{{limit}}", "name": "{{policy}}"}})
    assert json.loads(refuse(snapshot, "rate_limited", **LIMITED).text) == {
        "max": 2,
        "name": "burst",
    }
    assert refuse(snapshot, "rate_limited").text == "{}"


def test_members_that_some_reasons_of_a_class_do_not_have_are_left_out() -> None:
    body = {"code": "{{reason}}", "wait": "{{retry_after}}", "text": "{{allow}}!"}
    snapshot = configured(**{"4xx": {"json": body}})
    assert json.loads(refuse(snapshot, "no_route").text) == {"code": "no_route", "text": "!"}
    assert "wait" in json.loads(refuse(snapshot, "rate_limited").text)


def test_balances_are_told_to_their_owner_alone() -> None:
    body = {"reason": "{{reason}}", "left": "{{balance}}", "text": "{{balance}} of {{required}}"}
    page = "{{balance}}|{{required}}"
    snapshot = configured(**{"402": {"json": body, "html": page, "markdown": page}})
    owner = {"consumer": 7, **MONEY}
    assert json.loads(refuse(snapshot, "insufficient_balance", **owner).text) == {
        "reason": "insufficient_balance",
        "left": "0.002",
        "text": "0.002 of 0.01",
    }
    assert json.loads(refuse(snapshot, "insufficient_balance", **MONEY).text) == {
        "reason": "insufficient_balance",
        "text": " of 0.01",
    }
    for accept in (BROWSER, AGENT):
        shown = refuse(snapshot, "insufficient_balance", accept=[accept], **MONEY)
        assert shown.text == "|0.01"
    assert REQUEST.hex() not in shown.text


def test_texts_of_ours_are_escaped_for_the_form() -> None:
    text = "<a href=\"{{diagnose}}\" title=\"{{detail}}\">{{title}}</a>"  # fmt: skip
    forms = {"html": text, "markdown": text}
    snapshot = configured(subscription_paused=forms)
    shown = refuse(snapshot, "subscription_paused", accept=[BROWSER], consumer=7)
    assert "API&#x27;s operator" in shown.text
    assert re.search(r'href="http://api.example:8080/_fastgate/requests/\w+\?cap=', shown.text)
    assert "API's operator" in refuse(snapshot, "subscription_paused", accept=[AGENT]).text
    xml = {"body": "<e>{{detail}}</e>", "content_type": "application/xml"}
    shown = refuse(configured(forbidden=xml), "forbidden")
    assert shown.headers["content-type"] == "application/xml"
    assert "API&#x27;s operator" in shown.text
    assert "API's operator" in refuse(configured(forbidden="{{detail}}"), "forbidden").text


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=20).filter(lambda t: "\1" not in t)))
def test_other_texts_arrive_as_they_are_written(data: dict[str, str]) -> None:
    plain = {key: value for key, value in data.items() if "{{" not in value}
    snapshot = configured(no_route={"json": {"data": plain}})
    assert json.loads(refuse(snapshot, "no_route").text) == {"data": plain}


def test_a_page_may_be_large() -> None:
    page = "<!-- é -->" + "x" * 32_000 + "{{request_id}}" * 20
    shown = refuse(configured(no_route={"html": page}), "no_route", accept=[BROWSER])
    assert shown.text == "<!-- é -->" + "x" * 32_000 + REQUEST.hex() * 20
    assert int(shown.headers["content-length"]) == len(shown.text.encode())


# ---- what is wrong -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bodies", "says"),
    [
        ({"no_rout": "x"}, "'no_rout' is not a reason, status or class of statuses of a refusal"),
        ({"no_rout": "x"}, "did you mean 'no_route'?"),
        ({"200": "x"}, "'200' is not a reason"),
        ({"client_closed": "x"}, "'client_closed' is not a reason"),
        ({"no_route": {}}, "give json, html, markdown or body"),
        ({"no_route": {"body": "x", "html": "x"}}, "body is for everyone; leave out html, or body"),
        ({"no_route": {"html": "x", "content_type": "text/html"}}, "belongs to json or body"),
        ({"no_route": {"body": "x", "content_type": "html"}}, "is not a media type such as"),
        ({"no_route": {"body": "x", "content_type": "a/b\n"}}, "content_type"),
        ({"no_route": {"body": "x", "content_type": "a/b\r\nX: 1"}}, "is not a media type such as"),
        ({"no_route": {"text": "x"}}, "text"),
    ],
)  # fmt: skip
def test_what_no_configuration_may_have(bodies: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        decode({"version": 1, "problems": {"bodies": bodies}})
    assert says in str(caught.value)
    assert caught.value.path.startswith("problems.bodies")


@pytest.mark.parametrize(
    ("bodies", "path", "says"),
    [
        ({"no_route": "{{limit}}"}, "no_route.body", "{{limit}} is not a member of this refusal"),
        ({"404": {"json": {"a": ["{{x}}"]}}}, "404.json", "Its members are detail, instance"),
        ({"4xx": {"html": "{{invoice}}"}}, "4xx.html", "{{invoice}} is not a member"),
        ({"402": {"html": "{{remedies}}"}}, "402.html", "{{remedies}} is a list"),
        ({"402": {"json": "see {{remedies}}"}}, "402.json", "{{remedies}} is a list"),
        (
            {"rate_limited": {"json": {"a": "{{limit}}", "b": "{{resets_at}}"}}},
            "rate_limited.json",
            "all members of an object (a, b) may be missing. Add one that is always there",
        ),
        ({"no_route": "a\1b"}, "no_route.body", "a control character"),
        ({"no_route": "é" * 20_000}, "no_route.body", "more than 32 KiB"),
        ({"no_route": "{{request_id}}" * 65}, "no_route.body", "more than 64 values"),
    ],
)
def test_what_the_compiler_refuses(bodies: dict[str, Any], path: str, says: str) -> None:
    error = wrong(**bodies)
    assert error.path == f"problems.bodies.{path}"
    assert says in str(error)


def test_payments_are_offered_whatever_the_body_says() -> None:
    image = ImageBuilder()
    image.add_route("x402", slot=0, payment_required=PAYMENT)
    bodies = decode({"version": 1, "problems": {"bodies": {"402": "Pay."}}}).problems.bodies
    for refusal in refusals(bodies=bodies):
        image.set_refusal(
            refusal.number,
            fields=refusal.fields,
            body=refusal.body,
            status=refusal.status,
            close=refusal.close,
        )
    fd = image.finish(1)
    answer = refuse(Snapshot(fd), "payment_required", route=0, **MONEY)
    os.close(fd)
    assert answer.text == "Pay."
    assert answer.headers["payment-required"] == PAYMENT.split()[1]
