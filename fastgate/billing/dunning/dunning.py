"""Dunning: charging an invoice until it is paid or given up.

```
 invoice ─▶ DUE ──charge──┬─ succeeded ───────────────▶ DONE        access at once, receipt
             ▲            ├─ pending ─────────────────▶ PENDING     ask again in an hour
             │            ├─ action required ─────────▶ CONFIRMING  its owner gets the link
             │            ├─ declined: later ─────────▶ DUE         after retries[attempt]
             │            │            … no more tries ▶ EXHAUSTED  grace, then 402
             │            ├─ declined: new method ────▶ WAITING     grace, then 402
             │            └─ declined: never ─────────▶ EXHAUSTED
             └── a method is attached ── WAITING, EXHAUSTED, DUE (at once)
```

`decide` is this diagram as a pure function. The first charge of an invoice and its retries are the
same thing: a case that is due.

- **One charge, one key** (`<invoice>:<attempt>`): the charge is made outside any transaction, and
  its outcome recorded in one. If the process is killed between the two, the next one charges again
  with the same key, and the provider answers with the first outcome. An outcome of an attempt that
  is not the case's current one is dropped, unless it is a success.
- A provider that cannot be reached is not a decline: the case is due again an hour later.
- A charge that succeeds after its invoice was given up (the plan has changed) or paid
  otherwise is credited to the wallet, by a credit note.
- What goes back is not paid: `returned` looks at what is left of an invoice's payments.
- Whatever pays the invoice (a retry, a webhook, an operator) calls `settle`: the invoice, the
  case, the subscription and the notices change in one transaction, and access returns with it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

import msgspec
import sqlalchemy as sa

from fastgate.billing.amounts import show
from fastgate.billing.invoices.cases import (
    Case,
    CaseState,
    case_of,
    change_case,
    due_cases,
    open_case,
    wake_cases,
)
from fastgate.billing.invoices.invoices import (
    DocumentKind,
    Draft,
    Invoice,
    InvoiceLine,
    Invoices,
    Status,
    paid_in,
)
from fastgate.billing.notices.notices import Message, Notices
from fastgate.billing.payments.base import (
    ChargeResult,
    ChargeStatus,
    Decline,
    PaymentError,
    ProviderUnavailable,
    Purpose,
    Unsupported,
)
from fastgate.billing.subscriptions import fees, plan_change
from fastgate.billing.subscriptions.lifecycle import ACCESS, TRANSITIONS, Event, State, Subscription
from fastgate.billing.subscriptions.owed import seconds
from fastgate.billing.subscriptions.subscriptions import Subscriptions
from fastgate.errors import NotFoundError
from fastgate.model.billing import Dunning as Rules
from fastgate.model.units import Money
from fastgate.serial import serialized
from fastgate.store.billing_tables import invoices as invoice_table
from fastgate.store.connection import AsyncConnection
from fastgate.store.payments import Payment

log = logging.getLogger("fastgate.billing")

AGAIN = timedelta(hours=1)
"""The delay after a provider did not answer, or did not know the outcome yet."""


class Charger(Protocol):
    """Makes charges: a payment provider, or several in order."""

    async def charge_saved(
        self,
        account: str,
        amount: Money,
        idempotency_key: str,
        *,
        purpose: Purpose = Purpose.TOP_UP,
        subject: str = "",
    ) -> ChargeResult:
        """As `PaymentProvider.charge_saved`."""

    async def find_charge(
        self, account: str, idempotency_key: str, since: datetime
    ) -> ChargeResult | None:
        """As `PaymentProvider.find_charge`."""


class NextStep(NamedTuple):
    """The next step after the outcome of a charge."""

    state: CaseState
    next_at: datetime | None
    events: tuple[Event, ...]
    """Events of the subscription, in order."""
    notice: str
    """The kind; empty: no notice."""


def decide(
    result: ChargeResult, attempt: int, waits: Sequence[timedelta], now: datetime
) -> NextStep:
    """The next step after charge number `attempt` + 1 of an invoice had this outcome."""
    failed = (Event.PAYMENT_FAILED,)
    over = (Event.PAYMENT_FAILED, Event.RETRIES_EXHAUSTED)
    match result.status:
        case ChargeStatus.SUCCEEDED:
            return NextStep(CaseState.DONE, None, (Event.PAYMENT_SUCCEEDED,), "")
        case ChargeStatus.PENDING:
            return NextStep(CaseState.PENDING, now + AGAIN, (), "")
        case ChargeStatus.ACTION_REQUIRED:
            return NextStep(CaseState.CONFIRMING, None, failed, "payment.action_required")
        case ChargeStatus.FAILED:
            pass
    if result.decline is Decline.NEW_METHOD:
        return NextStep(CaseState.WAITING, None, failed, "payment.method_needed")
    if result.decline is Decline.LATER and attempt < len(waits):
        return NextStep(CaseState.DUE, now + waits[attempt], failed, "payment.failed")
    return NextStep(CaseState.EXHAUSTED, None, over, "subscription.grace")


class Dunning:
    """Works on the cases. Methods may raise StoreError."""

    def __init__(
        self,
        subscriptions: Subscriptions,
        charger: Charger,
        rules: Rules,
    ) -> None:
        self.subscriptions = subscriptions
        self.store = subscriptions.store
        self.clock = subscriptions.clock
        self.invoices: Invoices = subscriptions.invoices
        self.notices: Notices = subscriptions.notices
        self.charger = charger
        self.changes = subscriptions.changes
        self.waits = [seconds(wait) for wait in rules.retries]

    async def run(self, limit: int = 50) -> int:
        """Work on the cases that are due. Returns how many."""
        async with self.store.read() as connection:
            cases = await due_cases(connection, self.clock(), limit)
        for case in cases:
            await self._work(case)
        return len(cases)

    async def method_attached(self, account: str) -> int:
        """Another payment method was attached: everything unpaid is charged at the next `run`."""
        async with self.store.write() as connection:
            return await wake_cases(connection, account, self.clock())

    async def _work(self, case: Case) -> None:
        invoice = await self.invoices.get(case.invoice)
        if invoice.status is Status.VOID:
            await self._close(case)
            return
        if invoice.status is Status.PAID or not invoice.total:
            await self.settle(invoice.id, _nothing(invoice))
            return
        try:
            result = await self._charge(case, invoice)
        except PaymentError as error:
            if isinstance(error, Unsupported):
                log.warning(
                    "Invoice %s stays open until it is marked as paid "
                    "(`fastgate subscriptions pay`): %s", invoice.number, error
                )  # fmt: skip
            elif not isinstance(error, ProviderUnavailable):
                log.error("Charging invoice %s: %s", invoice.number, error)
            await self._later(case)
            return
        await self.settle(invoice.id, result, case.charge_key)

    async def _later(self, case: Case) -> None:
        now = self.clock()
        async with self.store.write() as connection:
            locked = await case_of(connection, case.invoice, lock=True)
            if locked is not None and locked.version == case.version:
                await change_case(connection, locked, next_at=now + AGAIN, updated=now)

    async def _close(self, case: Case) -> None:
        async with self.store.write() as connection:
            locked = await case_of(connection, case.invoice, lock=True)
            if locked is not None and locked.version == case.version:
                await change_case(
                    connection, locked, state=CaseState.CLOSED, next_at=None, updated=self.clock()
                )

    async def _charge(self, case: Case, invoice: Invoice) -> ChargeResult:
        if case.state is CaseState.PENDING:
            found = await self.charger.find_charge(
                case.account, case.charge_key, case.created - timedelta(minutes=5)
            )
            if found is not None:
                return found
        return await self.charger.charge_saved(
            case.account,
            invoice.amount,
            case.charge_key,
            purpose=Purpose.INVOICE,
            subject=invoice.id,
        )

    @serialized
    async def settle(self, ident: str, result: ChargeResult, key: str = "") -> bool:
        """Record the outcome of a charge of an invoice. Returns whether it changed anything. `key`:
        the charge's idempotency key, if it is known. Raises NotFoundError.
        """
        now = self.clock()
        async with self.store.write() as connection:
            status = await connection.scalar(
                sa.select(invoice_table.c.status).where(invoice_table.c.id == ident)
            )
            if status is None:
                raise NotFoundError(f"There is no invoice {ident!r}.")
            case = await case_of(connection, ident, lock=True)
            success = result.status is ChargeStatus.SUCCEEDED
            if success and await fees.gone(connection, result.provider, result.reference):
                return False  # a repeated event, of a payment that was returned since
            if success and not await self._enough(connection, ident, result):
                return await self._paid_twice(connection, ident, result, "not paid by it")
            if case is None or case.state in (CaseState.DONE, CaseState.CLOSED):
                changed = success and await paid_in(connection, ident, result.reference, now)
                if changed and status == Status.VOID.value:
                    await self._paid_late(connection, ident, result)
                elif success and not changed:
                    changed = await self._paid_twice(connection, ident, result)
                return bool(changed)
            if key and key != case.charge_key and not success:
                return False
            verdict = decide(result, case.attempt, self.waits, now)
            await self._note(connection, case, result, verdict, now)
        await self.subscriptions.changed(case.account)
        return True

    async def _enough(self, connection: AsyncConnection, ident: str, result: ChargeResult) -> bool:
        """Whether a payment covers its invoice: the same currency and at least the amount.
        Currencies are never converted."""
        invoice = await self.invoices.get_in(connection, ident)
        paid = result.amount
        enough = paid.currency == invoice.currency and paid.micros >= invoice.total
        if not enough:
            log.error(
                "The payment %s of %s does not pay the invoice %s over %s; it is credited to the "
                "wallet.", result.reference, paid, invoice.number, invoice.amount
            )  # fmt: skip
        return enough

    async def _give_back(
        self, connection: AsyncConnection, ident: str, key: str, was: str, amount: Money
    ) -> Invoice:
        """Credit a payment that its invoice does not need to the wallet."""
        invoice = await self.invoices.get_in(connection, ident)
        draft = Draft(
            key=key,
            kind=DocumentKind.CREDIT,
            account=invoice.account,
            subscription=invoice.subscription,
            currency=amount.currency,
            lines=[InvoiceLine(f"Payment of {invoice.number}, which was {was}", amount.micros)],
        )
        return await self.invoices.issue_in(connection, draft)

    async def _paid_late(
        self, connection: AsyncConnection, ident: str, result: ChargeResult
    ) -> None:
        """A payment of an invoice that was given up goes to the wallet, as far as a change of
        plan has not credited it already: before it was contested, and won."""
        query = sa.select(invoice_table).where(invoice_table.c.id == ident)
        rows = (await connection.execute(query)).all()
        left = await fees.refundable(connection, result.provider, result.reference, ident)
        micros = min(result.amount.micros, left or 0)
        if not micros:
            return
        amount = Money(micros, result.amount.currency)
        if await fees.paid_late(
            connection, rows
        ):  # that payment was returned, and this is another one
            key = fees.twice_key(result.provider, result.reference)
            await self._give_back(connection, ident, key, "void", result.amount)
            return
        note = await self._give_back(connection, ident, fees.late_key(ident), "void", amount)
        await fees.draw(connection, note.id, note.total, rows)

    async def _paid_twice(
        self,
        connection: AsyncConnection,
        ident: str,
        result: ChargeResult,
        was: str = "paid already",
    ) -> bool:
        """Credit a second payment of an invoice to the wallet, once."""
        invoice = await self.invoices.get_in(connection, ident)
        if not result.provider or result.reference in ("", invoice.reference):
            return False
        if not await fees.is_payment(connection, result.provider, result.reference):
            return False
        key = fees.twice_key(result.provider, result.reference)
        await self._give_back(connection, ident, key, was, result.amount)
        return True

    # ---- what comes back ----------------------------------------------------------------

    async def refundable(self, paid: Payment) -> int:
        """The most of a payment of an invoice that may go back, what came back of it not taken
        off yet: not what credit notes have given to the wallet."""
        async with self.store.read() as connection:
            left = await fees.refundable(connection, paid.provider, paid.reference, paid.subject)
            if left is None:
                return paid.amount
            back = await fees.returned_of(connection, paid.provider, paid.reference)
        return min(paid.amount, left + back)

    async def taken_back(self, ident: str) -> dict[tuple[str, str], int]:
        """How much of what credit notes gave to the wallet is to be out of it again, since what
        was paid for the invoice went back: micro-units by invoice and currency. As it is now."""
        async with self.store.read() as connection:
            query = sa.select(invoice_table).where(invoice_table.c.id == ident)
            return await fees.taken_back(connection, (await connection.execute(query)).all())

    @serialized
    async def returned(self, ident: str) -> bool:
        """Something of what was paid for an invoice went back, or did not after all: whether that
        changed anything. Raises NotFoundError.

        Refunded in full, its time is not paid for and the subscription ends; charged back, it is
        owed, as after a payment that failed for good. What is only a part changes no access.
        """
        now = self.clock()
        async with self.store.write() as connection:
            rows = await connection.execute(
                sa.select(invoice_table).where(invoice_table.c.id == ident)
            )
            row = rows.one_or_none()
            if row is None:
                raise NotFoundError(f"There is no invoice {ident!r}.")
            invoice = await self.invoices.get_in(connection, ident)
            kept = (await fees.kept_of(connection, [row]))[ident]
            whole = kept.here >= invoice.total > 0
            if invoice.status is Status.PAID and kept.returned and kept.here <= 0:
                if await fees.paid_late(
                    connection, [row]
                ):  # nothing is owed for an invoice that was given up
                    await self._mark(connection, invoice, Status.VOID)
                else:
                    await self._taken_back(connection, invoice, now)
            elif invoice.status in (Status.OPEN, Status.RETURNED) and whole:
                await self._here_again(connection, invoice, now)
            elif invoice.status is Status.VOID and kept.left:
                await self._here_late(connection, invoice, now)
            else:
                return False
        await self.subscriptions.changed(invoice.account)
        return True

    async def _taken_back(
        self, connection: AsyncConnection, invoice: Invoice, now: datetime
    ) -> None:
        contested = await fees.charged_back(connection, invoice.id)
        covered = await self.subscriptions.paid_by(connection, invoice)
        if covered is None:  # its time is over, or was settled by another change
            await plan_change.forget_carried(connection, invoice_table.c.id == invoice.id)
        if not contested:
            if covered is not None:
                await self.subscriptions.end_in(connection, covered, invoice)
            await self._mark(connection, invoice, Status.RETURNED)
            return
        await self._mark(connection, invoice, Status.OPEN)
        if covered is not None:
            await self.subscriptions.unpaid_in(connection, covered, invoice)
        case = await case_of(connection, invoice.id, lock=True)
        if case is None:
            case = await open_case(connection, invoice, now, now)
        if invoice.subscription is not None:
            plan = (await self.subscriptions.get_in(connection, invoice.subscription)).plan
            case = msgspec.structs.replace(case, grace_ends=now + self.subscriptions.grace_of(plan))
        result = ChargeResult(
            status=ChargeStatus.FAILED,
            provider="",
            amount=invoice.amount,
            decline=Decline.NEVER,
            code="charged_back",
            message="The bank took the payment back.",
        )
        verdict = decide(result, case.attempt, self.waits, now)
        if (
            covered is None
        ):  # for a past period: it is owed, but does not end the access of the current one
            verdict = verdict._replace(events=())
        await self._note(connection, case, result, verdict, now)

    @staticmethod
    async def _paid_with(connection: AsyncConnection, invoice: Invoice) -> ChargeResult:
        """The payment of an invoice that is here, as if it were just made."""
        provider, reference = await fees.payment_here(connection, invoice.id)
        return ChargeResult(
            status=ChargeStatus.SUCCEEDED,
            provider=provider,
            amount=invoice.amount,
            reference=reference,
        )

    async def _here_late(
        self, connection: AsyncConnection, invoice: Invoice, now: datetime
    ) -> None:
        """It was given up while its payment was contested: what is here of that is credited."""
        result = await self._paid_with(connection, invoice)
        await paid_in(connection, invoice.id, result.reference, now)
        await self._paid_late(connection, invoice.id, result)

    @staticmethod
    async def _mark(connection: AsyncConnection, invoice: Invoice, status: Status) -> None:
        await connection.execute(
            sa.update(invoice_table)
            .where(invoice_table.c.id == invoice.id)
            .values(status=status.value, paid_at=None)
        )

    async def _here_again(
        self, connection: AsyncConnection, invoice: Invoice, now: datetime
    ) -> None:
        result = await self._paid_with(connection, invoice)
        case = await case_of(connection, invoice.id, lock=True)
        if case is None or case.state in (CaseState.DONE, CaseState.CLOSED):
            await paid_in(connection, invoice.id, result.reference, now)
            return
        verdict = decide(result, case.attempt, self.waits, now)
        await self._note(connection, case, result, verdict, now)

    async def _note(
        self,
        connection: AsyncConnection,
        case: Case,
        result: ChargeResult,
        verdict: NextStep,
        now: datetime,
    ) -> None:
        failed = result.status is ChargeStatus.FAILED
        changed = await change_case(
            connection,
            case,
            state=verdict.state,
            next_at=verdict.next_at,
            attempt=case.attempt + failed,
            decline=str(result.decline or "") if failed else case.decline,
            updated=now,
        )
        invoice = await self.invoices.get_in(connection, case.invoice)
        if verdict.state is CaseState.DONE:
            await paid_in(connection, invoice.id, result.reference, now)
        subscription = await self._apply(connection, invoice, case, verdict)
        for message in self._messages(invoice, changed, result, verdict, subscription):
            await self.notices.put_in(connection, message)

    async def _apply(
        self, connection: AsyncConnection, invoice: Invoice, case: Case, verdict: NextStep
    ) -> Subscription | None:
        """Apply the events of the step that the subscription's state allows."""
        if case.subscription is None:
            return None
        now_is = await self.subscriptions.get_in(connection, case.subscription)
        for event in verdict.events:
            if (now_is.state, event) in TRANSITIONS:
                now_is = await self.subscriptions.apply_in(
                    connection,
                    now_is.id,
                    event,
                    note=invoice.number,
                    paid_through=invoice.period_end,
                    grace_ends=case.grace_ends,
                )
        return now_is

    def _messages(
        self,
        invoice: Invoice,
        case: Case,
        result: ChargeResult,
        verdict: NextStep,
        subscription: Subscription | None,
    ) -> list[Message]:
        amount = show(invoice.total, invoice.currency)
        zone = subscription.zone if subscription is not None else "UTC"
        subject = subscription.plan if subscription is not None else invoice.number
        day = self.subscriptions.day
        grace = subscription.grace_ends if subscription is not None else None
        ends = grace or case.grace_ends
        goes_on = ends > self.clock()
        data = {
            "amount": amount,
            "subject": subject,
            "number": invoice.number,
            "message": result.message or "no reason given.",
            "next_try": day(case.next_at, zone) if case.next_at is not None else "",
            "grace_ends": day(ends, zone),
            "access": f"Your access continues until {day(ends, zone)}."
            if goes_on
            else "Until it is paid, requests are answered with 402.",
            "action": result.action_url,
            "code": result.code,
            "lines": lines_text(invoice.lines, invoice.currency),
        }
        kinds = [verdict.notice] if verdict.notice else []
        if verdict.state is CaseState.DONE:
            kinds = ["payment.recovered"] if case.attempt else []
            if self.notices.billing.notices.receipts:
                kinds.append("payment.succeeded")
        return [
            Message(kind=kind, account=invoice.account, key=f"{kind}:{case.charge_key}", data=data)
            for kind in kinds
        ]

    async def notify_suspended(self, subscription: Subscription) -> None:
        """Grace is over and nothing was paid: send one notice."""
        access = ACCESS[subscription.state]
        ends = subscription.grace_ends
        if subscription.state not in (State.PAST_DUE, State.GRACE) or ends is None:
            return
        if ends > self.clock():
            return
        owed = await self.invoices.open_of(subscription.id)
        sums: dict[str, int] = {}  # amounts in two currencies cannot be added
        for one in owed:
            sums[one.currency] = sums.get(one.currency, 0) + one.total
        if not sums:
            sums[self.notices.billing.currency] = 0
        await self.notices.put(
            Message(
                kind="subscription.suspended",
                account=subscription.account,
                key=f"suspended:{subscription.id}:{ends.isoformat()}",
                data={
                    "amount": " and ".join(show(sums[each], each) for each in sorted(sums)),
                    "subject": subscription.plan,
                    "reason": access.reason.code if access.reason is not None else "",
                },
            )
        )


def lines_text(lines: Sequence[InvoiceLine], currency: str) -> str:
    """An invoice's lines, to be read."""
    return "\n".join(f"- {line.text}: {show(line.micros, currency)}" for line in lines)


def _nothing(invoice: Invoice) -> ChargeResult:
    """An invoice that needs no charge counts as paid."""
    return ChargeResult(
        status=ChargeStatus.SUCCEEDED,
        provider="",
        amount=invoice.amount,
        reference=invoice.reference,
    )
