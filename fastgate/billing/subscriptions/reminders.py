"""Reminders: an end or a renewal is announced some days before.

A reminder for `d` days is due at nine in the morning, in the account's time zone, `d` days before
the date of the end, which is the date that it shows: "tomorrow" is that date's eve. On the date
itself it is due an hour before the end at the latest. A period ends as its last midnight strikes:
of the date that begins then nothing lies before the end, so there is no reminder for 0 days. A late
scheduler sends only the newest reminder that is due: "in 14 days" is wrong three days before.
Reminders of before the period or trial began are not sent at all, nor are any of daily periods.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, time, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from fastgate.billing.subscriptions.lifecycle import State, Subscription, due_event

HOUR = 9
_REMINDED = (State.TRIALING, State.ACTIVE)


class Reminder(NamedTuple):
    """One announcement."""

    kind: str
    """The notice's."""
    days: int
    at: datetime
    """When it is due."""
    ends: datetime
    """What it announces."""


def _kind(subscription: Subscription) -> str:
    if subscription.cancel_at_period_end:
        return "subscription.ending"
    if subscription.state is State.TRIALING:
        return "subscription.trial_ending"
    return "subscription.renewing"


def reminders(subscription: Subscription, days: Iterable[int]) -> list[Reminder]:
    """All of the current period or trial, the earliest first."""
    if subscription.state not in _REMINDED or subscription.period == "day":
        return []
    ends = subscription.ends
    began = subscription.created if subscription.trial_ends else subscription.period_start
    began = max(began, subscription.created)
    zone = ZoneInfo(subscription.zone)
    date = ends.astimezone(zone).date()
    found = []
    for count in sorted(set(days), reverse=True):
        day = date - timedelta(days=count)
        nine = datetime.combine(day, time(HOUR), tzinfo=zone)
        at = min(nine.astimezone(ends.tzinfo), ends - timedelta(hours=1))
        if at >= began and at.astimezone(zone).date() == day:
            found.append(Reminder(_kind(subscription), count, at, ends))
    return found


def reminder_due(subscription: Subscription, days: Iterable[int], now: datetime) -> Reminder | None:
    """The newest that is due; None before the first and after the end."""
    if now >= subscription.ends:
        return None
    due = [one for one in reminders(subscription, days) if one.at <= now]
    return due[-1] if due else None


def next_look(subscription: Subscription, days: Iterable[int], now: datetime) -> datetime | None:
    """When something about the subscription is due next; None: nothing is."""
    if due_event(subscription, now) is not None:
        return now
    state = subscription.state
    moments = [one.at for one in reminders(subscription, days)]
    if state is State.TRIALING:
        moments.append(subscription.ends)
    elif state is State.ACTIVE:
        moments.append(subscription.period_end)
    elif state is State.CANCELED:
        moments.append(subscription.paid_through)
    elif state in (State.PAST_DUE, State.GRACE, State.INCOMPLETE):
        moments += [m for m in (subscription.grace_ends, subscription.expires) if m is not None]
    return min((moment for moment in moments if moment > now), default=None)


def in_days(days: int) -> str:
    """In words: today, tomorrow, in 7 days."""
    return {0: "today", 1: "tomorrow"}.get(days, f"in {days} days")
