"""What tests of the public pages stand on: a self-service that notes, a world, a strict reader."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import httpx
from factkit import Facts

from fastgate._core.snapshot.snapshot import stable_hash
from fastgate.billing.capability import Capabilities
from fastgate.billing.diagnosis.evidence import BalanceFacts
from fastgate.billing.self_service import Bill, Overview, PlanOffer, SubscriptionOverview
from fastgate.model.codec import decode
from fastgate.model.gateway import Gateway
from fastgate.model.units import Money
from fastgate.portal.app import Public, create_public_app

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
REQUEST = "0af7651916cd43dd8448eb211c80319c"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
CHECKOUT = "https://pay.example/checkout/1"


class FakeSelfService:
    """Self-service that notes what was asked of it, and fails as told."""

    def __init__(self) -> None:
        self.done: list[tuple[Any, ...]] = []
        self.fail: Exception | None = None
        self.paid = True
        self.view = Overview(
            account="Acme <& Sons>",
            balances=[BalanceFacts(currency="EUR", available=2_000, settled=2_000)],
            subscriptions=[
                SubscriptionOverview(
                    plan="pro", service=None, state="past_due", reason=None, ends=NOW, ending=False
                )
            ],
            open=[Bill(number="INV-1", amount="5 EUR", due=NOW)],
            top_up=True,
            methods=True,
            contact="billing@acme.example",
        )

    def _note(self, *what: Any) -> None:
        if self.fail is not None:
            raise self.fail
        self.done.append(what)

    async def overview(self, account: str, name: str) -> Overview:
        assert account == "acc-1"
        return self.view

    async def offers(self, account: str) -> list[PlanOffer]:
        return [
            PlanOffer(plan="pro", terms="10 EUR a month", current=True),
            PlanOffer(plan="large", terms="99 EUR a month", current=False),
        ]

    async def top_up(self, account: str, amount: Money, return_url: str) -> str:
        self._note("top_up", account, str(amount), return_url)
        return CHECKOUT

    async def method(self, account: str, return_url: str) -> str:
        self._note("method", account)
        return CHECKOUT

    async def pay(self, account: str) -> bool:
        self._note("pay", account)
        return self.paid

    async def renew(self, account: str) -> None:
        self._note("renew", account)

    async def take(self, account: str, name: str) -> None:
        self._note("take", account, name)


class World:
    """A public side over plain values."""

    def __init__(self) -> None:
        self.facts = Facts()
        self.self_service: FakeSelfService | None = FakeSelfService()
        self.records: dict[str, dict[str, Any]] = {}
        self.received: list[tuple[str, dict[str, str], bytes]] = []
        self.refuse: Exception | None = None
        self.capabilities = Capabilities(bytes(range(16)))
        self.gateway: Gateway = decode({"version": 1, "billing": {"currency": "EUR"}})
        self.app = create_public_app(
            Public(
                capabilities=self.capabilities,
                evidence=lambda: self.facts,
                service=lambda: self.self_service,  # type: ignore[arg-type, return-value]
                receive=self.receive,
                request=self.records.get,
                gateway=lambda: self.gateway,
                clock=lambda: NOW,
            )
        )

    async def receive(self, provider: str, headers: Mapping[str, str], body: bytes) -> object:
        if self.refuse is not None:
            raise self.refuse
        self.received.append((provider, dict(headers), body))
        return None

    def link(self, page: str = "", *, consumer: str | None = "con-1", age: int = 0) -> str:
        identity = stable_hash(consumer) if consumer else 0
        token = self.capabilities.make(REQUEST, identity, NOW.timestamp() - age)
        return f"/_fastgate/account{page and f'/{page}'}?request={REQUEST}&cap={token}"

    def diagnosis(self, *, consumer: str | None = "con-1") -> str:
        token = self.link(consumer=consumer).partition("cap=")[2]
        return f"/_fastgate/requests/{REQUEST}?cap={token}"

    def record(self, reason: str | None, consumer: str | None = "acme app") -> None:
        self.records[REQUEST] = {
            "id": REQUEST,
            "status": 402 if reason else 200,
            "reason": reason,
            "route": "paid",
            "consumer": consumer,
            "time": "2026-11-20T11:59:59Z",
        }


class Page(HTMLParser):
    """A page as a reader without scripts sees it: whole, with its links and forms."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__()
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "set-cookie" not in answer.headers
        self.links: list[str] = []
        self.forms: list[str] = []
        self.inputs: list[str] = []
        self.labels: list[str | None] = []
        self.said = ""
        self._open: list[str] = []
        self.feed(answer.text)
        self.close()
        assert not self._open
        assert len(self.inputs) == len(self.labels)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert tag not in ("script", "img", "link", "iframe", "object")
        assert not [name for name in found if name.startswith("on")]
        if tag == "a":
            self.links.append(found["href"] or "")
        elif tag == "form":
            assert found["method"] == "post"
            self.forms.append(found["action"] or "")
        elif tag in ("input", "select"):
            self.inputs.append(found["name"] or "")
        elif tag == "label":
            self.labels.append(found["for"])
        if tag not in ("meta", "input", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.said += data
