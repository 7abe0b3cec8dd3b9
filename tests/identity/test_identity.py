"""Keys, the directory and the index in step: with the store, without it, after a restart."""

from __future__ import annotations

import string
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgate._core.reason import Reason
from fastgate._core.shared.credentials import CredentialIndex
from fastgate._core.snapshot.snapshot import stable_hash
from fastgate.errors import ConfigurationError, ConflictError, NotFoundError, StoreError
from fastgate.identity.directory import Directory
from fastgate.identity.identity import Identity, InvalidMember
from fastgate.identity.synced import REMEMBERED
from fastgate.model import digests
from fastgate.model.codec import decode
from fastgate.model.keys import CHECK_LENGTH, is_key, key_digest, new_key, shown_prefix
from fastgate.store.cache import ConsumerRecord, KeyRecord, TokenRecord
from fastgate.store.engine import Store
from fastgate.store.parties import Parties, StaleError

PLANS = {"free": 0, "gold": 1}
SEED_KEY = "seed-key-0123456789"


def gateway(*consumers: dict[str, object], plans: tuple[str, ...] = ("free", "gold")):  # type: ignore[no-untyped-def]
    return decode(
        {"version": 1, "plans": [{"name": name} for name in plans], "consumers": list(consumers)}
    )


def told(identity: Identity, key: str) -> str:
    """What a worker would say to the key, now."""
    found = identity.index.find(key)
    if found is None:
        return "unknown"
    return "ok" if found.result == 0 else Reason(found.result).name.lower()


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Identity]:
    def make(capacity: int = 64, plans: dict[str, int] = PLANS) -> Identity:
        identity = Identity(CredentialIndex.create(capacity), cache=tmp_path / "credentials.cache")
        identity.configure(gateway(), plans)
        return identity

    return make


@pytest.fixture
async def identity(make: Callable[..., Identity], sqlite_store: Store) -> Identity:
    identity = make()
    identity.attach(sqlite_store)
    await identity.sync()
    return identity


# ---- keys -------------------------------------------------------------------------------


@given(st.none() | st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=16))
def test_a_key_has_its_form(environment: str | None) -> None:
    key = new_key(environment)
    assert is_key(key)
    assert key.startswith(f"fg_{environment}_" if environment else "fg_")
    assert key.startswith(shown_prefix(key))
    assert len(key) - len(shown_prefix(key)) == 32


@given(st.integers(3, 40), st.characters(codec="ascii"))
def test_a_typing_error_is_seen(at: int, wrong: str) -> None:
    key = new_key()
    changed = key[:at] + wrong + key[at + 1 :]
    assert is_key(changed) == (changed == key)


def test_keys_differ() -> None:
    keys = {new_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert len({key[:-CHECK_LENGTH] for key in keys}) == 1000


@pytest.mark.parametrize("environment", ["", "Live", "a_b", "x" * 17])
def test_a_bad_environment_is_refused(environment: str) -> None:
    with pytest.raises(ValueError, match="environment"):
        new_key(environment)


def test_foreign_texts_are_no_keys() -> None:
    assert not is_key("")
    assert not is_key("fg_")
    assert not is_key("sk-" + "a" * 38)
    assert shown_prefix("sk-abcdefgh") == "sk-a"


# ---- the directory against a naive one --------------------------------------------------

DIGESTS = [key_digest(f"key-{number}") for number in range(6)]
NAMES = ["a", "b", "c"]

TOKENS = [digests.token(f"token-{number}") for number in range(40)]

_steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("consumer"),
            st.sampled_from(NAMES),
            st.sampled_from([None, "free", "gold", "missing"]),
            st.booleans(),
        ),
        st.tuples(
            st.just("key"),
            st.sampled_from(DIGESTS),
            st.sampled_from(NAMES),
            st.sampled_from([0, 5, 2**40]),
            st.sampled_from([0, 7]),
        ),
        st.tuples(st.just("drop_key"), st.sampled_from(DIGESTS)),
        st.tuples(st.just("drop"), st.sampled_from(NAMES)),
        st.tuples(st.just("slots"), st.sampled_from([{}, PLANS, {"free": 5}])),
        st.tuples(st.just("anonymous"), st.sets(st.sampled_from(NAMES))),
        st.tuples(st.just("token"), st.sampled_from(TOKENS), st.sampled_from([5, 2**31])),
        st.tuples(st.just("forget"), st.sampled_from([0, 1000])),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(_steps)
def test_the_index_says_what_a_naive_directory_says(steps: list[tuple[object, ...]]) -> None:
    directory = Directory(CredentialIndex.create(1), lambda index: None)
    consumers: dict[str, tuple[str | None, bool]] = {}
    keys: dict[bytes, tuple[str, int, int]] = {}
    gone: set[bytes] = set()
    slots: dict[str, int] | None = None
    anonymous: set[str] = set()
    once: set[str] = set()  # who could call without a credential at some time
    tokens: dict[bytes, int] = {}
    for step in steps:
        match step:
            case ("consumer", str(name), plan, bool(suspended)):
                consumers[name] = (plan, suspended)  # type: ignore[assignment]
                record = ConsumerRecord(name, name, None, plan, suspended)  # type: ignore[arg-type]
                directory.put_consumer(record, seed=False)
            case ("key", bytes(digest), str(name), int(expires), int(revoked)):
                directory.put_key(KeyRecord(digest, digest.hex(), name, expires, revoked))
                if name in consumers:
                    keys[digest] = (name, expires, revoked)
                    gone.discard(digest)
            case ("drop_key", bytes(digest)):
                directory.drop_key(digest)
                if keys.pop(digest, None):
                    gone.add(digest)
            case ("drop", str(name)):
                directory.drop_consumer(name)
                consumers.pop(name, None)
                for digest in [digest for digest, key in keys.items() if key[0] == name]:
                    del keys[digest]
                    gone.add(digest)
            case ("slots", dict(given)):
                slots = given
                directory.set_slots(given)
            case ("anonymous", set(given)):
                anonymous = given
                directory.set_anonymous(set(given))
            case ("token", bytes(digest), int(expires)):
                directory.revoke_token(digest, expires)
                tokens[digest] = max(expires, tokens.get(digest, 0))
            case ("forget", int(now)):
                directory.forget_tokens(now)
                tokens = {digest: at for digest, at in tokens.items() if at > now}
        once |= anonymous & consumers.keys()
    assert directory.missing() == anonymous - consumers.keys()
    assert directory.tokens == tokens
    for digest in tokens:
        found = directory.index.find_digest(digest, now=1000)
        assert found is not None
        assert found.result == Reason.CREDENTIAL_REVOKED
    for name in NAMES:
        found = directory.index.find_digest(digests.consumer(name), now=1000)
        if name in anonymous & consumers.keys():
            assert found is not None
            plan, suspended = consumers[name]
            planless = plan is not None and slots is not None and plan not in slots
            refused = Reason.CONSUMER_SUSPENDED if suspended or planless else 0
            assert (found.result, found.consumer.id) == (refused, name)
        else:
            assert (found is not None) is (name in once)
            assert found is None or found.result == Reason.CREDENTIAL_REVOKED
    stored = list(directory.stored())
    assert {each.digest for each in stored if isinstance(each, KeyRecord)} == keys.keys()
    assert {each.digest for each in stored if isinstance(each, TokenRecord)} == tokens.keys()
    for digest in DIGESTS:
        found = directory.index.find_digest(digest, now=1000)
        if digest in gone:
            assert found is not None
            assert found.result == Reason.CREDENTIAL_REVOKED
        elif digest not in keys:
            assert found is None
        else:
            name, expires, revoked = keys[digest]
            plan, suspended = consumers[name]
            slot = (slots or {}).get(plan or "")
            planless = plan is not None and slots is not None and slot is None
            assert found is not None
            if revoked:
                assert found.result == Reason.CREDENTIAL_REVOKED
            elif 0 < expires <= 1000:
                assert found.result == Reason.CREDENTIAL_EXPIRED
            elif suspended or planless:
                assert found.result == Reason.CONSUMER_SUSPENDED
            else:
                assert found.result == 0
            assert found.consumer.id == name
            assert found.consumer.identity == stable_hash(name)
            assert found.consumer.plan_name == (plan or "")
            assert found.consumer.plan == (0xFFFFFFFF if slot is None else slot)
            assert found.identity == stable_hash(digest.hex())


def test_a_full_index_is_followed_by_a_larger_one() -> None:
    told: list[CredentialIndex] = []
    directory = Directory(CredentialIndex.create(10), told.append)
    directory.put_consumer(ConsumerRecord("a", "a", None, None, False), seed=False)
    digests = [key_digest(f"key-{number}") for number in range(1000)]
    for digest in digests:
        directory.put_key(KeyRecord(digest, digest.hex(), "a", 0, 0))
    assert told
    assert told[-1] is directory.index
    found = [directory.index.find_digest(digest) for digest in digests]
    assert all(one is not None and one.result == 0 for one in found)
    directory.put_consumer(ConsumerRecord("a", "a", None, None, True), seed=False)
    found = [directory.index.find_digest(digest) for digest in digests]
    assert all(one is not None and one.result == Reason.CONSUMER_SUSPENDED for one in found)


def test_a_consumer_changed_again_and_again_needs_no_end_of_rows() -> None:
    directory = Directory(CredentialIndex.create(10), lambda index: None)
    directory.put_consumer(ConsumerRecord("a", "a", None, None, False), seed=False)
    directory.put_key(KeyRecord(DIGESTS[0], "k", "a", 0, 0))
    for number in range(500):
        record = ConsumerRecord("a", f"a{number}", None, None, False)
        directory.put_consumer(record, seed=False)
        found = directory.index.find_digest(DIGESTS[0])
        assert found is not None
        assert found.consumer.name == f"a{number}"


# ---- the configuration's seed -----------------------------------------------------------


def test_seeds_come_and_go_with_the_configuration(make: Callable[..., Identity]) -> None:
    identity = make()
    seed = {"name": "demo app", "keys": [SEED_KEY, "another-key-42"], "plan": "gold"}
    identity.configure(gateway(seed), PLANS)
    assert told(identity, SEED_KEY) == "ok"
    found = identity.index.find(SEED_KEY)
    assert found is not None
    assert found.consumer.id == "demo-app"
    assert found.consumer.plan == 1
    identity.configure(gateway({**seed, "keys": [SEED_KEY]}), PLANS)
    assert told(identity, SEED_KEY) == "ok"
    assert told(identity, "another-key-42") == "credential_revoked"
    identity.configure(gateway({**seed, "suspended": True}), PLANS)
    assert told(identity, "another-key-42") == "consumer_suspended"
    identity.configure(gateway(), PLANS)
    assert told(identity, SEED_KEY) == "credential_revoked"
    assert identity.seeds() == []


def test_a_key_may_move_from_one_seed_to_another(make: Callable[..., Identity]) -> None:
    identity = make()
    identity.configure(gateway({"name": "a", "keys": [SEED_KEY]}), PLANS)
    identity.configure(gateway({"name": "b", "keys": [SEED_KEY]}), PLANS)
    found = identity.index.find(SEED_KEY)
    assert found is not None
    assert (found.result, found.consumer.id) == (0, "b")


async def test_seeds_are_not_changed_through_the_store(identity: Identity) -> None:
    identity.configure(gateway({"name": "demo", "keys": [SEED_KEY]}), PLANS)
    for change in (
        identity.issue("demo"),
        identity.update_consumer("demo", {"suspended": True}),
        identity.delete_consumer("demo"),
        identity.create_consumer(name="demo", account=None, plan=None),
    ):
        with pytest.raises(ConflictError, match="configuration"):
            await change


async def test_a_key_that_a_seed_claims_comes_back_to_its_consumer(identity: Identity) -> None:
    await identity.create_consumer(name="stored", account=None, plan="free")
    issued = await identity.issue("stored", key=SEED_KEY)
    identity.configure(gateway({"name": "demo", "keys": [SEED_KEY]}), PLANS)
    await identity.sync()
    found = identity.index.find(SEED_KEY)
    assert found is not None
    assert found.consumer.name == "demo"
    identity.configure(gateway(), PLANS)
    found = identity.index.find(SEED_KEY)
    assert found is not None
    assert (found.result, found.consumer.name) == (0, "stored")
    assert found.identity == stable_hash(issued.credential.id)


# ---- life of a credential ---------------------------------------------------------------


async def test_issue_then_revoke(identity: Identity) -> None:
    consumer = await identity.create_consumer(name="acme", account=None, plan="gold")
    issued = await identity.issue("acme", label="laptop", environment="live")
    assert issued.key.startswith("fg_live_")
    assert issued.credential.prefix == shown_prefix(issued.key)
    assert told(identity, issued.key) == "ok"
    found = identity.index.find(issued.key)
    assert found is not None
    assert found.consumer.id == consumer.id
    revoked = await identity.revoke("acme", issued.credential.id)
    assert revoked.revoked_at is not None
    assert told(identity, issued.key) == "credential_revoked"
    again = await identity.revoke("acme", issued.credential.id)
    assert again.revoked_at == revoked.revoked_at


async def test_the_key_is_kept_nowhere(
    identity: Identity, sqlite_store: Store, tmp_path: Path
) -> None:
    await identity.create_consumer(name="acme", account=None, plan=None)
    key = (await identity.issue("acme")).key
    await sqlite_store.stop()
    for path in tmp_path.iterdir():  # noqa: ASYNC240
        if path.is_file():
            assert key.encode() not in path.read_bytes(), path


async def test_rotation_lets_the_old_key_live_for_the_overlap(identity: Identity) -> None:
    await identity.create_consumer(name="acme", account=None, plan=None)
    first = await identity.issue("acme", label="laptop")
    second = await identity.rotate("acme", first.credential.id, overlap=timedelta(hours=1))
    assert second.credential.label == "laptop"
    assert second.replaces is not None
    assert second.replaces.id == first.credential.id
    assert told(identity, first.key) == "ok"
    assert told(identity, second.key) == "ok"
    later = int(time.time()) + 3700
    found = identity.index.find(first.key, now=later)
    assert found is not None
    assert found.result == Reason.CREDENTIAL_EXPIRED
    third = await identity.rotate("acme", second.credential.id)
    assert told(identity, second.key) == "credential_revoked"
    assert told(identity, third.key) == "ok"
    with pytest.raises(ConflictError, match="revoked"):
        await identity.rotate("acme", second.credential.id)


async def test_expiry_is_felt_without_anyone_doing_anything(identity: Identity) -> None:
    await identity.create_consumer(name="acme", account=None, plan=None)
    end = datetime.now(UTC) + timedelta(seconds=90)
    issued = await identity.issue("acme", expires_at=end)
    for late, reason in ((-5, 0), (5, Reason.CREDENTIAL_EXPIRED)):
        found = identity.index.find(issued.key, now=int(end.timestamp()) + late)
        assert found is not None
        assert found.result == reason
    await identity.update_credential("acme", issued.credential.id, {"expires_at": None})
    found = identity.index.find(issued.key, now=int(end.timestamp()) + 5)
    assert found is not None
    assert found.result == 0


async def test_a_suspended_consumer_is_refused_with_all_keys(identity: Identity) -> None:
    await identity.create_consumer(name="acme", account=None, plan=None)
    keys = [(await identity.issue("acme")).key for _ in range(3)]
    await identity.update_consumer("acme", {"suspended": True})
    assert {told(identity, key) for key in keys} == {"consumer_suspended"}
    await identity.update_consumer("acme", {"suspended": False})
    assert {told(identity, key) for key in keys} == {"ok"}
    await identity.delete_consumer("acme")
    assert {told(identity, key) for key in keys} == {"credential_revoked"}
    with pytest.raises(NotFoundError):
        await identity.issue("acme")


async def test_an_imported_key_works_and_cannot_be_imported_twice(identity: Identity) -> None:
    await identity.create_consumer(name="acme", account=None, plan=None)
    await identity.issue("acme", key="from-another-gateway")
    assert told(identity, "from-another-gateway") == "ok"
    with pytest.raises(ConflictError):
        await identity.issue("acme", key="from-another-gateway")


async def test_changes_carry_versions(identity: Identity) -> None:
    consumer = await identity.create_consumer(name="acme", account=None, plan=None)
    changed = await identity.update_consumer("acme", {"plan": "free"}, consumer.version)
    assert changed.version == consumer.version + 1
    with pytest.raises(StaleError):
        await identity.update_consumer("acme", {"plan": "gold"}, consumer.version)


async def test_an_unknown_plan_is_named_with_the_nearest(identity: Identity) -> None:
    with pytest.raises(InvalidMember, match="Did you mean 'gold'"):
        await identity.create_consumer(name="acme", account=None, plan="golf")


# ---- plans ------------------------------------------------------------------------------


async def test_a_plan_with_consumers_cannot_go(identity: Identity) -> None:
    await identity.create_consumer(name="acme", account=None, plan="gold")
    identity.check_plans(gateway())
    with pytest.raises(ConfigurationError, match="'gold' is missing, and 1 consumer"):
        identity.check_plans(gateway(plans=("free",)))


async def test_without_its_plan_a_consumer_is_refused(identity: Identity) -> None:
    await identity.create_consumer(name="acme", account=None, plan="gold")
    key = (await identity.issue("acme")).key
    identity.configure(gateway(plans=("free",)), {"free": 0})
    assert told(identity, key) == "consumer_suspended"
    identity.configure(gateway(), {"free": 0, "gold": 7})
    found = identity.index.find(key)
    assert found is not None
    assert (found.result, found.consumer.plan) == (0, 7)


# ---- with the store away, and after a restart -------------------------------------------


async def test_what_needs_the_store_says_so(make: Callable[..., Identity]) -> None:
    identity = make()
    with pytest.raises(StoreError):
        await identity.create_consumer(name="acme", account=None, plan=None)


async def test_after_a_restart_without_the_store_everything_is_as_it_was(
    identity: Identity, make: Callable[..., Identity]
) -> None:
    await identity.create_consumer(name="acme", account=None, plan="gold")
    kept = (await identity.issue("acme")).key
    revoked = await identity.issue("acme")
    await identity.revoke("acme", revoked.credential.id)
    await identity.create_consumer(name="gone", account=None, plan=None)
    gone = (await identity.issue("gone")).key
    await identity.delete_consumer("gone")
    identity.configure(gateway({"name": "demo", "keys": [SEED_KEY]}), PLANS)

    restarted = make()
    assert restarted.load_cache() == 2
    assert told(restarted, kept) == "ok"
    found = restarted.index.find(kept)
    assert found is not None
    assert (found.consumer.name, found.consumer.plan) == ("acme", 1)
    assert told(restarted, revoked.key) == "credential_revoked"
    assert told(restarted, gone) == "unknown"
    assert told(restarted, SEED_KEY) == "unknown"  # the configuration brings it, not the cache


async def test_workers_get_an_index_only_when_it_is_whole(
    identity: Identity, tmp_path: Path
) -> None:
    await identity.create_consumer(name="acme", account=None, plan="gold")
    keys = [(await identity.issue("acme")).key for _ in range(40)]
    given: list[CredentialIndex] = []
    restarted = Identity(
        CredentialIndex.create(4), cache=tmp_path / "credentials.cache", on_index=given.append
    )
    assert restarted.load_cache() == 40
    assert given == []  # nobody has a plan yet, and the configuration's consumers are missing
    restarted.configure(gateway({"name": "demo", "keys": [SEED_KEY]}), PLANS)
    assert given == [restarted.index]
    for key in keys:
        found = given[0].find(key)
        assert found is not None
        assert found.consumer.plan == PLANS["gold"]
    assert told(restarted, SEED_KEY) == "ok"
    restarted.configure(gateway(), PLANS)
    assert len(given) == 1
    restarted.close()


async def test_the_store_corrects_what_the_cache_said(
    identity: Identity, make: Callable[..., Identity], sqlite_store: Store
) -> None:
    await identity.create_consumer(name="acme", account=None, plan=None)
    await identity.create_consumer(name="gone", account=None, plan=None)
    issued = await identity.issue("acme")
    gone = await identity.issue("gone")
    away = make()
    away.load_cache()
    parties = Parties(sqlite_store)  # another gateway, whose changes this one does not hear of
    await parties.update_credential(
        "acme", issued.credential.id, {"revoked_at": datetime.now(UTC)}, None
    )
    await parties.delete_consumer("gone", None)
    assert told(away, issued.key) == told(away, gone.key) == "ok"
    away.attach(sqlite_store)
    await away.sync()
    assert told(away, issued.key) == "credential_revoked"
    assert told(away, gone.key) == "credential_revoked"


async def test_two_gateways_on_one_store_hear_of_each_other(
    store: Store, tmp_path: Path, store_url: str
) -> None:
    other_store = Store(store_url)
    await other_store.connect()
    pair = []
    for one, name in ((store, "one"), (other_store, "two")):
        identity = Identity(CredentialIndex.create(64), cache=tmp_path / name)
        identity.configure(gateway(), PLANS)
        identity.attach(one)
        await identity.sync()
        await one.poll()
        pair.append(identity)
    mine, other = pair
    await mine.create_consumer(name="acme", account=None, plan=None)
    issued = await mine.issue("acme")
    assert told(other, issued.key) == "unknown"
    await other_store.poll()
    assert told(other, issued.key) == "ok"
    await mine.revoke("acme", issued.credential.id)
    # A change of its own shows the other that it has missed one, before any poll.
    await other.create_consumer(name="other", account=None, plan=None)
    assert told(other, issued.key) == "credential_revoked"
    await other_store.stop()


async def test_keys_revoked_long_ago_are_forgotten(
    identity: Identity, make: Callable[..., Identity], sqlite_store: Store
) -> None:
    await identity.create_consumer(name="acme", account=None, plan=None)
    old, new = await identity.issue("acme"), await identity.issue("acme")
    parties = Parties(sqlite_store)
    long_ago = datetime.now(UTC) - REMEMBERED - timedelta(days=1)
    await parties.update_credential("acme", old.credential.id, {"revoked_at": long_ago}, None)
    await parties.update_credential(
        "acme", new.credential.id, {"revoked_at": datetime.now(UTC)}, None
    )
    fresh = make()
    fresh.attach(sqlite_store)
    await fresh.sync()
    assert told(fresh, old.key) == "unknown"
    assert told(fresh, new.key) == "credential_revoked"


async def test_a_lost_caller_does_not_stop_a_change_half_way(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    await identity.create_consumer(name="acme", account=None, plan=None)
    issued = await identity.issue("acme")
    committed, go_on = asyncio.Event(), asyncio.Event()
    update = identity.parties.update_credential

    async def slow(*args: object, **more: object) -> object:
        done = await update(*args, **more)  # type: ignore[arg-type]
        committed.set()
        await go_on.wait()
        return done

    monkeypatch.setattr(identity.parties, "update_credential", slow)
    caller = asyncio.create_task(identity.revoke("acme", issued.credential.id))
    await committed.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go_on.set()
    await identity.sync()  # waits for its turn behind the change
    assert told(identity, issued.key) == "credential_revoked"
