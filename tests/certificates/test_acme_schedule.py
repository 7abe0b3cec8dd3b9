"""The schedule as a function: windows, lives, failures, for any time and any answer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import assume, given
from hypothesis import strategies as st

from fastgate.certificates.acme import schedule as plan
from fastgate.certificates.acme.keys import Facts
from fastgate.certificates.acme.schedule import Schedule, Window

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
START = datetime(2026, 1, 1, tzinfo=UTC)

times = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))
waits = st.none() | st.floats(0, 1e30)
lives = st.timedeltas(timedelta(hours=2), timedelta(days=400))


@st.composite
def certificates(draw: st.DrawFn) -> Facts:
    begins = draw(times)
    return certificate(begins, begins + draw(lives))


def certificate(begins: datetime, ends: datetime, name: str = "aa") -> Facts:
    return Facts(name, begins, ends, "a.b")


@st.composite
def windows(draw: st.DrawFn) -> Window:
    begins = draw(times)
    return Window(begins, begins + draw(st.timedeltas(timedelta(seconds=1), timedelta(days=60))))


def new(facts: Facts | None, now: datetime, basis: str = "b") -> Schedule:
    return plan.brought_up_to_date(Schedule(), basis, facts, now)


@given(certificates(), times)
def test_without_information_two_thirds_of_the_life_drawn_once(facts: Facts, now: datetime) -> None:
    first = new(facts, now)
    assert first.renew_at is not None
    life = (first.renew_at - facts.not_before) / facts.lifetime
    assert 2 / 3 - 0.0251 <= life <= 2 / 3 + 0.0251
    assert plan.brought_up_to_date(first, "b", facts, now + HOUR) == first
    assert first.ask_at == now
    assert new(facts._replace(renewal_id=None), now).ask_at is None


def test_times_are_drawn() -> None:
    """Certificates that were issued together are not renewed together."""
    facts = certificate(START, START + timedelta(days=90))
    drawn = {new(facts, START).renew_at for _ in range(50)}
    assert len(drawn) == 50
    window = Window(START + timedelta(days=50), START + timedelta(days=51))
    informed = {
        plan.informed(new(facts, START), facts, window, None, START).renew_at for _ in range(50)
    }
    assert len(informed) == 50


@given(certificates(), windows(), waits, times)
def test_a_window_is_kept(
    facts: Facts, window: Window, retry_after: float | None, now: datetime
) -> None:
    found = plan.informed(new(facts, now), facts, window, retry_after, now)
    assert found.renew_at is not None
    latest = facts.not_before + facts.lifetime * 0.9
    assert min(window.start, latest) <= found.renew_at <= min(window.end, latest)
    assert found.ask_at is not None
    assert MINUTE <= found.ask_at - now <= timedelta(days=1)
    again = plan.informed(found, facts, window, retry_after, now + HOUR)
    assert again.renew_at == found.renew_at
    gone = plan.informed(found, facts, None, None, now)
    assert (gone.renew_at, gone.window) == (found.renew_at, window)


@given(st.integers(1, 200), waits, times)
def test_failures_wait_longer_and_longer(n: int, retry_after: float | None, now: datetime) -> None:
    one = Schedule(failures=n - 1)
    found = plan.failed(one, "why", retry_after, now)
    assert found.retry_at is not None
    wait = found.retry_at - now
    doubled = min(2 ** (n - 1) * 60, 6 * 3600)
    wanted = max(doubled, min(retry_after or 0, 30 * 86_400))
    assert abs(wait.total_seconds() - wanted) < 1e-3
    assert (found.failures, found.error, found.failed_at) == (n, "why", now)
    asked = plan.not_informed(Schedule(asks_failed=n - 1), retry_after, now)
    assert asked.ask_at == found.retry_at
    assert plan.succeeded(found) == Schedule()


@given(certificates(), windows(), times)
def test_what_comes_next(facts: Facts, window: Window, now: datetime) -> None:
    planned = plan.informed(new(facts, now), facts, window, None, now)
    assert planned.renew_at is not None
    step = plan.next_step(planned, facts, "", now)
    due = max(planned.renew_at, now + HOUR)
    asks = planned.ask_at is not None and planned.ask_at < min(planned.renew_at, facts.not_after)
    assert step == (("ask", planned.ask_at) if asks else ("order", due))
    # A reason to order now, or a failure, goes first.
    assert plan.next_step(planned, facts, "it has expired", now) == ("order", now)
    failed = plan.failed(planned, "why", None, now)
    assert plan.next_step(failed, facts, "it has expired", now) == ("order", now + MINUTE)
    assert plan.next_step(new(None, now), None, "there is none", now) == ("order", now)


@given(certificates(), certificates(), times)
def test_another_certificate_is_another_plan(one: Facts, two: Facts, now: datetime) -> None:
    assume(one != two)
    planned = plan.failed(new(one, now), "why", None, now)
    other = plan.brought_up_to_date(planned, "b", two._replace(fingerprint="bb"), now + HOUR)
    assert (other.fingerprint, other.since, other.ask_at) == ("bb", now + HOUR, now + HOUR)
    assert other.failures == 1
    changed = plan.brought_up_to_date(planned, "other", one, now)
    assert (changed.failures, changed.retry_at, changed.error) == (0, None, "")
    assert changed.renew_at == planned.renew_at
