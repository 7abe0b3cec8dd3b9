"""The credential index: lookups, states, rows, growth."""

from __future__ import annotations

import hashlib

import pytest
from credentialkit import EXPIRED, REVOKED, SUSPENDED, Clock, filled, result_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from memorykit import taken

from fastgate._core.shared.credentials import (
    NO_ACCOUNT,
    NO_PLAN,
    Consumer,
    CredentialIndex,
    IndexFullError,
    LimitOverride,
    SpendingCap,
    key_digest,
)
from fastgate._core.snapshot.snapshot import Period
from fastgate._core.testing.lookup_bench import bench_lookup

# ---- who pays, and caps ------------------------------------------------------------------


def test_who_pays_and_what_may_be_spent() -> None:
    index = CredentialIndex.create()
    cap, own = SpendingCap(2**56 - 1, int(Period.PERIOD_YEAR)), SpendingCap(5_000_000, 3)
    row = index.set_consumer("c", identity=1, account=9, account_slot=65535, spending=cap)
    index.put(key_digest("capped"), row, identity=2, spending=own)
    index.put(key_digest("free"), row, identity=3)
    index.put_many([(key_digest("many"), row, 0, 4, own), (key_digest("more"), row, 0, 5)])
    assert index.consumer(row)[7:] == (65535, cap, ())
    caps = {key: index.find(key) for key in ("capped", "free", "many", "more")}
    none = SpendingCap()
    assert [found and found.spending for found in caps.values()] == [own, none, own, none]
    grown = index.grow().find("many")
    assert grown is not None
    assert (grown.spending, grown.consumer.account_slot) == (own, 65535)
    index.put(key_digest("capped"), row, identity=2)
    changed = index.find("capped")
    assert changed is not None
    assert changed.spending == none
    plain = index.consumer(index.set_consumer("d", identity=2))
    assert (plain.account_slot, plain.spending) == (NO_ACCOUNT, none)


@pytest.mark.parametrize("cap", [(-1, 3), (2**56, 3), (1, 7), (1, -1)])
def test_caps_that_cannot_be(cap: tuple[int, int]) -> None:
    index = CredentialIndex.create()
    with pytest.raises(ValueError, match="spending cap"):
        index.set_consumer("c", identity=1, spending=cap)
    row = index.set_consumer("c", identity=1)
    with pytest.raises(ValueError, match="spending cap"):
        index.put(key_digest("k"), row, identity=1, spending=cap)
    assert index.find("k") is None


def test_times_beyond_2106_are_kept_within() -> None:
    index = CredentialIndex.create()
    row = index.set_consumer("c", identity=1)
    for expires, result in ((2**40, 0), (2**32 - 1, 0), (-5, EXPIRED)):
        index.put(key_digest("k"), row, identity=1, expires_at=expires)
        assert result_of(index, "k") == result


# ---- digests ----------------------------------------------------------------------------


@given(st.binary(min_size=1, max_size=1024))
def test_a_digest_is_sha_256(key: bytes) -> None:
    assert key_digest(key) == hashlib.sha256(key).digest()


def test_text_is_digested_as_utf_8() -> None:
    assert key_digest("schlüssel") == hashlib.sha256("schlüssel".encode()).digest()


@pytest.mark.parametrize("key", ["", b"", "x" * 1025])
def test_keys_that_cannot_be(key: str | bytes) -> None:
    with pytest.raises(ValueError, match="1 to 1024 bytes"):
        key_digest(key)


# ---- lookups ----------------------------------------------------------------------------


def test_a_key_leads_to_its_consumer() -> None:
    index = CredentialIndex.create(10)
    row = index.set_consumer(
        "id-1", identity=2**64 - 1, account=7, plan=3, name="Ünique", plan_name="starter"
    )
    index.put(key_digest("secret"), row, identity=99)
    found = index.find("secret")
    assert found is not None
    assert found == (
        0,
        Consumer("id-1", 2**64 - 1, 7, 3, False, "Ünique", "starter"),
        99,
        SpendingCap(),
    )
    assert index.find_digest(key_digest(b"secret")) == found
    assert index.consumer(row) == found.consumer
    assert index.find("secre") is None
    assert index.find("secret ") is None


def test_an_empty_index_knows_nobody() -> None:
    index = CredentialIndex.create()
    assert index.find("x") is None
    assert (index.count, index.revoked, index.load) == (0, 0, 0.0)


def test_defaults_of_a_consumer() -> None:
    index = CredentialIndex.create()
    row = index.set_consumer("c", identity=1)
    assert index.consumer(row) == Consumer("c", 1, 0, NO_PLAN, False, "", "")


def test_states_and_which_of_them_is_told() -> None:
    index = CredentialIndex.create()
    good = index.set_consumer("good", identity=1)
    bad = index.set_consumer("bad", identity=2, suspended=True)
    for key, row, expires in (
        ("plain", good, 0),
        ("short", good, 100),
        ("long", good, 101),
        ("suspended", bad, 0),
        ("both", bad, 100),
    ):
        index.put(key_digest(key), row, expires_at=expires, identity=1)
    assert [result_of(index, key) for key in ("plain", "long", "short", "suspended", "both")] == [
        0, 0, EXPIRED, SUSPENDED, EXPIRED,
    ]  # fmt: skip
    assert index.revoke(key_digest("both"))
    assert result_of(index, "both") == REVOKED
    # The consumer is told all the same: the log says whose key it was.
    found = index.find("both", 100)
    assert found is not None
    assert found.consumer.id == "bad"


def test_a_revoked_key_can_be_put_again() -> None:
    index = filled(3)
    digest = key_digest("key-1")
    assert index.revoke(digest)
    assert not index.revoke(digest)
    assert (result_of(index, "key-1"), index.count, index.revoked) == (REVOKED, 2, 1)
    row = index.set_consumer("new", identity=5)
    index.put(digest, row, identity=6)
    found = index.find("key-1")
    assert found is not None
    assert (found.result, found.consumer.id, found.identity) == (0, "new", 6)
    assert (index.count, index.revoked) == (3, 0)


def test_a_changed_consumer_is_a_new_row_that_its_keys_are_pointed_to() -> None:
    index = filled(2)
    row = index.set_consumer("c0", identity=0, plan=8, suspended=True)
    index.repoint(key_digest("key-0"), row)
    found = index.find("key-0")
    assert found is not None
    assert (found.result, found.consumer.plan) == (SUSPENDED, 8)
    assert result_of(index, "key-1") == 0
    index.repoint(key_digest("key-0"), index.set_consumer("c0", identity=0))
    assert result_of(index, "key-0") == 0


def test_pointing_a_revoked_key_elsewhere_does_not_revive_it() -> None:
    index = filled(1)
    index.revoke(key_digest("key-0"))
    index.repoint(key_digest("key-0"), index.set_consumer("other", identity=1))
    found = index.find("key-0")
    assert found is not None
    assert (found.result, found.consumer.id) == (REVOKED, "other")


def test_what_readers_see_without_attaching_again() -> None:
    index = CredentialIndex.create()
    reader = CredentialIndex.attach(index.fd)
    assert not reader.writable
    assert reader.find("k") is None
    index.put(key_digest("k"), index.set_consumer("c", identity=1), identity=1)
    assert result_of(reader, "k") == 0
    index.revoke(key_digest("k"))
    assert result_of(reader, "k") == REVOKED
    assert (reader.count, reader.revoked) == (0, 1)


def test_bulk_loading_is_the_same_as_one_by_one() -> None:
    index = CredentialIndex.create(5000)
    rows = [index.set_consumer(f"c{k}", identity=k) for k in range(50)]
    many = [(key_digest(f"k{n}"), rows[n % 50], 0, n) for n in range(5000)]
    assert index.put_many(iter(many)) == 5000
    assert index.put_many(many[:10]) == 10
    assert index.count == 5000
    for n in range(0, 5000, 7):
        found = index.find(f"k{n}")
        assert found is not None
        assert (found.identity, found.consumer.id) == (n, f"c{n % 50}")
    assert index.find("k5000") is None


def test_many_keys_in_c_all_pass() -> None:
    index = filled(100)
    keys = [f"key-{k}".encode() for k in range(100)]
    assert bench_lookup(index, keys, 1000) > 0
    with pytest.raises(KeyError, match="100 of 200"):
        bench_lookup(index, [keys[0], b"unknown"], 200)
    with pytest.raises(KeyError, match="10 of 10"):
        bench_lookup(index, [b"x" * 1025], 10)
    with pytest.raises(ValueError, match="no keys"):
        bench_lookup(index, [], 10)


# ---- rows and room ----------------------------------------------------------------------


def test_it_takes_what_it_was_made_for_and_says_when_it_is_full() -> None:
    index = CredentialIndex.create(200)
    assert index.capacity >= 200
    row = index.set_consumer("c", identity=1)
    for n in range(index.capacity):
        index.put(key_digest(f"k{n}"), row, identity=n)
    assert index.load == 1.0
    with pytest.raises(IndexFullError):
        index.put(key_digest("one more"), row, identity=0)
    assert index.find("one more") is None
    index.put(key_digest("k0"), row, identity=77)
    index.revoke(key_digest("k1"))
    assert index.count == index.capacity - 1
    assert all(index.find(f"k{n}") is not None for n in range(index.capacity))


def test_load_is_a_share_of_credentials_or_of_rows() -> None:
    index = CredentialIndex.create(44)  # 64 slots, as many rows
    row = index.set_consumer("c", identity=1)
    for n in range(11):
        index.put(key_digest(f"k{n}"), row, identity=n)
    assert (index.capacity, index.load) == (44, 0.25)
    for n in range(31):
        index.set_consumer("c", identity=n)
    assert index.load == 0.5


def test_a_row_is_written_anew_only_after_its_grace() -> None:
    clock = Clock()
    index = CredentialIndex.create(1, grace=60, clock=clock)
    first = index.set_consumer("old", identity=1)
    index.put(key_digest("k"), first, identity=1)
    index.repoint(key_digest("k"), index.set_consumer("new", identity=2))
    clock.now += 59
    assert index.set_consumer("third", identity=3) != first
    assert index.consumer(first).id == "old"
    clock.now += 1
    assert index.set_consumer("fourth", identity=4) == first
    assert index.consumer(first).id == "fourth"


def test_consumers_without_keys_are_dropped_by_hand() -> None:
    clock = Clock()
    index = CredentialIndex.create(1, grace=0, clock=clock)
    row = index.set_consumer("c", identity=1)
    index.drop_consumer(row)
    assert index.set_consumer("d", identity=1) == row
    index.put(key_digest("k"), row, identity=1)
    with pytest.raises(ValueError, match="named by 1 credentials"):
        index.drop_consumer(row)


def test_rows_run_out_only_while_all_are_in_use_or_resting() -> None:
    clock = Clock()
    index = CredentialIndex.create(1, grace=10, clock=clock)
    index.put(key_digest("k"), index.set_consumer("c", identity=0), identity=0)
    for n in range(63):
        index.repoint(key_digest("k"), index.set_consumer("c", identity=n))
    with pytest.raises(IndexFullError, match="in use or waiting for reuse"):
        index.set_consumer("c", identity=63)
    clock.now += 10
    index.repoint(key_digest("k"), index.set_consumer("again", identity=1))
    found = index.find("k")
    assert found is not None
    assert found.consumer.id == "again"


def test_texts_of_a_consumer_are_bounded() -> None:
    index = CredentialIndex.create()
    with pytest.raises(ValueError, match="at most 64 bytes"):
        index.set_consumer("x" * 65, identity=1)
    row = index.set_consumer("y" * 64, identity=1, name="ü" * 60, plan_name="z" * 100)
    consumer = index.consumer(row)
    assert (consumer.id, consumer.name, consumer.plan_name) == ("y" * 64, "ü" * 48, "z" * 56)


def test_only_what_is_used_takes_memory() -> None:
    index = CredentialIndex.create(1_000_000)
    index.put(key_digest("k"), index.set_consumer("c", identity=1), identity=1)
    assert index.mapped > 500_000_000
    assert taken(index.fd) <= 64 * 1024


# ---- growth -----------------------------------------------------------------------------


def test_a_grown_index_has_everything_and_more_room() -> None:
    index = filled(40, epoch=4)
    index.revoke(key_digest("key-3"))
    loose = index.set_consumer("loose", identity=9)
    grown = index.grow()
    assert grown.capacity > index.capacity
    assert (grown.epoch, grown.count, grown.revoked) == (5, 39, 1)
    for k in range(40):
        assert grown.find(f"key-{k}") == index.find(f"key-{k}")
    assert grown.consumer(loose).id == "loose"
    # Both live on, each for itself.
    grown.revoke(key_digest("key-5"))
    assert (result_of(index, "key-5"), result_of(grown, "key-5")) == (0, REVOKED)


def test_growing_forgets_what_was_revoked_long_ago() -> None:
    index = filled(10)
    for k in (2, 4):
        index.revoke(key_digest(f"key-{k}"))
    kept = index.grow()
    assert (kept.count, kept.revoked) == (8, 2)
    forgotten = index.grow(keep_revoked=-1)
    assert (forgotten.count, forgotten.revoked) == (8, 0)
    assert forgotten.find("key-2") is None
    assert result_of(forgotten, "key-1") == 0
    # The rows that only they named are free, at once: nobody reads the new index yet.
    assert {forgotten.set_consumer("n", identity=1) for _ in range(2)} == {2, 4}


def test_rows_that_rested_are_free_in_the_grown_index() -> None:
    index = CredentialIndex.create(1, grace=1e9)
    first = index.set_consumer("a", identity=1)
    index.put(key_digest("k"), first, identity=1)
    index.repoint(key_digest("k"), index.set_consumer("b", identity=1))
    assert index.grow().set_consumer("c", identity=1) == first


def test_too_small_a_capacity_to_grow_to_is_an_error() -> None:
    index = filled(100)
    with pytest.raises(ValueError, match="too small for"):
        index.grow(10)


# ---- calls that are wrong ----------------------------------------------------------------


def test_what_is_wrong_is_refused() -> None:
    index = filled(1)
    with pytest.raises(TypeError, match="create"):
        CredentialIndex()
    with pytest.raises(ValueError, match="32 bytes"):
        index.put(b"short", 0, identity=1)
    with pytest.raises(ValueError, match="32 bytes"):
        index.put_many([(b"short", 0, 0, 0)])
    with pytest.raises(ValueError, match="32 bytes"):
        index.find_digest(b"short")
    with pytest.raises(IndexError, match="row 1"):
        index.put(key_digest("k"), 1, identity=1)
    with pytest.raises(IndexError, match="row 7"):
        index.repoint(key_digest("key-0"), 7)
    with pytest.raises(KeyError):
        index.revoke(key_digest("nobody's"))
    with pytest.raises(KeyError):
        index.repoint(key_digest("nobody's"), 0)
    for capacity in (0, 2**31):
        with pytest.raises(ValueError, match="capacity"):
            CredentialIndex.create(capacity)
    assert result_of(index, "key-0") == 0


# ---- against a dictionary ---------------------------------------------------------------


class AgainstADictionary(RuleBasedStateMachine):
    """Any order of changes, also with growth and new writers, beside a plain dictionary."""

    keys = st.integers(0, 30).map(lambda n: f"key-{n}")
    people = st.tuples(st.integers(0, 5), st.booleans())

    @initialize()
    def begin(self) -> None:
        self.clock = Clock()
        self.index = CredentialIndex.create(1, grace=5, clock=self.clock)
        self.reader = CredentialIndex.attach(self.index.fd)
        self.model: dict[str, tuple[bool, int, str, bool, int]] = {}

    def _row(self, person: tuple[int, bool]) -> int:
        who, suspended = person
        return self.index.set_consumer(f"c{who}", identity=who, suspended=suspended)

    @rule(key=keys, person=people, expires=st.sampled_from([0, 50, 100, 101]), ident=st.integers(0))
    def put(self, key: str, person: tuple[int, bool], expires: int, ident: int) -> None:
        ident %= 2**64
        try:
            self.index.put(key_digest(key), self._row(person), expires_at=expires, identity=ident)
        except IndexFullError:
            self.grow()
            self.index.put(key_digest(key), self._row(person), expires_at=expires, identity=ident)
        self.model[key] = (True, expires, f"c{person[0]}", person[1], ident)

    @rule(key=keys)
    def revoke(self, key: str) -> None:
        if key not in self.model:
            with pytest.raises(KeyError):
                self.index.revoke(key_digest(key))
        else:
            assert self.index.revoke(key_digest(key)) == self.model[key][0]
            self.model[key] = (False, *self.model[key][1:])

    @rule(key=keys, person=people)
    def repoint(self, key: str, person: tuple[int, bool]) -> None:
        if key in self.model:
            try:
                row = self._row(person)
            except IndexFullError:
                self.grow()
                row = self._row(person)
            self.index.repoint(key_digest(key), row)
            active, expires, _, _, ident = self.model[key]
            self.model[key] = (active, expires, f"c{person[0]}", person[1], ident)

    @rule()
    def grow(self) -> None:
        self.index = self.index.grow()
        self.reader = CredentialIndex.attach(self.index.fd)

    @rule()
    def change_writers(self) -> None:
        self.index = CredentialIndex.attach(self.index.fd, writable=True, grace=5, clock=self.clock)

    @rule(seconds=st.integers(0, 6))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds

    @invariant()
    def they_agree(self) -> None:
        if not hasattr(self, "model"):
            return
        for n in range(31):
            found = self.reader.find(f"key-{n}", 100)
            wanted = self.model.get(f"key-{n}")
            if wanted is None:
                assert found is None
                continue
            active, expires, who, suspended, ident = wanted
            assert found is not None
            expected = SUSPENDED if suspended else 0
            if expires and expires <= 100:
                expected = EXPIRED
            if not active:
                expected = REVOKED
            assert (found.result, found.consumer.id, found.identity) == (expected, who, ident)
        active_count = sum(entry[0] for entry in self.model.values())
        assert (self.index.count, self.index.revoked) == (
            active_count,
            len(self.model) - active_count,
        )


TestAgainstADictionary = AgainstADictionary.TestCase
TestAgainstADictionary.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


# ---- own numbers for limits -----------------------------------------------------------------

OWN = (LimitOverride(7, 100, 10, 1000), LimitOverride(8, 5))


def test_own_numbers_stand_beside_the_row() -> None:
    index = CredentialIndex.create(64)
    row = index.set_consumer("c", identity=1, overrides=OWN)
    other = index.set_consumer("d", identity=2)
    assert index.consumer(row).overrides == OWN
    assert index.consumer(other).overrides == ()
    index.put(key_digest("key"), row, identity=1)
    found = index.find("key")
    assert found is not None
    assert found.consumer.overrides == OWN
    full = tuple(LimitOverride(k, k) for k in range(1, 9))
    assert index.consumer(index.set_consumer("e", identity=3, overrides=full)).overrides == full
    with pytest.raises(ValueError, match="at most 8"):
        index.set_consumer("e", identity=3, overrides=(*full, LimitOverride(9, 9)))


def test_the_second_row_is_freed_with_the_first_and_not_before() -> None:
    clock = Clock()
    index = CredentialIndex.create(40, grace=10, clock=clock)
    row = index.set_consumer("c", identity=1, overrides=OWN)
    index.put(key_digest("key"), row, identity=1)
    for _ in range(500):  # each change takes two rows, of 64
        row = index.set_consumer("c", identity=1, overrides=OWN)
        index.repoint(key_digest("key"), row)
        clock.now += 11
        found = index.find("key")
        assert found is not None
        assert found.consumer.overrides == OWN
    index.drop_consumer(index.set_consumer("d", identity=2, overrides=OWN))
    clock.now += 11
    assert index.load < 0.2


def test_a_new_writer_keeps_own_numbers() -> None:
    clock = Clock()
    index = CredentialIndex.create(40, grace=10, clock=clock)
    kept = index.set_consumer("c", identity=1, overrides=OWN)
    index.put(key_digest("key"), kept, identity=1)
    index.set_consumer("lost", identity=2, overrides=OWN)
    writer = CredentialIndex.attach(index.fd, writable=True, grace=10, clock=clock)
    clock.now += 11
    taken = [writer.set_consumer(f"n{i}", identity=i, overrides=OWN) for i in range(31)]
    assert len({*taken, kept}) == 32
    assert writer.consumer(kept).overrides == OWN
    with pytest.raises(IndexFullError):
        writer.set_consumer("more", identity=9)


def test_a_larger_index_keeps_own_numbers() -> None:
    clock = Clock()
    index = CredentialIndex.create(40, grace=10, clock=clock)
    row = index.set_consumer("c", identity=1, overrides=OWN)
    waiting = index.set_consumer("waiting", identity=2, overrides=OWN)
    index.put(key_digest("key"), row, identity=1)
    gone = index.set_consumer("gone", identity=3, overrides=OWN)
    index.put(key_digest("key-2"), gone, identity=2)
    index.repoint(key_digest("key-2"), row)
    new = index.grow()
    for _ in range(20):
        new.set_consumer("x", identity=4, overrides=(LimitOverride(1, 1),) * 8)
    assert new.consumer(row).overrides == new.consumer(waiting).overrides == OWN


def test_when_there_is_room_for_one_row_only_none_is_taken() -> None:
    index = CredentialIndex.create(40)
    for k in range(63):
        index.set_consumer(f"c{k}", identity=k)
    with pytest.raises(IndexFullError):
        index.set_consumer("d", identity=99, overrides=OWN)
    index.set_consumer("e", identity=100)
    with pytest.raises(IndexFullError):
        index.set_consumer("f", identity=101)
