"""The billing section and places of secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastgate.errors import ConfigurationError
from fastgate.model.billing import Billing
from fastgate.model.codec import decode, encode
from fastgate.model.gateway import Gateway
from fastgate.model.secret import MOST, Secret

FULL = {
    "currency": "EUR",
    "public_url": "https://api.acme.example",
    "time_zone": "Europe/Berlin",
    "seller": {"name": "Acme", "address": ["1 Road"], "prefix": "ACME"},
    "spending": {"account": "100 EUR", "credential": {"amount": "5 EUR", "period": "day"}},
    "grace": {"payment": "3d", "provider_amount": "2 EUR"},
    "dunning": {"retries": ["1d", "3d"]},
    "notices": {"low_balance": "5 EUR", "renewal_days": [7, 1]},
    "smtp": {
        "host": "mail.example",
        "user": "acme",
        "password": "path:/run/secrets/mail",
        "sender": "Acme <billing@acme.example>",
    },
    "webhooks": [{"name": "shop", "url": "https://s.example/h", "secret": "env:HOOK"}],
    "stripe": {"secret": "env:STRIPE", "webhook_secrets": "env:WHSEC"},
    "x402": {"facilitator": "https://f.example", "network": "eip155:8453"},
}


def test_a_full_section_survives_the_way_there_and_back() -> None:
    billing = decode(FULL, Billing)
    assert decode(encode(billing), Billing) == billing
    assert billing.spending.account is not None
    assert billing.spending.account.period == "month"
    assert billing.provider_names == ["stripe", "manual"]


def test_all_of_it_may_be_left_out() -> None:
    billing = decode({"version": 1}, Gateway).billing
    assert billing == Billing()
    assert billing.provider_names == ["manual"]
    assert [str(wait) for wait in billing.dunning.retries] == ["1d", "2d", "4d", "7d"]
    assert encode(billing) == {}


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"time_zone": "Mars/Olympus"}, "no time zone"),
        ({"time_zone": "../../etc/passwd"}, "no time zone"),
        ({"currency": "USDC"}, "currency"),
        ({"dunning": {"retries": ["1d"] * 9}}, "retries"),
        ({"dunning": {"retries": ["5m"]}}, "once an hour"),
        ({"notices": {"levels": [0]}}, "levels"),
        ({"public_url": "api.example"}, "public_url"),
        ({"seller": {"prefix": "a b"}}, "prefix"),
    ],
)
def test_faults(section: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        decode(section, Billing)


@pytest.mark.parametrize(
    "text", ["sk_live_12345678", "env:", "env:A B", "path:relative", "file:/x", "env:1A", ""]
)
def test_a_secret_is_never_in_the_document_nor_in_the_error(text: str) -> None:
    with pytest.raises(
        ConfigurationError, match="never write a secret itself into the document"
    ) as caught:
        decode({"secret": text}, type(decode(FULL, Billing).stripe))
    if text and not text.startswith(("env:", "file:", "path:")):
        assert text not in str(caught.value)


def test_secrets_are_read_when_they_are_used(tmp_path: Path) -> None:
    assert Secret.parse("env:KEY").reveal({"KEY": " s3cret\n"}) == "s3cret"
    file = tmp_path / "secret"
    place = Secret.parse(f"path:{file}")
    for content in ("one\n", "two"):  # a replaced file is a rotated secret
        file.write_text(content)
        assert place.reveal() == content.strip()
    file.write_text(" " * (MOST + 1))
    with pytest.raises(ConfigurationError, match="is empty"):
        place.reveal()
    file.unlink()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        place.reveal()
    with pytest.raises(ConfigurationError, match="env:KEY is empty or not set"):
        Secret.parse("env:KEY").reveal({})
    assert "s3cret" not in repr(Secret.parse("env:KEY"))
