"""intake: what every exchange needs from a request's head: ids, client, path, body.

Called once for each complete head, before any decision. It copies little: the canonical path is a
span of the request if it was canonical already, and a body that came whole with the head stays
where it is, so that a retry can send it again.
"""
from libc.stdint cimport int64_t
from libc.string cimport memcmp, memcpy, memset

from fastgate._core.platform.buffer cimport buf_borrow, buf_head
from fastgate._core.http.head cimport (
    F_TRACEPARENT, F_VIA, F_X_FORWARDED_FOR, F_X_REQUEST_ID, HEAD_PATH_NEEDS_NORMALIZING, field,
    field_of, has_field, head)
from fastgate._core.http.uri cimport normalize_path
from fastgate._core.shared.log_ring cimport PHASE_READ_HEAD
from fastgate._core.reason cimport BAD_TARGET, OVERLOADED
from fastgate._core.platform.random cimport random64
from fastgate._core.snapshot.addresses cimport address_matches
from fastgate._core.snapshot.snapshot cimport KEEP_SLASHES, TRUST_UNIX, snap_str
from fastgate._core.state cimport core, downstream


cdef void begin(exchange *e) noexcept nogil:
    cdef core *c = e.owner
    cdef downstream *d = e.down
    e.ref = c.ref
    e.ref.in_flight += 1
    e.snap = e.ref.snap
    e.started_ns = d.head_started
    e.started_unix_ns = <int64_t>d.head_started + c.unix_offset
    memset(e.phase_us, 0xff, sizeof(e.phase_us))
    e.phase_us[<int>PHASE_READ_HEAD] = 0
    e.request_id[0] = random64(c.random)
    e.request_id[1] = random64(c.random)
    e.span_id = random64(c.random) | 1
    e.trace_id[0] = e.request_id[0]
    e.trace_id[1] = e.request_id[1]
    e.trace_flags = 1
    c.counters.requests += 1


cdef int hex_value(uint8_t x) noexcept nogil:
    if 48 <= x <= 57:
        return x - 48
    if 97 <= x <= 102:
        return x - 87
    return -1


cdef int read_hex(const char *p, uint8_t *out, uint32_t n, int *zero) noexcept nogil:
    """Parse 2n lower-case hex digits; 0: it is something else."""
    cdef uint32_t i
    cdef int hi, lo
    zero[0] = 1
    for i in range(n):
        hi = hex_value(<uint8_t>p[2 * i])
        lo = hex_value(<uint8_t>p[2 * i + 1])
        if hi < 0 or lo < 0:
            return 0
        out[i] = <uint8_t>(hi << 4 | lo)
        if out[i]:
            zero[0] = 0
    return 1


cdef void read_ids(exchange *e) noexcept nogil:
    """Continue the client's trace and keep its request id, if they are well-formed."""
    cdef const field *f
    cdef const char *p
    cdef uint8_t trace[16]
    cdef uint8_t parent[8]
    cdef uint8_t flags[1]
    cdef char digits[32]
    cdef int zero = 0, n = 0
    cdef uint32_t i
    if has_field(&e.req, F_TRACEPARENT):
        f = field_of(&e.req, F_TRACEPARENT)
        p = e.base + f.value
        if f.value_len >= 55 and memcmp(p, b"ff", 2) != 0 and p[2] == 45 and p[35] == 45 and p[52] == 45 \
                and (f.value_len == 55 or (p[55] == 45 and memcmp(p, b"00", 2) != 0)) \
                and read_hex(p, flags, 1, &zero) and read_hex(p + 3, trace, 16, &zero) and not zero \
                and read_hex(p + 36, parent, 8, &zero) and not zero and read_hex(p + 53, flags, 1, &zero):
            memcpy(e.trace_id, trace, 16)
            e.trace_flags = flags[0]
    if has_field(&e.req, F_X_REQUEST_ID):
        f = field_of(&e.req, F_X_REQUEST_ID)
        p = e.base + f.value
        if f.value_len == 32 or f.value_len == 36:
            # 32 hex digits, or the same as a UUID.
            for i in range(f.value_len):
                if p[i] == 45 and f.value_len == 36 and (i == 8 or i == 13 or i == 18 or i == 23):
                    continue
                if n == 32:
                    return
                digits[n] = p[i] | 0x20 if 65 <= p[i] <= 70 else p[i]
                n += 1
            if n == 32 and read_hex(digits, trace, 16, &zero) and not zero:
                memcpy(e.request_id, trace, 16)
                e.id_from_client = 1


cdef void client_address(exchange *e) noexcept nogil:
    """The client's address: the peer's or, behind trusted proxies, the last address that is not a trusted proxy."""
    cdef downstream *d = e.down
    cdef const field *f
    cdef const char *p
    cdef uint8_t address[16]
    cdef uint32_t end, start
    cdef int i
    memcpy(e.client, d.address, 16)
    if d.text_len == 0:                  # a Unix socket's peer has no address
        d.trusted = 2 if e.snap.flags & TRUST_UNIX else 1
    elif e.snap.trusted_proxies.count == 0:
        d.trusted = 1
        return
    else:
        d.trusted = 2 if address_matches(e.snap, e.snap.trusted_proxies, d.address) else 1
    if d.trusted == 1 or not has_field(&e.req, F_X_FORWARDED_FOR):
        return
    i = e.req.nfields - 1
    while i >= 0:
        f = &e.req.fields[i]
        i -= 1
        if f.id != F_X_FORWARDED_FOR:
            continue
        p = e.base + f.value
        end = f.value_len
        while True:
            while end > 0 and (p[end - 1] == 32 or p[end - 1] == 9 or p[end - 1] == 44):
                end -= 1
            if end == 0:
                break
            start = end
            while start > 0 and p[start - 1] != 44:
                start -= 1
            while start < end and (p[start] == 32 or p[start] == 9):
                start += 1
            if not parse_address(p + start, end - start, address):
                return                   # not an address: nothing before it can be trusted
            memcpy(e.client, address, 16)
            if not address_matches(e.snap, e.snap.trusted_proxies, address):
                return
            end = start


cdef extern from *:
    """
    #include <arpa/inet.h>
    #include <string.h>
    /* An address as in X-Forwarded-For (a port may follow; it may be in brackets); 16 bytes, IPv4 mapped. */
    static int fg_parse_address(const char *p, unsigned n, unsigned char *out) {
        char tmp[64];
        if (n == 0 || n >= sizeof tmp) return 0;
        memcpy(tmp, p, n); tmp[n] = 0;
        char *s = tmp;
        if (*s == '[') {
            char *e = strchr(s, ']');
            if (!e) return 0;
            *e = 0; s++;
        } else {
            char *colon = strchr(s, ':');
            if (colon && strchr(s, '.') && !strchr(colon + 1, ':')) *colon = 0;
        }
        memset(out, 0, 16);
        if (inet_pton(AF_INET, s, out + 12) == 1) { out[10] = out[11] = 0xff; return 1; }
        return inet_pton(AF_INET6, s, out) == 1;
    }
    """
    int parse_address "fg_parse_address"(const char *p, unsigned n, unsigned char *out) noexcept nogil


cdef int canonical_path(exchange *e) noexcept nogil:
    cdef head *h = &e.req
    cdef int n
    e.path = e.base + h.path.off
    e.path_len = h.path.len
    if not h.flags & HEAD_PATH_NEEDS_NORMALIZING:
        return 0
    # A raw backslash becomes three bytes.
    e.pathbuf = buf_borrow(&e.owner.loop.bufs, <size_t>h.path.len * 3)
    if e.pathbuf is NULL:
        return OVERLOADED
    n = normalize_path(e.base + h.path.off, h.path.len, buf_head(e.pathbuf), h.path.len * 3, 1,
                       not e.snap.flags & KEEP_SLASHES)
    if n <= 0:
        return -n if n < 0 else BAD_TARGET
    e.path = buf_head(e.pathbuf)
    e.path_len = <uint32_t>n
    return 0


cdef int seen_via(exchange *e) noexcept nogil:
    """How many times this gateway occurs in the request's Via."""
    cdef const char *name = snap_str(e.snap, e.snap.via)
    cdef uint32_t n = e.snap.via.len, i, j
    cdef const field *f
    cdef const char *p
    cdef int count = 0
    for i in range(e.req.nfields):
        f = &e.req.fields[i]
        if f.id != F_VIA or f.value_len < n:
            continue
        p = e.base + f.value
        for j in range(f.value_len - n + 1):
            if (j == 0 or p[j - 1] == 32) and (j + n == f.value_len or p[j + n] == 44 or p[j + n] == 32) \
                    and memcmp(p + j, name, n) == 0:
                count += 1
    return count
