"""The handler of a route with x402.

::

    no payment ──────────────────────────────────────────► 402 payment_required, with the offer
    read, compare with the offer for this request ───────► 402 payment_invalid, the member named
    claim the nonce, over all workers ──── in progress ──► 503 settlement_unknown
    ask the facilitator: valid? ──────── no / no answer ─► 402 payment_invalid / 503
    forward to the upstream ── fails, or answers ≥ 400 ──► unchanged; the claim is released
    ask the facilitator to settle
        yes ─────────────────────────────────────────────► the answer, with PAYMENT-RESPONSE
        no ──────────────────────────────────────────────► 402 payment_invalid, no answer
        unknown ─────────────────────────────────────────► 503 settlement_unknown

The payment is settled after the head of the upstream's answer and before the first byte of ours, so
nothing is served unpaid, and nothing that failed is paid for. The body of a stream is relayed in C
as it arrives. A body of known and limited length is read *before* the settlement and stored beside
the claim. So the answer is available later if the outcome of the payment is unknown, or if the
client or the worker is gone.

**The same payment again** is never forwarded a second time: the record of the claim decides
(`_Paying._again`). If its settlement is unknown, the facilitator is asked again: first whether the
payment is still valid, since a spent nonce means that it was paid; then, if it is valid, to settle
it. Until one of the two succeeds, the client is not asked for another payment.

**A settlement continues without its client.** Once the facilitator is asked, the rest runs as a
separate task: if the client leaves, or the handler is cancelled, the result is still recorded. A
client that leaves earlier, while the upstream has its request, owes too: its payment is settled,
unless the route has `charge_abandoned: false`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Coroutine
from typing import Any

import httpx

from fastgate.billing.x402 import claims
from fastgate.billing.x402.answers import Answers, end_to_end, forwarded, kept_private
from fastgate.billing.x402.claims import Answer, Busy, Claim, ClaimRecord, Claims, Paid, State
from fastgate.billing.x402.facilitator import (
    NONCE_USED,
    FacilitatorClient,
    Refused,
    Settled,
    Settlement,
    Unavailable,
    field_value,
)
from fastgate.billing.x402.refused_payments import RefusedPayments
from fastgate.billing.x402.wire import Invalid, Payment, PaymentOffer, Presented
from fastgate.handlers import (
    ClientDisconnected,
    Exchange,
    Headers,
    UpstreamError,
    UpstreamResponse,
)
from fastgate.model.secret import Secret
from fastgate.model.x402 import Terms, read_terms

log = logging.getLogger("fastgate.x402")

REMEMBER_S = 3600
"""How long a record is kept after its payment has expired."""
REMEMBER_MOST_S = 30 * 86400
LATE_READ_S = 4.0
"""How long a body that is stored may still take if its client cannot be served."""

_facilitators: dict[tuple[str, tuple[tuple[str, str], ...], float], FacilitatorClient] = {}
_tasks: set[asyncio.Task[Settlement]] = set()


def facilitator_of(terms: Terms) -> FacilitatorClient:
    """The facilitator of a route; shared by all routes, also across reloads."""
    headers = tuple(sorted(terms.facilitator_headers.items()))
    key = (terms.facilitator, headers, terms.facilitator_timeout)
    if key not in _facilitators:
        _facilitators[key] = FacilitatorClient(
            terms.facilitator, secret_headers(terms), terms.facilitator_timeout
        )
    return _facilitators[key]


def secret_headers(terms: Terms) -> dict[str, Secret]:
    """The fields for the facilitator, with references to their values."""
    return {name: Secret.parse(place) for name, place in terms.facilitator_headers.items()}


class PaidRoute:
    """The handler of one route: called with each of its requests."""

    def __init__(
        self,
        text: str,
        *,
        facilitator: FacilitatorClient | None = None,
        store: Claims | None = None,
    ) -> None:
        """text: the route's Terms as JSON. Raises ValueError when they are not that.

        facilitator, store: instead of the process's own.
        """
        self.terms = read_terms(text)
        for secret in secret_headers(self.terms).values():
            try:
                field_value(secret)  # at the start or reload, not at the first payment
            except httpx.HTTPError as error:
                raise ValueError(f"x402.facilitator_headers: {error}") from error
        self._facilitator = facilitator or facilitator_of(self.terms)
        self._store = store

    @property
    def store(self) -> Claims:
        return self._store or claims.current()

    async def __call__(self, exchange: Exchange) -> None:
        store = self.store
        if store.time_to_sweep():
            asyncio.get_running_loop().run_in_executor(None, _sweep, store)
        offer = PaymentOffer.of(
            self.terms,
            exchange.method,
            f"{exchange.scheme}://{exchange.headers.get('host', '')}",
            exchange.path,
            exchange.query,
        )
        answers = Answers(exchange, offer, RefusedPayments(store.folder))
        try:
            presented = presented_in(exchange.headers, version1=self.terms.version1 is not None)
            if presented is None:
                await answers.payment_required()
                return
            answers.payment = payment = offer.take(presented, int(store.clock()))
        except Invalid as fault:
            await answers.payment_invalid(fault)
            return
        await _Paying(self.terms, self._facilitator, store, answers, payment).run(exchange)


def _sweep(store: Claims) -> None:
    try:
        store.sweep()
    except OSError as error:
        log.warning("x402: old payments cannot be swept: %s", error)


def presented_in(headers: Headers, *, version1: bool) -> Presented | None:
    """The payment in a request's fields. Raises Invalid when there is more than one."""
    found = [Presented(2, value) for value in headers.get_all("payment-signature")]
    if version1:
        found += [Presented(1, value) for value in headers.get_all("x-payment")]
    if len(found) > 1:
        raise Invalid("payment", "more than one payment in a request")
    return found[0] if found else None


def digest_of(exchange: Exchange, offer: PaymentOffer) -> str:
    """Distinguishes requests to which the same payment could be attached."""
    body = hashlib.sha256(exchange.body).hexdigest()
    return hashlib.sha256(f"{offer.binding}\n{body}".encode()).hexdigest()[:32]


class _Paying:
    """One presentation of one payment."""

    def __init__(
        self,
        terms: Terms,
        facilitator: FacilitatorClient,
        store: Claims,
        answers: Answers,
        payment: Payment,
    ) -> None:
        self.terms = terms
        self.facilitator = facilitator
        self.store = store
        self.answers = answers
        self.payment = payment

    async def run(self, exchange: Exchange) -> None:
        request = digest_of(exchange, self.answers.offer)
        try:
            claim = self.store.open(self.answers.offer.nonce(self.payment))
        except Busy:
            await self.answers.in_progress()
            return
        except OSError as error:
            log.error("x402: payments cannot be recorded: %s", error)
            await self.answers.unavailable("payments cannot be recorded now")
            return
        if claim.record is None:
            await self._first(exchange, claim, request)
            return
        try:
            await self._again(claim, request)
        finally:
            claim.close()

    # ---- a new payment -------------------------------------------------------------------------

    async def _first(self, exchange: Exchange, claim: Claim, request: str) -> None:
        """Serve the request. If it ends before the settlement, the claim is released, unless the
        client left after the upstream had received the request: then it owes."""
        try:
            if not await self._begin(claim, request):
                claim.release()
                return
            response = await self._forward(exchange)
            if response is None or response.status >= 400:
                claim.release()
                if response is not None:
                    exchange.relay(response)
                return
            bounded = self._bounded(exchange, response)
            early = await self._read(response) if bounded else None
            if bounded and early is None:
                claim.release()
                await self.answers.upstream_failed("response_truncated")
                return
            if early is not None:
                claim.keep(early)
        except (asyncio.CancelledError, ClientDisconnected):
            if self.terms.charge_abandoned and exchange.handed_over:
                await self._settle_abandoned(claim)
            else:
                claim.release()
            raise
        except BaseException:
            claim.release()
            raise
        try:
            await self._settle_and_serve(exchange, claim, response, early)
        finally:
            claim.close()

    async def _begin(self, claim: Claim, request: str) -> bool:
        """Verify and record. False if the request is already answered."""
        if not await self._identified(request):
            return False
        try:
            await self.facilitator.verify(self.payment)
        except Refused as refused:
            await self.answers.refused(refused.code, refused.message)
            return False
        except Unavailable as error:
            log.warning("x402: route %s: verify: %s", self.terms.route, error)
            await self.answers.unavailable("the facilitator gave no usable answer")
            return False
        claim.write(self._new_record(request, paid=Paid.of(self.terms)))
        return await self._identified(request, bind=True)

    async def _forward(self, exchange: Exchange) -> UpstreamResponse | None:
        terms = self.terms
        try:
            return await exchange.forward(
                terms.upstream,
                path=exchange.target,
                headers=forwarded(exchange, terms),
                timeout=terms.timeout,
            )
        except UpstreamError as error:
            await self.answers.upstream_failed(error.reason)
            return None

    async def _settle_and_serve(
        self, exchange: Exchange, claim: Claim, response: UpstreamResponse, early: Answer | None
    ) -> None:
        record = _record_of(claim)
        record.state = "settling"
        claim.write(record)
        try:
            settlement = await _detached(self._settle(claim.share()))
        except asyncio.CancelledError:
            # The client left. The answer that it pays for is stored if it still arrives.
            if early is None:
                await self._keep_late(claim, response)
            raise
        if settlement.state is Settled.YES:
            await self._serve(exchange, claim, response, early)
            return
        if early is None and settlement.state is not Settled.NO:
            await self._keep_late(claim, response)
        response.close()
        await self._answer_unsettled(settlement)

    async def _settle_abandoned(self, claim: Claim) -> None:
        """The client left while the upstream worked on its request."""
        record = _record_of(claim)
        record.state = "settling"
        claim.write(record)
        try:
            await _detached(self._settle_served(claim.share()))
        finally:
            claim.close()

    async def _settle_served(self, claim: Claim) -> Settlement:
        """Like `_settle`, but no answer will be sent. The caller holds the claim."""
        try:
            settlement = await self.facilitator.settle(self.payment)
            self._note(claim, settlement)
            if settlement.state is Settled.YES:
                self._served(claim)
        finally:
            claim.close()
        return settlement

    async def _settle(self, claim: Claim) -> Settlement:
        """Request the settlement and record the result. The caller holds the claim."""
        try:
            settlement = await self.facilitator.settle(self.payment)
            self._note(claim, settlement)
        finally:
            claim.close()
        return settlement

    async def _serve(
        self, exchange: Exchange, claim: Claim, response: UpstreamResponse, early: Answer | None
    ) -> None:
        receipt = self.answers.receipt(_record_of(claim).transaction)
        if early is not None:
            await self._deliver(claim, early)
        elif self.payment.identifier is None:
            exchange.relay(response, headers=[*receipt, *kept_private(response.headers)])
            self._served(claim)
        else:
            await self._tee(exchange, claim, response, receipt)

    async def _tee(
        self,
        exchange: Exchange,
        claim: Claim,
        response: UpstreamResponse,
        receipt: list[tuple[str, str]],
    ) -> None:
        """Serve a stream and keep a copy, for a payment with an identifier."""
        headers = end_to_end(response.headers)
        kept: bytearray | None = bytearray()
        await exchange.start(response.status, [*headers, *receipt, *kept_private(headers)])
        self._served(claim)
        async for chunk in response:
            if kept is not None:
                kept += chunk
                if len(kept) > self.terms.keep:
                    kept = None
            await exchange.write(chunk)
        exchange.finish()
        if kept is not None:
            claim.keep(Answer(response.status, headers, bytes(kept)))

    # ---- the upstream's body -------------------------------------------------------------------

    def _bounded(self, exchange: Exchange, response: UpstreamResponse) -> bool:
        """Whether the body is short and has a known length, so it can be read at once."""
        length = response.headers.get("content-length", "")
        kind = response.headers.get("content-type", "").lower()
        return (
            length.isascii()
            and length.isdigit()
            and int(length) <= self.terms.keep
            and exchange.method != "HEAD"
            and not kind.startswith("text/event-stream")
        )

    async def _read(self, response: UpstreamResponse) -> Answer | None:
        """The whole answer; None if it is incomplete or too long to store."""
        headers = end_to_end(response.headers)
        try:
            return Answer(response.status, headers, await response.read(self.terms.keep))
        except (UpstreamError, ValueError):
            return None

    async def _keep_late(self, claim: Claim, response: UpstreamResponse) -> None:
        """Store a stream whose client cannot be served now, if it ends in time."""
        try:
            async with asyncio.timeout(LATE_READ_S):
                answer = await self._read(response)
        except TimeoutError:
            return
        if answer is not None and _record_of(claim).state != "failed":
            claim.keep(answer)

    # ---- a payment that was seen before ----------------------------------------------------------

    async def _again(self, claim: Claim, request: str) -> None:
        record = _record_of(claim)
        if not await self._identified(request):
            return
        if record.request != request or record.identifier != self.payment.identifier:
            await self.answers.used("it was presented with another request before")
            return
        if record.state == "served":
            answer = claim.kept() if record.identifier is not None else None
            if answer is None:
                await self.answers.used("it was settled, and its answer was given")
            else:
                await self.answers.give(answer, record.transaction)
            return
        if record.state == "running":
            # Its worker died before the settlement, so it will never be settled.
            record.state, record.code = "failed", "interrupted"
            claim.forget_answer()
            claim.write(record)
        elif record.state in ("settling", "unknown", "unsent"):
            settlement = await _detached(self._settle_again(claim.share()))
            if settlement.state is not Settled.YES:
                await self._answer_unsettled(settlement)
                return
        if record.state == "failed":
            await self._answer_unsettled(Settlement(Settled.NO, code=record.code))
            return
        answer = claim.kept()
        if answer is not None:
            await self._deliver(claim, answer)
            return
        log.error(
            "x402: route %s: %s paid (transaction %s) and the answer is gone: to be refunded",
            self.terms.route,
            record.payer,
            record.transaction or "unknown",
        )
        claim.not_served()
        await self.answers.owed(record.transaction)

    async def _settle_again(self, claim: Claim) -> Settlement:
        """Find out the result of a settlement and record it. The caller holds the claim."""
        record = _record_of(claim)
        try:
            if record.state == "unsent":
                settlement = await self.facilitator.settle(self.payment)
            else:
                settlement = await self._inquire(record)
            self._note(claim, settlement)
        finally:
            claim.close()
        return settlement

    async def _inquire(self, record: ClaimRecord) -> Settlement:
        """The result of an unknown settlement.

        If a transaction was reported, the facilitator finds it by settling again. If none
        was reported, settling again without asking would cost the facilitator a transaction
        that cannot succeed.
        """
        if not record.transaction:
            settlement = await self._look(record)
            if settlement is not None:
                return settlement
        settlement = await self.facilitator.settle(self.payment)
        if settlement.state is Settled.YES:
            return settlement
        # If the second was refused, the first may have succeeded.
        return await self._look(record) or Settlement(
            Settled.UNKNOWN, settlement.transaction or record.transaction, settlement.code
        )

    async def _look(self, record: ClaimRecord) -> Settlement | None:
        """What the validity of the payment says about its settlement. None: it is still valid."""
        try:
            await self.facilitator.verify(self.payment)
        except Refused as refused:
            if refused.code not in NONCE_USED:
                return Settlement(Settled.UNKNOWN, record.transaction, refused.code)
            # Using a nonce needs the payer's signature, and this one was valid before we asked: so
            # our settlement has used it.
            record.presumed = True
            return Settlement(Settled.YES, record.transaction)
        except Unavailable as error:
            return Settlement(Settled.UNKNOWN, record.transaction, str(error))
        return None

    # ---- records ---------------------------------------------------------------------------------

    def _note(self, claim: Claim, settlement: Settlement) -> None:
        record = _record_of(claim)
        record.state = settlement.state.value
        record.code = settlement.code[:400]
        record.transaction = (settlement.transaction or record.transaction)[:200]
        if settlement.state is Settled.NO:
            claim.forget_answer()
        claim.write(record)
        if settlement.state is not Settled.YES or record.presumed:
            log.warning(
                "x402: route %s: payment of %s: %s%s %s",
                self.terms.route,
                record.payer,
                "presumed " if record.presumed else "",
                record.state,
                record.code,
            )

    def _served(self, claim: Claim) -> None:
        record = _record_of(claim)
        record.state = "served"
        if record.identifier is None:
            claim.forget_answer()
        claim.write(record)

    async def _deliver(self, claim: Claim, answer: Answer) -> None:
        """Send the answer. If the client leaves before it has the answer, the answer stays
        available."""
        await self.answers.give(answer, _record_of(claim).transaction)
        self._served(claim)

    async def _answer_unsettled(self, settlement: Settlement) -> None:
        if settlement.state is Settled.NO:
            await self.answers.not_settled(settlement.code)
        elif settlement.state is Settled.UNSENT:
            await self.answers.unavailable("the facilitator could not be reached to settle")
        else:
            await self.answers.settlement_unknown(settlement.transaction)

    # ---- identifiers -----------------------------------------------------------------------------

    def _identifier_key(self, identifier: str) -> bytes:
        text = f"identifier\n{self.terms.network}\n{self.terms.pay_to}\n{identifier}"
        return hashlib.sha256(text.encode()).digest()

    async def _identified(self, request: str, *, bind: bool = False) -> bool:
        """False if the identifier belongs to another payment; the client gets an error. `bind`:
        from now on it belongs to this verified payment.
        """
        if self.payment.identifier is None:
            return True
        try:
            bound = self.store.open(self._identifier_key(self.payment.identifier))
        except Busy:
            await self.answers.in_progress()
            return False
        record = bound.record
        if record is None and not bind:
            bound.release()
            return True
        try:
            if record is None:
                bound.write(self._new_record(request, state="served", code=self._nonce))
                return True
        finally:
            bound.close()
        if record.request == request and record.code == self._nonce:
            return True
        await self.answers.identifier_conflict()
        return False

    def _new_record(
        self, request: str, state: State = "running", code: str = "", paid: Paid | None = None
    ) -> ClaimRecord:
        now = int(self.store.clock())
        return ClaimRecord(
            state=state,
            request=request,
            route=self.terms.route,
            payer=self.payment.payer,
            created=now,
            expires=min(self.payment.valid_before, now + REMEMBER_MOST_S) + REMEMBER_S,
            identifier=self.payment.identifier,
            paid=paid,
            code=code,
        )

    @property
    def _nonce(self) -> str:
        return self.answers.offer.nonce(self.payment).hex()


def _record_of(claim: Claim) -> ClaimRecord:
    assert claim.record is not None
    return claim.record


def settling() -> list[asyncio.Task[Settlement]]:
    """Settlements in progress in this process, including those whose clients have left."""
    return list(_tasks)


async def _detached(work: Coroutine[Any, Any, Settlement]) -> Settlement:
    """The result of something that continues when the caller is cancelled."""
    task = asyncio.create_task(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return await asyncio.shield(task)
