"""Money in coins, exactly; the names of entries; who may be a provider."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgate.billing.payments.base import (
    AmountError,
    Capability,
    Decline,
    PaymentProvider,
    Unsupported,
    Wanted,
    exponent,
    from_minor,
    make_providers,
    to_minor,
)
from fastgate.billing.payments.books import payment_id, refund_id
from fastgate.billing.payments.stripe_objects import STATUSES, coins_of, decline_of, money_of
from fastgate.errors import ConfigurationError
from fastgate.model.billing import Billing
from fastgate.model.units import Money
from fastgate.store.engine import Store
from fastgate.store.payments import CustomerTable

CURRENCIES = ("EUR", "USD", "JPY", "KWD", "ISK", "UGX", "MGA", "CLP", "XPF")
NOW = datetime(2031, 5, 4, 12, 0, tzinfo=UTC)


@given(st.integers(0, 10**12), st.sampled_from(CURRENCIES))
def test_coins_and_back(coins: int, currency: str) -> None:
    assert to_minor(from_minor(coins, currency.lower()), None) == coins
    assert money_of(coins, currency.lower()).currency == currency


def test_refusals_write_amounts_with_the_same_decimals() -> None:
    """The core has its own list of the currencies whose coins are not hundredths."""
    source = (Path(__file__).parents[2] / "fastgate/_core/exchange/number_text.pyx").read_text()
    listed = {}
    for name, decimals in (("none", 0), ("three", 3)):
        found = re.search(rf'char {name}\[\] = "([A-Z ]+)"', source)
        assert found is not None
        listed |= dict.fromkeys(found[1].split(), decimals)
    letters = [chr(code) for code in range(ord("A"), ord("Z") + 1)]
    every = ("".join(code) for code in product(letters, repeat=3))
    assert {code: exponent(code) for code in every if exponent(code) != 2} == listed


@given(st.integers(1, 10**15), st.sampled_from(CURRENCIES))
def test_an_amount_is_said_exactly_or_not_at_all(micros: int, currency: str) -> None:
    money = Money(micros, currency)
    try:
        coins = coins_of(money)
    except AmountError:
        # Stripe's smallest step, in micro-units, from its own documents.
        step = {"JPY": 10**6, "KWD": 10**4, "ISK": 10**6, "UGX": 10**6, "MGA": 10**6}
        assert micros % step.get(currency, 10 ** (6 - exponent(currency))) != 0
    else:
        assert money_of(coins, currency.lower()) == money


@pytest.mark.parametrize(
    ("text", "coins"),
    [
        ("12.50 EUR", 1250),
        ("500 JPY", 500),
        ("5 ISK", 500),
        ("5 UGX", 500),
        ("5.12 KWD", 5120),
        ("7 MGA", 7),
    ],
)
def test_coins_as_stripe_counts_them(text: str, coins: int) -> None:
    assert coins_of(Money.parse(text)) == coins


@pytest.mark.parametrize(
    "text", ["0.005 EUR", "1.5 JPY", "5.50 ISK", "5.124 KWD", "0 EUR", "1 USDC"]
)
def test_what_cannot_be_charged_is_refused(text: str) -> None:
    with pytest.raises(AmountError):
        coins_of(Money.parse(text))


def test_the_names_of_entries_fit_and_differ() -> None:
    long = "x" * 200
    assert payment_id("stripe", "pi_1") == "pay:stripe:pi_1"
    names = {
        payment_id("stripe", long),
        payment_id("stripe", long + "y"),
        refund_id("stripe", long),
    }
    assert len(names) == 3
    assert all(len(name) <= 144 for name in names)


async def test_a_provider_says_what_it_cannot_do() -> None:
    class Bare(PaymentProvider):
        name = "bare"

    bare = Bare()
    with pytest.raises(Unsupported, match="'bare' cannot take top-ups"):
        await bare.create_top_up("acc", Money.parse("1 EUR"), "https://here")
    with pytest.raises(Unsupported):
        bare.verify_webhook({}, b"")
    assert (await bare.health()).ok
    assert Capability.TOP_UP not in bare.capabilities


async def test_providers_come_from_entry_points(sqlite_store: Store) -> None:
    customers = CustomerTable(sqlite_store, lambda: NOW)

    def wanted(billing: Billing) -> Wanted:
        return Wanted(billing, sqlite_store, customers, lambda: NOW)

    assert [item.name for item in make_providers(wanted(Billing()))] == ["manual"]
    with pytest.raises(
        ConfigurationError, match=r"no payment provider 'paypal'; installed: .*manual"
    ):
        make_providers(wanted(Billing(providers=["paypal"])))
    with pytest.raises(ConfigurationError, match=r"needs `billing\.stripe`"):
        make_providers(wanted(Billing(providers=["stripe"])))


async def test_stripe_is_made_from_the_configuration(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastgate.billing.payments.base import ProviderRefused
    from fastgate.billing.payments.stripe import StripeProvider
    from fastgate.model.billing import Stripe
    from fastgate.model.secret import Secret

    settings = Stripe(
        secret=Secret.parse("env:FASTGATE_TEST_STRIPE"),
        webhook_secrets=[Secret.parse("env:FASTGATE_TEST_HOOK")],
    )
    billing = Billing(stripe=settings)
    customers = CustomerTable(sqlite_store, lambda: NOW)
    first, second = make_providers(Wanted(billing, sqlite_store, customers, lambda: NOW))
    assert (first.name, second.name) == ("stripe", "manual")
    provider = cast(StripeProvider, first)
    monkeypatch.delenv("FASTGATE_TEST_STRIPE", raising=False)
    with pytest.raises(ProviderRefused, match="FASTGATE_TEST_STRIPE"):
        provider.secrets.api_key()
    monkeypatch.setenv("FASTGATE_TEST_STRIPE", "sk_test_1")
    monkeypatch.setenv("FASTGATE_TEST_HOOK", "whsec_1")
    assert provider.secrets.api_key() == "sk_test_1"
    one = provider.client
    assert provider.client is one
    monkeypatch.setenv("FASTGATE_TEST_STRIPE", "sk_test_2")
    assert provider.client is not one
    assert provider.secrets.webhook_secrets() == ["whsec_1"]
    await provider.close()


DOCS = (Path(__file__).parents[2] / "docs" / "providers.md").read_text()


async def test_the_documented_provider_works() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCS, re.S)
    names: dict[str, Any] = {}
    exec(code, names)
    provider: PaymentProvider = names["create"](None)
    page = await provider.create_top_up("acc_a", Money.parse("1 EUR"), "https://b")
    assert page.reference == "acc_a"
    with pytest.raises(Unsupported):
        await provider.charge_saved("acc_a", Money.parse("1 EUR"), "k")


def test_the_documented_statuses_and_declines_are_those_of_the_tables() -> None:
    rows = [line for line in DOCS.splitlines() if line.startswith("| `")]
    for status, standing in STATUSES.items():
        (row,) = (line for line in rows if f"`{status}`" in line.split("|")[1])
        assert row.split("|")[3].strip() == (f"`{standing.reason}`" if standing.reason else "")
    for decline in Decline:
        (row,) = (line for line in rows if line.startswith(f"| `{decline.value}` |"))
        codes = re.findall(r"`(\w+)`", row.split("|")[2])
        assert codes
        assert {decline_of(code) for code in codes} == {decline}
