"""A Stripe for tests, answering real HTTP, for what localstripe lacks.

Prices, Checkout Sessions, SetupIntents, disputes, the events list with its pages, idempotency keys
(the same key gives the same answer, another body under it is an error), declines by code, and
faults: an answer that never comes, before or after the work was done; 500; 429; garbage; a closed
connection. Objects have the fields that the official library and FastGate read.

The test plays the people: `pay`, `leave_method`, `expire`, `refund`, `dispute`, `subscribe`. Each
adds to the events list; `webhook` signs an event as Stripe does, with the official library.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import stripe
from aiohttp import web
from stripebooks import StripeBooks

Object = dict[str, Any]


class FixedSecrets(NamedTuple):
    """What FastGate's client of Stripe has for secrets."""

    key: str
    webhooks: Sequence[str] = ()

    def api_key(self) -> str:
        return self.key

    def webhook_secrets(self) -> Sequence[str]:
        return self.webhooks


class Refusal(Exception):
    """An error answer of the API."""

    def __init__(self, status: int, kind: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"type": kind, "message": message, **more}}


def decode_form(pairs: list[tuple[str, str]]) -> Object:
    """`a[b][0][c]=d` as nested objects and lists."""
    tree: Object = {}
    for name, value in pairs:
        keys = re.findall(r"[^\[\]]+", name)
        here = tree
        for key in keys[:-1]:
            here = here.setdefault(key, {})
        here[keys[-1]] = value

    def lists(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        if node and all(key.isdigit() for key in node):
            return [lists(node[key]) for key in sorted(node, key=int)]
        return {key: lists(value) for key, value in node.items()}

    return lists(tree)  # type: ignore[no-any-return]


class StripeKit(StripeBooks):
    """One Stripe account. `now` is its clock, in seconds, moved by the test."""

    def __init__(self, now: int) -> None:
        self.now = now
        self.secret = "whsec_first"
        self.objects: dict[str, Object] = {}
        self.events: list[Object] = []
        self.requests: list[tuple[str, str]] = []
        self.fee: int | None = None
        """Coins that are kept of each payment; None: nothing is said of it."""
        self.dispute_fee = 0
        """Coins that a dispute costs."""
        self.faults: list[str] = []
        """What happens to the next requests: "" nothing, "500", "429", "garbage", "drop" (closed
        before the work), "hang" (no answer, nothing done), "hang after" (done, no answer)."""
        self.key = "sk_test_one"
        self.meters = {"api_requests", "api_tokens"}
        self.meter_events: list[Object] = []
        self._numbers = itertools.count(1)
        self._answers: dict[str, tuple[str, int, Object]] = {}
        self._never = asyncio.Event()
        self.url = ""

    # ---- the server -----------------------------------------------------------------------

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[StripeKit]:
        app = web.Application()
        app.router.add_route("*", "/v1/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        try:
            yield self
        finally:
            self._never.set()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        body = await request.text()
        self.requests.append((request.method, path))
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "drop" and request.transport is not None:
            request.transport.close()
            await self._never.wait()
        if fault == "hang":
            await self._never.wait()
        if fault == "500":
            return web.json_response({"error": {"type": "api_error"}}, status=500)
        if fault == "429":
            return web.json_response({"error": {"type": "rate_limit"}}, status=429)
        if fault == "garbage":
            return web.Response(text="<html>Bad gateway</html>", content_type="text/html")
        status, answer = self._answer(request, path, body)
        if fault == "hang after":
            await self._never.wait()
        return web.json_response(answer, status=status)

    def _answer(self, request: web.Request, path: str, body: str) -> tuple[int, Object]:
        if request.headers.get("Authorization") != f"Bearer {self.key}":
            return 401, {"error": {"type": "invalid_request_error", "message": "Invalid key"}}
        key = request.headers.get("Idempotency-Key") if request.method == "POST" else None
        print_ = hashlib.sha256(f"{path}\n{body}".encode()).hexdigest()
        if key is not None and key in self._answers:
            known, status, answer = self._answers[key]
            if known != print_:
                return 400, {
                    "error": {
                        "type": "idempotency_error",
                        "message": "Keys can only be used with the same parameters.",
                    }
                }
            return status, answer
        form = [*request.query.items(), *_pairs(body)]
        try:
            status, answer = 200, self._route(request.method, path, decode_form(form))
        except Refusal as refusal:
            status, answer = refusal.status, refusal.body
        answer = json.loads(json.dumps(answer))
        if key is not None:
            self._answers[key] = (print_, status, answer)
        return status, answer

    def _route(self, method: str, path: str, form: Object) -> Object:
        parts = path.split("/")
        make: dict[str, Callable[[Object], Object]] = {
            "customers": self._new_customer,
            "checkout/sessions": self._new_session,
            "payment_intents": self._new_intent,
            "refunds": lambda it: self.refund(
                it["payment_intent"],
                int(it["amount"]) if "amount" in it else None,
                metadata=it.get("metadata"),
            ),
            "billing/meter_events": self._meter_event,
            "prices": lambda it: self.new("price", **it),
        }
        if method == "POST" and path in make:
            return make[path](form)
        if method == "GET" and path == "balance":
            return self.balance()
        if method == "GET" and path in _LISTS:
            expand = form.pop("expand", [])
            listed = self._list(path, form)
            for place in expand:
                listed = self._expanded(listed, place.split("."))
            return listed
        found = self.objects.get(parts[-1])
        if found is None:
            raise Refusal(404, "invalid_request_error", f"No such thing: {parts[-1]}")
        expand = form.pop("expand", [])
        if method == "POST":
            for name, value in form.items():
                found[name] = value
        for place in expand:
            found = self._expanded(found, place.split("."))
        return found

    def _expanded(self, found: Object, place: list[str]) -> Object:
        """A copy with the object in place of its id."""
        ident = found.get(place[0])
        if place[0] == "data":
            return {**found, "data": [self._expanded(item, place[1:]) for item in found["data"]]}
        if ident is None or ident not in self.objects:
            return found
        inner = self.objects[ident]
        return {**found, place[0]: self._expanded(inner, place[1:]) if place[1:] else inner}

    # ---- objects --------------------------------------------------------------------------

    def new(self, kind: str, **fields: Any) -> Object:
        """An object of the account."""
        prefix = _PREFIXES.get(kind, kind)
        ident = f"{prefix}_{next(self._numbers):06d}"
        made = {"id": ident, "object": kind, "created": self.now, **fields}
        self.objects[ident] = made
        return made

    def tell(self, kind: str, about: Object, **more: Any) -> Object:
        """Something happened: an event in the list, with the object as it is now."""
        event = {
            "id": f"evt_{next(self._numbers):06d}",
            "object": "event",
            "type": kind,
            "created": self.now,
            "api_version": "2020-01-01",
            "livemode": False,
            "data": {"object": json.loads(json.dumps(about)), **more},
        }
        self.events.append(event)
        return event

    def webhook(
        self, event: Object, *, at: int | None = None, secret: str | None = None
    ) -> tuple[dict[str, str], bytes]:
        """Headers and body as Stripe sends them."""
        body = json.dumps(event, indent=2)
        signature = stripe.WebhookSignature.generate_signature_header(
            body, secret or self.secret, timestamp=self.now if at is None else at
        )
        return {"stripe-signature": signature, "content-type": "application/json"}, body.encode()

    def _list(self, path: str, form: Object) -> Object:
        kind = _LISTS[path]
        items = self.events if kind == "event" else list(self.objects.values())
        since = int(form.get("created", {}).get("gte", 0))
        found = [
            item
            for item in items
            if item["object"] == kind
            and item["created"] >= since
            and all(item.get(name) == form[name] for name in _FILTERS if name in form)
        ]
        found.sort(key=lambda item: (item["created"], item["id"]), reverse=True)
        if "starting_after" in form:
            ids = [item["id"] for item in found]
            found = found[ids.index(form["starting_after"]) + 1 :]
        limit = int(form.get("limit", 10))
        return {
            "object": "list",
            "url": f"/v1/{path}",
            "has_more": len(found) > limit,
            "data": found[:limit],
        }

    def _meter_event(self, form: Object) -> Object:
        """Within a day, an identifier is taken once."""
        if any(one["identifier"] == form["identifier"] for one in self.meter_events):
            text = f"An event already exists with identifier {form['identifier']}."
            raise Refusal(400, "invalid_request_error", text)
        if form["event_name"] not in self.meters:
            raise Refusal(400, "invalid_request_error", f"No active meter: {form['event_name']}")
        event = {"object": "billing.meter_event", "livemode": False, "created": self.now, **form}
        self.meter_events.append(event)
        return event

    def _new_customer(self, form: Object) -> Object:
        return self.new("customer", invoice_settings={"default_payment_method": None}, **form)

    def _new_session(self, form: Object) -> Object:
        session = self.new(
            "checkout.session",
            status="open",
            payment_status="unpaid",
            payment_intent=None,
            setup_intent=None,
            expires_at=self.now + 86_400,
            **form,
        )
        session["url"] = f"{self.url}/pay/{session['id']}"
        return session

    def _new_intent(self, form: Object) -> Object:
        method = self.objects[form["payment_method"]]
        intent = self.new(
            "payment_intent",
            amount=int(form["amount"]),
            amount_received=0,
            currency=form["currency"],
            customer=form["customer"],
            payment_method=method["id"],
            metadata=form.get("metadata", {}),
            latest_charge=None,
            last_payment_error=None,
            next_action=None,
            status="requires_confirmation",
        )
        self._confirm(intent, method)
        return intent

    def _confirm(self, intent: Object, method: Object) -> None:
        behaves = method.get("behaves", "")
        if behaves == "processing":
            intent["status"] = "processing"
            return
        if not behaves:
            self.succeed(intent["id"])
            return
        self.decline(intent["id"], behaves)
        error = intent["last_payment_error"]
        raise Refusal(
            402,
            "card_error",
            error["message"],
            code=error["code"],
            decline_code=error.get("decline_code"),
            payment_intent=json.loads(json.dumps(intent)),
        )

    # ---- what people and banks do ---------------------------------------------------------

    def method(self, customer: str, *, behaves: str = "", default: bool = True) -> Object:
        """A card of the customer's. `behaves`: "" pays, "processing", or a decline code."""
        card = {"brand": "visa", "last4": "4242", "exp_month": 7, "exp_year": 2033}
        made = self.new("payment_method", type="card", card=card, customer=customer)
        made["behaves"] = behaves
        if default:
            settings = self.objects[customer]["invoice_settings"]
            settings["default_payment_method"] = made["id"]
        return made

    def succeed(self, intent: str) -> Object:
        """The bank says yes. The event."""
        found = self.objects[intent]
        charge = self.new(
            "charge",
            payment_intent=intent,
            amount=found["amount"],
            currency=found["currency"],
            metadata=found.get("metadata", {}),
            paid=True,
        )
        kept = self.moved("charge", charge, found["amount"], self.fee or 0)
        if self.fee is not None:  # else it is not known yet when the payment is told of
            charge["balance_transaction"] = kept["id"]
        found |= {
            "status": "succeeded",
            "amount_received": found["amount"],
            "latest_charge": charge["id"],
            "last_payment_error": None,
        }
        return self.tell("payment_intent.succeeded", found)

    def decline(self, intent: str, code: str) -> Object:
        """The bank says no. The event."""
        found = self.objects[intent]
        charge = self.new("charge", payment_intent=intent, amount=found["amount"], paid=False)
        asks = code == "authentication_required"
        found |= {
            "status": "requires_action" if asks else "requires_payment_method",
            "latest_charge": charge["id"],
            "last_payment_error": {
                "code": code if asks else "card_declined",
                "decline_code": code,
                "message": f"Your card was declined ({code}).",
            },
        }
        if asks:
            found["next_action"] = {"redirect_to_url": {"url": f"{self.url}/confirm/{intent}"}}
        return self.tell("payment_intent.payment_failed", found)

    def pay(self, session: str) -> list[Object]:
        """Someone pays on the page. The events, in the order of their making."""
        found = self.objects[session]
        line = found["line_items"][0]["price_data"]
        intent = self.new(
            "payment_intent",
            amount=int(line["unit_amount"]),
            currency=line["currency"],
            customer=found["customer"],
            metadata=found["payment_intent_data"]["metadata"],
            next_action=None,
        )
        paid = self.succeed(intent["id"])
        found |= {"status": "complete", "payment_status": "paid", "payment_intent": intent["id"]}
        return [paid, self.tell("checkout.session.completed", found)]

    def leave_method(self, session: str) -> list[Object]:
        """Someone leaves a card on the page."""
        found = self.objects[session]
        card = self.method(found["customer"], default=False)
        setup = self.new("setup_intent", payment_method=card["id"], status="succeeded")
        found |= {"status": "complete", "setup_intent": setup["id"]}
        return [
            self.tell("payment_method.attached", card),
            self.tell("checkout.session.completed", found),
        ]

    def expire(self, session: str) -> Object:
        """Nobody pays on the page."""
        self.objects[session]["status"] = "expired"
        return self.tell("checkout.session.expired", self.objects[session])

    def detach(self, method: str) -> Object:
        """A card is taken away."""
        found = self.objects[method]
        customer, found["customer"] = found["customer"], None
        settings = self.objects[customer]["invoice_settings"]
        if settings["default_payment_method"] == method:
            settings["default_payment_method"] = None
        return self.tell(
            "payment_method.detached", found, previous_attributes={"customer": customer}
        )

    def refund(
        self, intent: str, amount: int | None = None, *, metadata: Object | None = None
    ) -> Object:
        """Money is given back; by the API or in Stripe's dashboard."""
        paid = self.objects.get(intent)
        if paid is None:
            raise Refusal(404, "invalid_request_error", f"No such payment_intent: {intent}")
        back = sum(
            item["amount"]
            for item in self.objects.values()
            if item["object"] == "refund" and item["payment_intent"] == intent
        )
        amount = paid["amount"] - back if amount is None else amount
        if amount > paid["amount"] - back or amount <= 0:
            raise Refusal(400, "invalid_request_error", "Refund amount is greater than unrefunded")
        made = self.new(
            "refund",
            payment_intent=intent,
            charge=paid["latest_charge"],
            amount=amount,
            currency=paid["currency"],
            status="succeeded",
            metadata=metadata or {},
        )
        self.moved("refund", made, -amount)
        self.tell("charge.refunded", self.objects[paid["latest_charge"]])
        self.tell("refund.created", made)
        return made

    def fail_refund(self, refund: str) -> Object:
        """The bank does not take a refund."""
        self.objects[refund] |= {"status": "failed", "failure_reason": "lost_or_stolen_card"}
        self.moved("refund_failure", self.objects[refund], self.objects[refund]["amount"])
        return self.tell("refund.failed", self.objects[refund])

    def dispute(self, intent: str, *, status: str = "needs_response") -> Object:
        """Someone contests a payment. The event."""
        paid = self.objects[intent]
        made = self.new(
            "dispute",
            payment_intent=intent,
            charge=paid["latest_charge"],
            amount=paid["amount"],
            currency=paid["currency"],
            reason="fraudulent",
            status=status,
        )
        if not status.startswith("warning"):
            self.moved("dispute", made, -made["amount"], self.dispute_fee)
        return self.tell("charge.dispute.created", made)

    def end_dispute(self, dispute: str, status: str) -> Object:
        """The bank has decided: "won", "lost"; or an inquiry is over. The event."""
        found = self.objects[dispute]
        if status == "won":
            self.moved("dispute_reversal", found, found["amount"])
        found["status"] = status
        return self.tell("charge.dispute.closed", found)

    def subscribe(self, customer: str, *, status: str = "active", **fields: Any) -> Object:
        """A subscription that is kept at Stripe, with its latest invoice."""
        invoice = self.new(
            "invoice",
            customer=customer,
            status="paid" if status == "active" else "open",
            amount_due=1900,
            currency="eur",
            attempt_count=1,
            hosted_invoice_url=f"{self.url}/invoice",
        )
        price = self.new("price", lookup_key="pro", metadata={})
        item = {
            "id": "si_1",
            "price": price,
            "current_period_start": self.now,
            "current_period_end": self.now + 30 * 86_400,
        }
        made = self.new(
            "subscription",
            customer=customer,
            status=status,
            items={"object": "list", "data": [item], "has_more": False, "url": "/v1/items"},
            latest_invoice=invoice["id"],
            metadata={},
            **fields,
        )
        invoice["parent"] = {"subscription_details": {"subscription": made["id"]}}
        return made

    def only(self, kind: str) -> Object:
        """The one object of the kind there is."""
        (found,) = (item for item in self.objects.values() if item["object"] == kind)
        return found

    def count(self, kind: str) -> int:
        return sum(item["object"] == kind for item in self.objects.values())


_PREFIXES = {
    "customer": "cus",
    "checkout.session": "cs",
    "payment_intent": "pi",
    "payment_method": "pm",
    "setup_intent": "seti",
    "charge": "ch",
    "refund": "re",
    "dispute": "dp",
    "subscription": "sub",
    "invoice": "in",
    "balance_transaction": "txn",
    "payout": "po",
}

_LISTS = {
    "payment_intents": "payment_intent",
    "payment_methods": "payment_method",
    "subscriptions": "subscription",
    "refunds": "refund",
    "events": "event",
    "balance_transactions": "balance_transaction",
    "prices": "price",
}

_FILTERS = ("customer", "charge", "payment_intent")


def _pairs(body: str) -> list[tuple[str, str]]:
    from urllib.parse import parse_qsl

    return parse_qsl(body, keep_blank_values=True)
