"""Several providers in order: nobody is charged twice, whatever fails where."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paykit import START, Clock, Scripted

from fastgate.billing.payments.base import (
    ChargeStatus,
    Decline,
    EventKind,
    ProviderEvent,
    ProviderRefused,
    ProviderUnavailable,
    Purpose,
    Unsupported,
)
from fastgate.billing.payments.breaker import BreakerSettings, State
from fastgate.billing.payments.chain import ARRIVES_WITHIN, Chain, event_of
from fastgate.errors import StoreError
from fastgate.model.units import Money
from fastgate.store.engine import Store
from fastgate.store.payments import AttemptTable

EUR = Money.parse("10 EUR")
TERMS = BreakerSettings(failures=3, wait=timedelta(seconds=10))


class Bench:
    def __init__(self, store: Store, *names: str) -> None:
        self.clock = Clock()
        self.providers = [Scripted(name, self.clock) for name in names]
        self.attempts = AttemptTable(store)
        self.chain = Chain(self.providers, self.attempts, self.clock, TERMS)
        self.events: list[ProviderEvent] = []
        self.chain.on_success.append(self._hear)

    async def _hear(self, event: ProviderEvent) -> None:
        self.events.append(event)

    @property
    def one(self) -> Scripted:
        return self.providers[0]

    @property
    def two(self) -> Scripted:
        return self.providers[1]

    def charged(self) -> int:
        """How many charges were made, at all providers together."""
        return sum(
            result.status is ChargeStatus.SUCCEEDED
            for provider in self.providers
            for result in provider.charges.values()
        )


@pytest.fixture
def bench(sqlite_store: Store) -> Bench:
    return Bench(sqlite_store, "one", "two")


async def test_the_first_that_is_there_is_asked(bench: Bench) -> None:
    assert (await bench.chain.create_top_up("acc", EUR, "https://b")).url.startswith("https://one")
    bench.one.mood = "down"
    assert (await bench.chain.create_top_up("acc", EUR, "https://b")).url.startswith("https://two")
    assert (await bench.chain.create_method_link("acc", "https://b")).url.startswith("https://two")
    bench.two.mood = "down"
    with pytest.raises(ProviderUnavailable, match="two is down"):
        await bench.chain.create_top_up("acc", EUR, "https://b")
    bench.one.mood = "refuse"  # an answer: the next one is not asked
    bench.clock.pass_(seconds=10)  # by now it has failed three times
    with pytest.raises(ProviderRefused, match="one says no"):
        await bench.chain.create_top_up("acc", EUR, "https://b")


async def test_without_a_provider_that_can_it_raises(sqlite_store: Store) -> None:
    chain = Chain([], AttemptTable(sqlite_store), Clock())
    with pytest.raises(Unsupported, match="take top-ups"):
        await chain.create_top_up("acc", EUR, "https://b")
    with pytest.raises(Unsupported, match="charge saved"):
        await chain.charge_saved("acc", EUR, "k")
    assert not chain.down()


async def test_names_are_unique(sqlite_store: Store) -> None:
    with pytest.raises(ValueError, match="same name"):
        Bench(sqlite_store, "one", "one")


async def test_a_success_is_reported_at_once_and_once_for_the_key(bench: Bench) -> None:
    first = await bench.chain.charge_saved("acc", EUR, "k", subject="why")
    assert (first.status, first.provider) == (ChargeStatus.SUCCEEDED, "one")
    assert await bench.chain.charge_saved("acc", EUR, "k", subject="why") == first
    assert bench.one.sent == ["charge k"]
    (event,) = bench.events
    assert (event.kind, event.attempt, event.subject) == (EventKind.PAYMENT_SUCCEEDED, "k", "why")
    assert await bench.chain.find_charge("acc", "k", START) == first
    assert await bench.chain.find_charge("acc_b", "k", START) is None
    assert await bench.chain.find_charge("acc", "other", START) is None


async def test_a_key_is_for_one_charge(bench: Bench) -> None:
    await bench.chain.charge_saved("acc", EUR, "k")
    for account, amount in (("acc_b", EUR), ("acc", Money.parse("9 EUR"))):
        with pytest.raises(ProviderRefused, match="another charge"):
            await bench.chain.charge_saved(account, amount, "k")


async def test_what_fails_to_be_applied_does_not_fail_the_charge(bench: Bench) -> None:
    async def fails(event: ProviderEvent) -> None:
        raise StoreError("away")

    bench.chain.on_success.insert(0, fails)
    assert (await bench.chain.charge_saved("acc", EUR, "k")).status is ChargeStatus.SUCCEEDED
    assert len(bench.events) == 1


async def test_the_next_is_charged_only_if_the_first_surely_was_not(bench: Bench) -> None:
    bench.one.mood = "down"
    result = await bench.chain.charge_saved("acc", EUR, "k1")
    assert (result.status, result.provider) == (ChargeStatus.SUCCEEDED, "two")
    bench.one.mood = "doubt"
    result = await bench.chain.charge_saved("acc", EUR, "k2")
    assert (result.status, result.provider) == (ChargeStatus.PENDING, "one")
    assert "k2" not in bench.two.charges
    bench.one.mood = "failed"
    result = await bench.chain.charge_saved("acc", EUR, "k3")
    assert (result.status, result.decline) == (ChargeStatus.FAILED, Decline.LATER)
    assert "k3" not in bench.two.charges  # a decline is an answer


async def test_the_next_is_charged_if_the_first_has_no_method(bench: Bench) -> None:
    bench.one.has_method = False
    assert (await bench.chain.charge_saved("acc", EUR, "k1")).provider == "two"
    bench.two.has_method = False
    result = await bench.chain.charge_saved("acc", EUR, "k2")
    assert (result.status, result.code) == (ChargeStatus.FAILED, "no_payment_method")
    assert [item.reference for item in await bench.chain.list_methods("acc")] == []


async def test_an_unsent_charge_starts_again_with_the_same_key(bench: Bench) -> None:
    for provider in bench.providers:
        provider.mood = "down"
    with pytest.raises(ProviderUnavailable):
        await bench.chain.charge_saved("acc", EUR, "k")
    assert await bench.chain.find_charge("acc", "k", START) is None
    bench.one.mood = "refuse"
    with pytest.raises(ProviderRefused):
        await bench.chain.charge_saved("acc", EUR, "k")
    bench.one.mood = "up"
    assert (await bench.chain.charge_saved("acc", EUR, "k")).status is ChargeStatus.SUCCEEDED
    assert bench.charged() == 1


async def test_a_lost_answer_is_found_and_told(bench: Bench) -> None:
    bench.one.mood = "lost"
    assert (await bench.chain.charge_saved("acc", EUR, "k")).status is ChargeStatus.PENDING
    assert bench.events == []
    bench.one.mood = "up"
    assert (await bench.chain.charge_saved("acc", EUR, "k")).status is ChargeStatus.SUCCEEDED
    assert bench.one.sent == ["charge k", "find k"]
    assert len(bench.events) == 1


async def test_open_charges_are_settled_when_they_are_due(bench: Bench) -> None:
    bench.one.mood = "lost"
    await bench.chain.charge_saved("acc", EUR, "k")
    bench.one.mood = "up"
    assert await bench.chain.settle() == []  # not due yet
    bench.clock.pass_(minutes=1)
    ((attempt, result),) = await bench.chain.settle()
    assert (attempt.key, result.status) == ("k", ChargeStatus.SUCCEEDED)
    assert len(bench.events) == 1
    bench.clock.pass_(days=1)
    assert await bench.chain.settle() == []


async def test_what_never_arrived_is_certain_after_a_while(bench: Bench) -> None:
    bench.one.mood = "doubt"
    await bench.chain.charge_saved("acc", EUR, "k")
    bench.clock.pass_(minutes=5)
    assert await bench.chain.settle() == []  # the provider is still away: nothing is certain
    bench.one.mood = "up"
    bench.clock.pass_(minutes=5)
    assert await bench.chain.settle() == []  # it may still arrive
    assert (await bench.chain.charge_saved("acc", EUR, "k")).status is ChargeStatus.PENDING
    bench.clock.now = START + ARRIVES_WITHIN
    ((_, result),) = await bench.chain.settle()
    assert (result.status, result.code) == (ChargeStatus.FAILED, "never_arrived")
    assert result.decline is Decline.LATER
    assert bench.charged() == 0


async def test_asked_again_after_that_it_is_sent_again_with_its_key(bench: Bench) -> None:
    bench.one.mood = "doubt"
    await bench.chain.charge_saved("acc", EUR, "k")
    bench.one.mood = "up"
    bench.clock.now = START + ARRIVES_WITHIN
    assert (await bench.chain.charge_saved("acc", EUR, "k")).status is ChargeStatus.SUCCEEDED
    assert bench.one.sent == ["charge k", "find k", "charge k"]


async def test_a_charge_on_its_way_ends_with_its_news(bench: Bench) -> None:
    bench.one.mood = "pending"
    pending = await bench.chain.charge_saved("acc", EUR, "k")
    assert pending.status is ChargeStatus.PENDING
    attempt = await bench.attempts.get("k")
    assert attempt is not None
    event = event_of(attempt, pending, bench.clock())
    await bench.chain.note(event)
    assert (await bench.chain.charge_saved("acc", EUR, "k")).status is ChargeStatus.SUCCEEDED
    assert bench.one.sent == ["charge k"]


async def test_two_concurrent_charges_with_one_key_charge_once(bench: Bench) -> None:
    results = await asyncio.gather(*(bench.chain.charge_saved("acc", EUR, "k") for _ in range(8)))
    assert bench.charged() == 1
    assert {result.status for result in results} <= {ChargeStatus.SUCCEEDED, ChargeStatus.PENDING}
    assert len({result.reference for result in results if result.reference}) == 1


async def test_down_means_that_all_capable_providers_are_unavailable(bench: Bench) -> None:
    for provider in bench.providers:
        provider.mood = "down"
    for number in range(3):
        assert not bench.chain.down()
        with pytest.raises(ProviderUnavailable):
            await bench.chain.charge_saved("acc", EUR, f"k{number}")
    assert bench.chain.down()
    states = {item.name: item for item in bench.chain.states()}
    assert states["one"].state is State.OPEN
    assert states["one"].error == "one is down"
    assert not (await bench.chain.look())["one"].ok
    bench.clock.pass_(seconds=10)
    bench.two.mood = "up"
    health = await bench.chain.look()
    assert (health["one"].ok, health["two"].ok) == (False, True)
    assert not bench.chain.down()


MOODS = st.sampled_from(["up", "down", "doubt", "lost", "failed", "pending", "refuse"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("mood"), st.integers(0, 1), MOODS),
        st.tuples(st.just("charge"), st.integers(0, 2), st.just("")),
        st.tuples(st.just("settle"), st.integers(0, 0), st.just("")),
        st.tuples(st.just("pass"), st.integers(1, 20), st.just("")),
    ),
    max_size=25,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_no_key_is_ever_charged_twice(
    steps: list[tuple[str, int, str]],
    sqlite_migrated: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Whatever the providers do, in whatever order callers ask: one charge for a key at most, and
    a key that was charged is told as charged in the end."""
    path = tmp_path_factory.mktemp("chain") / "one.db"
    shutil.copyfile(sqlite_migrated, path)

    async def run() -> None:
        store = Store(f"sqlite:///{path}")
        await store.connect()
        bench = Bench(store, "one", "two")
        for what, number, mood in steps:
            match what:
                case "mood":
                    bench.providers[number].mood = mood
                case "charge":
                    with suppress(ProviderUnavailable, ProviderRefused):
                        await bench.chain.charge_saved("acc", EUR, f"k{number}")
                case "settle":
                    await bench.chain.settle()
                case _:
                    bench.clock.pass_(minutes=number)
            for key in ("k0", "k1", "k2"):
                made = [
                    provider.charges[key].status
                    for provider in bench.providers
                    if key in provider.charges
                ]
                assert len(made) <= 1, key
        for provider in bench.providers:
            provider.mood = "up"
        bench.clock.pass_(hours=2)
        await bench.chain.look()
        await bench.chain.settle()
        charged = {event.attempt for event in bench.events}
        for provider in bench.providers:
            for key, result in provider.charges.items():
                if result.status is ChargeStatus.SUCCEEDED:
                    assert key in charged
        assert {event.purpose for event in bench.events} <= {Purpose.TOP_UP}
        await store.stop()

    asyncio.run(run())
