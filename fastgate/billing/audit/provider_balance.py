"""The audit of the money that providers hold for us: compares the book `provider_clearing` with
each provider's own balance, as one number for each currency.

```
clearing  =  balance + payouts + fees + contested + converted - other       by currency
```

```
clearing   minus the postings of the entries for this provider's payments
balance    the balance that the provider reports; the sum of all its movements, less fees
payouts    payouts to our bank; they move no account's money, so they have no entry
fees       the provider's fees, less the entries of the kind provider_fee
contested  withdrawn from us by disputes that are not decided: held, in the ledger
converted  payments that are settled in another currency: out of one, into the other
other      not made through us: other sales of the same provider account, reserves, top-ups
```

Each difference is listed: each payment, refund and dispute is looked up on both sides, and each
entry must belong to one of them. Any remaining difference is a finding too, so a sum cannot hide
anything. This is a separate audit, since it reads every movement (`audit --providers`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from fastgate.billing.audit.report import Check, check
from fastgate.billing.ledger.ledger import settled_id
from fastgate.billing.payments.base import (
    BalanceLine,
    Capability,
    LineKind,
    PaymentError,
    PaymentProvider,
    Statement,
)
from fastgate.billing.payments.books import cost_id, payment_id, refund_id, returned_id
from fastgate.store.engine import Store
from fastgate.store.ledger import Book
from fastgate.store.money_tables import ledger_entries, ledger_postings
from fastgate.store.payment_tables import payment_returns, payments

STARTS = ("pay", "cost", "refund", "dispute")
"""The prefixes of the ids of entries for a provider's payments."""
STREAM = 500
ATTEMPTS = 2
"""The maximum number of readings of both sides, since money moves in between."""

Sums = dict[str, int]
"""By currency."""
Subject = tuple[LineKind, str]
"""A payment, refund or dispute, by its reference."""


class _Ours(msgspec.Struct):
    """The money that one provider holds, according to the ledger."""

    clearing: Sums
    costs: Sums
    contested: Sums
    booked: dict[Subject, tuple[str, int]]
    """The currency and micro-units that each payment, refund and dispute moved."""
    loose: dict[str, tuple[str, int]]
    """Entries without a counterpart, by id."""


async def audit_balances(store: Store, providers: Sequence[PaymentProvider]) -> list[Check]:
    """A check for each provider. Raises StoreError. One that does not answer is a finding."""
    return [await _audit(store, provider) for provider in providers]


async def _audit(store: Store, provider: PaymentProvider) -> Check:
    name = f"balance {provider.name}"
    if Capability.BALANCE not in provider.capabilities:
        ours = await _read(store, provider.name)
        numbers = {f"{code}.clearing": amount for code, amount in sorted(ours.clearing.items())}
        note = "This provider does not report a balance: compare by hand."
        return msgspec.structs.replace(check(name, [], **numbers), notes=[note])
    for _ in range(ATTEMPTS):
        try:
            theirs = await provider.statement()
        except PaymentError as error:
            return check(name, [f"it did not answer: {error}"])
        found = _compared(name, await _read(store, provider.name), theirs)
        if found.passed:
            break
    return found


# ---- our side ---------------------------------------------------------------------------


async def _read(store: Store, provider: str) -> _Ours:
    async with store.read() as connection:
        if store.kind == "postgresql":
            await connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        entries: dict[str, tuple[str, int]] = {}
        columns = ledger_entries.c
        query = (
            sa.select(columns.id, columns.currency, ledger_postings.c.amount)
            .join(ledger_postings, ledger_postings.c.entry == columns.number)
            .where(ledger_postings.c.book == Book.CLEARING.value)
            .where(
                sa.or_(
                    *(
                        columns.id.startswith(f"{start}:{provider}:", autoescape=True)
                        for start in STARTS
                    )
                )
            )
        )
        async with connection.stream(query.execution_options(yield_per=STREAM)) as rows:
            async for ident, currency, amount in rows:
                entries[ident] = (currency, -int(amount))
        sums = [defaultdict[str, int](int) for _ in range(3)]
        ours = _Ours(sums[0], sums[1], sums[2], {}, entries)
        for currency, amount in entries.values():
            ours.clearing[currency] += amount
        paid = sa.select(payments).where(payments.c.provider == provider)
        async with connection.stream(paid.execution_options(yield_per=STREAM)) as rows:
            async for row in rows:
                moved = _taken(entries, payment_id(provider, row.reference))
                ours.booked[LineKind.PAYMENT, row.reference] = (row.currency, moved)
                cost = _taken(entries, cost_id(provider, row.reference))
                ours.costs[row.currency] -= cost
        back = sa.select(payment_returns).where(payment_returns.c.provider == provider)
        async with connection.stream(back.execution_options(yield_per=STREAM)) as rows:
            async for row in rows:
                if row.kind == "refund":
                    ident = refund_id(provider, row.key or row.reference)
                else:
                    ident = returned_id(provider, row.reference)
                names = (settled_id(ident), settled_id(f"{ident}:late"), f"{ident}:failed")
                moved = sum(_taken(entries, name) for name in names)
                if row.state == "contested":
                    ours.contested[row.currency] += row.amount
                    moved -= row.amount
                ours.booked[LineKind(row.kind), row.reference] = (row.currency, moved)
    return ours


def _taken(entries: dict[str, tuple[str, int]], ident: str) -> int:
    return entries.pop(ident, ("", 0))[1]


# ---- both -------------------------------------------------------------------------------


def _compared(name: str, ours: _Ours, theirs: Statement) -> Check:
    findings: list[str] = []
    sums: dict[str, Sums] = defaultdict(lambda: defaultdict(int))
    for currency, amount in ours.clearing.items():
        sums[currency]["clearing"] = amount
    for currency, amount in theirs.balances.items():
        sums[currency]["balance"] = amount
    for currency, amount in ours.costs.items():
        sums[currency]["fees"] -= amount
    for currency, amount in ours.contested.items():
        sums[currency]["contested"] += amount
    added: Sums = defaultdict(int)
    subjects = _sorted(theirs.lines, ours, sums, added)
    differences = _match(subjects, ours, sums, findings)
    for ident, (currency, amount) in ours.loose.items():
        differences[currency] += amount
        findings.append(f"entry {ident}: {amount} micros of {currency} booked here, for no payment")
    for currency in sorted(set(sums) | set(added)):
        row = sums[currency]
        if row["balance"] != added[currency]:
            findings.append(
                f"{currency}: the balance there is {row['balance']} micros, but its movements "
                f"add up to {added[currency]}"
            )
        there = sum(row[part] for part in PARTS) - row["other"]
        row["difference"] = row["clearing"] - there
        # The balance may differ from its own movements, which was reported above.
        left = row["difference"] - differences[currency] + row["balance"] - added[currency]
        if left:
            findings.append(f"{currency}: {left} micros more here, without an identified reason")
    numbers = {
        f"{currency}.{part}": row[part]
        for currency, row in sorted(sums.items())
        for part in ("clearing", *PARTS, "other", "difference")
        if row[part] or part in ("clearing", "balance", "difference")
    }
    return check(name, findings, **numbers)


PARTS = ("balance", "payouts", "fees", "contested", "converted")


def _sorted(
    lines: Sequence[BalanceLine], ours: _Ours, sums: dict[str, Sums], added: Sums
) -> dict[Subject, list[BalanceLine]]:
    """Add up the provider's movements; those of our payments, refunds and disputes by reference."""
    known = {reference for kind, reference in ours.booked if kind is LineKind.PAYMENT}
    known |= {line.payment for line in lines if line.kind is LineKind.PAYMENT and line.marked}
    subjects: dict[Subject, list[BalanceLine]] = {}
    for line in lines:
        row = sums[line.currency]
        added[line.currency] += line.amount - line.fee
        row["fees"] += line.fee
        match line.kind:
            case LineKind.PAYOUT:
                row["payouts"] -= line.amount
            case LineKind.FEE:
                row["fees"] -= line.amount
            case LineKind.PAYMENT | LineKind.REFUND | LineKind.DISPUTE if (
                line.payment in known or (line.kind, line.subject) in ours.booked
            ):
                subjects.setdefault((line.kind, line.subject), []).append(line)
            case _:
                row["other"] += line.amount
    return subjects


def _match(
    subjects: dict[Subject, list[BalanceLine]],
    ours: _Ours,
    sums: dict[str, Sums],
    findings: list[str],
) -> Sums:
    """Look up each payment, refund and dispute on both sides. Returns how much more is here."""
    differences: Sums = defaultdict(int)
    for subject in sorted(set(subjects) | set(ours.booked)):
        what = f"{subject[0].value} {subject[1]}"
        lines = subjects.get(subject, [])
        there: Sums = defaultdict(int)
        for line in lines:
            there[line.currency] += line.amount
        currency, here = ours.booked.get(subject, ("", 0))
        settled = {code: amount for code, amount in there.items() if code != currency}
        if currency and settled and _original(lines, currency) == here:
            sums[currency]["converted"] += here - there[currency]
            for code, amount in settled.items():
                sums[code]["converted"] -= amount
            continue
        for code in sorted({*there, currency} - {""}):
            mine = here if code == currency else 0
            if mine == there[code]:
                continue
            differences[code] += mine - there[code]
            said = f"{mine} micros of {code} here" if subject in ours.booked else "not booked here"
            if not lines:
                findings.append(f"{what}: {said}, unknown there")
            else:
                findings.append(f"{what}: {there[code]} micros of {code} there, {said}")
    return differences


def _original(lines: Sequence[BalanceLine], currency: str) -> int | None:
    """The total in the customer's currency; None if a movement has no amount in it."""
    total = 0
    for line in lines:
        if line.converted is None:
            if line.currency != currency:
                return None
            total += line.amount
        elif line.converted.currency != currency:
            return None
        else:
            total += line.converted.micros if line.amount >= 0 else -line.converted.micros
    return total
