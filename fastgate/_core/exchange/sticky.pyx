"""sticky: cookies that name the target which answers a client.

    answer ── Set-Cookie: NAME=<value of the target> ──▶ client ── Cookie: NAME=<value> ──▶ the same target

The compiler makes a value for each target, a keyed hash. A request's cookies are compared with those of the upstream's
targets; the one that is named is chosen as long as it is usable (upstream/balance.pyx). An answer of another
target sets the cookie anew. The upstream gets the request's cookies as they are.

**Caches.** A shared cache must not store the answer with this cookie: all who get it from there would be led to the
same target. So

    the answer is for shared caches (public, s-maxage, CDN-Cache-Control)    it sets no cookie; another answer will
    it is not to be shared (private, no-store)                               it sets the cookie
    it says nothing about that                                               it sets the cookie, and is made private
    304                                                                      none: its fields become those of what is stored

So what was cached stays cached. With the cookie in the request, nothing is added to the answer at all.
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp

from fastgate._core.exchange.caching cimport CACHES_PRIVATE, CACHES_SHARED, caching_of
from fastgate._core.http.head cimport F_COOKIE, field, has_field, head
from fastgate._core.platform.text cimport put, put_lit
from fastgate._core.snapshot.snapshot cimport (
    STICKY_AUTO, STICKY_SECURE, snap_str, snap_table, sticky_rec, target_rec)
from fastgate._core.http.lines cimport end_line

cdef enum:
    SECURE = 10               # bytes of "; Secure" and the line end


cdef inline const sticky_rec *cookie_of(const call *k) noexcept nogil:
    return <const sticky_rec *>snap_table(k.snap, k.group.sticky)


# ---- requests ---------------------------------------------------------------------------------

cdef uint8_t target_named(const call *k, const char *value, uint32_t n) noexcept nogil:
    """1 + the index of the target with this value; 0: there is none."""
    cdef const target_rec *t = <const target_rec *>snap_table(k.snap, k.group.targets)
    cdef uint32_t i
    for i in range(k.group.targets.count):
        if t[i].sticky.len == n and n and memcmp(snap_str(k.snap, t[i].sticky), value, n) == 0:
            return <uint8_t>(i + 1)
    return 0


cdef uint8_t look(const call *k, const char *p, uint32_t n) noexcept nogil:
    """The same for a Cookie field. Of cookies with the same name (of several paths), the first that names a target."""
    cdef const sticky_rec *r = cookie_of(k)
    cdef const char *name = snap_str(k.snap, r.cookie)
    cdef uint32_t at = 0, end, length = r.cookie.len
    cdef uint8_t found
    while at < n:
        while at < n and (p[at] == c" " or p[at] == c"\t"):
            at += 1
        end = at
        while end < n and p[end] != c";":
            end += 1
        if end - at > length and p[at + length] == c"=" and memcmp(p + at, name, length) == 0:
            found = target_named(k, p + at + length + 1, end - at - length - 1)
            if found:
                return found
        at = end + 1
    return 0


cdef void sticky_find(const exchange *e, call *k) noexcept nogil:
    cdef const head *h = &e.req
    cdef const field *f
    cdef uint32_t i
    k.sticky = 0
    if not has_field(h, F_COOKIE):
        return
    for i in range(h.nfields):
        f = &h.fields[i]
        if f.id == F_COOKIE and k.sticky == 0:
            k.sticky = look(k, e.base + f.value, f.value_len)


# ---- answers ----------------------------------------------------------------------------------

cdef int sticky_answer(exchange *e, const call *k) noexcept nogil:
    if k.sticky and <const target_rec *>snap_table(k.snap, k.group.targets) + (k.sticky - 1) == k.target:
        return STICKY_NOT
    if k.resp.status == 304 or k.target.sticky.len == 0:
        return STICKY_NOT
    return cookie_allowed(e, k)


cdef int cookie_allowed(exchange *e, const call *k) noexcept nogil:
    cdef int caching
    if k.resp.status == 101:
        return STICKY_SET
    caching = caching_of(e, k.resp_base, &k.resp)
    if caching & CACHES_SHARED:
        return STICKY_NOT
    return STICKY_SET if caching & CACHES_PRIVATE else STICKY_PRIVATE


cdef size_t sticky_size(const call *k) noexcept nogil:
    cdef const sticky_rec *r = cookie_of(k)
    return <size_t>r.before.len + k.target.sticky.len + r.after.len + SECURE


cdef char *put_sticky(char *p, const call *k, int secure) noexcept nogil:
    cdef const sticky_rec *r = cookie_of(k)
    p = put(p, snap_str(k.snap, r.before), r.before.len)
    p = put(p, snap_str(k.snap, k.target.sticky), k.target.sticky.len)
    p = put(p, snap_str(k.snap, r.after), r.after.len)
    if r.secure == STICKY_SECURE or (r.secure == STICKY_AUTO and secure):
        p = put_lit(p, "; Secure")
    return end_line(p)
