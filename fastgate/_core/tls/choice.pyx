"""choice: which certificates, and which policy for clients, a connection gets: by listener and name.

The choice is made in the ClientHello callback, before libssl looks at tickets: chosen later (in the callback
for the name), a ticket of one name would resume a session under another.

    the name itself                    api.example.com
    one label in place of the star     *.example.com       certificates and policy
    several labels                     *.example.com       policy; certificates of the default
    otherwise                          the listener's default, or the alert unrecognized_name

Each name's certificates and policy were determined when the ring was made (ring.pyx).
"""
from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.string cimport memcmp

from fastgate._core.tls.callbacks cimport alpn_offers
from fastgate._core.tls.contexts cimport challenge_context, context_of
from fastgate._core.tls.openssl cimport (
    SSL, SSL_AD_INTERNAL_ERROR, SSL_AD_UNRECOGNIZED_NAME, SSL_CLIENT_HELLO_ERROR, SSL_CLIENT_HELLO_SUCCESS,
    SSL_CTX_free, SSL_CTX_get_verify_mode, SSL_CTX_set_client_hello_cb, SSL_client_hello_get0_ext, SSL_get_app_data,
    SSL_set_SSL_CTX, SSL_set_verify, TLSEXT_NAMETYPE_host_name, TLSEXT_TYPE_application_layer_protocol_negotiation,
    TLSEXT_TYPE_server_name)
from fastgate._core.tls.callbacks cimport chain_judged
from fastgate._core.tls.tables cimport tls_name, tls_policy, tls_session

cdef enum:
    NAME_MOST = 255


cdef uint64_t name_hash(const char *text, size_t n) noexcept nogil:
    cdef uint64_t h = 0xcbf29ce484222325ull
    cdef size_t i
    for i in range(n):
        h = (h ^ <uint8_t>text[i]) * 0x100000001b3ull
    return h


cdef tls_listener *listener_of(tls_ring *r, const char *key, size_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(r.n_listeners):
        if r.listeners[i].key_len == n and memcmp(r.listeners[i].key, key, n) == 0:
            return &r.listeners[i]
    return NULL


cdef tls_upstream *upstream_of(tls_ring *r, uint64_t id) noexcept nogil:
    cdef uint32_t i
    for i in range(r.n_upstreams):
        if r.upstreams[i].id == id:
            return &r.upstreams[i]
    return NULL


cdef const tls_name *find(const tls_listener *l, const char *text, size_t n) noexcept nogil:
    cdef uint64_t h = name_hash(text, n)
    cdef uint32_t low = 0, high = l.n_names, middle
    while low < high:
        middle = (low + high) // 2
        if l.names[middle].hash < h:
            low = middle + 1
        else:
            high = middle
    while low < l.n_names and l.names[low].hash == h:
        if l.names[low].len == n and memcmp(l.names[low].text, text, n) == 0:
            return &l.names[low]
        low += 1
    return NULL


cdef int32_t context_for(const tls_listener *l, char *name, size_t n) noexcept nogil:
    """Index of the context for a name in lower case; -1: it is refused. Overwrites the name."""
    cdef const tls_name *found = find(l, name, n)
    cdef size_t i
    cdef int deep = 0
    if found is not NULL:
        return found.context
    for i in range(1, n):
        if name[i] == 46:                # a dot: a star in place of everything before it
            name[i - 1] = 42
            found = find(l, name + i - 1, n - i + 1)
            if found is not NULL:
                return found.deep if deep else found.context
            deep = 1
    return l.other


cdef size_t name_in(const unsigned char *p, size_t n, char *out) noexcept nogil:
    """The host name in a server_name extension (RFC 6066), in lower case, without a final dot; 0: none."""
    cdef size_t length, i
    if n < 5 or p[2] != TLSEXT_NAMETYPE_host_name:
        return 0
    length = <size_t>p[3] << 8 | p[4]
    if length == 0 or length > NAME_MOST or length + 5 > n:
        return 0
    for i in range(length):
        out[i] = <char>(p[5 + i] | 0x20 if 65 <= p[5 + i] <= 90 else p[5 + i])
    return length - 1 if out[length - 1] == 46 else length


cdef void remember_asked(tls_session *s) noexcept nogil:
    """Which authorities this policy asks for: routes are compared with it."""
    cdef const tls_policy *p
    cdef uint32_t i
    s.peer.n_asked = 0
    if s.context.policy < 0:
        return
    p = &s.ring.policies[s.context.policy]
    for i in range(p.n_authorities):
        s.peer.asked[i] = s.ring.authorities[p.authorities[i]].id
    s.peer.n_asked = <uint8_t>p.n_authorities


cdef int begin_challenge(tls_session *s, const char *name, size_t n) noexcept nogil:
    cdef SSL_CTX *ctx = challenge_context(s.ring, name, n)
    if ctx is NULL:
        return SSL_CLIENT_HELLO_ERROR
    SSL_set_SSL_CTX(s.ssl, ctx)
    SSL_CTX_free(ctx)                    # the connection keeps it
    SSL_set_verify(s.ssl, 0, NULL)
    s.context = NULL
    s.challenge = 1
    return SSL_CLIENT_HELLO_SUCCESS


cdef int hello_choose(SSL *ssl, int *alert, void *arg) noexcept nogil:
    cdef tls_session *s = <tls_session *>SSL_get_app_data(ssl)
    cdef const unsigned char *p
    cdef char name[NAME_MOST + 1]
    cdef size_t n, length = 0
    cdef int32_t chosen
    cdef SSL_CTX *ctx
    if SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &p, &n):
        length = name_in(p, n, name)
    alert[0] = SSL_AD_UNRECOGNIZED_NAME
    if s.ring.n_challenges and SSL_client_hello_get0_ext(
            ssl, TLSEXT_TYPE_application_layer_protocol_negotiation, &p, &n):
        if n > 2 and alpn_offers(p + 2, n - 2, b"acme-tls/1", 10):
            return begin_challenge(s, name, length)
    chosen = context_for(s.listener, name, length) if length else s.listener.other
    if chosen < 0:
        return SSL_CLIENT_HELLO_ERROR
    s.context = &s.ring.contexts[chosen]
    ctx = context_of(s.ring, s.context)
    if ctx is NULL:
        alert[0] = SSL_AD_INTERNAL_ERROR
        return SSL_CLIENT_HELLO_ERROR
    SSL_set_SSL_CTX(ssl, ctx)
    SSL_set_verify(ssl, SSL_CTX_get_verify_mode(ctx), chain_judged)
    remember_asked(s)
    return SSL_CLIENT_HELLO_SUCCESS


cdef SSL_CTX *base_context(tls_ring *r, tls_listener *l) noexcept nogil:
    cdef SSL_CTX *ctx = context_of(r, &r.contexts[l.base])
    if ctx is not NULL:
        SSL_CTX_set_client_hello_cb(ctx, hello_choose, NULL)
    return ctx
