"""key_places: where a request may carry an API key: found to authenticate, hidden from what is forwarded."""
from libc.stdint cimport uint32_t

from fastgate._core.snapshot.auth cimport auth_rec
from fastgate._core.state cimport exchange

cdef const char *find_key(exchange *e, const auth_rec *a, char *room, uint32_t *length) noexcept nogil
    # The key that counts; NULL: none. room: KEY_MAX bytes. Hides all places, unless the route forwards them.
cdef void hide_keys(exchange *e, const auth_rec *a) noexcept nogil
    # Only hides them.
cdef const char *find_bearer(exchange *e, int hide, uint32_t *length) noexcept nogil
    # The token behind Bearer in Authorization; NULL: none. hide: all of them are not forwarded.
cdef char *put_visible_query(char *p, exchange *e) noexcept nogil
    # As put_query, for a request that has a query.

cdef uint32_t loggable_query(exchange *e, char *out, uint32_t room) noexcept nogil
    # As much of the query as fits, without the parameters that the log hides. Returns its length.

cdef inline char *put_query(char *p, exchange *e) noexcept nogil:
    """"?" and the query without hidden parameters, or nothing."""
    return put_visible_query(p, e) if e.req.has_query else p
