"""credentials: the index of API keys: SHA-256 of a key → its consumer, in memory that all processes map.

    one memfd, sealed against shrinking and growing
    +--------+-----------------------------------------------+---------------------------+
    | header | entries: slots * 64 bytes (a power of two)    | consumer rows * 256 bytes |
    +--------+-----------------------------------------------+---------------------------+
    entry:  digest (32) | word | expires_at 4 | changed_at 4 | spending cap | identity
    word:   state (low 8 bits: 0 free, 1 active, 2 revoked) | suspended << 8 | consumer row << 32

Open addressing: a digest's home is its first eight bytes, modulo slots; it takes the first free
entry from there. An entry never moves and never becomes free again, so a search may stop at
the first free one. At most 70 % are in use; then control creates a larger index (`grow`) and sends
its descriptor to the workers. Only the used part is resident: a small gateway's index takes a
few pages.

**One writer, many readers, no lock.** Control writes. An entry appears with the release store
of its `word`, after everything else in it. A change of state or consumer is another store of
`word`, so every worker sees it with its next lookup. Consumer rows are immutable: a changed
consumer gets a new row, and its entries are repointed to it. A writer killed between any two
instructions leaves at most an entry whose word is still 0 (no reader sees it, and the next writer
refills it) or a row that no entry names.

**Cost.** One hash and, if there are more keys than fit the caches, one miss: the entry has everything
that decides (so it repeats the row's flag `suspended`), and the row is only prefetched, for later.

**Grace.** A reader may hold a row for as long as its exchange lasts. A row that lost its last
entry is not rewritten for `grace` seconds (an hour by default), and there are as many rows as
slots, so most gateways never reuse one. A reader that holds a row longer than that (streams that
stay open for hours) copies what it needs.

**Timing.** Digests are compared as a whole, without an early exit. A key's place follows from its
SHA-256, which nobody can steer towards a key that they do not have.

**Own limits.** A consumer's own numbers for limits are in a second row, taken and freed with its first.

**Keys** are any bytes up to KEY_MAX; longer ones are unknown, without being hashed.
"""
import fcntl
import os
import time
from collections import deque

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from posix.unistd cimport close

from fastgate._core.platform.atomics cimport fg_load, fg_prefetch, fg_store
from fastgate._core.reason cimport CONSUMER_SUSPENDED, CREDENTIAL_EXPIRED, CREDENTIAL_REVOKED, CREDENTIAL_UNKNOWN
from fastgate._core.tls.openssl cimport sha256
from fastgate._core.shared.consumer_row cimport (
    CONSUMER_SUSPENDED_FLAG, OVERRIDES, consumer_of, limit_override, overrides_row, put_overrides, spending_cap,
    spending_word, text_of)

from fastgate._core.shared.callers import (
    NO_ACCOUNT, NO_PLAN, Consumer, Found, IndexFullError, LimitOverride, SpendingCap)

cdef enum:
    PAGE = 4096
    INDEX_VERSION = 4
    DIGEST = 32
    FILL_PERCENT = 70
    SMALLEST = 64                 # slots
    WORD_STATE = 0xFF
    WORD_SUSPENDED = 0x100
    LARGEST = 1 << 30             # slots; row numbers have 32 bits
    HOLDS_OVERRIDES = 0xFFFFFFFF  # instead of a count of credentials: the row holds another row's overrides

cdef const char *MAGIC = b"FGCRED\0\0"
KEEP_REVOKED_S = 30 * 86400
LAST_SECOND = 0xFFFFFFFF          # of an entry's times: in the year 2106


def key_digest(key) -> bytes:
    """SHA-256 of a key (str is encoded as UTF-8): this is what is stored, and what is looked up.

    Raises ValueError for an empty key, or one longer than 1,024 bytes.
    """
    cdef bytes raw = key.encode() if isinstance(key, str) else bytes(key)
    cdef uint8_t digest[DIGEST]
    if not 0 < len(raw) <= KEY_MAX:
        raise ValueError(f"a key has 1 to {KEY_MAX} bytes, not {len(raw)}")
    sha256(raw, len(raw), digest)
    return (<char *>digest)[:DIGEST]


cdef uint64_t _pages(uint64_t n):
    return (n + PAGE - 1) & ~<uint64_t>(PAGE - 1)


cdef inline uint64_t difference(const uint8_t *a, const uint8_t *b) noexcept nogil:
    """0 for equal digests; takes the same time for any digests."""
    cdef uint64_t x[4]
    cdef uint64_t y[4]
    memcpy(x, a, DIGEST)
    memcpy(y, b, DIGEST)
    return (x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3])


cdef const uint8_t *_digest(bytes digest) except NULL:
    if len(digest) != DIGEST:
        raise ValueError(f"a digest has {DIGEST} bytes, not {len(digest)}")
    return <const uint8_t *><const char *>digest


cdef uint32_t _second(int64_t unix_s) noexcept:
    return <uint32_t>min(max(unix_s, 1), LAST_SECOND) if unix_s else 0


cdef class CredentialIndex:
    """The mapped index. Created by `create`, `grow` or `attach`; the mapping lives as long as the object.

    `fd` is the memfd, close-on-exec, owned by the object. All writing methods are for the one
    writer, on one thread; on an index attached read-only they raise TypeError. A digest is 32 bytes
    (`key_digest`), a row the number returned by `set_consumer`; both are checked (ValueError,
    IndexError), and a digest that is not in the index is a KeyError.
    """

    def __cinit__(self):
        self.fd = -1
        self.base = NULL
        self.references = NULL

    def __init__(self):
        if self.base == NULL:
            raise TypeError("use CredentialIndex.create() or CredentialIndex.attach()")

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.size)
        if self.fd >= 0:
            close(self.fd)  # libc's: at the interpreter's exit the module `os` is gone
        free(self.references)

    # ---- creating and mapping ---------------------------------------------------------

    @classmethod
    def create(cls, uint64_t capacity=1024, *, uint64_t epoch=1, double grace=3600.0,
               clock=time.monotonic):
        """A new, empty, writable index with room for at least `capacity` credentials.

        `epoch` distinguishes indexes that replace one another. `grace` and `clock` (seconds): see
        "Grace" above. Raises OSError if there is no memory for it.
        """
        cdef CredentialIndex self = CredentialIndex.__new__(CredentialIndex)
        cdef index_header h
        cdef uint64_t slots = SMALLEST
        cdef uint64_t most = <uint64_t>LARGEST * <uint64_t>FILL_PERCENT // 100
        if not 1 <= capacity <= most:
            raise ValueError(f"capacity={capacity}: must be between 1 and {most}")
        while slots * FILL_PERCENT // 100 < capacity:
            slots *= 2
        memset(&h, 0, sizeof(h))
        memcpy(h.magic, MAGIC, 8)
        h.version = INDEX_VERSION
        h.epoch = epoch
        h.slots = slots
        h.rows = slots
        h.entries_off = PAGE
        h.rows_off = h.entries_off + _pages(slots * sizeof(credential_entry))
        h.size = h.rows_off + _pages(h.rows * sizeof(consumer_row))
        self.fd = os.memfd_create("fastgate-credentials", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, h.size)
        os.pwrite(self.fd, (<char *>&h)[:sizeof(h)], 0)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS,
                    fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self.grace, self.clock = grace, clock
        self._open(h.size, True)
        return self

    @classmethod
    def attach(cls, int fd, *, bint writable=False, double grace=3600.0, clock=time.monotonic):
        """Map the index behind a descriptor, which is duplicated and remains the caller's.

        `writable`: become its writer, after the previous one has died. What that one may have left
        half-done is repaired, and rows that no entry names become free after the grace time. Raises
        ValueError if it is not an index of this build.
        """
        cdef CredentialIndex self = CredentialIndex.__new__(CredentialIndex)
        cdef index_header h
        head = os.pread(fd, sizeof(index_header), 0)
        if len(head) < <int>sizeof(index_header) or not head.startswith(MAGIC[:8]):
            raise ValueError(f"descriptor {fd} is not a credential index")
        memcpy(&h, <const char *>head, sizeof(h))
        if h.version != INDEX_VERSION or not h.slots or h.slots & (h.slots - 1) \
                or h.size != <uint64_t>os.fstat(fd).st_size \
                or h.rows_off < h.entries_off + h.slots * sizeof(credential_entry) \
                or h.size < h.rows_off + h.rows * sizeof(consumer_row):
            raise ValueError("the credential index was made by another build")
        self.grace, self.clock = grace, clock
        self.fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
        self._open(h.size, writable)
        if writable:
            self._recount()
        return self

    cdef _open(self, size_t size, bint writable):
        cdef int protection = PROT_READ | PROT_WRITE if writable else PROT_READ
        cdef void *p = mmap(NULL, size, protection, MAP_SHARED, self.fd, 0)
        if p == MAP_FAILED:
            raise OSError(f"the credential index ({size} bytes) cannot be mapped: out of memory?")
        self.base = <char *>p
        self.size = size
        self.writable = writable
        self.header = <index_header *>p
        self.entries = <credential_entry *>(self.base + self.header.entries_off)
        self.rows = <consumer_row *>(self.base + self.header.rows_off)
        self.mask = self.header.slots - 1
        self.room = self.header.slots * FILL_PERCENT // 100
        if writable:
            self.free_rows = deque()
            self.references = <uint32_t *>calloc(self.header.rows, sizeof(uint32_t))
            if self.references == NULL:
                raise MemoryError

    cdef _recount(self):
        cdef uint64_t i, word, used = 0, revoked = 0
        cdef uint32_t row
        cdef int64_t second
        for i in range(self.header.slots):
            word = self.entries[i].word
            if word:
                used += 1
                revoked += (word & WORD_STATE) == CREDENTIAL_REVOKED_STATE
                self.references[word >> 32] += 1
        fg_store(&self.header.used, used)
        fg_store(&self.header.revoked, revoked)
        for row in range(self.header.rows_used):
            if self.references[row] not in (0, HOLDS_OVERRIDES):
                second = overrides_row(self.rows, self.header.rows_used, row)
                if second >= 0:
                    self.references[second] = HOLDS_OVERRIDES
        now = self.clock()
        for row in range(self.header.rows_used):
            if self.references[row] == 0:
                self.free_rows.append((now, row))

    # ---- reading ----------------------------------------------------------------------

    cdef int judge(self, const credential_entry *e, uint64_t word, int64_t now_s,
                   const consumer_row **row) noexcept nogil:
        if word == 0:
            row[0] = NULL
            return CREDENTIAL_UNKNOWN
        row[0] = self.rows + (word >> 32)
        fg_prefetch(row[0])              # its numbers and most of its id: two cache lines
        fg_prefetch(<const char *>row[0] + 64)
        if (word & WORD_STATE) != CREDENTIAL_ACTIVE:
            return CREDENTIAL_REVOKED
        if e.expires_at != 0 and now_s >= e.expires_at:
            return CREDENTIAL_EXPIRED
        if word & WORD_SUSPENDED:
            return CONSUMER_SUSPENDED
        return LOOKUP_OK

    cdef credential_entry *slot_of(self, const uint8_t *digest, uint64_t *word) noexcept nogil:
        """The digest's entry, or the free one where it belongs; NULL if all are taken.

        *word is the entry's word when the entry was examined: another digest may take a free entry a
        moment later, so do not rely on it then.
        """
        cdef uint64_t at, probes
        cdef credential_entry *e
        memcpy(&at, digest, 8)
        for probes in range(self.header.slots):
            e = self.entries + ((at + probes) & self.mask)
            word[0] = fg_load(&e.word)
            if word[0] == 0 or difference(e.digest, digest) == 0:
                return e
        word[0] = 0
        return NULL

    def find(self, key, now=None) -> Found | None:
        """Look a key up as a worker does, at Unix time `now` (default: now). None: not known."""
        return self.find_digest(key_digest(key), now)

    def find_digest(self, bytes digest not None, now=None) -> Found | None:
        """The same by the key's digest."""
        cdef const consumer_row *row
        cdef uint64_t word
        cdef const credential_entry *e = self.slot_of(_digest(digest), &word)
        cdef int result = self.judge(e, word, <int64_t>int(time.time() if now is None else now), &row)
        if row == NULL:
            return None
        return Found(result, consumer_of(row), e.identity, spending_cap(e.spending))

    def consumer(self, uint32_t row) -> Consumer:
        """The content of a row."""
        self._check_row(row)
        return consumer_of(self.rows + row)

    @property
    def epoch(self) -> int:
        """Which of the indexes that replace one another this is."""
        return self.header.epoch

    @property
    def count(self) -> int:
        """Active credentials."""
        return fg_load(&self.header.used) - fg_load(&self.header.revoked)

    @property
    def revoked(self) -> int:
        """Revoked credentials that are still distinguished from unknown ones."""
        return fg_load(&self.header.revoked)

    @property
    def capacity(self) -> int:
        """The most credentials that it takes, including revoked ones."""
        return self.room

    @property
    def load(self) -> float:
        """How full it is, 0 to 1, by credentials or consumer rows, whichever is fuller."""
        rows = self.header.rows_used - len(self.free_rows or ())
        return max(<double>fg_load(&self.header.used) / self.room, rows / <double>self.header.rows)

    @property
    def mapped(self) -> int:
        """Size of the mapping, bytes. Only the used part is resident."""
        return self.size

    # ---- writing ----------------------------------------------------------------------

    def set_consumer(self, id, *, uint64_t identity, uint64_t account=0, uint32_t plan=NO_PLAN,
                     bint suspended=False, name="", plan_name="",
                     uint32_t account_slot=NO_ACCOUNT, spending=SpendingCap(), overrides=()) -> int:
        """Write a consumer's row and return its number, for `put` and `repoint`.

        `id`: up to 64 bytes of UTF-8 (ValueError); `name` and `plan_name` are for people and cut to
        96 and 48 bytes. `identity`: the hash that its limits are counted by. `plan`: its plan's slot.
        `account`, `account_slot`: who pays. `spending`: a SpendingCap. `overrides`: LimitOverrides, at
        most OVERRIDES (ValueError). Raises IndexFullError. The row is freed when its last credential is
        repointed; a row that never had a credential is freed by `drop_consumer`.
        """
        cdef consumer_row row
        cdef limit_override own[OVERRIDES]
        cdef uint32_t number, second = 0
        self._check_writable()
        put_overrides(own, overrides)
        memset(&row, 0, sizeof(row))
        for_id = text_of("a consumer's id", id, sizeof(row.id), False)
        for_name = text_of("name", name, sizeof(row.name), True)
        for_plan = text_of("plan_name", plan_name, sizeof(row.plan_name), True)
        memcpy(row.id, <const char *>for_id, len(for_id))
        memcpy(row.name, <const char *>for_name, len(for_name))
        memcpy(row.plan_name, <const char *>for_plan, len(for_plan))
        row.id_len, row.name_len, row.plan_len = len(for_id), len(for_name), len(for_plan)
        row.identity = identity
        row.account = account
        row.plan = plan
        row.account_slot = account_slot
        row.spending = spending_word(spending)
        row.flags = CONSUMER_SUSPENDED_FLAG if suspended else 0
        number = self._take_row()
        if overrides:
            try:
                second = self._take_row()
            except IndexFullError:       # no reader has seen the first row
                self.free_rows.appendleft((float("-inf"), number))
                raise
            memcpy(&self.rows[second], own, sizeof(own))
            self.references[second] = HOLDS_OVERRIDES
            row.overrides = <int>(<int64_t>second - <int64_t>number)
        self.rows[number] = row
        return number

    cdef uint32_t _take_row(self) except? 0xFFFFFFFF:
        cdef uint32_t number
        if self.free_rows and self.clock() - self.free_rows[0][0] >= self.grace:
            return self.free_rows.popleft()[1]
        if self.header.rows_used >= self.header.rows:
            raise IndexFullError(f"all {self.header.rows} consumer rows are in use or waiting for reuse")
        number = <uint32_t>self.header.rows_used
        fg_store(&self.header.rows_used, number + 1)
        return number

    cdef _free_row(self, uint32_t row):
        """The row waits for the grace time, together with the row of its overrides."""
        cdef int64_t second = overrides_row(self.rows, self.header.rows_used, row)
        now = self.clock()
        self.free_rows.append((now, row))
        if second >= 0:
            self.references[second] = 0
            self.free_rows.append((now, second))

    def drop_consumer(self, uint32_t row) -> None:
        """Free a row that no credential names. Raises ValueError if one does."""
        self._check_writable()
        self._check_row(row)
        if self.references[row]:
            raise ValueError(f"consumer row {row} is named by {self.references[row]} credentials")
        self._free_row(row)

    def put(self, bytes digest not None, uint32_t row, *, int64_t expires_at=0,
            uint64_t identity, spending=SpendingCap()) -> None:
        """Publish a credential: it is active from now on, whatever its state was before.

        `expires_at`: Unix seconds from which it is refused, at most in 2106; 0: never. `identity`: the
        credential's own hash, for limits by credential. `spending`: its SpendingCap. Raises IndexFullError.
        """
        self._check_writable()
        self._put(_digest(digest), row, _second(expires_at), identity, spending_word(spending))

    def put_many(self, credentials) -> int:
        """Publish (digest, row, expires_at, identity[, spending]) one after another; returns how many.

        If there is an error, those before it are published; repeating the call is harmless.
        """
        cdef bytes digest
        cdef uint64_t n = 0
        self._check_writable()
        for digest, row, expires_at, identity, *spending in credentials:
            self._put(_digest(digest), row, _second(expires_at), identity,
                      spending_word(spending[0]) if spending else 0)
            n += 1
        return n

    cdef _put(self, const uint8_t *digest, uint32_t row, uint32_t expires_at, uint64_t identity,
              uint64_t spending):
        cdef credential_entry *e
        cdef uint64_t before
        self._check_row(row)
        e = self.slot_of(digest, &before)
        if before == 0 and (e == NULL or self.header.used >= self.room):
            raise IndexFullError(f"the index is full: it holds {self.header.used} credentials")
        # In a live entry, each of these is one store, valid with the old word and with the new one.
        e.expires_at = expires_at
        e.spending = spending
        e.identity = identity
        e.changed_at = _second(<int64_t>time.time())
        if before == 0:
            memcpy(e.digest, digest, DIGEST)
            fg_store(&self.header.used, self.header.used + 1)
        elif (before & WORD_STATE) == CREDENTIAL_REVOKED_STATE:
            fg_store(&self.header.revoked, self.header.revoked - 1)
        self._point(e, CREDENTIAL_ACTIVE, row)

    cdef uint64_t _word(self, uint64_t state, uint32_t row) noexcept nogil:
        cdef uint64_t suspended = self.rows[row].flags & CONSUMER_SUSPENDED_FLAG
        return state | suspended * WORD_SUSPENDED | <uint64_t>row << 32

    cdef _point(self, credential_entry *e, uint64_t state, uint32_t row):
        """Give the entry this state and row, by one store; the row that it named loses an entry."""
        cdef uint64_t before = e.word
        self.references[row] += 1
        fg_store(&e.word, self._word(state, row))
        row = <uint32_t>(before >> 32)
        if before:
            self.references[row] -= 1
            if self.references[row] == 0:
                self._free_row(row)

    def revoke(self, bytes digest not None) -> bool:
        """Refuse the credential from now on; False if it was already revoked.

        It keeps its place and its consumer, so that its use can be recognised and explained.
        """
        cdef credential_entry *e = self._existing(digest)
        if (e.word & WORD_STATE) == CREDENTIAL_REVOKED_STATE:
            return False
        e.changed_at = _second(<int64_t>time.time())
        fg_store(&self.header.revoked, self.header.revoked + 1)
        fg_store(&self.header.revocations, self.header.revocations + 1)
        fg_store(&e.word, (e.word & ~<uint64_t>WORD_STATE) | <uint64_t>CREDENTIAL_REVOKED_STATE)
        return True

    def repoint(self, bytes digest not None, uint32_t row) -> None:
        """Make the credential, active or revoked, name another consumer row."""
        cdef credential_entry *e = self._existing(digest)
        self._check_row(row)
        e.changed_at = _second(<int64_t>time.time())
        self._point(e, e.word & WORD_STATE, row)

    def grow(self, capacity=None, *, int64_t keep_revoked=KEEP_REVOKED_S) -> CredentialIndex:
        """A new index with the content of this one, the next epoch, and room for more.

        `capacity`: credentials; the default is twice the number that is kept. Credentials revoked more
        than `keep_revoked` seconds ago (30 days) are dropped and become unknown. Consumer rows
        keep their numbers. This index stays unchanged, for its remaining readers.
        """
        cdef CredentialIndex new
        cdef credential_entry *e
        cdef credential_entry *to
        cdef uint64_t i, word, kept = 0, revoked = 0
        cdef uint32_t row
        cdef int64_t second
        cdef int64_t horizon = <int64_t>time.time() - keep_revoked
        self._check_writable()
        for i in range(self.header.slots):
            kept += self.entries[i].word != 0 and not _forgotten(self.entries + i, horizon)
        if capacity is None:
            capacity = max(<object>(2 * kept), <object>(self.header.rows_used + 1))
        new = CredentialIndex.create(capacity, epoch=self.header.epoch + 1, grace=self.grace,
                                     clock=self.clock)
        if kept > new.capacity or self.header.rows_used > new.header.rows:
            raise ValueError(f"capacity={capacity}: too small for {kept} credentials and "
                             f"{self.header.rows_used} consumer rows")
        memcpy(new.rows, self.rows, self.header.rows_used * sizeof(consumer_row))
        new.header.rows_used = self.header.rows_used
        for i in range(self.header.slots):
            e = self.entries + i
            if e.word == 0 or _forgotten(e, horizon):
                continue
            to = new.slot_of(e.digest, &word)
            to[0] = e[0]
            new.references[e.word >> 32] += 1
            revoked += (e.word & WORD_STATE) == CREDENTIAL_REVOKED_STATE
        new.header.used = kept
        new.header.revoked = revoked
        # The new index has no readers yet: rows that were waiting for reuse are free at once, and so are
        # those that only dropped credentials named. Rows that never had a credential are kept.
        resting = {row for _, row in self.free_rows}
        for row in range(self.header.rows_used):
            if new.references[row] == HOLDS_OVERRIDES:
                continue
            if new.references[row] or self.references[row] == 0 and row not in resting:
                second = overrides_row(new.rows, new.header.rows_used, row)
                if second >= 0:
                    new.references[second] = HOLDS_OVERRIDES
        for i in range(self.header.rows_used):
            if new.references[i] == 0 and (i in resting or self.references[i]):
                new.free_rows.append((float("-inf"), i))
        return new

    # ---- checks -----------------------------------------------------------------------

    cdef credential_entry *_existing(self, bytes digest) except NULL:
        cdef credential_entry *e
        cdef uint64_t word
        self._check_writable()
        e = self.slot_of(_digest(digest), &word)
        if word == 0:
            raise KeyError(digest.hex())
        return e

    cdef _check_writable(self):
        if not self.writable:
            raise TypeError("this credential index is attached read-only")

    cdef _check_row(self, uint32_t row):
        if row >= self.header.rows_used:
            raise IndexError(f"consumer row {row}: {self.header.rows_used} were written")
        if self.references[row] == HOLDS_OVERRIDES:
            raise IndexError(f"consumer row {row} holds the overrides of another")


cdef bint _forgotten(const credential_entry *e, int64_t horizon) noexcept nogil:
    return (e.word & WORD_STATE) == CREDENTIAL_REVOKED_STATE and e.changed_at < horizon
