"""Demo Pay: a payment provider for play money, over real HTTP.

    POST /checkouts           a card page                       → {id, url}
    GET  /pay/<id>            the page; POST pays and goes back to the gateway
    POST /charges             a saved card, without customer    → {id, status, …}; once for a key
    GET  /payments/<id>       the state of a payment
    GET  /charges?key=…       the charge with that key
    POST /refunds             refund a payment; once for a key
    GET  /events?since=…      the list of events

The card 4242 4242 4242 4242 succeeds; all others are declined. 4000 0000 0000 9995 has insufficient
funds when it is charged later. Like real providers, it also reports events to the gateway by signed
webhooks, and the gateway fetches the payment before it trusts them.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import http.client
import itertools
import json
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from fastgate.demo.webserver import Reply, Request, WebServer

GOOD_CARD, BAD_CARD, POOR_CARD = "4242424242424242", "4000000000000002", "4000000000009995"
SIGNATURE = "Demo-Signature"
TRIES = 5

_PAGE = """<!doctype html><html lang="en"><title>Demo Pay</title>
<style>body{{font:1rem/1.5 system-ui;max-width:24rem;margin:3rem auto}}input{{width:100%}}</style>
<h1>Demo Pay</h1><p>{what}</p>{error}
<form method="post"><label>Card number
<input name="card" inputmode="numeric" value="4242 4242 4242 4242"></label>
<p><button>{button}</button></p></form><p>Play money. Any other number is declined.</p></html>"""


def sign(secret: str, body: bytes) -> str:
    """The signature of a webhook."""
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


class DemoPay:
    """The provider. `secret`: shared with the gateway."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._checkouts: dict[str, dict[str, Any]] = {}
        self._payments: dict[str, dict[str, Any]] = {}
        self._charges: dict[str, dict[str, Any]] = {}
        self._refunds: dict[str, dict[str, Any]] = {}
        self._cards: dict[str, str] = {}
        self._events: list[dict[str, Any]] = []
        self.webhook = ""
        """Where the gateway receives events."""
        self.server = WebServer(self._answer)

    @property
    def url(self) -> str:
        return self.server.url

    def close(self) -> None:
        self.server.close()

    def spoil(self, account: str, card: str = BAD_CARD) -> None:
        """Replace an account's saved card, for example by BAD_CARD or POOR_CARD."""
        with self._lock:
            self._cards[account] = card

    # ---- requests -------------------------------------------------------------------------

    def _answer(self, request: Request) -> Reply:
        kind, _, ident = request.path.strip("/").partition("/")
        with self._lock:
            reply, event = self._do(request, kind, ident)
        if event is not None:
            self._send(event)
        return reply

    def _do(self, request: Request, kind: str, ident: str) -> tuple[Reply, dict[str, Any] | None]:
        match request.method, kind:
            case "POST", "checkouts":
                return self._checkout(request.json), None
            case _, "pay" if ident in self._checkouts:
                return self._pay(request, self._checkouts[ident])
            case "POST", "charges":
                return self._charge(request.json)
            case "GET", "charges":
                return _found(self._charges.get(request.query.get("key", ""))), None
            case "GET", "payments":
                return _found(self._payments.get(ident)), None
            case "GET", "methods":
                return Reply(200, {"card": self._cards.get(ident, "")}), None
            case "POST", "refunds":
                return self._refund(request.json), None
            case "GET", "events":
                since = float(request.query.get("since", "0"))
                return Reply(200, [one for one in self._events if one["created"] >= since]), None
            case "GET", "health":
                return Reply(200, {}), None
        return Reply(404, {"error": "Not found."}), None

    def _checkout(self, wanted: dict[str, Any]) -> Reply:
        ident = f"chk_{next(self._numbers)}"
        self._checkouts[ident] = {**wanted, "id": ident}
        return Reply(201, {"id": ident, "url": f"{self.url}/pay/{ident}"})

    def _pay(
        self, request: Request, checkout: dict[str, Any]
    ) -> tuple[Reply, dict[str, Any] | None]:
        saves = checkout["micros"] == 0
        what = "Save a card" if saves else f"Pay {checkout['shown']} for {checkout['account']}"
        error = ""
        if request.method == "POST":
            card = "".join(c for c in request.form.get("card", "") if c.isdigit())
            back = Reply(303, b"", (("Location", checkout["return_url"]),))
            if card == GOOD_CARD and checkout.pop("open", True):
                checkout["open"] = False
                self._cards[checkout["account"]] = card
                if saves:
                    return back, self._event("method.attached", checkout["account"])
                paid = self._payment(checkout, purpose="top_up", subject="", key="")
                return back, self._event("payment.succeeded", paid["id"])
            error = "<p><strong>The card was declined.</strong></p>"
        page = _PAGE.format(what=html.escape(what), error=error, button="Save" if saves else "Pay")
        return Reply(200, page.encode()), None

    def _payment(self, of: dict[str, Any], **more: str) -> dict[str, Any]:
        paid = {
            "id": f"pay_{next(self._numbers)}",
            "account": of["account"],
            "micros": of["micros"],
            "currency": of["currency"],
            "status": "succeeded",
            "created": time.time(),
            **more,
        }
        self._payments[paid["id"]] = paid
        return paid

    def _charge(self, wanted: dict[str, Any]) -> tuple[Reply, dict[str, Any] | None]:
        known = self._charges.get(wanted["key"])
        if known is not None:
            return Reply(200, known), None
        card = self._cards.get(wanted["account"])
        if card is None:
            return Reply(200, {"id": "", "status": "failed", "code": "no_payment_method"}), None
        more = {name: str(wanted[name]) for name in ("purpose", "subject", "key")}
        made = self._payment(wanted, **more)
        if card != GOOD_CARD:
            code = "insufficient_funds" if card == POOR_CARD else "card_declined"
            made.update(status="failed", code=code)
        self._charges[wanted["key"]] = made
        event = self._event(f"payment.{made['status']}", made["id"])
        return Reply(200, made), event

    def _refund(self, wanted: dict[str, Any]) -> Reply:
        known = self._refunds.get(wanted["key"])
        if known is None:
            known = {**wanted, "id": f"ref_{next(self._numbers)}"}
            self._refunds[wanted["key"]] = known
        return Reply(200, known)

    # ---- events ---------------------------------------------------------------------------

    def _event(self, kind: str, of: str) -> dict[str, Any]:
        event = {
            "id": f"evt_{next(self._numbers)}",
            "type": kind,
            "object": of,
            "created": time.time(),
        }
        self._events.append(event)
        return event

    def _send(self, event: dict[str, Any]) -> None:
        """Post a webhook. If it is not accepted, the gateway reads the list of events later."""
        if not self.webhook:
            return
        body, parts = json.dumps(event).encode(), urlsplit(self.webhook)
        headers = {SIGNATURE: sign(self._secret, body), "Content-Type": "application/json"}
        assert parts.hostname is not None
        for _ in range(TRIES):
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=5)
            try:
                connection.request("POST", parts.path, body, headers)
                if connection.getresponse().status < 300:
                    return
            except OSError:
                pass
            finally:
                connection.close()
            time.sleep(0.2)


def _found(what: dict[str, Any] | None) -> Reply:
    return Reply(404, {"error": "Not found."}) if what is None else Reply(200, what)
