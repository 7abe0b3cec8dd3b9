"""Diagnosis: why a request was refused, or would be, as an ordered trace of checks.

    credential → key → consumer → account → subscription → plan → invoice → provider
               → limits → quota → spending → balance → holds → payment

The data plane's own functions decide whether a request is refused (`Evidence.decide`); the checks
explain it. Each is *passed*, *failed* (with the reason code, the numbers and a fix) or *skipped*
(without a subject, such as an account or a price, or because its source is unavailable). The checks
after a failed one are still made, so that further problems are visible at once.

There are two kinds of questions:

- **Would it be served now?** (`fastgate why`) A credential or a consumer, and perhaps a route.
- **Why was this one refused?** (`fastgate explain`, links of refusals) The recorded reason names
  the check that failed then. It stays failed in the trace, and `now` has its current status. If a
  rate limit has reset since, or the wallet was topped up, the answer is "send it again".

A diagnosis only reads; amounts are micro-units.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from fastgate.billing.diagnosis.checks import (
    CHECK_OF,
    CHECKS,
    RULES,
    Check,
    CheckContext,
    Result,
    Step,
)
from fastgate.billing.diagnosis.evidence import DryRunQuery, Evidence
from fastgate.billing.diagnosis.fixes import Fix, fix_of
from fastgate.billing.x402.refused_payments import PaymentField
from fastgate.errors import REASON_BY_CODE, StoreError, reason_code
from fastgate.refusal.remedies import Retry, retry_of

__all__ = [
    "Diagnosis",
    "Fix",
    "PaymentField",
    "Question",
    "Result",
    "Step",
    "diagnose",
    "for_strangers",
]


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """The trace and its conclusion."""

    served: bool
    """The request was served, or would be now."""
    summary: str
    cause: Check | None
    reason: str | None
    resolved: bool = False
    """It was refused, and the same request would be served now."""
    retry: Retry | None = None
    request: str | None = None
    status: int | None = None
    time: str | None = None
    route: str | None = None
    service: str | None = None
    """Of a route with a split: the service that got the request, or would get it."""
    service_by: str | None = None
    """What decides that: `consumer`, `address`, or `asked` for a recorded request. `share`: nothing
    that is known here; it is the service with the largest share."""
    consumer: str | None = None
    account: str | None = None
    steps: list[Step]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """The question to diagnose."""

    digest: bytes | None = None
    """SHA-256 of the credential in question."""
    consumer: str | None = None
    """Id or name of the caller, if there is no credential."""
    route: str | None = None
    address: str | None = None
    """The client's address, if it is known."""
    record: dict[str, Any] | None = None
    """A recorded request, as `fastgate explain` shows it."""
    payment: tuple[PaymentField, ...] | None = None
    """The fields of the payment in the request; None: it had none."""

    @classmethod
    def of_request(
        cls, record: dict[str, Any], payment: tuple[PaymentField, ...] | None = None
    ) -> Question:
        """The question why this request was answered as it was."""
        return cls(
            consumer=record.get("consumer"),
            route=record.get("route"),
            address=record.get("client"),
            record=record,
            payment=payment,
        )


async def diagnose(question: Question, evidence: Evidence, *, now: datetime) -> Diagnosis:
    """The trace of a question. `now`: aware. Raises no errors of the sources."""
    return await _Trace(question, evidence, now).run()


def for_strangers(diagnosis: Diagnosis) -> Diagnosis:
    """The same for a reader who has not proved to be the caller: the recorded reason and its
    meaning, but no data of any account."""
    steps = [
        msgspec.structs.replace(step, numbers={}, **_hidden(step, diagnosis.cause))
        for step in diagnosis.steps
    ]
    return msgspec.structs.replace(
        diagnosis, steps=steps, consumer=None, account=None, resolved=False
    )


def _hidden(step: Step, cause: Check | None) -> dict[str, Any]:
    if step.check in ("credential", "key") and step.result == "failed":
        return {}  # about the presented credential only
    if step.check == cause and step.reason is not None:
        return {"text": REASON_BY_CODE[step.reason].text, "now": None}
    return {
        "result": "skipped",
        "text": "Shown only to the caller who made the request.",
        "reason": None,
        "fix": None,
        "now": None,
    }


# ---- the trace --------------------------------------------------------------------------


class _Trace:
    """One diagnosis in progress."""

    def __init__(self, question: Question, evidence: Evidence, now: datetime) -> None:
        self.question = question
        self.record = question.record or {}
        self.recorded: str | None = self.record.get("reason")
        self.context = context = CheckContext(evidence, now)
        context.asked_key = question.digest is not None
        context.asked_consumer = question.consumer
        context.is_record = question.record is not None
        context.recorded = self.recorded
        context.recorded_limit = self.record.get("limit")
        context.payment = question.payment
        self.steps: list[Step] = []

    async def run(self) -> Diagnosis:
        self._identify()
        await self._fetch()
        for check in CHECKS:
            self.steps.append(self._recorded(RULES[check](self.context)))
        return self._conclude()

    # ---- the subject --------------------------------------------------------------------

    def _identify(self) -> None:
        question, context, evidence = self.question, self.context, self.context.evidence
        if question.digest is not None:
            context.key = evidence.key(question.digest)
            if context.key is not None:
                context.consumer = evidence.consumer(context.key.consumer)
        elif question.consumer is not None:
            context.consumer = evidence.consumer(question.consumer)
        if (request := self.record.get("id")) is not None and context.payment is None:
            context.refused_payment = note = evidence.refused_payment(request)
            context.payment = None if note is None else tuple(note.fields)
        if question.route is not None:
            context.route = evidence.route(question.route)
        known = (
            question.digest is not None or question.consumer is None or context.consumer is not None
        )
        if known and (question.route is None or context.route is not None):
            context.outcome = evidence.decide(
                DryRunQuery(
                    digest=question.digest,
                    consumer=context.consumer.id if context.consumer is not None else None,
                    route=question.route,
                    address=question.address,
                    service=self.record.get("service"),
                )
            )
        if question.route is not None and context.outcome is not None and context.outcome.chosen:
            context.route = evidence.route(question.route, context.outcome.chosen)

    async def _fetch(self) -> None:
        """Facts from the store. While it is unavailable, the checks that need them are skipped."""
        context = self.context
        if context.consumer is None or context.consumer.account is None:
            return
        try:
            context.account = await context.evidence.account(context.consumer.account)
            context.subscriptions = await context.evidence.subscriptions(context.consumer.account)
            context.invoices = await context.evidence.invoices(context.consumer.account)
        except StoreError as error:
            context.no_store = str(error)

    def _recorded(self, step: Step) -> Step:
        """The step as it was for the recorded request, if that is where it failed."""
        code = self.recorded
        if code is None or CHECK_OF.get(code) != step.check:
            return step
        if step.result == "failed" and step.reason == code:
            return msgspec.structs.replace(step, now="failed")
        known = REASON_BY_CODE[code]
        text = known.text
        if limit := self.record.get("limit"):
            text = f"{text} The limit was {self._limit(limit)}."
        if step.result != "skipped":
            text = f"{text} Now: {step.text}"
        return msgspec.structs.replace(
            step, result="failed", reason=code, text=text, fix=fix_of(code), now=step.result
        )

    def _limit(self, name: str) -> str:
        """The current limit with this label."""
        outcome = self.context.outcome
        looks = outcome.limits if outcome is not None else ()
        words = next((one.words for one in looks if one.name == name), None)
        return repr(name) if words is None else f"{words} ({name!r})"

    # ---- the conclusion -----------------------------------------------------------------

    def _conclude(self) -> Diagnosis:
        if self.question.record is not None:
            return self._of_record()
        failed = [step for step in self.steps if step.result == "failed"]
        outcome = self.context.outcome
        decided = reason_code(outcome.reason) if outcome is not None else ""
        # Limits may refuse before checks that precede them here: the decision names the cause.
        first = next((step for step in failed if step.reason == decided), None)
        if first is None and decided:
            return self._diagnosis(False, REASON_BY_CODE[decided].text, reason=decided)
        first = first or next(iter(failed), None)
        if first is None:
            where = (
                f" on the route {self.context.route.name!r}"
                if self.context.route is not None
                else ""
            )
            return self._diagnosis(True, f"It would be served{where}.")
        return self._diagnosis(False, f"{first.text} {_fix_text(first)}".strip(), first)

    def _of_record(self) -> Diagnosis:
        code, status = self.recorded, self.record.get("status")
        if code is None:
            return self._diagnosis(True, f"It was answered with {status}; nothing was refused.")
        reason = REASON_BY_CODE.get(code)
        cause = next((step for step in self.steps if step.check == CHECK_OF.get(code)), None)
        if cause is None or reason is None:
            text = reason.text if reason is not None else f"It ended with {code}."
            return self._diagnosis(False, text, reason=code)
        blocked = [s for s in self.steps if (s.now or s.result) == "failed"]
        if cause.now == "passed" and not blocked:
            return self._diagnosis(
                False,
                f"It was refused: {reason.title}. The cause is gone: the same request would be "
                "served now.",
                cause,
                resolved=True,
            )
        return self._diagnosis(False, reason.text, cause)

    def _diagnosis(
        self,
        served: bool,
        summary: str,
        cause: Step | None = None,
        *,
        reason: str | None = None,
        resolved: bool = False,
    ) -> Diagnosis:
        code = cause.reason if cause is not None else reason
        outcome = self.context.outcome
        known = REASON_BY_CODE.get(code or "")
        retry = None
        if known is not None:
            retry = retry_of(known.code, known.status, known.retryable)
        return Diagnosis(
            served=served,
            summary=summary,
            cause=cause.check if cause is not None else None,
            reason=code,
            resolved=resolved,
            retry=retry,
            request=self.record.get("id"),
            status=self.record.get("status"),
            time=self.record.get("time"),
            route=self.question.route,
            service=(outcome.chosen if outcome is not None else None) or None,
            service_by=(outcome.chosen_by if outcome is not None else None) or None,
            consumer=self.context.consumer.name if self.context.consumer is not None else None,
            account=self.context.account.name if self.context.account is not None else None,
            steps=self.steps,
        )


def _fix_text(step: Step) -> str:
    return step.fix.text if step.fix is not None else ""
