"""`x402` of a route: what may be written, what its handler is told."""

from __future__ import annotations

import os
from typing import Any

import pytest

from fastgate._core.snapshot.snapshot import Snapshot
from fastgate.config.compiler import SlotBook, compile_gateway
from fastgate.errors import ConfigurationError
from fastgate.model import codec
from fastgate.model.x402 import HANDLER, Terms, read_terms

SHOP, TOKEN = "0x" + "1" * 40, "0x" + "2" * 40


def document(more: dict[str, Any] | None = None, **x402: Any) -> dict[str, Any]:
    written = {
        "pay_to": SHOP, "network": "eip155:84532", "asset": TOKEN, "amount": "1000",
        "facilitator": "https://facilitator.test/v2/", **x402,
    }  # fmt: skip
    return {
        "version": 1,
        "upstreams": [{"name": "app", "targets": ["http://127.0.0.1:1"]}],
        "services": [{"name": "svc", "upstream": "app"}],
        "routes": [
            {
                "name": "paid", "path": "/a/{rest*}", "service": "svc",
                "x402": {name: value for name, value in written.items() if value is not None},
                **(more or {}),
            }
        ],
    }  # fmt: skip


def terms(source: dict[str, Any]) -> Terms:
    """What the handler is told, out of the compiled image."""
    image = compile_gateway(codec.decode(source), generation=1, slots=SlotBook(), addresses={})
    snapshot = Snapshot(image.fd)
    os.close(image.fd)
    (handler,) = snapshot.handlers()
    name, _, text = handler.partition(" ")
    assert name == HANDLER
    return read_terms(text)


def test_the_terms_of_the_handler():
    more = {
        "auth": {"api_key": {"header": "X-Key"}},
        "timeout": "7s",
    }
    found = terms(document(more, valid_for="90s", timeout="3s", keep="8KiB", description="it"))
    assert (found.route, found.upstream, found.timeout) == ("paid", "app", 7.0)
    assert (found.valid_for, found.facilitator_timeout, found.keep) == (90, 3.0, 8192)
    assert found.facilitator == "https://facilitator.test/v2"
    assert (found.amount, found.description, found.version1) == ("1000", "it", None)


@pytest.mark.parametrize(
    ("price", "decimals", "amount"),
    [("0.001 USD", 6, "1000"), ("2 EUR", 0, "2"), ("0.000001 USD", 18, "1000000000000")],
)
def test_a_price_is_counted_in_the_tokens_unit(price, decimals, amount):
    found = terms(document(amount=None, price=price, asset_decimals=decimals))
    assert found.amount == amount


def test_what_the_route_leaves_open_comes_from_billing():
    billing = {"x402": {"facilitator": "http://other.test", "pay_to": SHOP, "timeout": "4s"}}
    source = document(pay_to=None, facilitator=None)
    found = terms({**source, "billing": billing})
    assert (found.pay_to, found.facilitator) == (SHOP, "http://other.test")
    assert found.facilitator_timeout == 4.0
    own = terms({**document(timeout="9s"), "billing": billing})
    assert (own.facilitator, own.facilitator_timeout) == ("https://facilitator.test/v2", 9.0)


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        (document(pay_to=None), "set neither by the route nor by billing.x402"),
        (document(pay_to="0x12"), "pay_to"),
        (document(network="solana:mainnet"), "network"),
        (document(price="1 USD"), "exactly one of amount and price"),
        (document(amount=None), "exactly one of amount and price"),
        (document(amount=str(2**256)), "more than a token can count"),
        (document(amount="0"), "amount"),
        (document(amount="1", asset_decimals=18), "not a whole number of millionths of a token"),
        (document(amount=str(2**60 + 1)), "at most 2^60 millionths"),
        (document(amount=None, price="0.0000015 USD"), "finer than a millionth"),
        (document(amount=None, price="0.001 USD", asset_decimals=2), "not a whole positive number"),
        (document(amount=None, price="0 USD"), "not a whole positive number"),
        (document(valid_for="5s"), "less than 10s"),
        (document(origin="https://a.example/path"), "origin"),
        (document(facilitator_headers={"Host": "env:X"}), "set by the gateway"),
        (document(facilitator_headers={"Authorization": "Bearer 1"}), "the place of a secret"),
        (document({"price": "1 USD"}), "not both"),
        (document({"websocket": True}), "cannot upgrade"),
        (document({"service": None, "handler": "a:b"}), "only a route with a service"),
        (document(more_of_it=1), "more_of_it"),
    ],
)
def test_what_is_refused(source, fault):
    with pytest.raises(ConfigurationError) as error:
        terms(source)
    assert fault in str(error.value)
    assert "x402" in str(error.value) or error.value.path.startswith("routes[0]")
