"""The messages of a paid route to its client and its upstream.

Refusals are RFC 9457 problems with the reasons of `fastgate.errors`; a 402 carries the offer in
PAYMENT-REQUIRED (and, where the route offers version 1, in its body), except where paying again
would be wrong: a payment that was used, or whose outcome is not known. `retry` says which:

    after_payment    sign a payment for the offer and send the request with it
    same_credential  send the same request with the same payment once more, after Retry-After
    never            this payment cannot be used again

`Accept` selects the form, as for all refusals. The reason is in logs, metrics and `fastgate
explain`; what was presented is noted for the diagnosis (`refused_payments`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from fastgate._core.exchange.accept import form_for
from fastgate._core.handlers.upcall import Exchange
from fastgate.billing.x402.claims import Answer
from fastgate.billing.x402.error_texts import words_of
from fastgate.billing.x402.pages import rendered
from fastgate.billing.x402.refused_payments import (
    PaymentField,
    RefusedPayment,
    RefusedPayments,
    text_of,
)
from fastgate.billing.x402.wire import IDENTIFIER, Invalid, Payment, PaymentOffer, encode
from fastgate.errors import REASON_BY_CODE
from fastgate.model.x402 import Terms
from fastgate.refusal.remedies import PROBLEMS
from fastgate.refusal.templates import diagnosis_of

RETRY_S = 2
"""Retry-After if the same payment should be sent again."""
PAYMENT_FIELDS = frozenset({"payment-signature", "x-payment"})
HOP = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization",
        "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
_OURS = frozenset({"content-length", "expect", "forwarded", "host", "via", "x-real-ip"})
"""Fields of a request that only the gateway sets."""
_RESPONSE_OURS = frozenset({"content-length", "date", "x-request-id"})


def end_to_end(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The end-to-end fields of an answer."""
    pairs = list(headers)
    dropped = HOP | _RESPONSE_OURS | _named(pairs)
    return [(name, value) for name, value in pairs if name.lower() not in dropped]


def kept_private(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The field that stops shared caches from serving a paid answer to others, unless the upstream
    already says what they may do."""
    said = ",".join(value.lower() for name, value in headers if name.lower() == "cache-control")
    words = ("public", "s-maxage", "private", "no-store")
    return [] if any(word in said for word in words) else [("Cache-Control", "private")]


def forwarded(exchange: Exchange, terms: Terms) -> list[tuple[str, str]]:
    """The fields of a request as the upstream gets them: without payment; the exchange's own are
    without credential already."""
    pairs = list(exchange.headers)
    dropped = HOP | _OURS | PAYMENT_FIELDS | _named(pairs)
    found = [
        (name, value)
        for name, value in pairs
        if name.lower() not in dropped
        and not name.lower().startswith(("x-forwarded-", "x-consumer-"))
    ]
    found.append(("Via", f"1.1 {terms.via}"))
    found.append(("X-Forwarded-For", exchange.address))
    found.append(("X-Forwarded-Proto", (terms.origin or exchange.scheme).partition(":")[0]))
    host = exchange.headers.get("host")
    if host:
        found.append(("X-Forwarded-Host", host))
    consumer = exchange.consumer
    if consumer is not None:
        found.append(("X-Consumer-ID", consumer["id"]))
        found.append(("X-Consumer-Name", consumer["name"]))
        if consumer["plan"]:
            found.append(("X-Consumer-Plan", consumer["plan"]))
    return found


def _named(pairs: list[tuple[str, str]]) -> frozenset[str]:
    """The fields that Connection names."""
    return frozenset(
        token.strip().lower()
        for name, value in pairs
        if name.lower() == "connection"
        for token in value.split(",")
    )


class Answers:
    """The answers to one request."""

    def __init__(
        self, exchange: Exchange, offer: PaymentOffer, notes: RefusedPayments | None = None
    ) -> None:
        self.exchange = exchange
        self.offer = offer
        self.payment: Payment | None = None
        """The payment, once it is known to match the offer."""
        self._notes = notes
        version1 = offer.terms.version1 is not None
        self._vary = "Accept, Authorization, PAYMENT-SIGNATURE" + (
            ", X-PAYMENT" if version1 else ""
        )

    # ---- 402 ------------------------------------------------------------------------------

    async def payment_required(self) -> None:
        """There was no payment."""
        await self._ask("payment_required", "PAYMENT-SIGNATURE header is required", {})

    async def payment_invalid(self, fault: Invalid) -> None:
        """The payment does not match this offer."""
        members: dict[str, Any] = {"field": fault.field}
        compared: list[PaymentField] = []
        if fault.want is not None:
            members |= {"expected": fault.want, "presented": _short(fault.got)}
            compared = [PaymentField(fault.field, text_of(fault.want), text_of(fault.got))]
        self._note(f"{fault.field}: {fault.detail}", fields=compared)
        await self._ask("payment_invalid", f"{fault.field}: {fault.detail}", members)

    async def refused(self, code: str, message: str = "") -> None:
        """The facilitator reports that the payment is not valid."""
        text = code or "refused by the facilitator"
        self._note(text, facilitator=text, message=text_of(message))
        await self._ask(
            "payment_invalid", text, {"field": "payment", "facilitator": text}, detail=_words(text)
        )

    async def not_settled(self, code: str) -> None:
        """The facilitator reports that the payment was not taken, or it was never asked."""
        if code == "interrupted":
            detail = "the request was interrupted before the settlement; nothing was taken"
        else:
            detail = f"the payment was not settled: {code or 'refused'}"
        self._note(detail, facilitator=text_of(code))
        await self._ask(
            "payment_invalid",
            detail,
            {"field": "payment", "facilitator": code},
            self._receipt(success=False, transaction="", code=code),
            detail=_words(code),
        )

    async def used(self, why: str) -> None:
        """A payment that was already used. There is no offer: to pay again, the client sends a
        request without a payment."""
        self._note(f"it has been used: {why}", facilitator="nonce_already_used")
        await self._problem(
            "payment_invalid",
            f"This payment has already been used: {why}.",
            {"field": "payload.authorization.nonce", "retry": "never"},
        )

    async def _ask(
        self,
        reason: str,
        error: str,
        members: dict[str, Any],
        headers: Iterable[tuple[str, str]] = (),
        *,
        detail: str | None = None,
    ) -> None:
        """`error`: for programs, in PAYMENT-REQUIRED. `detail`: for people, if it differs."""
        terms = self.offer.terms
        offered = {
            **members,
            "required": terms.tokens,
            "currency": terms.asset_name,
            "retry": "after_payment",
            "remedies": [
                {
                    "action": "pay_now",
                    "title": f"Pay {terms.tokens} {terms.asset_name} with x402",
                    "protocol": "x402",
                    "amount": terms.amount,
                    "asset": terms.asset,
                    "network": terms.network,
                    **self._how(),
                }
            ],
        }
        if terms.version1 is not None:
            offered |= self.offer.required1(error)
        if reason == "payment_required":
            detail = (
                f"Each request to this resource costs {terms.tokens} {terms.asset_name}. Pay the "
                "offer in the PAYMENT-REQUIRED field and send the request again with "
                "PAYMENT-SIGNATURE."
            )
        elif detail is None:
            detail = f"{error[:1].upper()}{error[1:]}."
        required = ("PAYMENT-REQUIRED", self.offer.required(error))
        await self._problem(reason, detail, offered, headers=[required, *headers])

    # ---- 409, 5xx ---------------------------------------------------------------------------

    async def identifier_conflict(self) -> None:
        """The payment identifier belongs to another payment or request."""
        await self._problem(
            "payment_invalid",
            "This payment identifier was used with another payment or request.",
            {"field": f"extensions.{IDENTIFIER}.info.id", "retry": "never"},
            status=409,
        )

    async def in_progress(self) -> None:
        """The payment is in progress, here or in another worker."""
        await self._same_again(
            "settlement_unknown", "A request with this payment is in progress. Do not pay again."
        )

    async def settlement_unknown(self, transaction: str) -> None:
        """The facilitator was asked to settle, and the result is unknown."""
        members = {"transaction": transaction} if transaction else {}
        await self._same_again("settlement_unknown", None, members)

    async def unavailable(self, why: str) -> None:
        """Nothing was taken, and the validity of the payment is unknown."""
        detail = f"{why[:1].upper()}{why[1:]}. You have not been charged."
        await self._same_again("payment_provider_unavailable", detail)

    async def _same_again(
        self, reason: str, detail: str | None, members: dict[str, Any] | None = None
    ) -> None:
        await self._problem(
            reason,
            detail,
            {**(members or {}), "retry": "same_credential", "retry_after": RETRY_S},
            headers=[("Retry-After", str(RETRY_S))],
        )

    async def upstream_failed(self, reason: str) -> None:
        """The upstream gave no valid answer. Nothing was settled."""
        known = REASON_BY_CODE.get(reason)
        code = reason if known is not None and known.status >= 500 else "upstream_reset"
        text = f"{REASON_BY_CODE[code].text} The payment was not settled and can be used again."
        await self._problem(code, text, {"retry": "same_credential"})

    async def owed(self, transaction: str) -> None:
        """The payment was settled, but its answer was too long to be stored."""
        await self._problem(
            "internal_error",
            "This payment was settled, but its answer could not be kept, and the request is not "
            "run twice. The amount has been recorded as owed to the payer.",
            {"retry": "never", "transaction": transaction},
        )

    # ---- served -------------------------------------------------------------------------------

    async def give(self, answer: Answer, transaction: str) -> None:
        """A stored answer, with the receipt."""
        receipt = self.receipt(transaction)
        headers = [*answer.headers, *receipt, *kept_private(answer.headers)]
        await self.exchange.respond(answer.status, headers, answer.body)

    def receipt(self, transaction: str) -> list[tuple[str, str]]:
        """The fields of a paid answer."""
        return [*self._receipt(success=True, transaction=transaction), ("Vary", self._vary)]

    def _receipt(self, *, success: bool, transaction: str, code: str = "") -> list[tuple[str, str]]:
        terms = self.offer.terms
        body: dict[str, Any] = {"success": success, "transaction": transaction}
        if not success:
            body["errorReason"] = code or "refused"
        found = [("PAYMENT-RESPONSE", encode(body | {"network": terms.network}))]
        if terms.version1 is not None:
            found.append(("X-PAYMENT-RESPONSE", encode(body | {"network": terms.version1})))
        return found

    async def _problem(
        self,
        reason: str,
        detail: str | None,
        members: dict[str, Any],
        *,
        status: int | None = None,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        row = REASON_BY_CODE[reason]
        code = status or row.status
        body = {
            "type": f"{self.offer.terms.problem_base}{reason}",
            "title": row.title,
            "status": code,
            "detail": detail or row.text,
            "instance": f"urn:fastgate:request:{self.exchange.request_id}",
            "reason": reason,
            **members,
            **self._diagnose(),
        }
        self.exchange.refused_for(row.number)
        form = form_for(", ".join(self.exchange.headers.get_all("accept")).encode("latin-1"))
        if form == "json":
            lines, content = ["Content-Type: application/problem+json"], msgspec.json.encode(body)
        else:
            lines, content = rendered(form, self.offer, row, body)
        fields: list[tuple[str, str]] = []
        for line in lines:
            name, _, value = line.partition(": ")
            fields.append((name, value))
        fields += [("Cache-Control", "no-store"), ("Vary", self._vary), *headers]
        await self.exchange.respond(code, fields, content)

    def _how(self) -> dict[str, str]:
        """The link to the page about the refusal's reason, if the gateway has pages."""
        if self.exchange.capability is None:
            return {}
        base = self.offer.terms.public_url or self.offer.called
        return {"href": f"{base}{PROBLEMS}payment_required"}

    def _diagnose(self) -> dict[str, str]:
        """The link to the diagnosis, if the gateway has pages."""
        capability = self.exchange.capability
        if capability is None:
            return {}
        base = self.offer.terms.public_url or self.offer.called
        return {"diagnose": base + diagnosis_of(self.exchange.request_id, capability)}

    def _note(
        self,
        detail: str,
        *,
        facilitator: str = "",
        message: str = "",
        fields: list[PaymentField] | None = None,
    ) -> None:
        """Store for the diagnosis why the payment was not accepted."""
        if self._notes is None:
            return
        terms = self.offer.terms
        payment = self.payment
        note = RefusedPayment(
            request=self.exchange.request_id,
            route=terms.route,
            reason="payment_invalid",
            detail=text_of(detail),
            payer=payment.payer if payment is not None else "",
            network=terms.network,
            asset=terms.asset,
            facilitator=facilitator,
            message=message,
            fields=fields if fields is not None else _compared(payment),
        )
        self._notes.put(note)


def _compared(payment: Payment | None) -> list[PaymentField]:
    """The members of a payment that matched the offer."""
    if payment is None:
        return []
    one = payment.exact.authorization
    said = (("to", one.to), ("value", one.value), ("network", payment.network))
    return [PaymentField(name, value, value) for name, value in said]


def _words(code: str) -> str | None:
    """The meaning of a facilitator's code and its fix; None: the code is unknown."""
    words = words_of(code)
    return None if words is None else f"{words.text} {words.fix}"


def _short(value: object) -> object:
    return value[:200] if isinstance(value, str) else value
