"""state: the C state of one worker's engine, and which struct points at which.

    core ──┬── snap (current snapshot; exchanges keep the one they were routed with)
           ├── pools[target slot] ── idle upstream connections, last in first out
           └── loop: epoll, deadlines, buffers, time (io/connection.pxd)
    conn   first member of downstream and upstream; the part that `io` knows
    downstream ── exchange ── call ── upstream
                     └─ more calls, made by a Python handler

One exchange at a time per downstream connection, one call at a time per upstream
connection. A call is one request to an upstream and its answer. The C path uses the call
embedded in the exchange; a Python handler makes calls of its own.

Only struct definitions belong here. Who may change what: `pool` changes the pools; `downstream`,
`upstream` and `exchange` their own structs.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastgate._core.platform.buffer cimport buf
from fastgate._core.shared.cells cimport cells, decision
from fastgate._core.shared.layout cimport (
    account_row, route_counters, segment_header, worker_counters, worker_row)
from fastgate._core.shared.consumer_row cimport consumer_row, limit_override
from fastgate._core.shared.credentials cimport credential_entry, index_header
from fastgate._core.shared.lookup cimport key_memory
from fastgate._core.io.connection cimport conn, delivery, event_loop
from fastgate._core.io.proxy_header cimport proxied
from fastgate._core.http.head cimport caps, head
from fastgate._core.http1.chunked cimport chunk_state
from fastgate._core.shared.log_ring cimport PHASES
from fastgate._core.money.layout cimport money_record, area_view
from fastgate._core.tls.openssl cimport SSL_SESSION
from fastgate._core.tokens.issuers cimport issuer_ring
from fastgate._core.tokens.memory cimport token_memory
from fastgate._core.tokens.questions cimport QUESTIONS, question
from fastgate._core.tokens.verdicts cimport verdict
from fastgate._core.tls.tables cimport tls_listener, tls_peer, tls_ring
from fastgate._core.snapshot.router cimport route_keys, route_match
from fastgate._core.snapshot.auth cimport auth_method
from fastgate._core.snapshot.snapshot cimport (
    limit_rec, listener_rec, policy_rec, route_rec, service_rec, snapshot_header, table_ref, target_rec, upstream_rec)

cdef enum:
    MAX_POOLS = 4096
    MAX_TAKEN = 24            # limits that one exchange can take from
    MAX_LISTENERS = 64
    SESSIONS = 2              # TLS sessions that a pool keeps
    MAX_SPENT = 6             # one count of requests, five spending limits

ctypedef int (*lookup_fn)(void *index, const char *key, uint32_t length, int64_t now_s, key_memory *last,
                          const consumer_row **row, const credential_entry **entry) noexcept nogil

ctypedef int (*digest_fn)(void *index, const uint8_t *digest, int64_t now_s, const consumer_row **row,
                          const credential_entry **entry) noexcept nogil

cdef struct core
cdef struct downstream
cdef struct upstream
cdef struct announced
cdef struct pool
cdef struct call
cdef struct exchange
cdef struct subrequest

# What the floors below call; filled in once, by engine. What `io` calls is in io/connection.pxd.
cdef struct sinks:
    # downstream → exchange
    void (*line)(exchange *e) noexcept nogil                        # the request line is complete
    void (*head)(exchange *e) noexcept nogil                        # e.req is complete
    void (*head_bad)(exchange *e, int reason) noexcept nogil
    void (*late)(exchange *e) noexcept nogil                        # the body, the handler or a decision is too slow
    void (*body)(exchange *e) noexcept nogil                        # request bytes wait in the connection
    void (*drained)(exchange *e) noexcept nogil                     # response bytes may be queued (again)
    void (*gone)(exchange *e) noexcept nogil                        # the client left
    void (*unread)(exchange *e) noexcept nogil                      # it takes its answer too slowly
    # exchange → exchange
    void (*go_on)(exchange *e, int reason) noexcept nogil           # what it was parked for is decided
    # upstream → exchange
    void (*call_head)(call *k) noexcept nogil                       # k.resp is the final head, at k.resp_base
    void (*call_interim)(call *k) noexcept nogil                    # k.resp is a 103
    void (*call_body)(call *k) noexcept nogil                       # body bytes wait, or the end came
    void (*call_failed)(call *k, int reason) noexcept nogil
    void (*call_writable)(call *k) noexcept nogil                   # request bytes may be queued (again)
    int (*call_render)(call *k) noexcept nogil                      # queue the request on k.up; < 0: no memory

# ---- codecs -----------------------------------------------------------------------------
# A codec sits between a connection and its exchanges or calls. Only the codec knows how its version of
# HTTP puts a message on the wire. What is to be written is passed to it as data.
#
# Fields are lines (http/lines.pxd). "Verbatim" pieces of a body pass as they came, framing included,
# if both sides use the same framing.

cdef struct answer:           # the head of an answer
    uint16_t status
    uint8_t upgrade           # it opens a tunnel
    uint8_t has_length        # `fields` includes a Content-Length line
    int64_t length            # bytes of the body; -1: not known, or there is none
    const char *body          # the body, or the part of it that is here: it is copied
    uint32_t body_len
    size_t room               # bytes that `fields` may need
    char *(*fields)(char *p, exchange *e, const answer *a) noexcept nogil      # writes the lines
    call *k                   # whose answer it is; NULL: our own
    const char *lines         # for `fields`: lines of our own
    uint32_t lines_len

cdef struct server_codec:
    int (*expect_body)(exchange *e) noexcept nogil
        # The head is complete: which body follows, and how much of it is here. 0, or a Reason.
    buf *(*take)(exchange *e, int verbatim, int *refused) noexcept nogil
        # The next piece of the request's body, as a buffer that the caller owns; NULL: none yet.
        # *refused: 0, or the Reason why it is refused. Sets body_state, bytes_in and body_bytes.
    uint32_t (*plain)(const exchange *e, call *k, char *p, uint32_t n) noexcept nogil
        # Of a copy of verbatim pieces, in order, the body's bytes alone: how many are left at p. k: has nothing yet.
    int (*waits)(const exchange *e) noexcept nogil
        # Whether bytes wait to be taken.
    void (*read)(exchange *e, int on) noexcept nogil
        # Back-pressure.
    int (*verbatim)(const exchange *e, const call *k) noexcept nogil
        # Whether the body of this call's answer may pass verbatim.
    void (*interim)(exchange *e, const answer *a) noexcept nogil
        # Send 100 or 103, if the client understands it.
    int (*start)(exchange *e, const answer *a) noexcept nogil
        # Queue the head; decides whether the connection stays open. 0; -1: no memory.
    int (*data)(exchange *e, buf *b) noexcept nogil
        # Queue a piece of the body, and take it over. 0; -1: it cannot be sent.
    int (*end)(exchange *e) noexcept nogil
        # The body is complete. 0; -1: no memory.
    int (*flush)(exchange *e) noexcept nogil
        # Write what is queued. 1: the queue is empty; 0: the rest follows, then sink.drained; < 0: -errno.
    void (*deadline)(exchange *e) noexcept nogil
        # What the exchange waits for has changed.
    void (*release)(exchange *e) noexcept nogil
        # The exchange is over, answered or not: continue or close its connection. Frees e.
    void (*reset)(exchange *e) noexcept nogil
        # Break its answer off; e remains.

cdef struct outgoing:         # a request to an upstream
    const char *method
    uint32_t method_len
    uint32_t host_len
    const char *host          # the authority; host_len 0: it is among the lines of `fields`
    int64_t length            # bytes of the body; -1: not known; -2: there is none
    uint8_t upgrade
    const char *body          # the body, or the part of it that is here: it is copied
    uint32_t body_len
    size_t room               # bytes that `target` and `fields` may need
    const char *path          # the target, if it is in one piece
    uint32_t path_len
    char *(*target)(char *p, call *k) noexcept nogil         # otherwise: writes path and query
    char *(*fields)(char *p, call *k) noexcept nogil         # writes the lines

cdef struct client_codec:
    int (*request)(call *k, const outgoing *o) noexcept nogil
        # Queue the head, and the part of the body that is here. 0; -1: no memory.
    int (*head)(call *k) noexcept nogil
        # Parse what has come. > 0: k.resp is a head of that many bytes; 0: more is needed; < 0: it is not a head.
    void (*expect_body)(call *k) noexcept nogil
        # k.resp is the final head, and accepted: which body follows. Sets CALL_RESPONSE_DONE and CALL_CLOSE_AFTER.
    buf *(*take)(call *k, int verbatim, int *bad) noexcept nogil
        # The body's bytes that are here, as a buffer that the caller owns; NULL: none yet. *bad: 1: they
        # are not a valid body. Sets CALL_RESPONSE_DONE.
    void (*skip)(call *k) noexcept nogil
        # The answer is not wanted: sets CALL_RESPONSE_DONE if its whole body is here.
    int (*ends_with_connection)(const call *k) noexcept nogil
        # Whether the answer is complete when the upstream closes.

# ---- snapshots in use -----------------------------------------------------------------
cdef struct snapref:
    const snapshot_header *snap
    void *object              # the Python Snapshot that keeps the mapping; NULL: a copy (snapshot_ref.pyx)
    void *handlers            # the Python list of handlers
    uint64_t in_flight
    snapref *next             # in the list of those retired, or of those to release
    snapref *prev             # in the list of those retired

# ---- downstream ------------------------------------------------------------------------
cdef enum DownState:
    DOWN_IDLE = 0             # between requests
    DOWN_HEAD = 1             # some bytes of a head are here
    DOWN_BUSY = 2             # an exchange runs
    DOWN_LINGER = 3           # our last byte is sent; reading and discarding what the client still sends
    DOWN_TUNNEL = 4
    DOWN_CLOSED = 5
    DOWN_HANDSHAKE = 6        # of TLS
    DOWN_PROXY = 7            # its PROXY header is to come

cdef struct downstream:
    conn io                   # must be first
    exchange *ex
    downstream *next          # free list, or the list of all
    downstream *prev
    uint64_t head_started     # when the first byte of the head came
    delivery out              # whether the client reads its answer
    uint32_t requests         # served on this connection
    uint32_t lingered         # bytes read off while lingering
    uint16_t port             # client's, host order
    uint8_t state             # DownState
    uint8_t listener          # index in core.listeners
    uint8_t secure            # came over TLS
    uint8_t trusted           # 1 + whether the peer is a trusted proxy; 0: not looked up yet
    uint8_t half_closed       # the client sends no more, but is still served
    const server_codec *codec
    const tls_peer *peer      # NULL: no TLS, or no client certificate was asked for
    key_memory key            # the key of its last request
    downstream *older         # while its TLS handshake is in progress: the one before it
    downstream *newer
    uint64_t counted          # the key of the limit of connections that it counts in; 0: none
    uint8_t text_len
    char text[46]             # address as text
    uint8_t address[16]       # peer's; IPv4 mapped; zero for unix sockets

# ---- upstream --------------------------------------------------------------------------
cdef enum UpState:
    UP_CONNECTING = 0
    UP_BUSY = 1
    UP_IDLE = 2
    UP_CLOSED = 3

cdef struct upstream:
    conn io                   # must be first
    call *k
    pool *home
    upstream *next            # pool: less recently used; or free list
    upstream *prev
    uint32_t requests
    uint8_t state             # UpState
    uint8_t reused            # the current call found it in the pool
    uint32_t pool_generation  # the pool's, when the connection was opened
    uint32_t keyring          # core.keyrings, when its TLS began
    const client_codec *codec
    uint64_t keep_ns          # how long it may stay in the pool unused
    delivery out              # whether the upstream reads the request
    announced *client         # whom its PROXY header announced; NULL: it began with none
    uint64_t place            # of the call that it serves

cdef struct announced:        # see upstream/announced.pyx
    proxied who
    upstream *up
    announced *next           # in the same bucket, while the connection is idle
    announced *prev

cdef struct pool:             # of one target, by its slot; 64 bytes
    uint64_t identity         # target_rec.pool; if it differs, the slot has a new owner
    upstream *idle            # most recently used first
    upstream *oldest
    uint32_t idle_count
    uint32_t active           # calls in progress
    uint32_t generation
    uint32_t retry_credit     # thousandths of a retry; the upstream's, kept by its first target
    int64_t current           # smooth weighted round robin
    uint64_t ewma_ns          # of the time to the answer's head; 0: not known
    uint64_t sampled_ns       # when ewma_ns was last updated

cdef struct pool_sessions:    # of TLS
    SSL_SESSION *kept[SESSIONS]   # to be resumed, the newest last

# ---- call ------------------------------------------------------------------------------
cdef enum CallState:
    CALL_NONE = 0
    CALL_CONNECT = 1
    CALL_SEND = 2             # the head is on its way, the body may follow
    CALL_BODY = 3             # the final head is here
    CALL_DONE = 4
    CALL_FAILED = 5
    CALL_TUNNEL = 6
    CALL_WAIT = 7             # for room at a target (upstream/waiting.pyx)

cdef enum CallFlag:
    CALL_IDEMPOTENT = 1
    CALL_REPLAYABLE = 2       # no part of the body was consumed for good
    CALL_REQUEST_DONE = 4     # the whole request is queued or sent
    CALL_RESPONSE_DONE = 8    # the whole response was read
    CALL_CLOSE_AFTER = 16     # the upstream connection must not be pooled
    CALL_PYTHON = 32          # made by a Python handler
    CALL_SUB = 64             # a subrequest's
    CALL_UPGRADE = 128        # asked for an upgrade
    CALL_COUNTED = 256        # counted in pool.active
    CALL_FRESH = 512          # the chosen target's pooled connection was stale: open a new one
    CALL_TRUNCATED = 1024     # the answer broke off
    CALL_GOOD = 2048          # its head was no failure: so far the target did well

cdef struct call:
    core *owner
    exchange *ex
    upstream *up
    const snapshot_header *snap
    const service_rec *service
    const upstream_rec *group
    const target_rec *target
    void *py                  # UpstreamResponse, when CALL_PYTHON
    buf *py_request           # the request as Python made it, kept for a retry
    buf *py_head              # the answer's head, kept for Python (resp's spans count from it)
    const char *resp_base     # where resp's spans count from; valid during call_head
    call *next                # other calls of the exchange
    uint64_t sent_ns          # the request's head was handed over
    uint64_t whole_ns         # its last byte was handed over; 0: not yet
    uint64_t first_byte_ns    # response head complete
    uint64_t hash             # for consistent hashing
    uint64_t tried            # bit per target index within the upstream
    uint64_t resp_remaining   # the codec's: FRAMING_LENGTH
    uint32_t first_byte_ms
    uint32_t idle_ms
    uint32_t flags            # CallFlag
    uint8_t state             # CallState
    uint8_t method_id
    uint8_t attempts          # targets chosen for it
    uint8_t turns             # of the retry loop: attempts, and new connections in place of stale ones
    uint16_t failure          # the Reason, once CALL_FAILED
    uint16_t tls_fault        # TlsFault of the last handshake that failed
    uint8_t interims
    uint8_t sticky            # 1 + index of the target that the client's cookie names; 0: it names none
    uint32_t py_method, py_path, py_lines    # bytes of py_request; the rest is the body
    void *waiter              # while CALL_WAIT
    uint64_t place            # the key that it is counted under at its target; 0: it is not, or up.place is
    uint8_t py_host           # Host is among the lines
    uint8_t py_body           # a body is sent, even if it is empty
    chunk_state resp_chunks   # the codec's
    head resp

# ---- exchange --------------------------------------------------------------------------
cdef enum Spender:            # who has a spending limit; also part of the key that its spending is counted under
    SPENDER_ACCOUNT = 1
    SPENDER_CONSUMER = 2
    SPENDER_KEY = 3

cdef enum BodyState:
    BODY_NONE = 0             # no body, or all of it was consumed
    BODY_MORE = 1             # more is to come

cdef enum ExFlag:
    EX_KEEP_ALIVE = 1         # the client's connection goes on after this
    EX_RESPONSE_STARTED = 2
    EX_RESPONSE_DONE = 4      # all of the response is queued
    EX_VERBATIM = 8           # the pieces of the answer's body pass as they come, framing and all
    EX_SUSPENDED = 32         # waits for Python
    EX_REFUSED = 64
    EX_TUNNEL = 128
    EX_ENDED = 256            # settled and logged
    EX_HEAD_ONLY = 512        # the answer has no body (HEAD, 204, 304)
    EX_CONTINUE_DUE = 1024    # the client waits for 100 Continue
    EX_AWAIT_BODY = 4096      # collecting the body for Python
    EX_ABORTED = 8192
    EX_WAKE = 16384           # is in the wake list
    EX_VALIDATING = 131072    # Python is to validate it
    EX_COUNTED_UPCALL = 262144
    EX_COUNTED_STREAM = 2097152
    EX_METERED = 524288       # it has a price, even if zero: a usage record is due
    EX_OWED = 4194304         # its client left before an answer began, and still owes for it
    EX_CERTIFIED = 8388608    # its client has a certificate that the route accepts
    EX_PARKED = 16777216      # waits for a decision (parking.pyx)

cdef enum Stage:              # what a parked exchange does next
    STAGE_AUTHENTICATE = 1    # find out who calls
    STAGE_ADMIT = 2           # the caller is known
    STAGE_LIMITS = 3          # a delay is over: take its limits
    STAGE_VALIDATE = 4        # its limits are taken
    STAGE_CHARGE = 5          # it is valid: hold what it costs

cdef enum WakeBit:
    WAKE_GONE = 1             # the client left
    WAKE_WRITABLE = 2         # its output queue is empty
    WAKE_CALL = 4             # one of its calls has something
    WAKE_DONE = 8             # the whole answer was handed to the kernel
    WAKE_LATE = 16            # its time is over: the client has been answered

cdef struct taken:            # a limit that the exchange consumed from
    const limit_rec *limit
    uint64_t key
    uint64_t interval_ns      # of a rate: the limit's, or the consumer's own

cdef struct spent:            # what was counted for money: requests of a period, or spending
    uint64_t key
    uint64_t cost
    int64_t unix_s
    uint64_t period

cdef struct exchange:
    core *owner
    downstream *down
    snapref *ref
    const snapshot_header *snap
    const route_rec *route    # rarely in the cache: read for names, identities and the like only
    const policy_rec *policy  # of the route; NULL with it
    const service_rec *service
    exchange *next            # free list; upcall and wake queues
    void *py                  # the Python Exchange, when a handler runs
    buf *headbuf              # holds the request head while the exchange lives
    buf *pathbuf              # canonical path, if it differs from what was sent
    buf *body                 # the body, if it was collected
    buf *extra                # field lines that a handler adds to the answer it relays
    buf *errors               # why it is not valid, for its refusal: the first error in words, then the list
    const char *base          # start of the request head
    const char *path          # canonical
    const char *inline_body   # a body that came whole with the head, or was collected: kept, for retries
    route_counters *rc
    uint32_t inline_len
    uint32_t first_error      # bytes of it in `errors`
    uint32_t n_errors
    uint32_t path_len
    uint32_t ntaken
    uint32_t flags            # ExFlag
    uint16_t status, reason, fault
    uint8_t phase
    uint8_t body_state        # BodyState
    uint64_t started_ns
    int64_t started_unix_ns
    uint64_t bytes_in, bytes_out
    uint64_t body_bytes       # of the request's body, without framing
    uint64_t body_left        # the codec's: FRAMING_LENGTH
    uint64_t body_seen        # bytes of the body when its rate was last judged
    uint64_t asked_ns         # since when we have waited for the client to send it; 0: we do not
    uint64_t asked_for_ns     # how long we waited for it before that
    int64_t body_credit       # ns that it may still take at the minimum rate
    uint64_t answer_by        # a handler's deadline for the first byte, or that of a parked exchange; 0: none
    uint64_t upstream_ns
    uint32_t phase_us[PHASES]
    uint64_t request_id[2]
    uint64_t trace_id[2]
    uint64_t span_id
    uint8_t trace_flags, has_consumer, has_id_text
    uint8_t id_from_client    # the client's X-Request-ID was valid and is kept
    uint8_t upgrading, attempts   # asks for a websocket; targets chosen for it
    uint8_t out               # the codec's: how the answer's body is framed
    uint8_t hide_query        # parameters of the query hold a key: put_query omits them
    uint8_t stage             # Stage, while it is parked
    uint16_t late             # the Reason with which it goes on when its time is over
    uint32_t wake             # WakeBit: what to report to Python
    uint32_t log_flags        # LogFlag
    uint32_t split_row        # 1 + metrics row of the service that was chosen; 0: it is the route's only one
    uint32_t split_point, split_tag   # what its cookie says (split.pyx)
    uint64_t credential
    const limit_rec *tightest # the limit whose state is in `seen`
    decision seen
    # What a 402 reports, in micro-units; currency 0: the request costs no money.
    int64_t money_balance     # what the wallet had, or the spending limit had left
    int64_t money_required    # what the request needs
    int64_t money_limit       # the spending limit that refused, if money_resets is not 0
    uint32_t money_currency   # three ASCII letters, the first in the lowest byte
    int64_t money_held        # what requests in progress hold of the wallet and may give back
    uint64_t units_asked      # units of a meter that could not be held
    uint64_t units_fit        # how many would have fitted
    int64_t charged           # captured so far
    uint64_t key_spending     # the credential's cap, as in credential_entry
    account_row *account      # who pays; NULL: not known
    money_record *hold        # the hold on the wallet for this request
    uint32_t nspent
    uint8_t flags_hold_by_handler   # a handler placed the hold: it captures it, or it is released
    uint8_t money_limit_of    # Spender: whose spending limit refused; 0: none did
    uint8_t meter_len         # of the meter's name
    uint32_t money_resets     # Unix seconds when the period of the spending limit that refused ends; 0: none did
    uint32_t access_ended     # Unix seconds when the subscription's access ended; 0: not known
    const limit_override *overrides   # the caller's own numbers, while it is admitted; NULL: none
    verdict *verdict          # on the caller's token, held; NULL: none
    verdict *told             # its issuer's answer about a token, held; NULL: none
    exchange *waits_after     # in the list of those that wait for an answer of control
    uint8_t waits, asked      # 1: it is in that list; how often it was
    uint8_t split_sets        # 1: the answer sets a cookie that says which service was chosen
    uint64_t question         # that it waits for, or has asked: hash of it; 0: none
    table_ref needed_scopes   # of which the token lacks one; count 0: none
    int64_t fault_when        # Unix seconds, of a fault that is about time; 0: it is not
    subrequest *sub           # of a service that decides about it; its copy, until it is whole (mirror.pyx); NULL: none
    buf *lent                 # header lines that it lent for the upstream; NULL: none
    uint8_t decided           # 1: that service has accepted it
    uint64_t decided_for      # identity of the consumer that it named; 0: none
    call *calls               # a handler's calls
    call *relaying            # the call whose answer goes to the client
    call main                 # the C path's call; up to its `resp`, a new exchange is cleared
    char id_text[32]          # request_id in hex digits, once has_id_text
    char meter[48]            # the name of `units_asked`'s meter
    taken took[MAX_TAKEN]
    limit_rec own             # `tightest` with the caller's own numbers, if it has any
    spent spent[MAX_SPENT]
    uint8_t client[16]        # the client's address: the peer's, or what a trusted proxy reported
    consumer_row consumer
    chunk_state body_chunks   # the codec's
    route_match match
    head req

# ---- subrequests ---------------------------------------------------------------------------
cdef struct subrequest:
    call k                    # must be first; CALL_SUB
    exchange *ex              # for whom it is; NULL: for nobody (any more)
    snapref *ref              # its snapshot
    subrequest *next          # those in progress; free list; those that are over
    subrequest *before        # those in progress
    void (*done)(subrequest *s, int reason) noexcept nogil       # it is over: 0, or why there is no answer; NULL: nobody asks
    buf *body                 # of the answer, as far as it has come
    buf *note                 # what `done` needs
    const auth_method *method # likewise
    uint64_t question         # likewise: that its answer answers; of a mirror: the route's metrics row
    uint64_t issuer           # likewise: that is asked
    uint32_t most             # bytes of an answer's body that is wanted
    uint8_t broken            # its request did not fit
    uint8_t discard           # its answer is read off
    uint8_t over

# ---- the whole --------------------------------------------------------------------------
cdef struct accepts:          # how many connections to accept at a listener's next event: see server.pyx
    uint64_t round
    uint32_t most

cdef struct header_faults:    # PROXY headers that were refused, since they were last logged
    uint64_t count
    uint8_t fault             # ProxyFault of the last one
    uint8_t listener          # where it came
    uint8_t text_len
    char text[46]             # from whom

cdef struct tls_failures:     # of connections to upstreams, since they were last logged
    uint64_t count
    char upstream[64]         # of the last one: names, as much as fits, and why
    char target[128]
    char why[128]

cdef struct core:
    event_loop loop           # must be first
    uint32_t worker
    uint32_t draining
    int64_t unix_offset       # CLOCK_REALTIME - CLOCK_MONOTONIC, refreshed each second
    int64_t window_offset     # the same for the clock that windows use (clock.pyx)
    uint64_t offset_read
    sinks sink
    snapref *ref
    snapref *retired          # replaced, in_flight not yet 0
    snapref *released         # replaced, in_flight 0: Python releases them
    downstream *unpin_at      # where the walk after an install is; NULL: it is over
    segment_header *segment
    worker_row *row
    worker_counters *counters
    cells limiter
    cells quota
    area_view *money          # this worker's part of the money map; NULL: none
    void *credentials         # the Python CredentialIndex; NULL: none
    const index_header *index_head    # its header
    lookup_fn lookup          # credential_find, to be called with that pointer
    digest_fn lookup_digest   # credential_of, likewise
    pool *pools
    pool_sessions *sessions   # by the same slot
    announced **announced     # idle connections that began with a PROXY header, by client; NULL: there was none yet
    downstream *downs         # all of them
    downstream *free_downs
    upstream *free_ups
    exchange *free_exchanges
    uint32_t n_downs, n_exchanges, n_ups, n_idle
    uint32_t n_announced      # of the idle ones, those in `announced`
    uint32_t n_waits          # calls that wait for room at a target
    void *waiting             # the waiting room; NULL: no call has waited yet
    uint32_t n_upcalls        # exchanges with a handler that has not begun to answer
    uint32_t n_streams        # exchanges with a handler that answers as a stream
    uint32_t n_calls          # made by handlers, alive
    uint32_t n_subs, n_mirrors    # subrequests in progress; of these, to mirrors
    subrequest *subs          # all of them
    subrequest *free_subs
    subrequest *ended_subs    # over in this round: their memory may be in use until it ends
    uint32_t n_listeners
    uint32_t accepting        # 0: paused
    uint32_t descriptors      # for clients' connections and upstreams' together
    uint32_t n_waiting        # clients' connections between two requests
    uint32_t n_handshakes     # clients' TLS handshakes in progress
    uint32_t keyrings         # how many there were
    downstream *oldest_handshake
    downstream *newest_handshake
    tls_ring *tls             # of the current keyring; NULL: none
    issuer_ring *issuers      # of the current keyring; NULL: none
    token_memory *tokens      # NULL: no token has come yet
    question questions[QUESTIONS]
    uint32_t n_questions
    uint32_t n_asking         # exchanges that wait for an answer of control
    exchange *asking          # all of them
    tls_listener *tls_of[MAX_LISTENERS]        # by listener, in that keyring; NULL: clear
    conn pause                # its deadline ends a pause
    conn clock                # the timerfd, in the epoll set
    void *engine              # the Python Engine, while it waits in place of the event loop; else NULL
    conn listeners[MAX_LISTENERS]
    uint64_t listener_ids[MAX_LISTENERS]      # as in listener_rec
    const listener_rec *entries[MAX_LISTENERS]        # what a listener asks of new connections; NULL: nothing
    header_faults bad_headers
    tls_failures failed_tls
    accepts accepted[MAX_LISTENERS]
    exchange *upcall_head     # to be handed to Python after this round: handled, or validated
    exchange *upcall_tail
    exchange *wake_head       # something happened that Python waits for
    exchange *wake_tail
    uint64_t random[4]
    int64_t date_second
    char date[32]             # "Date: Sun, 06 Nov 1994 08:49:37 GMT" without the name
    caps request_caps
    caps response_caps
    exchange *ahead_of        # whose path is in `ahead`; NULL: none
    route_keys ahead


cdef exchange *exchange_new(core *c) noexcept nogil
cdef void exchange_free(core *c, exchange *e) noexcept nogil
cdef void call_free(core *c, call *k) noexcept nogil


cdef inline core *core_of(const conn *x) noexcept nogil:
    """The core of the engine that a connection belongs to."""
    return <core *>x.loop
