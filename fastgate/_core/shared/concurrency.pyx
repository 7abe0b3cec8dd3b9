"""concurrency: how many requests of a key are in flight, over all workers, never above the limit.

    worker 0:  | head | row row row ... |     row = { key 8, word 8 }     word = entering << 32 | in flight
    worker 1:  | head | row row row ... |     only worker 1 writes here

Each worker counts in a table of its own, so a worker that dies does not affect the others' counts,
and its own are dropped by clearing its table. A key's total is the sum over all tables.

Entering, as worker w

 1. Mark: `entering` = 1 in its own row, then a full fence.
 2. Sum over all tables: C in flight, and the others that are entering: L with a lower index, H
    with a higher one.
 3. C + L + H + 1 <= limit: enter (one store turns the mark into a count).
    C + L + 1 > limit: refused; remove the mark.
    Otherwise the last places depend on workers of a higher index, which are deciding at this
    moment and give way: look again. Refused after SPINS looks (one of them was stopped or
    killed in the middle).

Never above the limit. Suppose more than `limit` are in flight at some moment. Take the one of them
whose mark was stored last. When it summed, all the others' marks had been stored and none of them had
left, and a mark turns into a count by one store: so it saw every one of them as one or the other, hence
more than the limit, and did not enter. Contradiction.

Never refused without need, among live workers: the highest of those entering decides at once, and
the lower ones see its decision soon after. (The plain "count in, sum, count out" can refuse both
of two rivals for one free place.)

The rows are an open hash table with linear probing. The writer keeps in `bound` how far from its
home a key may be, and never moves a row, so readers look at `bound` rows and miss none that
was there before they looked. A row is freed at zero; `bound` is reset when the table is
empty. A reader may catch a row between two keys; it trusts a word only if the key is
still there after the word was read.

A full table (as many different keys in flight in one worker as it has rows) refuses, and
counts that: admitting what cannot be counted would break the limit.
"""

from fastgate._core.platform.atomics cimport fg_fence, fg_load, fg_pause, fg_store
from fastgate._core.shared.segment cimport Segment, zero_pages
from fastgate._core.shared.layout cimport concurrency_head, concurrency_row

cdef enum:
    SPINS = 256

cdef extern from *:
    """
    #define FG_ENTERING 0x100000000ULL
    #define FG_IN_FLIGHT 0xffffffffULL
    """
    const uint64_t ENTERING "FG_ENTERING"
    const uint64_t IN_FLIGHT "FG_IN_FLIGHT"


cdef inline concurrency_head *_head(segment_header *s, uint32_t worker) noexcept nogil:
    return <concurrency_head *>(<char *>s + s.per_worker_off + worker * s.per_worker_size
                                + s.concurrency_at)


cdef inline concurrency_row *_find(segment_header *s, concurrency_head *head, uint64_t key) noexcept nogil:
    cdef concurrency_row *rows = <concurrency_row *>(head + 1)
    cdef uint64_t mask = s.concurrency_count - 1
    cdef uint64_t bound = fg_load(&head.bound)
    cdef uint64_t i
    for i in range(bound):
        if fg_load(&rows[(key + i) & mask].key) == key:
            return &rows[(key + i) & mask]
    return NULL


cdef inline uint64_t _word(segment_header *s, uint32_t worker, uint64_t key) noexcept nogil:
    """Another worker's word for the key; 0: none."""
    cdef concurrency_row *row = _find(s, _head(s, worker), key)
    cdef uint64_t word
    if row is NULL:
        return 0
    word = fg_load(&row.word)
    return word if fg_load(&row.key) == key else 0


cdef concurrency_row *_insert(segment_header *s, concurrency_head *head, uint64_t key) noexcept nogil:
    """A row for a key that has none yet. NULL: the table is full."""
    cdef concurrency_row *rows = <concurrency_row *>(head + 1)
    cdef uint64_t mask = s.concurrency_count - 1
    cdef uint64_t i
    if head.used > mask:
        return NULL
    i = 0
    while rows[(key + i) & mask].key != 0:
        i += 1
    if i >= head.bound:
        fg_store(&head.bound, i + 1)
    head.used += 1
    fg_store(&rows[(key + i) & mask].key, key)
    return &rows[(key + i) & mask]


cdef inline void _free(concurrency_head *head, concurrency_row *row) noexcept nogil:
    fg_store(&row.key, 0)
    head.used -= 1
    if head.used == 0:
        fg_store(&head.bound, 0)


cdef int concurrency_enter(segment_header *s, uint32_t worker, uint64_t key, uint64_t amount,
                           uint64_t *in_flight) noexcept nogil:
    cdef concurrency_head *head = _head(s, worker)
    cdef concurrency_row *row = _find(s, head, key)
    cdef uint64_t own = 0, word, running, lower, entering
    cdef uint32_t w, spins = 0
    cdef int entered = 0
    if row is NULL:
        row = _insert(s, head, key)
        if row is NULL:
            fg_store(&head.full, head.full + 1)
            in_flight[0] = concurrency_count(s, key)
            return 0
    else:
        own = row.word
    fg_store(&row.word, own + ENTERING)
    fg_fence()
    while True:
        running = own
        lower = entering = 0
        for w in range(s.workers):
            if w == worker:
                continue
            word = _word(s, w, key)
            running += word & IN_FLIGHT
            if word >= ENTERING:
                entering += 1
                lower += w < worker
        if running + entering + 1 <= amount:
            entered = 1
            break
        spins += 1
        if running + lower + 1 > amount or spins == SPINS:
            break
        fg_pause()
    fg_store(&row.word, own + entered)
    if own + entered == 0:
        _free(head, row)
    in_flight[0] = running + entered
    return entered


cdef void concurrency_leave(segment_header *s, uint32_t worker, uint64_t key) noexcept nogil:
    cdef concurrency_head *head = _head(s, worker)
    cdef concurrency_row *row = _find(s, head, key)
    if row is NULL or row.word == 0:
        return
    fg_store(&row.word, row.word - 1)
    if row.word == 0:
        _free(head, row)


cdef int concurrency_room(segment_header *s, uint32_t worker, uint64_t key) noexcept nogil:
    cdef concurrency_head *head = _head(s, worker)
    return 2 * head.used < s.concurrency_count or _find(s, head, key) is not NULL


cdef uint64_t concurrency_count(segment_header *s, uint64_t key) noexcept nogil:
    cdef uint64_t total = 0
    cdef uint32_t w
    for w in range(s.workers):
        total += _word(s, w, key) & IN_FLIGHT
    return total


cdef void concurrency_note(segment_header *s, uint32_t worker, uint64_t key, uint64_t word) noexcept nogil:
    cdef concurrency_head *head = _head(s, worker)
    cdef concurrency_row *row = _find(s, head, key)
    if row is NULL and word != 0:
        row = _insert(s, head, key)
    if row is not NULL:
        fg_store(&row.word, word)
        if word == 0:
            _free(head, row)


cdef uint64_t concurrency_noted(segment_header *s, uint32_t worker, uint64_t key) noexcept nogil:
    return _word(s, worker, key)


cdef void concurrency_clear(segment_header *s, uint32_t worker) noexcept nogil:
    zero_pages(<char *>_head(s, worker), s.logring_at - s.concurrency_at)


# ---- the border -----------------------------------------------------------------------------

cdef class Concurrency:
    """The in-flight counts of a segment: written as one worker, read over all workers.

    Only one process at a time may write as a worker.
    """

    cdef readonly Segment segment
    cdef readonly uint32_t worker

    def __init__(self, Segment segment not None, uint32_t worker):
        if worker >= segment.header.workers:
            raise IndexError(f"worker {worker} of {segment.header.workers}")
        self.segment = segment
        self.worker = worker

    def enter(self, uint64_t key, uint64_t amount):
        """(entered, in flight): count one more in, if at most `amount` are then in flight in all workers."""
        cdef uint64_t running = 0
        if key == 0:
            raise ValueError("a key cannot be 0")
        cdef int entered = concurrency_enter(self.segment.header, self.worker, key, amount, &running)
        return entered == 1, running

    def leave(self, uint64_t key):
        """Count one out that entered here."""
        concurrency_leave(self.segment.header, self.worker, key)

    def enter_all(self, const uint64_t[::1] keys not None, uint64_t amount, uint64_t[::1] entered not None):
        """Enter for each key in turn, with no Python in between; returns how many entered.

        `entered`: one word for each key; 1 is added to it if the key entered.
        """
        cdef Py_ssize_t i
        cdef uint64_t n = 0, running
        cdef int did
        if entered.shape[0] != keys.shape[0]:
            raise ValueError("entered needs one word for each key")
        with nogil:
            for i in range(keys.shape[0]):
                did = concurrency_enter(self.segment.header, self.worker, keys[i], amount, &running)
                entered[i] += did
                n += did
        return n

    def count(self, uint64_t key):
        """How many are in flight now, over all workers."""
        return concurrency_count(self.segment.header, key)

    def clear(self):
        """Drop everything this worker counted. Only when it is dead."""
        concurrency_clear(self.segment.header, self.worker)

    @property
    def rows(self):
        """Rows of this worker's table that are in use."""
        return fg_load(&_head(self.segment.header, self.worker).used)

    @property
    def full(self):
        """Entries of this worker that were refused because its table was full."""
        return fg_load(&_head(self.segment.header, self.worker).full)
