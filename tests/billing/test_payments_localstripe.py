"""Stripe by its official library, against localstripe: a process of its own, over HTTP.

What localstripe does is tested here (customers, methods, charges, declines, refunds, plans and
subscriptions, signed webhooks, events); what it lacks, in `test_payments_stripe.py`.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import pytest
from aiohttp import web
from stripekit import FixedSecrets

from fastgate.billing.payments.base import (
    ChargeStatus,
    Decline,
    EventKind,
    ProviderRefused,
    Purpose,
    SubscriptionState,
)
from fastgate.billing.payments.stripe import StripeProvider
from fastgate.model.units import Money
from fastgate.store.engine import Store
from fastgate.store.payments import CustomerTable

pytest.importorskip("localstripe", reason="install localstripe to run this")

EUR = Money.parse("10 EUR")
HOOK = "whsec_local"

# Its own command would listen on every address of the machine and keep its data in a file that
# all users share.
SERVE = """
import sys
from aiohttp import web
from localstripe.resources import Store
from localstripe.server import app
Store.dump_to_disk = lambda self: None
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a fresh localstripe."""
    folder: Path = tmp_path_factory.mktemp("localstripe")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(port)],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        asyncio.run(_answers(process, port))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


async def _answers(process: subprocess.Popen[bytes], port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            assert process.poll() is None, "localstripe ended"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                await writer.wait_closed()
                return


class Local(StripeProvider):
    """localstripe knows no `automatic_payment_methods`."""

    off_session: Mapping[str, Any] = MappingProxyType({})


class Bench:
    def __init__(self, url: str, store: Store) -> None:
        self.customers = CustomerTable(store, lambda: datetime.now(UTC))
        self.provider = Local(
            FixedSecrets("sk_test_12345", (HOOK,)),
            self.customers,
            lambda: datetime.now(UTC),
            api_base=url,
        )
        self.http = httpx.AsyncClient(base_url=url, auth=("sk_test_12345", ""))

    async def post(self, path: str, **form: str) -> dict[str, Any]:
        answer = await self.http.post(path, data=form)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    async def customer(self, account: str = "acc_a", *, card: str = "4242424242424242") -> str:
        """A customer with a card on file."""
        made = await self.post("/v1/customers", **{"metadata[fastgate_account]": account})
        await self.customers.link("stripe", account, made["id"])
        method = await self.post(
            "/v1/payment_methods",
            **{
                "type": "card",
                "card[number]": card,
                "card[exp_month]": "7",
                "card[exp_year]": "2033",
                "card[cvc]": "123",
            },
        )
        await self.post(f"/v1/payment_methods/{method['id']}/attach", customer=made["id"])
        default = {"invoice_settings[default_payment_method]": method["id"]}
        await self.post(f"/v1/customers/{made['id']}", **default)
        return str(made["id"])


@pytest.fixture
async def bench(server: str, sqlite_store: Store) -> AsyncIterator[Bench]:
    made = Bench(server, sqlite_store)
    yield made
    await made.provider.close()
    await made.http.aclose()


async def test_it_answers(bench: Bench) -> None:
    assert (await bench.provider.health()).ok
    bench.provider.secrets = FixedSecrets("not a key")
    assert not (await bench.provider.health()).ok


async def test_saved_methods_are_listed(bench: Bench) -> None:
    await bench.customer()
    (method,) = await bench.provider.list_methods("acc_a")
    assert (method.label, method.expires, method.default) == ("Visa •••• 4242", "2033-07", True)


async def test_a_saved_method_is_charged_and_refunded(bench: Bench) -> None:
    await bench.customer()
    paid = await bench.provider.charge_saved("acc_a", EUR, "k1")
    assert (paid.status, paid.amount) == (ChargeStatus.SUCCEEDED, EUR)
    back = await bench.provider.refund(paid.reference, Money.parse("4 EUR"), "r1")
    assert (back.status, back.amount) == (ChargeStatus.SUCCEEDED, Money.parse("4 EUR"))
    with pytest.raises(ProviderRefused):
        await bench.provider.refund("pi_none", None, "r2")


async def test_a_declined_card_says_what_would_help(bench: Bench) -> None:
    await bench.customer(card="4000000000000341")  # attaches, and is declined when charged
    result = await bench.provider.charge_saved("acc_a", EUR, "k1")
    assert (result.status, result.decline) == (ChargeStatus.FAILED, Decline.LATER)
    assert result.code == "card_declined"


async def test_a_card_that_wants_its_owner(bench: Bench) -> None:
    await bench.customer(card="4000002760003184")
    result = await bench.provider.charge_saved("acc_a", EUR, "k1")
    assert result.status is ChargeStatus.ACTION_REQUIRED


async def _subscribe(bench: Bench, customer: str, name: str) -> dict[str, Any]:
    await bench.post(
        "/v1/plans",
        **{
            "id": name,
            "amount": "1900",
            "currency": "eur",
            "interval": "month",
            "product[name]": name,
        },
    )
    form = {"customer": customer, "items[0][plan]": name}
    return await bench.post("/v1/subscriptions", **form)


async def test_subscriptions_are_seen_as_they_stand(bench: Bench) -> None:
    await _subscribe(bench, await bench.customer(), "plan-pro")
    (found,) = await bench.provider.subscriptions("acc_a")
    assert (found.state, found.plan, found.reason) == (SubscriptionState.ACTIVE, "plan-pro", "")
    assert found.paid_through is not None
    assert found.paid_through > datetime.now(UTC) + timedelta(days=27)
    await bench.http.delete(f"/v1/subscriptions/{found.reference}")
    (canceled,) = await bench.provider.subscriptions("acc_a")
    assert canceled.state is SubscriptionState.CANCELED
    assert canceled.paid_through == found.paid_through


async def test_a_first_payment_that_fails_leaves_it_incomplete(bench: Bench) -> None:
    await _subscribe(bench, await bench.customer(card="4000000000000341"), "plan-basic")
    (found,) = await bench.provider.subscriptions("acc_a")
    assert (found.state, found.reason) == (
        SubscriptionState.INCOMPLETE,
        "payment_action_required",
    )


async def test_its_own_signed_webhooks_are_verified_and_resolved(bench: Bench) -> None:
    """localstripe delivers to a server of ours; signatures and times are its own."""
    arrived: asyncio.Queue[tuple[dict[str, str], bytes]] = asyncio.Queue()

    async def take(request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        await arrived.put((headers, await request.read()))
        return web.Response()

    app = web.Application()
    app.router.add_post("/hook", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        hook = {
            "url": f"http://{host}:{port}/hook",
            "secret": HOOK,
            "events": ["payment_intent.succeeded"],
        }
        (await bench.http.post("/_config/webhooks/test", json=hook)).raise_for_status()
        await bench.customer()
        paid = await bench.provider.charge_saved(
            "acc_a", EUR, "k7", purpose=Purpose.INVOICE, subject="inv_7"
        )
        async with asyncio.timeout(30):
            headers, body = await arrived.get()
            while paid.reference.encode() not in body:  # of another test's charge
                headers, body = await arrived.get()
        (fact,) = await bench.provider.resolve(bench.provider.verify_webhook(headers, body))
        assert (fact.kind, fact.reference) == (EventKind.PAYMENT_SUCCEEDED, paid.reference)
        assert (fact.account, fact.amount, fact.subject) == ("acc_a", EUR, "inv_7")
        news = bench.provider.verify_webhook(headers, body)
        assert news in await bench.provider.reconcile(news.created - timedelta(seconds=5))
    finally:
        await runner.cleanup()
