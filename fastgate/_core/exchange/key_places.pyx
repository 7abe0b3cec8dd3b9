"""key_places: where a request may carry an API key: found to authenticate, hidden from what is forwarded.

    the route's header         X-Api-Key: KEY              (Authorization too, with or without Bearer)
    Authorization, if taken    Authorization: Bearer KEY
    the route's parameter      ?name=KEY                   name and value may be percent-encoded

The first place in this order that holds a key counts. **All** of them are hidden, not only that one: a
second field, a Bearer beside the header, a repeated parameter or one in another spelling would carry the
same key to the upstream. Hidden fields have FIELD_CREDENTIAL. The query is filtered as it is written;
most requests have no parameter to filter.
"""
from libc.stdint cimport uint8_t

from fastgate._core.exchange.spelling cimport reads_as
from fastgate._core.platform.chars cimport same_ci
from fastgate._core.shared.credentials cimport KEY_MAX
from fastgate._core.http.head cimport (
    FIELD_CREDENTIAL, FIELD_UNDERSCORE, FIELD_UNUSUAL, F_AUTHORIZATION, field, lower, named)
from fastgate._core.snapshot.snapshot cimport AUTH_BEARER, AUTH_FORWARD, AUTH_TOKENS, snap_auth, snap_str
from fastgate._core.platform.text cimport put, put_lit
from fastgate._core.tokens.jwt cimport is_jwt


# ---- fields ---------------------------------------------------------------------------------

cdef inline int bearer(const char *p, uint32_t n) noexcept nogil:
    """How many octets of a value are the scheme Bearer and the whitespace after it; 0: another scheme."""
    cdef uint32_t i = 6
    if n < 6 or not same_ci(p, b"bearer", 6) or (n > 6 and p[6] != c" " and p[6] != c"\t"):
        return 0
    while i < n and (p[i] == c" " or p[i] == c"\t"):
        i += 1
    return <int>i


cdef const char *field_key(exchange *e, const auth_rec *a, int hide, uint32_t *length) noexcept nogil:
    """The key in the fields: in the route's header, else after Bearer."""
    cdef const char *name = snap_str(e.snap, a.header)
    cdef const char *found = NULL
    cdef const char *behind = NULL
    cdef field *f
    cdef uint32_t i, behind_len = 0
    cdef int scheme, own
    for i in range(e.req.nfields):
        f = &e.req.fields[i]
        if f.name_len != a.header.len and f.id != F_AUTHORIZATION:
            continue                     # most names differ in length
        own = a.header.len != 0 and named(e.base, f, name, a.header.len)
        scheme = bearer(e.base + f.value, f.value_len) if f.id == F_AUTHORIZATION and a.flags & AUTH_BEARER else 0
        if scheme and a.flags & AUTH_TOKENS and is_jwt(e.base + f.value + scheme, f.value_len - scheme):
            continue                     # it is for another method
        if own:
            # "Bearer KEY" in the route's own header counts as KEY alone if that header is Authorization.
            if found is NULL and f.value_len > <uint32_t>scheme:
                found = e.base + f.value + scheme
                length[0] = f.value_len - scheme
        elif scheme:
            if behind is NULL and f.value_len > <uint32_t>scheme:
                behind = e.base + f.value + scheme
                behind_len = f.value_len - scheme
        elif not (f.flags & (FIELD_UNDERSCORE | FIELD_UNUSUAL) and f.name_len == a.header.len
                  and reads_as(e.base + f.name, name, f.name_len)):
            continue
        if hide:
            f.flags |= FIELD_CREDENTIAL
    if found is NULL and behind is not NULL:
        found = behind
        length[0] = behind_len
    return found


cdef const char *find_bearer(exchange *e, int hide, uint32_t *length) noexcept nogil:
    cdef const char *found = NULL
    cdef field *f
    cdef uint32_t i
    cdef int scheme
    for i in range(e.req.nfields):
        f = &e.req.fields[i]
        if f.id != F_AUTHORIZATION:
            continue
        scheme = bearer(e.base + f.value, f.value_len)
        if found is NULL and scheme and f.value_len > <uint32_t>scheme:
            found = e.base + f.value + scheme
            length[0] = f.value_len - scheme
        if scheme and hide:
            f.flags |= FIELD_CREDENTIAL
    return found


# ---- the query ------------------------------------------------------------------------------

cdef inline int digit(char c) noexcept nogil:
    if 48 <= c <= 57:
        return c - 48
    c = <char>(c | 0x20)
    return c - 87 if 97 <= c <= 102 else -1


cdef inline int octet(const char *p, uint32_t n, uint32_t *at) noexcept nogil:
    """The octet at `at`, decoded; moves past it."""
    cdef int high, low
    if p[at[0]] == c"%" and at[0] + 2 < n:
        high = digit(p[at[0] + 1])
        low = digit(p[at[0] + 2])
        if high >= 0 and low >= 0:
            at[0] += 3
            return high << 4 | low
    at[0] += 1
    return <uint8_t>p[at[0] - 1]


cdef int is_named(const char *p, uint32_t n, const char *name, uint32_t name_len) noexcept nogil:
    """Where the value of a parameter [p, p + n) begins, if its name is this one in any spelling (n: it
    has no value); else 0."""
    cdef uint32_t at = 0, i = 0
    while at < n and p[at] != c"=":
        if i == name_len or octet(p, n, &at) != <uint8_t>name[i]:
            return 0
        i += 1
    if i != name_len:
        return 0
    return <int>(at + 1 if at < n else n)


cdef inline uint32_t parameter_end(const char *q, uint32_t start, uint32_t n) noexcept nogil:
    while start < n and q[start] != c"&":
        start += 1
    return start


cdef const char *query_key(exchange *e, const auth_rec *a, char *room, uint32_t *length) noexcept nogil:
    """The key in the query, decoded into `room`. A key longer than any valid one gets the length KEY_MAX + 1."""
    cdef const char *q = e.base + e.req.query.off
    cdef const char *name = snap_str(e.snap, a.query)
    cdef uint32_t n = e.req.query.len, start = 0, end, at, k
    cdef int value
    while start < n:
        end = parameter_end(q, start, n)
        value = is_named(q + start, end - start, name, a.query.len)
        if value and <uint32_t>value < end - start:
            at = start + value
            k = 0
            while at < end:
                if k == KEY_MAX:
                    length[0] = KEY_MAX + 1
                    return room
                room[k] = <char>octet(q, end, &at)
                k += 1
            length[0] = k
            return room
        start = end + 1
    return NULL


cdef char *put_visible_query(char *p, exchange *e) noexcept nogil:
    cdef const char *q = e.base + e.req.query.off
    cdef const char *name
    cdef uint32_t n = e.req.query.len, start = 0, end, name_len
    cdef char *began = p
    if not e.hide_query:
        p = put_lit(p, "?")
        return put(p, q, n)
    name = snap_str(e.snap, snap_auth(e.snap, e.policy.auth).query)
    name_len = snap_auth(e.snap, e.policy.auth).query.len
    while start <= n:
        end = parameter_end(q, start, n)
        if not is_named(q + start, end - start, name, name_len):
            p = put_lit(p, "?") if p is began else put_lit(p, "&")
            p = put(p, q + start, end - start)
        start = end + 1
    return p


cdef inline int is_hidden(const char *p, uint32_t n, const char *names, uint32_t names_len) noexcept nogil:
    """Whether the name of a parameter [p, p + n) is one of these, in any case and spelling."""
    cdef uint32_t at, i = 0
    while i < names_len:
        at = 0
        while at < n and p[at] != c"=" and names[i] != 0 and lower(<uint8_t>octet(p, n, &at)) == <uint8_t>names[i]:
            i += 1
        if names[i] == 0 and (at == n or p[at] == c"="):
            return 1
        while names[i] != 0:
            i += 1
        i += 1
    return 0


cdef uint32_t loggable_query(exchange *e, char *out, uint32_t room) noexcept nogil:
    cdef const char *q = e.base + e.req.query.off
    cdef const char *names = snap_str(e.snap, e.snap.hidden_params)
    cdef uint32_t n = e.req.query.len, start = 0, end, used = 0, size
    if not e.req.has_query:
        return 0
    while start < n and used < room:
        end = parameter_end(q, start, n)
        if not is_hidden(q + start, end - start, names, e.snap.hidden_params.len):
            if used:
                out[used] = c"&"
                used += 1
            size = end - start if end - start < room - used else room - used
            put(out + used, q + start, size)
            used += size
        start = end + 1
    return used


# ---- both -----------------------------------------------------------------------------------

cdef int query_may_hold(exchange *e, const auth_rec *a) noexcept nogil:
    """Whether a parameter has this name."""
    cdef const char *q = e.base + e.req.query.off
    cdef const char *name = snap_str(e.snap, a.query)
    cdef uint32_t n = e.req.query.len, start = 0, end
    if a.query.len == 0 or not e.req.has_query:
        return 0
    while start < n:
        end = parameter_end(q, start, n)
        if is_named(q + start, end - start, name, a.query.len):
            return 1
        start = end + 1
    return 0


cdef const char *find_key(exchange *e, const auth_rec *a, char *room, uint32_t *length) noexcept nogil:
    cdef int hide = not a.flags & AUTH_FORWARD
    cdef const char *key = field_key(e, a, hide, length)
    if query_may_hold(e, a):
        e.hide_query = hide
        if key is NULL:
            key = query_key(e, a, room, length)
    return key


cdef void hide_keys(exchange *e, const auth_rec *a) noexcept nogil:
    cdef uint32_t length = 0
    if not a.flags & AUTH_FORWARD:
        field_key(e, a, 1, &length)
        e.hide_query = query_may_hold(e, a)
