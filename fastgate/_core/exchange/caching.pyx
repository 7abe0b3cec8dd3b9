"""caching: what answers say to caches (RFC 9111), and what is added so that shared ones do not store them."""
from libc.string cimport memcmp

from fastgate._core.http.head cimport field, named
from fastgate._core.platform.buffer cimport buf_head, buf_len
from fastgate._core.platform.chars cimport fg_same_lowered
from fastgate._core.snapshot.snapshot cimport (
    HEADER_ADD, HEADER_DEFAULT, HEADER_REMOVE, HEADER_SET, header_rule, snap_str, snap_table)

cdef enum:
    FIELDS = 3

# Those for certain caches override Cache-Control there (RFC 9213).
cdef const char *FIELD[FIELDS]
cdef uint32_t FIELD_LEN[FIELDS]
FIELD[0] = b"cache-control"
FIELD[1] = b"cdn-cache-control"
FIELD[2] = b"surrogate-control"
FIELD_LEN[0] = 13
FIELD_LEN[1] = FIELD_LEN[2] = 17


cdef int says(const char *value, uint32_t length, const char *word, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(length - n + 1 if length >= n else 0):
        if fg_same_lowered(value + i, word, n):
            return 1
    return 0


cdef int names_shared_caches(const char *value, uint32_t length) noexcept nogil:
    """Whether a Cache-Control itself sets what a shared cache may do."""
    return (says(value, length, b"public", 6) or says(value, length, b"s-maxage", 8)
            or says(value, length, b"private", 7) or says(value, length, b"no-store", 8))


cdef int keep_private(const exchange *e, const char *base, const head *h) noexcept nogil:
    cdef const header_rule *r
    cdef uint32_t i
    if e.extra is not NULL and says(buf_head(e.extra), buf_len(e.extra), b"cache-control", 13):
        return 0
    r = <const header_rule *>snap_table(e.snap, e.policy.response_rules)
    for i in range(e.policy.response_rules.count):
        if r[i].action != HEADER_REMOVE and r[i].name.len == 13 \
                and memcmp(snap_str(e.snap, r[i].name), b"cache-control", 13) == 0:
            return 0                     # the operator has a rule for it
    for i in range(h.nfields):
        if named(base, &h.fields[i], b"cache-control", 13) \
                and names_shared_caches(base + h.fields[i].value, h.fields[i].value_len):
            return 0
    return 1


cdef int caching_in(int which, const char *value, uint32_t n) noexcept nogil:
    """What this one of the fields says."""
    if says(value, n, b"private", 7) or says(value, n, b"no-store", 8):
        return CACHES_PRIVATE if which == 0 else 0
    if which or says(value, n, b"public", 6) or says(value, n, b"s-maxage", 8):
        return CACHES_SHARED
    return 0


cdef int caching_of_field(int which, const exchange *e, const char *base, const head *h) noexcept nogil:
    cdef const header_rule *r = <const header_rule *>snap_table(e.snap, e.policy.response_rules)
    cdef const field *f
    cdef uint32_t i
    cdef int found = 0, ruled = 0, there = 0, replaced = 0
    for i in range(e.policy.response_rules.count):
        if r[i].name.len == FIELD_LEN[which] and memcmp(snap_str(e.snap, r[i].name), FIELD[which], FIELD_LEN[which]) == 0:
            ruled = 1
            replaced |= r[i].action == HEADER_SET or r[i].action == HEADER_REMOVE
            if r[i].action == HEADER_SET or r[i].action == HEADER_ADD:
                found |= caching_in(which, snap_str(e.snap, r[i].value), r[i].value.len)
    for i in range(h.nfields):
        f = &h.fields[i]
        if named(base, f, FIELD[which], FIELD_LEN[which]):
            there = 1
            if not replaced:
                found |= caching_in(which, base + f.value, f.value_len)
    if ruled and not there:
        for i in range(e.policy.response_rules.count):
            if r[i].action == HEADER_DEFAULT and r[i].name.len == FIELD_LEN[which] and memcmp(
                    snap_str(e.snap, r[i].name), FIELD[which], FIELD_LEN[which]) == 0:
                found |= caching_in(which, snap_str(e.snap, r[i].value), r[i].value.len)
    return found


cdef int caching_of(const exchange *e, const char *base, const head *h) noexcept nogil:
    cdef int which, found = 0
    if e.extra is not NULL and says(buf_head(e.extra), buf_len(e.extra), b"-control", 8):
        found = caching_in(0, buf_head(e.extra), buf_len(e.extra))
    for which in range(FIELDS):
        found |= caching_of_field(which, e, base, h)
    return found
