"""The lifecycle of a subscription as two tables: the access in each state, and the transitions.

```
           payment_succeeded            payment_failed              retries_exhausted
incomplete ────────────────▶ active ◀──────────────────▶ past_due ──────────────────▶ grace
    │                        ▲  │ ▲ payment_succeeded       │                           │
    │ window_closed    ended │  │ └──────────────────────── │ ◀──────────────────────── │
    │              trialing ─┘  │ period_ended (canceling)  │ abandoned                 │
    ▼                  │        ▼                           ▼                           ▼
 expired ◀─────────────┼──── expired ◀──── canceled ◀── cancel (from any that lives) ───┘
                       └▶ paused (the trial ended and there is nothing to pay with)
```

- **Access is a function of the state and of one moment** that belongs to it: before the moment
  there is access, after it there is the state's reason. `past_due` (tries continue) and `grace` (no
  further tries) give access until `grace_ends`; `canceled` until the date paid through.
- **What is owed is a function too**: the fee for the part of the period after `paid_through`.
- **Changes by time alone are computed, not waited for**: `settled(s, now)` applies every event that
  is due by the clock. `access_of` uses it, so access is always correct, even if the scheduler has
  not run.
- A transition that is not in `TRANSITIONS` raises; nothing else changes a state.

Pure: no store, no clock. `subscriptions.py` keeps them.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, assert_never
from zoneinfo import ZoneInfo

import msgspec

from fastgate.billing.subscriptions.periods import Period, next_period, period_of
from fastgate.errors import REASON_BY_CODE, ConflictError, Reason
from fastgate.model.billing import Period as PeriodKind


class State(StrEnum):
    """The state of a subscription."""

    INCOMPLETE = "incomplete"  # the first payment waits for its owner
    TRIALING = "trialing"
    ACTIVE = "active"
    PAST_DUE = "past_due"  # a payment failed and is tried again
    GRACE = "grace"  # a payment failed and is not tried again automatically
    PAUSED = "paused"  # nothing to pay with, or paused by an operator
    CANCELED = "canceled"  # ends at the date paid through
    EXPIRED = "expired"  # the end


class Event(StrEnum):
    """What can happen to a subscription."""

    PAYMENT_SUCCEEDED = "payment_succeeded"
    PAYMENT_FAILED = "payment_failed"
    RETRIES_EXHAUSTED = "retries_exhausted"
    TRIAL_ENDED = "trial_ended"
    TRIAL_ENDED_UNPAID = "trial_ended_unpaid"  # and there is no payment method
    RENEWED = "renewed"
    PERIOD_ENDED = "period_ended"  # and it was to be canceled then
    WINDOW_CLOSED = "window_closed"  # the first payment was not confirmed in time
    ABANDONED = "abandoned"  # unpaid for too long after grace
    METHOD_ATTACHED = "method_attached"
    METHOD_DETACHED = "method_detached"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    CANCEL_AT_PERIOD_END = "cancel_at_period_end"
    KEEP = "keep"  # takes cancel_at_period_end back
    PAID_THROUGH_PASSED = "paid_through_passed"
    PLAN_CHANGED = "plan_changed"


class Access(NamedTuple):
    """The access in a state."""

    allowed: bool
    until: str | None
    """The field with the moment at which access ends; None: it does not end with time."""
    reason: Reason | None
    """Why it is refused, or will be after the moment; None: never."""


def _reason(code: str) -> Reason:
    return REASON_BY_CODE[code]


ACCESS: dict[State, Access] = {
    State.INCOMPLETE: Access(False, None, _reason("payment_action_required")),
    State.TRIALING: Access(True, "trial_ends", _reason("subscription_expired")),
    State.ACTIVE: Access(True, None, None),
    State.PAST_DUE: Access(True, "grace_ends", _reason("payment_failed")),
    State.GRACE: Access(True, "grace_ends", _reason("subscription_past_due")),
    State.PAUSED: Access(False, None, _reason("payment_method_missing")),  # but see `_why`
    State.CANCELED: Access(True, "paid_through", _reason("subscription_expired")),
    State.EXPIRED: Access(False, None, _reason("subscription_expired")),
}

BY_OPERATOR = _reason("subscription_paused")
"""Why a subscription that an operator has paused is refused: paying would not help."""

_S, _E = State, Event
TRANSITIONS: dict[tuple[State, Event], State] = {
    # the beginning
    (_S.INCOMPLETE, _E.PAYMENT_SUCCEEDED): _S.ACTIVE,
    (_S.INCOMPLETE, _E.PAYMENT_FAILED): _S.INCOMPLETE,
    (_S.INCOMPLETE, _E.WINDOW_CLOSED): _S.EXPIRED,
    (_S.INCOMPLETE, _E.CANCEL): _S.EXPIRED,
    # trials
    (_S.TRIALING, _E.TRIAL_ENDED): _S.ACTIVE,
    (_S.TRIALING, _E.TRIAL_ENDED_UNPAID): _S.PAUSED,
    (_S.TRIALING, _E.PERIOD_ENDED): _S.EXPIRED,
    (_S.TRIALING, _E.PAYMENT_SUCCEEDED): _S.TRIALING,
    # paid service
    (_S.ACTIVE, _E.PAYMENT_SUCCEEDED): _S.ACTIVE,
    (_S.ACTIVE, _E.PAYMENT_FAILED): _S.PAST_DUE,
    (_S.ACTIVE, _E.RENEWED): _S.ACTIVE,
    (_S.ACTIVE, _E.PERIOD_ENDED): _S.EXPIRED,
    (_S.ACTIVE, _E.PAUSE): _S.PAUSED,
    # failed payments; periods continue, so that what is owed is not forgotten
    (_S.PAST_DUE, _E.PAYMENT_SUCCEEDED): _S.ACTIVE,
    (_S.PAST_DUE, _E.PAYMENT_FAILED): _S.PAST_DUE,
    (_S.PAST_DUE, _E.RETRIES_EXHAUSTED): _S.GRACE,
    (_S.PAST_DUE, _E.ABANDONED): _S.EXPIRED,
    (_S.PAST_DUE, _E.PAUSE): _S.PAUSED,
    (_S.GRACE, _E.PAYMENT_SUCCEEDED): _S.ACTIVE,
    (_S.GRACE, _E.PAYMENT_FAILED): _S.GRACE,
    (_S.GRACE, _E.ABANDONED): _S.EXPIRED,
    (_S.GRACE, _E.PAUSE): _S.PAUSED,
    # paused
    (_S.PAUSED, _E.PAYMENT_SUCCEEDED): _S.ACTIVE,  # but not what an operator has paused
    (_S.PAUSED, _E.PAYMENT_FAILED): _S.PAUSED,
    (_S.PAUSED, _E.RESUME): _S.ACTIVE,
    # ends
    (_S.CANCELED, _E.PAID_THROUGH_PASSED): _S.EXPIRED,
    (_S.CANCELED, _E.PAYMENT_SUCCEEDED): _S.CANCELED,
    (_S.CANCELED, _E.PAYMENT_FAILED): _S.CANCELED,
    (_S.CANCELED, _E.RESUME): _S.ACTIVE,
    (_S.EXPIRED, _E.PAYMENT_SUCCEEDED): _S.EXPIRED,
    (_S.EXPIRED, _E.PAYMENT_FAILED): _S.EXPIRED,
}
for _state in (_S.TRIALING, _S.ACTIVE, _S.PAST_DUE, _S.GRACE, _S.PAUSED):
    TRANSITIONS[_state, _E.CANCEL] = _S.CANCELED
for _state in (_S.TRIALING, _S.ACTIVE):
    TRANSITIONS[_state, _E.CANCEL_AT_PERIOD_END] = _state
    TRANSITIONS[_state, _E.KEEP] = _state
for _state in (_S.TRIALING, _S.ACTIVE, _S.PAST_DUE, _S.GRACE):
    TRANSITIONS[_state, _E.PLAN_CHANGED] = _state
for _state in State:  # methods come and go whatever the state
    TRANSITIONS[_state, _E.METHOD_ATTACHED] = _state
    TRANSITIONS[_state, _E.METHOD_DETACHED] = _state

STRIPE: dict[str, State] = {
    "incomplete": State.INCOMPLETE,
    "incomplete_expired": State.EXPIRED,
    "trialing": State.TRIALING,
    "active": State.ACTIVE,
    "past_due": State.PAST_DUE,
    "unpaid": State.GRACE,  # with its grace over at once
    "canceled": State.CANCELED,
    "paused": State.PAUSED,
}
"""Stripe's statuses as ours."""


class IllegalTransition(ConflictError):
    """The event cannot happen to a subscription in this state."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(
            f"A subscription that is {state.value} cannot take {event.value.replace('_', ' ')}."
        )
        self.state = state
        self.event = event


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """An account on a plan. Times are aware and UTC."""

    id: str
    account: str
    plan: str
    service: str | None = None
    """The only service it is for; None: all services of the plan."""
    state: State
    zone: str
    """IANA name of the time zone of its calendar."""
    period: PeriodKind
    period_start: datetime
    period_end: datetime
    trial_ends: datetime | None = None
    paid_through: datetime
    """Up to when its fee was paid (or none was due)."""
    grace_ends: datetime | None = None
    """While past_due or in grace: when access ends."""
    expires: datetime | None = None
    """When it ends for good if nothing is paid: incomplete, past_due, grace."""
    cancel_at_period_end: bool = False
    has_method: bool = False
    """Whether there is a payment method, or nothing to charge."""
    provider: str | None = None
    """The payment provider that manages it; None: FastGate does."""
    reference: str | None = None
    """The provider's id for it."""
    next_at: datetime | None = None
    """When the scheduler must check it again."""
    created: datetime
    updated: datetime
    version: int = 1

    @property
    def current(self) -> Period:
        return Period(self.period_start, self.period_end)

    @property
    def wants_method(self) -> bool:
        """Paused since its trial ended with nothing to pay with (not by an operator)."""
        return self.state is State.PAUSED and self.trial_ends is not None

    @property
    def ends(self) -> datetime:
        """The next end: of the trial, else of the period."""
        if self.state is State.TRIALING and self.trial_ends is not None:
            return self.trial_ends
        return self.period_end


def step(
    subscription: Subscription,
    event: Event,
    at: datetime,
    *,
    grace_ends: datetime | None = None,
    expires: datetime | None = None,
    paid_through: datetime | None = None,
) -> Subscription:
    """The subscription after an event that happened at `at`. Raises IllegalTransition.

    `grace_ends` and `expires` are used by the first PAYMENT_FAILED only; `paid_through`, by
    PAYMENT_SUCCEEDED, says what was paid for (default: the period).
    """
    before = subscription.state
    after = TRANSITIONS.get((before, event))
    if after is None:
        raise IllegalTransition(before, event)
    if event is Event.PAYMENT_SUCCEEDED and _paused_by_operator(subscription):
        after = State.PAUSED  # it is paid, and still paused
    changes: dict[str, object] = {"state": after, "updated": at}
    zone = ZoneInfo(subscription.zone)
    match event:
        case Event.PAYMENT_SUCCEEDED:
            changes |= _paid(subscription, after, at, paid_through)
        case Event.PAYMENT_FAILED:
            if before is State.ACTIVE:
                changes |= {"grace_ends": grace_ends, "expires": expires}
        case Event.TRIAL_ENDED | Event.RESUME:
            period = period_of(at, subscription.period, zone)
            changes |= _runs(period) | {"trial_ends": None, "cancel_at_period_end": False}
        case Event.RENEWED:
            period = next_period(subscription.current, subscription.period, zone)
            changes |= _runs(period)
        case Event.CANCEL:
            changes |= {"grace_ends": None, "expires": None, "cancel_at_period_end": False}
            if before in (State.PAST_DUE, State.GRACE, State.PAUSED):
                changes["paid_through"] = min(subscription.paid_through, at)
        case Event.CANCEL_AT_PERIOD_END | Event.KEEP:
            changes["cancel_at_period_end"] = event is Event.CANCEL_AT_PERIOD_END
        case Event.METHOD_ATTACHED | Event.METHOD_DETACHED:
            changes["has_method"] = event is Event.METHOD_ATTACHED
        case Event.PERIOD_ENDED | Event.WINDOW_CLOSED | Event.ABANDONED | Event.PAID_THROUGH_PASSED:
            changes |= {"grace_ends": None, "expires": None, "cancel_at_period_end": False}
        case Event.RETRIES_EXHAUSTED | Event.TRIAL_ENDED_UNPAID | Event.PAUSE | Event.PLAN_CHANGED:
            pass
        case _ as never:
            assert_never(never)
    return msgspec.structs.replace(subscription, **changes)


def _runs(period: Period) -> dict[str, object]:
    return {"period_start": period.start, "period_end": period.end}


def _paid(
    subscription: Subscription, after: State, at: datetime, through: datetime | None
) -> dict[str, object]:
    """A late payment does not pay for the time without service: the period starts again."""
    period = subscription.current
    if after is State.PAUSED:
        return {"paid_through": max(subscription.paid_through, through or period.end)}
    if after is not State.ACTIVE:
        return {}
    restarted = subscription.state in (State.INCOMPLETE, State.PAUSED)
    late = subscription.state in (State.PAST_DUE, State.GRACE) and at >= period.end
    if restarted or late:
        period = period_of(at, subscription.period, ZoneInfo(subscription.zone))
    paid = max(subscription.paid_through, through or period.end)
    if late:  # in grace, the new period was served from its start
        grace = subscription.grace_ends
        paid = period.start if grace is not None and at < grace else at
    elif restarted:
        paid = max(paid, at)
    return _runs(period) | {
        "paid_through": paid,
        "trial_ends": None,
        "grace_ends": None,
        "expires": None,
    }


# ---- time -------------------------------------------------------------------------------


def due_event(subscription: Subscription, now: datetime) -> tuple[Event, datetime] | None:
    """The event that is due by time alone, and its moment; None: there is none."""
    state = subscription.state
    if state is State.TRIALING:
        ends = subscription.trial_ends
        if ends is None or now < ends:
            return None
        if subscription.cancel_at_period_end:
            return Event.PERIOD_ENDED, ends
        return (Event.TRIAL_ENDED if subscription.has_method else Event.TRIAL_ENDED_UNPAID), ends
    if state is State.ACTIVE and now >= subscription.period_end:
        canceling = subscription.cancel_at_period_end
        return (Event.PERIOD_ENDED if canceling else Event.RENEWED), subscription.period_end
    if state is State.CANCELED and now >= subscription.paid_through:
        return Event.PAID_THROUGH_PASSED, subscription.paid_through
    expires = subscription.expires
    if expires is not None and now >= expires:
        if state is State.INCOMPLETE:
            return Event.WINDOW_CLOSED, expires
        if state in (State.PAST_DUE, State.GRACE):
            return Event.ABANDONED, expires
    return None


def settled(subscription: Subscription, now: datetime) -> Subscription:
    """The subscription with everything applied that is due by the clock."""
    while (due := due_event(subscription, now)) is not None:
        event, at = due
        subscription = step(subscription, event, at)
    return subscription


def access_of(subscription: Subscription, now: datetime) -> Reason | None:
    """Why a request is refused at this moment; None: it has access."""
    now_is = settled(subscription, now)
    access = ACCESS[now_is.state]
    if not access.allowed:
        return _why(now_is)
    if access.until is None:
        return None
    ends: datetime | None = getattr(now_is, access.until)
    return access.reason if ends is None or now >= ends else None


def _paused_by_operator(subscription: Subscription) -> bool:
    own = subscription.provider is None
    return subscription.state is State.PAUSED and own and not subscription.wants_method


def _why(subscription: Subscription) -> Reason | None:
    """A payment method ends only one of the two kinds of pauses: that of a trial that ended without
    one. A provider pauses its subscriptions only for this reason."""
    if _paused_by_operator(subscription):
        return BY_OPERATOR
    return ACCESS[subscription.state].reason


def access_ended(subscription: Subscription, now: datetime) -> datetime | None:
    """Since when a request is refused; None: it is not, or never was allowed."""
    now_is = settled(subscription, now)
    if now_is.state is State.INCOMPLETE or access_of(subscription, now) is None:
        return None
    until = ACCESS[now_is.state].until
    ends: datetime | None = getattr(now_is, until) if until is not None else None
    return ends if ends is not None else now_is.updated


def warning_of(subscription: Subscription, now: datetime) -> Reason | None:
    """Why access will end soon unless something is done; only while there is access."""
    now_is = settled(subscription, now)
    if now_is.state in (State.PAST_DUE, State.GRACE) and access_of(subscription, now) is None:
        return ACCESS[now_is.state].reason
    return None
