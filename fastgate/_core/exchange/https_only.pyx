"""https_only: requests without TLS at listeners that are for HTTPS.

    listener          request                             gets
    redirect: https   any                                 308 to the same address with https://
                      without a host                      400 https_required
                      of a trusted proxy, which says      served
                      that it was sent over HTTPS
                      for a route that is ROUTE_CLEAR     served: challenges of ACME, which begin
                      _TOO                                before there is a certificate
    tls               any                                 400 https_required

Path and query of the new address are the octets that came: what is canonical is decided when they come
again. The host has passed `parse_authority`.
"""
from fastgate._core.exchange.redirect cimport answer_to_https
from fastgate._core.exchange.render cimport called_securely
from fastgate._core.exchange.listeners cimport listener_of
from fastgate._core.http.head cimport TARGET_ASTERISK, head
from fastgate._core.reason cimport HTTPS_REQUIRED
from fastgate._core.snapshot.router cimport ROUTE_FOUND, route_find, route_match
from fastgate._core.snapshot.snapshot cimport (
    LISTENER_REDIRECT_HTTPS, LISTENER_TLS, ROUTE_CLEAR_TOO, listener_rec, snap_policy)


cdef int clear_at_https(exchange *e, const route_keys *ahead) noexcept nogil:
    cdef const listener_rec *listener = listener_of(e)
    if listener is NULL:
        return 0
    if listener.flags & LISTENER_REDIRECT_HTTPS:
        if called_securely(e) or served_clear_too(e, ahead):
            return 0
        if e.req.host.len == 0:
            return HTTPS_REQUIRED
        answer_to_https(e, listener.redirect_port)
        return -1
    return HTTPS_REQUIRED if listener.flags & LISTENER_TLS else 0


cdef int served_clear_too(exchange *e, const route_keys *ahead) noexcept nogil:
    cdef head *h = &e.req
    cdef route_match found
    if h.form == TARGET_ASTERISK or route_find(e.snap, e.base + h.host.off, h.host.len, e.path, e.path_len, e.base,
                                               h, ahead, &found) != ROUTE_FOUND:
        return 0
    return snap_policy(e.snap, found.policy).flags & ROUTE_CLEAR_TOO
