"""holds: reserve, capture and release money, exact even if a process is killed at any instruction.

A wallet is 16 bytes in the segment; a hold is a row in the money map. One instruction cannot change
both places, so each wallet has the *tag* of its last change, and the next change first finishes the
bookkeeping of that one.

    wallet   | available | tag |                  changed as a whole, by one 16-byte exchange
    tag      | area 7 | row 12 | op 1 | sequence 44 |       op: 0 take, 1 give back. All 0: no change yet
    row      | word: sequence 56, state 8 | held | amount | ...

The states of a hold. `q` is its sequence number, which is never reused, so no word of a row and no
tag ever occurs twice:

    FREE ── row filled, word = {q, INTENT} ──▶ INTENT
    INTENT ── wallet: {available - held, tag(q, take)} ──▶ taken; then word = {q, HELD} ──▶ HELD
    HELD ── amount = what it costs; nothing to give back ──▶ SETTLED
    HELD ── amount = what it costs; word = {q, SETTLING} ──▶ SETTLING
    SETTLING ── wallet: {available + held - amount, tag(q, give)}; then word ──▶ SETTLED
    SETTLED ── record copied into the ring, head moved ──▶ word = FREE
    SETTLED ── the ring is full ──▶ PARKED ── control, when the ledger has it ──▶ FREE
    INTENT ── not enough in the wallet ──▶ FREE

The helping rule: before a process makes an exchange that replaces a tag, it reads the row that the tag
names. If the row's word is still {q, INTENT} (take) or {q, SETTLING} (give), it moves the word on to
{q, HELD} or {q, SETTLED} by a compare-and-swap. A word with another sequence or state needs
nothing.

Claim. For a row whose owner is dead and whose word is {q, INTENT}: the wallet was charged if and only
if its tag is tag(q, take). The same for {q, SETTLING} and tag(q, give).
Proof. If the tag is there, its exchange was made, and only that exchange puts it there. Conversely,
suppose that the exchange was made and the tag is gone. Then some process replaced it, by an exchange
that expected the tag; so that process had read the tag before, and after that read the row. The word
was then {q, INTENT} or later, since it was stored before the exchange, and the process left it at HELD
or later before it replaced the tag. No transition leads back to {q, INTENT}, so the word is not
{q, INTENT} now.
∎ The reader must look in this order: the tag, then the word again. (With the word first, a helper may
move it on and replace the tag between the two looks.)

So `hold_resolve` settles every row: it helps, looks again, and then knows what was done and what was
not. It releases by the same tagged exchange; it may be killed at any point, and run again. Of one
wallet's rows, at most one can be in doubt about its tag; the others were helped.

Progress. An exchange fails only if another one succeeded; helping is one exchange. There are no locks.

The charge for a dead worker's hold. While a request runs, `hold_due` records what is owed so far
(one store; the engine calls it when the first byte of the answer is relayed). A captured hold is
charged as captured. A hold that was not captured is settled by HoldPolicy: the due amount, all of
it, or nothing.

Overspending. Only control can make `available` negative (`credit_apply` with a floor below zero). A
hold takes only what is available, in the same exchange that proves it.

Credits work the same way, in control's area: a row INTENT with the negated delta and the ledger
entry's key, *before* the entry is committed; then the exchange, HELD ("the wallet has it"), FREE.
After a kill, the next control process finds the rows and asks the ledger about each key, and
`credit_apply` determines by the claim above whether the wallet already has the credit. It is
applied once, however often `credit_apply` is called.

Cost: one 16-byte exchange, and stores into a line or two that this core used recently.
A refused hold reads one word and writes nothing.
"""
from libc.string cimport memcpy

from fastgate._core.platform.atomics cimport fg_cas, fg_cas16, fg_load, fg_store
from fastgate._core.money.layout cimport (
    HOLD_FREE, HOLD_HELD, HOLD_INTENT, HOLD_PARKED, HOLD_SETTLED, HOLD_SETTLING, POLICY_CHARGE,
    POLICY_RELEASE, USAGE_CAPTURED, USAGE_FREE, USAGE_RECOVERED, area_of, holds_of, next_sequence,
    number_record, row_give, row_take)
from fastgate._core.shared.layout cimport WALLETS, segment_header
from fastgate._core.money.usage_ring cimport ring_publish

cdef enum:
    TAKE = 0
    GIVE = 1
    STATE_BITS = 0xFF
    SEQUENCE_BITS = 44            # how much of a sequence a tag has room for


# ---- tags and helping -------------------------------------------------------------------

cdef inline uint64_t tag_of(const area_view *t, const money_record *r, uint64_t sequence, int op) noexcept nogil:
    cdef uint64_t row = <uint64_t>(r - t.holds)
    return (<uint64_t>t.area << 57 | row << 45 | <uint64_t>op << SEQUENCE_BITS
            | (sequence & ((<uint64_t>1 << SEQUENCE_BITS) - 1)))


cdef inline void _advance(money_record *r, uint64_t sequence, int op) noexcept nogil:
    """Record in the row that the wallet has seen it, if the row does not know yet."""
    cdef uint64_t word = fg_load(&r.word)
    cdef uint64_t doing = HOLD_SETTLING if op else HOLD_INTENT
    cdef uint64_t done = HOLD_SETTLED if op else HOLD_HELD
    if (word & STATE_BITS) == doing and (
            word >> 8 & ((<uint64_t>1 << SEQUENCE_BITS) - 1)) == sequence:
        fg_cas(&r.word, &word, (word & ~<uint64_t>STATE_BITS) | done)


cdef inline void _help(money_header *m, uint64_t tag) noexcept nogil:
    cdef uint64_t area = tag >> 57
    cdef uint64_t row = tag >> 45 & 0xFFF
    if tag == 0 or area > m.workers or row >= m.holds:
        return
    _advance(holds_of(m, <uint32_t>area) + row, tag & ((<uint64_t>1 << SEQUENCE_BITS) - 1),
             <int>(tag >> SEQUENCE_BITS & 1))


cdef inline int _exchange(money_header *m, wallet *w, int64_t less, int64_t floor, uint64_t tag,
                          int64_t *balance) noexcept nogil:
    """Take `less` from the wallet (negative: give) under a tag. 0: it would fall below the floor; unchanged.

    The two words are read one after the other: the exchange proves that they belonged together."""
    cdef uint64_t before
    cdef int64_t available
    while True:
        before = fg_load(&w.tag)
        available = <int64_t>fg_load(<uint64_t *>&w.available)
        if less > 0 and available - less < floor:
            balance[0] = available
            return 0
        _help(m, before)
        if fg_cas16(w, <uint64_t>available, before, <uint64_t>(available - less), tag):
            balance[0] = available - less
            return 1


cdef inline wallet *_wallet(const area_view *t, const money_record *r) noexcept nogil:
    """The wallet that a row names; NULL if it names none, as a damaged row may."""
    cdef segment_header *s = t.segment
    if r.account_slot >= s.accounts_count or r.wallet >= WALLETS:
        return NULL
    return &(<account_row *>(<char *>s + s.accounts_off) + r.account_slot).wallets[r.wallet]


cdef inline void _move(money_record *r, uint64_t sequence, uint64_t state) noexcept nogil:
    fg_store(&r.word, sequence << 8 | state)


# ---- the states of a hold ---------------------------------------------------------------

cdef inline void _fill(money_record *r, const account_row *account, const usage_who *who) noexcept nogil:
    r.time_ns = who.time_ns
    r.consumer = who.consumer
    r.credential = who.credential
    r.route_slot = who.route_slot
    r.service_slot = who.service_slot
    r.plan_slot = who.plan_slot
    r.meter = who.meter
    memcpy(r.request_id, who.request_id, 16)
    if account is not NULL:
        r.account = account.identity
        r.account_slot = account.slot


cdef int hold_open(area_view *t, account_row *account, int index, int64_t amount, const usage_who *who,
                   money_record **hold, int64_t *balance) noexcept nogil:
    cdef wallet *w = &account.wallets[index]
    cdef money_record *r
    cdef uint64_t sequence
    balance[0] = <int64_t>fg_load(<uint64_t *>&w.available)
    if balance[0] < amount:
        return 0
    r = row_take(t)
    if r is NULL:
        fg_store(&t.head.refused, t.head.refused + 1)
        return -1
    sequence = next_sequence(t)
    number_record(t, r, sequence)
    _fill(r, account, who)
    r.held = amount
    r.amount = 0
    r.currency = account.currencies[index]
    r.wallet = <uint8_t>index
    r.status = 0
    r.flags = 0
    r.units = 0
    _move(r, sequence, HOLD_INTENT)
    if not _exchange(t.money, w, amount, 0, tag_of(t, r, sequence, TAKE), balance):
        _move(r, sequence, HOLD_FREE)
        row_give(t, r)
        return 0
    # A helper has stored the same value, so this needs no compare-and-swap.
    _move(r, sequence, HOLD_HELD)
    hold[0] = r
    return 1


cdef void hold_due(money_record *hold, int64_t amount) noexcept nogil:
    if amount > hold.held:
        amount = hold.held
    fg_store(<uint64_t *>&hold.amount, <uint64_t>(amount if amount > 0 else 0))


cdef inline void _give_back(area_view *t, money_record *r, uint64_t sequence) noexcept nogil:
    """SETTLING: the wallet gets what is not charged. A row without a wallet has nothing to give back."""
    cdef wallet *w = _wallet(t, r)
    cdef int64_t balance
    if w is not NULL:
        _exchange(t.money, w, r.amount - r.held, 0, tag_of(t, r, sequence, GIVE), &balance)
    _move(r, sequence, HOLD_SETTLED)


cdef inline void _settle(area_view *t, money_record *r, uint64_t sequence) noexcept nogil:
    """HELD, with its amount and flags written: move on to SETTLED."""
    if r.amount == r.held:
        _move(r, sequence, HOLD_SETTLED)
        return
    _move(r, sequence, HOLD_SETTLING)
    _give_back(t, r, sequence)


cdef int hold_capture(area_view *t, money_record *hold, int64_t actual, const usage_what *what) noexcept nogil:
    cdef uint64_t sequence = hold.word >> 8
    if actual > hold.held:
        actual = hold.held
    elif actual < 0:
        actual = 0
    hold.time_ns = what.time_ns
    hold.units = what.units
    hold.status = what.status
    hold.flags = USAGE_CAPTURED if actual else USAGE_FREE
    fg_store(<uint64_t *>&hold.amount, <uint64_t>actual)
    _settle(t, hold, sequence)
    if ring_publish(t, hold):
        _move(hold, sequence, HOLD_FREE)
        row_give(t, hold)
        return 1
    _move(hold, sequence, HOLD_PARKED)
    fg_store(&t.head.parked, t.head.parked + 1)
    return 0


cdef void hold_release(area_view *t, money_record *hold) noexcept nogil:
    cdef uint64_t sequence = hold.word >> 8
    hold.flags = 0
    fg_store(<uint64_t *>&hold.amount, 0)
    _settle(t, hold, sequence)
    _move(hold, sequence, HOLD_FREE)
    row_give(t, hold)


cdef void usage_fill(money_record *r, const account_row *account, const usage_who *who,
                     const usage_what *what) noexcept nogil:
    _fill(r, account, who)
    r.time_ns = what.time_ns
    r.units = what.units
    r.status = what.status
    r.flags = USAGE_FREE


cdef int64_t hold_pending(money_header *m, const account_row *account, int index, int64_t enough) noexcept nogil:
    cdef int64_t sum = 0, held, due
    cdef uint64_t top, i
    cdef uint32_t area
    cdef money_record *r
    for area in range(1, m.workers + 1):
        r = holds_of(m, area)
        top = fg_load(&area_of(m, area).top)
        if top > m.holds:
            top = m.holds
        for i in range(top):
            if (fg_load(&r[i].word) & STATE_BITS) != HOLD_HELD:
                continue
            if r[i].account != account.identity or r[i].account_slot != account.slot or r[i].wallet != index:
                continue
            held = r[i].held
            due = <int64_t>fg_load(<uint64_t *>&r[i].amount)
            if 0 <= due < held:
                sum += held - due
                if sum >= enough:
                    return sum
    return sum


# ---- for dead workers -------------------------------------------------------------------

cdef int _known(area_view *t, money_record *r, uint64_t sequence, int op) noexcept nogil:
    """Whether the wallet has seen this operation of a dead owner: see the claim above."""
    cdef wallet *w = _wallet(t, r)
    cdef uint64_t doing = HOLD_SETTLING if op else HOLD_INTENT
    if w is not NULL and fg_load(&w.tag) == tag_of(t, r, sequence, op):
        _advance(r, sequence & ((<uint64_t>1 << SEQUENCE_BITS) - 1), op)
    return (fg_load(&r.word) & STATE_BITS) != doing


cdef int hold_resolve(area_view *t, money_record *hold, int policy) noexcept nogil:
    # First determine who is dead: then a dead worker's row has no owner when its word is read, and
    # no successor can have taken it in between.
    cdef uint64_t dead_upto = fg_load(&t.head.dead_upto)
    cdef uint64_t word = fg_load(&hold.word)
    cdef uint64_t sequence = word >> 8
    if (word & STATE_BITS) == HOLD_FREE or sequence > dead_upto:
        return 0
    if (word & STATE_BITS) == HOLD_PARKED:
        return 1
    if (word & STATE_BITS) == HOLD_INTENT and not _known(t, hold, sequence, TAKE):
        _move(hold, sequence, HOLD_FREE)
        fg_store(&t.head.returned, t.head.returned + 1)
        return 0
    if (fg_load(&hold.word) & STATE_BITS) == HOLD_HELD:
        if policy == POLICY_CHARGE:
            hold.amount = hold.held
        elif policy == POLICY_RELEASE or not 0 <= hold.amount <= hold.held:
            hold.amount = 0
        hold.flags = USAGE_RECOVERED | (USAGE_CAPTURED if hold.amount else USAGE_FREE)
        _settle(t, hold, sequence)
    elif (fg_load(&hold.word) & STATE_BITS) == HOLD_SETTLING and not _known(t, hold, sequence, GIVE):
        _give_back(t, hold, sequence)
    if hold.flags == 0:
        _move(hold, sequence, HOLD_FREE)
        fg_store(&t.head.returned, t.head.returned + 1)
        return 0
    hold.flags |= USAGE_RECOVERED
    _move(hold, sequence, HOLD_PARKED)
    return 1


cdef int hold_taken(area_view *t, const money_record *hold) noexcept nogil:
    cdef uint64_t word = fg_load(&hold.word)
    cdef uint64_t state = word & STATE_BITS
    cdef wallet *w = _wallet(t, hold)
    cdef uint64_t tag
    if state == HOLD_HELD:
        return 1
    if w is NULL or (state != HOLD_INTENT and state != HOLD_SETTLING):
        return 0
    tag = fg_load(&w.tag)
    if fg_load(&hold.word) != word:
        return hold_taken(t, hold)
    if state == HOLD_INTENT:
        return tag == tag_of(t, hold, word >> 8, TAKE)
    return tag != tag_of(t, hold, word >> 8, GIVE)


# ---- credits ----------------------------------------------------------------------------

cdef int credit_apply(area_view *t, money_record *row, int64_t floor, int64_t *balance) noexcept nogil:
    cdef uint64_t sequence = row.word >> 8
    cdef wallet *w = _wallet(t, row)
    balance[0] = <int64_t>fg_load(<uint64_t *>&w.available)
    if _known(t, row, sequence, TAKE):
        return 1
    if not _exchange(t.money, w, row.held, floor, tag_of(t, row, sequence, TAKE), balance):
        return 0
    _move(row, sequence, HOLD_HELD)
    return 1


cdef bint credit_applied(area_view *t, money_record *row) noexcept nogil:
    return _known(t, row, row.word >> 8, TAKE)


cdef int wallet_set(money_header *m, wallet *w, int64_t available) noexcept nogil:
    cdef uint64_t before
    cdef int64_t now
    while True:
        before = fg_load(&w.tag)
        now = <int64_t>fg_load(<uint64_t *>&w.available)
        _help(m, before)
        if fg_cas16(w, <uint64_t>now, before, <uint64_t>available, 0):
            return 1
