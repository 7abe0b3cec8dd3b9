"""key_places: where a request may carry an API key: found to authenticate, hidden from what is forwarded."""
from libc.stdint cimport uint32_t

from fastgate._core.snapshot.snapshot cimport auth_rec
from fastgate._core.state cimport exchange

cdef const char *find_key(exchange *e, const auth_rec *a, char *room, uint32_t *length) noexcept nogil
    # the key that counts, NULL: none; room: KEY_MAX bytes. Hides all places, unless the route forwards
cdef void hide_keys(exchange *e, const auth_rec *a) noexcept nogil
    # only that
cdef char *put_visible_query(char *p, exchange *e) noexcept nogil
    # put_query, of a request that has one

cdef uint32_t loggable_query(exchange *e, char *out, uint32_t room) noexcept nogil
    # as much of the query as fits, without the parameters that the log hides; its length

cdef inline char *put_query(char *p, exchange *e) noexcept nogil:
    """"?" and the query without hidden parameters, or nothing."""
    return put_visible_query(p, e) if e.req.has_query else p
