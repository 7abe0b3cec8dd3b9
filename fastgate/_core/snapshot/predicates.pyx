"""predicates: conditions on a request besides host, shape of the path and method: header fields, query, cookies,
segments of the path.

All predicates of a table must hold. Names of fields are compared ignoring case, everything else
exactly as it was sent, except that the path is canonical.

A segment is matched by a deterministic automaton (model/segment_pattern.py), one step for each byte:

    0     number of classes of bytes; number of states; first state; 0
    4     the class of each of the 256 bytes
    260   for each state, 1 if the segment may end there
    ...   for each state, the next one by class; from state 0 nothing matches
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memchr, memcmp

from fastgate._core.platform.chars cimport fg_same_lowered
from fastgate._core.http.cookies cimport cookie_place, next_cookie
from fastgate._core.http.head cimport FIELD_UNDERSCORE, field
from fastgate._core.snapshot.snapshot cimport (
    PREDICATE_COOKIE_PRESENT, PREDICATE_HEADER_PREFIX, PREDICATE_HEADER_PRESENT, PREDICATE_QUERY_PREFIX,
    PREDICATE_QUERY_PRESENT, PREDICATE_SEGMENT, predicate, snap_str, snap_table)

cdef enum:
    CLASSES_AT = 4            # in an automaton
    ENDS_AT = 260


cdef inline bint value_holds(const char *wanted, uint32_t wanted_len, const char *p, uint32_t n,
                             uint32_t how) noexcept nogil:
    """how: 0 present, 1 equals, 2 prefix"""
    if how == 0:
        return True
    if how == 1:
        return n == wanted_len and memcmp(p, wanted, n) == 0
    return n >= wanted_len and memcmp(p, wanted, wanted_len) == 0


cdef bint header_holds(const snapshot_header *s, const predicate *p, uint32_t how, const char *buf,
                       const head *h) noexcept nogil:
    """Whether one of the fields with this name matches; one is enough."""
    cdef const field *f
    cdef uint32_t i
    cdef const char *name = snap_str(s, p.name)
    cdef const char *wanted = snap_str(s, p.value)
    for i in range(h.nfields):
        f = &h.fields[i]
        if f.name_len != p.name.len or not fg_same_lowered(buf + f.name, name, f.name_len):
            continue
        if f.flags & FIELD_UNDERSCORE and s.underscores != 2:
            continue                    # dropped before the upstream sees it, so it is absent
        if value_holds(wanted, p.value.len, buf + f.value, f.value_len, how):
            return True
    return False


cdef bint query_holds(const snapshot_header *s, const predicate *p, uint32_t how, const char *buf,
                      const head *h) noexcept nogil:
    """Whether one `name=value` (or `name` alone: an empty value) matches. Compared as sent."""
    cdef const char *at = buf + h.query.off
    cdef const char *end = at + h.query.len
    cdef const char *stop
    cdef const char *equals
    cdef const char *name = snap_str(s, p.name)
    cdef const char *wanted = snap_str(s, p.value)
    cdef uint32_t n
    if not h.has_query:
        return False
    while at < end:
        stop = <const char *>memchr(at, c'&', end - at)
        if stop == NULL:
            stop = end
        equals = <const char *>memchr(at, c'=', stop - at)
        n = <uint32_t>((equals if equals != NULL else stop) - at)
        if n == p.name.len and memcmp(at, name, n) == 0:
            equals = equals + 1 if equals != NULL else stop
            if value_holds(wanted, p.value.len, equals, <uint32_t>(stop - equals), how):
                return True
        at = stop + 1
    return False


cdef bint cookie_holds(const snapshot_header *s, const predicate *p, uint32_t how, const char *buf,
                       const head *h) noexcept nogil:
    """Whether one of the cookies with this name matches."""
    cdef const char *name = snap_str(s, p.name)
    cdef const char *wanted = snap_str(s, p.value)
    cdef const char *value
    cdef cookie_place at = cookie_place(field=0, offset=0)
    cdef uint32_t n = 0
    while True:
        value = next_cookie(buf, h, name, p.name.len, &at, &n)
        if value is NULL:
            return False
        if value_holds(wanted, p.value.len, value, n, how):
            return True


cdef bint segment_holds(const snapshot_header *s, const predicate *p, const char *path, uint32_t path_len) noexcept nogil:
    cdef const uint8_t *automaton = <const uint8_t *>snap_str(s, p.value)
    cdef const uint8_t *ends = automaton + ENDS_AT
    cdef const uint8_t *moves = ends + automaton[1]
    cdef const char *end = path + path_len
    cdef uint32_t state = automaton[2], left = p.segment + 1
    while left:
        path = <const char *>memchr(path, c"/", end - path)
        if path is NULL:
            return False
        path += 1
        left -= 1
    while path < end and path[0] != c"/":
        state = moves[state * automaton[0] + automaton[CLASSES_AT + <uint8_t>path[0]]]
        if state == 0:
            return False
        path += 1
    return ends[state]


cdef bint automaton_out(const uint8_t *automaton, uint32_t size) noexcept nogil:
    cdef uint32_t classes, states, i
    if size < ENDS_AT:
        return True
    classes = automaton[0]
    states = automaton[1]
    if classes == 0 or automaton[2] >= states or size != ENDS_AT + states + states * classes:
        return True
    for i in range(256):
        if automaton[CLASSES_AT + i] >= classes:
            return True
    for i in range(states * classes):
        if automaton[ENDS_AT + states + i] >= states:
            return True
    return False


cdef bint predicates_hold(const snapshot_header *s, table_ref predicates, const char *buf, const head *h,
                          const char *path, uint32_t path_len) noexcept nogil:
    cdef const predicate *p = <const predicate *>snap_table(s, predicates)
    cdef uint32_t i
    for i in range(predicates.count):
        if p[i].kind <= PREDICATE_HEADER_PREFIX:
            if not header_holds(s, &p[i], p[i].kind - PREDICATE_HEADER_PRESENT, buf, h):
                return False
        elif p[i].kind <= PREDICATE_QUERY_PREFIX:
            if not query_holds(s, &p[i], p[i].kind - PREDICATE_QUERY_PRESENT, buf, h):
                return False
        elif p[i].kind == PREDICATE_SEGMENT:
            if not segment_holds(s, &p[i], path, path_len):
                return False
        elif not cookie_holds(s, &p[i], p[i].kind - PREDICATE_COOKIE_PRESENT, buf, h):
            return False
    return True
