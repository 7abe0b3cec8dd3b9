"""log_ring: one ring of fixed-size records per worker; the worker writes, control drains.

Single producer, single consumer. If the ring is full, the record is dropped and counted; nothing waits.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastgate._core.shared.layout cimport segment_header
from fastgate._core.platform.text cimport fg_copy

cdef enum:
    PHASES = 16
    LOG_TEXT = 303
    LOGRING_HEADER = 256      # bytes before the records: sizeof(ring_header)
    PHASE_NEVER = 0xFFFFFFFF  # in phase_us

cdef struct ring_header:      # at logring_at of a worker's area; then logring_count records
    uint64_t head             # total of records published. Writer: the worker
    uint64_t pad_head[7]
    uint64_t tail             # total of records taken. Writer: control
    uint64_t pad_tail[7]
    uint64_t dropped          # records that found the ring full. Writer: the worker
    uint64_t pad_dropped[15]

cpdef enum Phase:             # the phases of an exchange, in order
    PHASE_READ_HEAD = 0
    PHASE_ROUTE = 1
    PHASE_AUTHENTICATE = 2
    PHASE_ADMIT = 3
    PHASE_HOLD = 4
    PHASE_FILTER_REQUEST = 5
    PHASE_SELECT = 6
    PHASE_CONNECT = 7
    PHASE_FORWARD = 8
    PHASE_FILTER_RESPONSE = 9
    PHASE_RELAY = 10
    PHASE_SETTLE = 11
    PHASE_LOG = 12

cpdef enum LogFlag:
    LOG_UPSTREAM_REUSED = 1
    LOG_KEEP_ALIVE = 2
    LOG_UPCALL = 4
    LOG_TUNNEL = 8
    LOG_ABORTED = 16          # the client left before the end
    LOG_SAMPLED = 32          # set by the client's traceparent
    LOG_HTTP_1_0 = 64         # the request was HTTP/1.0
    LOG_TLS = 128             # the client's connection was over TLS
    LOG_CERTIFICATE = 256     # with a client certificate that the route accepts
    LOG_DELAYED = 512         # a delay was injected

# Texts packed one after another in `text`, cut to fit; their lengths in `lens`.
cpdef enum LogText:
    TEXT_METHOD = 0
    TEXT_HOST = 1
    TEXT_PATH = 2             # canonical
    TEXT_ROUTE = 3
    TEXT_SERVICE = 4          # if the route has several
    TEXT_CONSUMER = 5
    TEXT_TARGET = 6
    TEXT_QUERY = 7            # if the configuration asks for it, without hidden parameters
    TEXT_USER_AGENT = 8
    TEXT_LIMIT = 9            # name of the limit that refused
    TEXTS = 10

cdef struct log_record:       # 512 bytes
    uint64_t sequence         # position + 1, set by logring_commit
    int64_t started_unix_ns   # CLOCK_REALTIME when the head's first byte was read
    uint8_t request_id[16]
    uint8_t trace_id[16]
    uint8_t span_id[8]
    uint8_t address[16]       # client; IPv4 mapped
    uint64_t bytes_in
    uint64_t bytes_out
    uint64_t duration_ns
    uint64_t upstream_ns      # request sent → response head
    uint64_t amount_micros    # charged (later)
    uint32_t phase_us[PHASES] # when the phase began, microseconds after the start; 0xffffffff: never
    uint32_t generation
    uint32_t route_slot
    uint32_t flags            # LogFlag
    uint16_t status
    uint16_t reason           # Reason
    uint16_t port             # client's
    uint16_t attempts         # upstream attempts
    uint16_t fault            # ParseFault
    uint8_t worker
    uint8_t lens[TEXTS]
    char text[LOG_TEXT]       # LOG_TEXT is the rest of 512 bytes

cdef ring_header *logring_header(segment_header *s, uint32_t worker) noexcept nogil
cdef log_record *logring_records(segment_header *s, uint32_t worker) noexcept nogil

cdef log_record *logring_reserve(segment_header *s, uint32_t worker) noexcept nogil
    # The next record to fill, the same one until it is committed: without texts, and everything else is to be
    # written. NULL if the ring is full: already counted, in the ring.
cdef void logring_commit(segment_header *s, uint32_t worker, log_record *r) noexcept nogil
cdef uint32_t log_cut(uint32_t used, int which, const char *p, uint32_t n) noexcept nogil
    # how much of a text that is too long is kept: whole characters

cdef extern from *:
    """
    #ifndef FASTGATE_LOG_LEAVE
    #define FASTGATE_LOG_LEAVE
    /* Octets of the text area that text i must leave to the texts after it: enough for a route's
       name (32), a service's (24), a consumer's id (36), a target (28) and a limit's name (16) after a very long path, and
       for part of the user agent (40) after a very long query. */
    static const unsigned char FG_LOG_LEAVE[] = {255, 214, 136, 104, 80, 44, 16, 56, 16, 0};
    #endif
    """
    const uint8_t *LEAVE "FG_LOG_LEAVE"

cdef inline uint32_t log_text(log_record *r, uint32_t used, int which, const char *p, uint32_t n) noexcept nogil:
    """Append text `which`; returns the new `used`. Call in the order of LogText. A text that is too long is
    cut between characters; some room is always left for the texts after it."""
    if n > 255 or used + n + LEAVE[which] > LOG_TEXT:
        n = log_cut(used, which, p, n)
    fg_copy(r.text + used, p, n)
    r.lens[which] = <uint8_t>n
    return used + n
