"""cells: where rate limits and quotas keep their state, shared by all workers without a lock.

    | head 64 B | group: 8 cells, 2 cache lines | group | group | ...     cell = { key 8, state 8 }

A key's hash selects two groups; their 16 cells, in this order, are its window. The key is in one of
them, at any position. Nothing is ever moved and nothing has to be contiguous, so a search looks at
the whole window before it reports "absent", and a cell may be emptied or reused at any time. New
keys go to the group with more free cells (the power of two choices): a window is full for one key in
100,000 when the table is 70 % full, one in 10,000 at 75 %, and practically never at half load, while most
keys are found in their first group. All changes are 16-byte compare-and-swaps of {key, state}: a change
of a state proves in the same operation that the cell belongs to the key.

The states of a cell

    EMPTY        {0, 0}
    CLAIM(K, n)  {K, claim | n}   reserved, without consumption. n: a number drawn once from the head
    LIVE(K)      {K, state}       the state counts. expired(state): it no longer matters

    EMPTY, expired LIVE(other) ──claim──▶ CLAIM(K, n) ──promote──▶ LIVE(K) ──▶ LIVE(K) ...
          ▲                                   │                       │ expired: claimed by others
          └───────────── withdraw ────────────┘                       ▼

By the caller's rule, expired states have no consumption (a full bucket; a window that has ended),
so reusing their cells loses nothing. Rules wait some time before a state counts as expired, because
a worker with an older clock may still count in the cell.

One key, one live cell

Two workers may need a cell for K at the same time and choose different ones, since a third worker
may have freed or taken a cell between their searches. If both became live, K would have two
budgets. So:

 1. *Claim*: put CLAIM(K, n), n fresh, in a free cell i. It has no consumption, so any number of
    claims is harmless.
 2. *Look again*, now with the claim in place, at all other cells of the window:
    LIVE(K) found: withdraw the claim, use that. CLAIM(K) further on: empty it. CLAIM(K) before
    i: withdraw, and start again with that one (even if its owner is dead).
 3. *Promote*: exchange exactly {K, n} for {K, first state}; if it fails, start again.

Claim. At no moment are there two LIVE(K).
Proof. Suppose j is promoted at time b while i has been LIVE(K) since its promotion at a < b. Let
m be j's claim number and n be i's. Numbers are never reused, so m was in j from before its
promoter's step 2 until b, and n in i from before its promoter's step 2 until a. j's promoter looked
at i at a time b' < b. If b' > a, it saw LIVE(K) and did not promote. So b' < a, and at b' there are
three cases: n was not there yet; or it emptied i (and n is gone); or it saw n, before j, and did not
promote. The last two contradict the promotions, so n was put into i after b', hence after m into j.
i's promoter looked at j after n was put there, thus while m was there (m stays until b > a). It saw m:
then it emptied j, and j's promotion fails, or it withdrew and did not promote i. Contradiction. The
looks are single 8-byte loads after a sequentially consistent exchange, so "before" and "after" are
well defined. ∎  (tests/core/test_cells_protocol.py also searches every interleaving.)

A promotion is also the first consumption, in the same exchange; so all consumption of K is a
chain of exchanges on one cell at a time, and N workers pass exactly what one would.

Progress: the lowest claim is never emptied by its own key's rivals, so one of them is promoted. A
process that is killed at any point leaves at most a claim. A claim has no consumption, any worker
that needs the same key can promote it, and other keys may take it if nothing else in the window
is free. If all 16 cells are live, the request is allowed and counted (`full`): a limiter that has
no memory left must not turn clients away. This does not happen while there are twice as many cells
as live keys; metrics show if it does.

Hashing: folded 64 x 64 → 128-bit multiplications with SHA-512's constants (nothing-up-my-sleeve
numbers). They must never change: exported quotas are identified by these hashes. They are not
secret: someone who can choose a billion identities can make some of their own collide.
"""
from typing import NamedTuple


from fastgate._core.platform.atomics cimport fg_add, fg_cas16, fg_fence
from fastgate._core.shared.layout cimport WINDOW, cells_head

cdef enum:
    CLAIM_ROUNDS = 64             # lost races before giving up; each one was another worker's success
    FIRST_BEFORE = 2              # how many more free cells the second group must have, while the first has some


cdef cells cells_of_limiter(segment_header *s) noexcept nogil:
    cdef cells t
    t.base = <cell *>(<char *>s + s.limiter_off)
    t.mask = s.limiter_count - 1
    t.full = 0
    return t


cdef cells cells_of_quota(segment_header *s) noexcept nogil:
    cdef cells t
    t.base = <cell *>(<char *>s + s.quota_off)
    t.mask = s.quota_count - 1
    t.full = 0
    return t


# ---- claiming a cell --------------------------------------------------------------------

cdef inline cell *_at(const cells *t, uint64_t hash, int i) noexcept nogil:
    """Cell i of the window, 0 to WINDOW - 1: the order is the same for all workers."""
    if i < GROUP:
        return t.base + cells_first(t, hash) + i
    return t.base + cells_second(t, hash) + (i - GROUP)


cdef cell *_settle(cells *t, uint64_t hash, uint64_t key, const cells_rule *rule, int place,
                   uint64_t claim, bint *again) noexcept nogil:
    """Step 2 for the claim at `place`. NULL: it may be promoted, or *again is set. Else: the live cell of the key."""
    cdef cell *mine = _at(t, hash, place)
    cdef cell *c
    cdef uint64_t word, state
    cdef int i
    again[0] = False
    fg_fence()
    for i in range(WINDOW):
        if i == place:
            continue
        c = _at(t, hash, i)
        word = fg_load(&c.key)
        if (word & rule.key_mask) != key:
            continue
        state = fg_load(&c.state)
        if (state & rule.claim_mask) != rule.claim:
            fg_cas16(mine, key, claim, 0, 0)
            return c
        if i < place:
            fg_cas16(mine, key, claim, 0, 0)
            again[0] = True
            return NULL
        if not fg_cas16(c, word, state, 0, 0):
            again[0] = True         # it changed: look at its new state
            return NULL
    return NULL


cdef struct place_seen:
    cell *at                      # NULL: none
    uint64_t word                 # what was read there
    uint64_t state
    int place


cdef inline void _note(place_seen *p, cell *c, uint64_t word, uint64_t state, int place) noexcept nogil:
    p.at = c
    p.word = word
    p.state = state
    p.place = place


cdef bint _look(cells *t, uint64_t hash, uint64_t key, const cells_rule *rule, uint64_t now,
                place_seen *seen) noexcept nogil:
    """Look at the whole window. 1: the key lives or is claimed at *seen. 0: *seen is the best cell for it.

    Best: an empty or expired one, in the group that has more of them, with a preference for the first,
    which is read first; otherwise another key's claim, which has no consumption; otherwise NULL.
    """
    cdef place_seen free[2]
    cdef place_seen claimed
    cdef int frees[2]
    cdef cell *c
    cdef uint64_t word, state
    cdef int i, group
    cdef bint found = False
    _note(seen, NULL, 0, 0, 0)
    free[0] = free[1] = claimed = seen[0]
    frees[0] = frees[1] = 0
    for i in range(WINDOW):
        c = _at(t, hash, i)
        group = i >= GROUP
        word = fg_load(&c.key)
        state = fg_load(&c.state)
        if (word & rule.key_mask) == key:
            if (state & rule.claim_mask) != rule.claim:
                _note(seen, c, word, state, i)
                return True
            if not found:
                _note(seen, c, word, state, i)
                found = True
        elif word == 0 or ((state & rule.claim_mask) != rule.claim and rule.expired(state, now)):
            frees[group] += 1
            if free[group].at is NULL:
                _note(&free[group], c, word, state, i)
        elif (state & rule.claim_mask) == rule.claim:
            _note(&claimed, c, word, state, i)
    if not found:
        group = frees[1] > (frees[0] + FIRST_BEFORE if frees[0] > FIRST_BEFORE else frees[0])
        seen[0] = free[group]
        if seen.at is NULL:
            seen[0] = claimed
    return found


cdef cell *cells_claim(cells *t, uint64_t hash, uint64_t key, const cells_rule *rule, uint64_t now,
                       uint64_t *claim) noexcept nogil:
    cdef cells_head *head = <cells_head *>t.base - 1
    cdef place_seen seen
    cdef cell *other
    cdef bint again
    cdef int round
    for round in range(CLAIM_ROUNDS):
        if not _look(t, hash, key, rule, now, &seen):
            if seen.at is NULL:
                break
            claim[0] = rule.claim | ((fg_add(&head.ticket, 1) + 1) & ~rule.claim_mask)
            if not fg_cas16(seen.at, seen.word, seen.state, key, claim[0]):
                continue
            seen.state = claim[0]
        elif (seen.state & rule.claim_mask) != rule.claim:
            claim[0] = 0
            return seen.at
        other = _settle(t, hash, key, rule, seen.place, seen.state, &again)
        if again:
            continue
        claim[0] = 0 if other is not NULL else seen.state
        return other if other is not NULL else seen.at
    t.full += 1
    fg_add(&head.full, 1)
    claim[0] = 0
    return NULL


# ---- keys ---------------------------------------------------------------------------------

cdef inline uint64_t _never_0(uint64_t h) noexcept nogil:
    return h if h else FG_K0


cdef uint64_t mix_key(uint64_t a, uint64_t b) noexcept nogil:
    return _never_0(fg_fold(fg_fold(a ^ FG_K0, b ^ FG_K1) ^ a, FG_K2))


cdef uint64_t hash_bytes(const void *p, uint32_t length, uint64_t seed) noexcept nogil:
    cdef const char *at = <const char *>p
    cdef const char *end = at + length
    cdef uint64_t h = fg_fold(seed ^ FG_K0, length ^ FG_K1)
    cdef uint64_t a, b
    while end - at > 16:
        h = ((h << 29) | (h >> 35)) ^ fg_fold(fg_read64(at) ^ FG_K2, fg_read64(at + 8) ^ h)
        at += 16
    # The last 1 to 16 bytes: read as two words that may overlap.
    if length >= 16:
        a = fg_read64(end - 16)
        b = fg_read64(end - 8)
    elif length >= 8:
        a = fg_read64(at)
        b = fg_read64(end - 8)
    elif length >= 4:
        a = fg_read32(at)
        b = fg_read32(end - 4)
    elif length:
        a = ((<uint64_t>(<const uint8_t *>at)[0] << 16)
             | (<uint64_t>(<const uint8_t *>at)[length >> 1] << 8)
             | <uint64_t>(<const uint8_t *>at)[length - 1])
        b = 0
    else:
        a = b = 0
    h = ((h << 29) | (h >> 35)) ^ fg_fold(a ^ FG_K3, b ^ h)
    return fg_fold(h ^ FG_K4, length ^ FG_K5)


cdef uint64_t address_hash(const uint8_t *address) noexcept nogil:
    cdef uint64_t high = fg_read64(<const char *>address)
    cdef uint64_t low = fg_read64(<const char *>address + 8)
    if high != 0 or <uint32_t>low != <uint32_t>0xffff0000U:     # not ::ffff:0:0/96
        low = 0
    return _never_0(fg_fold(fg_fold(high ^ FG_K6, low ^ FG_K7) ^ low, FG_K3))


cdef uint64_t limit_key(uint64_t identity, uint64_t address_hash, uint64_t route, uint64_t consumer,
                        uint64_t plan, uint64_t service, uint64_t credential) noexcept nogil:
    # Four products that do not depend on one another, then one over their sum.
    cdef uint64_t h = fg_fold(identity ^ FG_K0, address_hash ^ FG_K1)
    h += fg_fold(route ^ FG_K2, consumer ^ FG_K3)
    h ^= fg_fold(plan ^ FG_K4, service ^ FG_K5)
    h += fg_fold(credential ^ FG_K6, identity ^ FG_K7)
    return _never_0(fg_fold(h ^ FG_K1, identity ^ FG_K4))


# ---- the border ---------------------------------------------------------------------------

class Decision(NamedTuple):
    """The answer of a limit. Seconds are whole, rounded up; `resets_at` is Unix time (rates: 0)."""

    allowed: bool
    remaining: int
    used: int
    reset_s: int
    retry_s: int
    resets_at: int


def limit_key_py(uint64_t identity, *, uint64_t address=0, uint64_t route=0, uint64_t consumer=0,
                 uint64_t plan=0, uint64_t service=0, uint64_t credential=0):
    """The key a limit is counted under: its identity, and the elements of its scope (hashes, 64 bits).

    Omit what is not in the scope. `address` is an `address_hash`.
    """
    return limit_key(identity, address, route, consumer, plan, service, credential)
