"""snapshot: the immutable, position-independent image that workers serve from.

One contiguous block of memory in a sealed memfd. Everything is referenced by a 32-bit offset from the
image's start (`str_ref`) or by an index into a table; there are no pointers. All tables are
8-byte aligned. Built by `image.ImageBuilder` (in control), mapped and checked by `Snapshot` (in
a worker), read by the exchange and the router.
"""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastgate._core.snapshot.auth cimport auth_rec
from fastgate._core.snapshot.refs cimport str_ref, table_ref
from fastgate._core.snapshot.traffic cimport traffic_rec

cdef enum:
    SNAPSHOT_VERSION = 15
    NONE32 = 0xFFFFFFFF       # "no such thing" for an index

cpdef enum SettingFlag:       # of the whole gateway
    LIMITS_ON_SUCCESS = 1     # RateLimit headers on all successes
    ACCESS_LOG = 2            # on
    HALF_CLOSE = 4            # clients that close their sending side are still served
    LOG_QUERY = 8             # the access log includes the query
    TRUST_UNIX = 16           # peers on Unix sockets are trusted proxies
    KEEP_SLASHES = 32         # "//" in a path is kept

# ---- listeners ------------------------------------------------------------------------
cpdef enum ListenerFlag:
    LISTENER_TLS = 1          # connections without TLS are refused
    LISTENER_REDIRECT_HTTPS = 2   # every request is redirected to https://
    LISTENER_HSTS_SUBDOMAINS = 4
    LISTENER_HSTS_PRELOAD = 8
    LISTENER_PROXY_UNIX = 16  # peers on Unix sockets begin with a PROXY header

cdef struct listener_rec:     # only listeners with something of this have one
    uint64_t id               # keyring.listener_id of the listener's key
    uint32_t flags            # ListenerFlag
    uint32_t hsts_s           # max-age in `hsts`
    str_ref hsts              # Strict-Transport-Security, a rendered line; len 0: it is not sent
    uint16_t redirect_port    # where redirects lead
    uint16_t reserved
    uint32_t max_connections  # of one address at once; 0: no limit
    uint64_t handshake_ns     # nanoseconds for each TLS handshake of one address; 0: no limit
    uint64_t handshake_tolerance_ns   # handshake_ns * burst
    table_ref proxies         # address_rule: peers that begin with a PROXY header

# ---- limits ---------------------------------------------------------------------------
cpdef enum LimitKind:
    LIMIT_RATE = 1            # token bucket (GCRA)
    LIMIT_QUOTA = 2           # calendar window, counted
    LIMIT_CONCURRENCY = 3     # in flight

cpdef enum LimitScope:        # what the limit is counted by: any combination
    BY_ADDRESS = 1            # client address (IPv6: its /64)
    BY_ROUTE = 2
    BY_CONSUMER = 4
    BY_PLAN = 8
    BY_SERVICE = 16
    BY_CREDENTIAL = 32
    BY_HEADER = 64            # values of the header fields `limit_rec.headers`

cpdef enum Period:
    PERIOD_SECOND = 0
    PERIOD_MINUTE = 1
    PERIOD_HOUR = 2
    PERIOD_DAY = 3
    PERIOD_MONTH = 4
    PERIOD_WEEK = 5
    PERIOD_YEAR = 6

cpdef enum LimitFlag:
    LIMIT_SHOW_HEADERS = 1    # RateLimit headers also on successes
    LIMIT_OFFER_UPGRADE = 2   # when exhausted: 402 quota_exhausted_upgrade instead of 429

cdef struct limit_rec:
    uint64_t identity         # hash of the policy's or owner's name and the position; stable over reloads
    uint64_t interval_ns      # rate: nanoseconds per request
    uint64_t tolerance_ns     # rate: interval_ns * burst
    uint64_t amount           # rate: burst; quota: requests a period; concurrency: at most in flight
    uint64_t window_s         # seconds, for the RateLimit-Policy header
    str_ref name              # policy name shown to clients, e.g. "burst"
    str_ref policy            # rendered member of RateLimit-Policy, e.g. "burst";q=100;w=60
    table_ref headers         # BY_HEADER: table of str_ref, lower-case field names
    uint64_t override_key     # the key of consumers' own numbers for it; 0: they cannot have any
    uint32_t scope            # LimitScope bits
    uint8_t kind              # LimitKind
    uint8_t period            # Period
    uint16_t flags            # LimitFlag

# ---- authentication: auth.pxd has the records -----------------------------------------
cpdef enum AuthFlag:
    AUTH_BEARER = 1           # accept Authorization: Bearer KEY
    AUTH_OPTIONAL = 2         # no credential: continue as anonymous
    AUTH_FORWARD = 4          # do not remove the credential
    AUTH_ALL = 8              # every method must accept the request; else the first one whose credential is there
    AUTH_TOKENS = 32          # what looks like a JSON Web Token is no API key
    AUTH_LIST = 16            # `methods` says how; else by API key alone

cpdef enum AuthKind:
    AUTH_KEY = 1              # API key
    AUTH_JWT = 2
    AUTH_INTROSPECTION = 3    # token of which its issuer is asked (RFC 7662)
    AUTH_CERTIFICATE = 4      # TLS client certificate
    AUTH_BASIC = 5            # HTTP Basic (RFC 7617)
    AUTH_SERVICE = 8          # another service decides

cpdef enum AuthMethodFlag:
    METHOD_ANONYMOUS = 1      # a credential that is valid and no consumer's: continue as anonymous
    METHOD_FORWARD = 2        # do not remove the credential

# ---- header rules, address rules, predicates, statics ---------------------------------
cpdef enum HeaderAction:
    HEADER_SET = 1            # replace or add
    HEADER_ADD = 2
    HEADER_REMOVE = 3
    HEADER_DEFAULT = 4        # add if absent

cdef struct header_rule:
    str_ref name              # lower-case
    str_ref value
    str_ref line              # "Name: value\r\n", ready to copy
    uint32_t action           # HeaderAction
    uint32_t reserved

cdef struct address_rule:
    uint8_t address[16]       # IPv4 as ::ffff:a.b.c.d
    uint32_t prefix           # 0..128, in the mapped form
    uint32_t allow            # 1 allow, 0 deny; first match wins; a list with any allow denies the rest

cpdef enum PredicateKind:
    PREDICATE_HEADER_PRESENT = 1
    PREDICATE_HEADER_EQUALS = 2
    PREDICATE_HEADER_PREFIX = 3
    PREDICATE_QUERY_PRESENT = 4
    PREDICATE_QUERY_EQUALS = 5
    PREDICATE_QUERY_PREFIX = 6
    PREDICATE_COOKIE_PRESENT = 7
    PREDICATE_COOKIE_EQUALS = 8
    PREDICATE_COOKIE_PREFIX = 9
    PREDICATE_SEGMENT = 10        # a segment of the path matches an automaton: predicates.pyx

cdef struct predicate:
    str_ref name              # header: lower-case; query, cookie: as configured
    str_ref value
    uint32_t kind
    uint32_t segment          # its number, from 0

cdef struct cors_rec:
    table_ref origins         # table of str_ref; empty: any
    str_ref allow_methods     # rendered values
    str_ref allow_headers     # empty: echo the requested ones
    str_ref expose_headers
    uint32_t max_age
    uint32_t flags            # 1: credentials, 2: any origin

cdef struct static_rec:
    str_ref fields            # lines, without Content-Length, Date and X-Request-ID
    str_ref body
    table_ref location        # url_piece: Location of a redirect; empty: not a redirect
    uint32_t status
    uint32_t reserved

# A URL that is built for each request: the target for an upstream, or a Location. It consists of
# pieces, one after another (exchange/url_pieces.pyx).
cpdef enum UrlPiece:
    URL_TEXT = 0
    URL_PARAM = 1             # a parameter of the path
    URL_PATH = 2              # the path
    URL_HOST = 3              # the requested host, without port
    URL_SCHEME = 4            # http or https, as requested
    URL_QUERY = 5             # "?" and the request's query; nothing if there is none
    URL_QUERY_MORE = 6        # the same with "&", after a query
    URL_PIECES = 7            # how many kinds there are

cdef struct url_piece:
    str_ref text              # of URL_TEXT
    uint16_t kind             # UrlPiece
    uint16_t encode           # percent-encode it, for a query
    uint32_t param            # of URL_PARAM: its position in the pattern

# ---- routes, services, upstreams, targets, plans --------------------------------------
cpdef enum RouteFlag:
    ROUTE_ENCODED_SLASH = 1       # allow %2f, %5c, backslash
    ROUTE_PRESERVE_HOST = 2       # forward the client's Host (else the target's)
    ROUTE_WEBSOCKET = 4           # allow Upgrade: websocket
    ROUTE_LIMIT_HEADERS = 8       # RateLimit headers on successes
    ROUTE_LOG_OFF = 16            # no access-log record
    ROUTE_MAKES_URL = 32          # the forwarded target differs from the client's, or the route redirects
    ROUTE_RETIRED = 64            # answer 410
    ROUTE_OPENAI_ERRORS = 128     # refusals also carry an `error` member in OpenAI's format
    ROUTE_ABANDONED_FREE = 256    # a client that leaves before the answer does not owe the route's price
    ROUTE_CERTIFICATES = 512      # `client_auth` is not empty
    ROUTE_CERTIFICATE_REQUIRED = 1024   # requests without a client certificate are refused
    ROUTE_CERTIFICATE_FORWARD = 2048    # the upstream gets it (RFC 9440)
    ROUTE_CLEAR_TOO = 4096        # served without TLS where other requests are redirected to https
    ROUTE_FAULT = 8192            # faults are injected: `traffic_rec`
    ROUTE_MAINTENANCE = 16384     # it is closed for maintenance
    ROUTE_VALIDATE = 32768        # `validator` is one
    ROUTE_SPLIT = 65536           # other services get part of its requests: `traffic_rec`
    ROUTE_MIRROR = 131072         # copies of its requests go to another service
    ROUTE_SHED = 262144           # refused under load: at twice a mark
    ROUTE_SHED_FIRST = 524288     # with it: at the mark

cdef enum:
    ROUTE_TRAFFIC = ROUTE_FAULT | ROUTE_MAINTENANCE | ROUTE_SPLIT | ROUTE_MIRROR    # with one of them, there is a `traffic_rec`

cpdef enum PlanFlag:
    PLAN_ABANDONED_FREE = 1       # the same for the plan's price

# A request on one of 100,000 routes finds everything about its route cold in memory. So the data is
# split: a route's own record is one cache line, which most requests do not even read; what routes
# mostly have in common is a shared record, which stays warm.
cdef struct route_rec:            # 64 bytes, aligned to 64: what is specific to the route
    str_ref name
    uint64_t identity             # hash of the name; stable over reloads
    str_ref pattern               # the path pattern as configured, e.g. "/orders/{id}"
    table_ref params              # table of str_ref: names of the pattern's parameters, in order
    table_ref tokens              # table of str_ref: methods that are not a Method
    table_ref predicates          # predicate: all must hold
    uint32_t methods              # bit (1 << Method); 0: any. Other tokens: in `tokens`
    uint32_t slot                 # metrics row; stable over reloads
    uint32_t policy               # index
    int32_t priority

cdef struct policy_rec:           # 192 bytes, aligned to 64: equal policies are in the image once
    uint64_t body_cap             # bytes
    uint32_t service              # index, or NONE32
    uint32_t handler              # index, or NONE32
    uint32_t static_response      # index, or NONE32
    uint32_t auth                 # index, or NONE32: open
    uint32_t cors                 # index, or NONE32
    uint32_t flags                # RouteFlag
    uint32_t strip                # bytes of the canonical path that the rewrite removes (its literal prefix)
    uint32_t timeout_ms           # from the request's last byte to the response's head; 0: the service's
    str_ref replace               # put before what is left after the strip
    table_ref limits              # limit_rec; address- and route-scoped first
    table_ref addresses           # address_rule
    # the second line
    table_ref request_rules       # header_rule
    table_ref response_rules      # header_rule
    str_ref notice                # rendered response lines to add: Deprecation, Sunset, Link
    uint64_t price_micros         # 0: free
    str_ref payment_required      # rendered lines that its 402s carry: PAYMENT-REQUIRED and the like
    uint32_t price_currency       # three ASCII letters, the first in the lowest byte; of price_micros
    uint32_t idle_ms              # between two pieces of the answer's body, or of a tunnel; 0: the service's
    str_ref host                  # Host to send, unless ROUTE_PRESERVE_HOST; len 0: the target's
    table_ref rewrite             # url_piece: path and query to forward; empty: strip and replace apply
    # the third line: read only if a RouteFlag says that there is something
    table_ref client_auth         # uint64_t: keyring.authority_id of who may have issued a client certificate
    uint32_t traffic              # index, or NONE32
    uint32_t validator            # index in handlers, or NONE32
    uint32_t deadline_ms          # from the request's first byte to the answer's last; 0: none
    uint64_t reserved[5]

cpdef enum SplitBy:           # what decides which service of a split gets a request
    SPLIT_BY_TURNS = 0
    SPLIT_BY_CONSUMER = 1     # a hash of it
    SPLIT_BY_ADDRESS = 2
    SPLIT_BY_COOKIE = 3

# A set of statuses: one bit for each from 400 to 599.
cdef enum:
    STATUS_WORDS = 4
    STATUS_FIRST = 400
    STATUS_COUNT = 200

cdef inline bint status_in(const uint64_t *words, uint32_t status) noexcept nogil:
    cdef uint32_t i = status - STATUS_FIRST      # below the first: a very large number
    return i < STATUS_COUNT and words[i >> 6] >> (i & 63) & 1

cpdef enum Balance:
    BALANCE_ROUND_ROBIN = 0
    BALANCE_LEAST_CONNECTIONS = 1
    BALANCE_P2C_EWMA = 2
    BALANCE_HASH = 3              # consistent (maglev-free: rendezvous) on `hash_by`

cpdef enum HashBy:
    HASH_BY_ADDRESS = 0
    HASH_BY_CONSUMER = 1
    HASH_BY_PATH = 2
    HASH_BY_HEADER = 3

cdef struct service_rec:
    str_ref name
    uint64_t identity
    uint32_t slot
    uint32_t upstream             # index
    uint32_t first_byte_ms
    uint32_t idle_ms              # between two reads of the response's body
    uint32_t attempts             # 1: no retry
    uint32_t retry_budget         # permille of requests that may be retries
    table_ref limits
    table_ref plans               # table of uint32_t plan slots that include it; empty: any consumer
    uint64_t retry_statuses[STATUS_WORDS]   # answers that are retried elsewhere
    uint32_t flags, reserved

cpdef enum StickySecure:          # whether a sticky cookie is set as Secure
    STICKY_CLEAR = 0
    STICKY_SECURE = 1
    STICKY_AUTO = 2               # if the client used https

cdef struct sticky_rec:
    str_ref cookie                # its name
    str_ref before                # "Set-Cookie: NAME="
    str_ref after                 # what follows the value: "; Path=/; ...", without Secure and a line end
    uint32_t secure, reserved     # secure: StickySecure

cdef struct upstream_rec:
    str_ref name
    uint64_t identity
    table_ref targets
    table_ref sticky              # one sticky_rec; empty: no cookie
    str_ref hash_header           # lower-case
    uint32_t slot
    uint32_t balance              # Balance
    uint32_t hash_by              # HashBy
    uint32_t connect_ms
    uint32_t write_ms             # for a target that takes nothing of the request
    uint32_t keepalive_idle_ms    # an idle pooled connection is closed after this
    uint32_t keepalive_max        # idle connections kept per target and worker
    uint32_t max_connections      # requests in progress at a target, from all workers; 0: no limit
    uint32_t queue_max, queue_ms  # requests that may wait for one with room; how long each waits
    uint32_t tiers                # 1: its targets differ in priority
    uint32_t eject_after          # failures in a row; 0: never
    uint32_t eject_within_ms      # a series of failures lasts at most this long
    uint32_t eject_ms
    uint32_t slow_start_ms        # how long the weight of a target that became usable grows; 0: not at all
    uint32_t proxy_protocol       # version of the PROXY header that connections begin with; 0: none
    uint64_t eject_statuses[STATUS_WORDS]   # answers that count as failures

cdef struct target_rec:
    uint8_t sockaddr[112]         # struct sockaddr_in / _in6 / _un, ready for connect()
    uint32_t sockaddr_len         # 0: the name could not be resolved yet
    uint32_t weight, priority     # weight: at least 1; priority: lower numbers come first
    uint64_t identity             # hash of upstream name and address: key of the shared health row
    uint64_t pool                 # hash of that and `tls`: key of the connections, which differ by it
    uint64_t tls                  # keyring.upstream_id of its TLS; 0: clear
    uint32_t slot                 # row in the segment's target area
    uint32_t upstream             # index
    str_ref name                  # as configured, e.g. "http://10.0.0.11:9000"
    str_ref authority             # Host to send, e.g. "10.0.0.11:9000"
    str_ref path                  # base path before the forwarded path; len 0: none
    str_ref host                  # name or IP address without port and brackets; len 0: Unix socket
    str_ref sticky                # the cookie's value that names it

cdef struct price_step:           # of a plan's price list: the price of each request up to a number
    uint64_t up_to                # the last request of the period with this price; 0: all further requests
    uint64_t micros

cdef struct plan_rec:
    str_ref name
    uint64_t identity
    uint32_t slot                 # consumers refer to it by this number
    uint32_t flags
    table_ref limits
    table_ref prices              # price_step; empty: a request costs what its route sets
    uint64_t price_identity       # hash that the requests of a period are counted under
    uint32_t price_currency       # as in policy_rec
    uint8_t price_period          # Period
    uint8_t price_spare[3]

cdef struct handler_rec:
    str_ref name                  # "package.module:function"

cdef struct refusal_rec:
    str_ref fields                # template: lines, without Content-Length
    str_ref body                  # template
    uint32_t status               # 0: this reason has no refusal
    uint32_t close                # 1: the connection is closed after it
    str_ref html_fields           # the same for people; len 0: none
    str_ref html_body
    str_ref markdown_fields       # the same for agents; len 0: none
    str_ref markdown_body

# Templates are bytes with holes: byte 0x01 followed by one of these letters. Values are escaped
# for the kind of template.
cpdef enum Hole:
    HOLE_REQUEST_ID = 73      # 'I'  32 hex digits
    HOLE_LIMIT = 76           # 'L'  decimal: the limit's amount
    HOLE_USED = 85            # 'U'  decimal
    HOLE_REMAINING = 82       # 'R'  decimal
    HOLE_RETRY_AFTER = 65     # 'A'  decimal seconds, at least 1, rounded up
    HOLE_RESETS_AT = 84       # 'T'  RFC 3339 UTC, e.g. 2026-11-20T12:00:00Z
    HOLE_POLICY = 80          # 'P'  limit name
    HOLE_ROUTE = 78           # 'N'  route name
    HOLE_DETAIL = 68          # 'D'  more detail (parse fault, first error), may be empty
    HOLE_ALLOW = 77           # 'M'  methods, e.g. "GET, HEAD"
    HOLE_CHALLENGE = 87       # 'W'  the route's WWW-Authenticate value
    HOLE_BALANCE = 66         # 'B'  decimal money, e.g. 0.002: what the wallet has
    HOLE_REQUIRED = 81        # 'Q'  decimal money: what the request needs
    HOLE_SHORTFALL = 83       # 'S'  decimal money: what is missing
    HOLE_SPENDING = 69        # 'E'  decimal money: the spending limit
    HOLE_CURRENCY = 67        # 'C'  three letters
    HOLE_CAPABILITY = 71      # 'G'  token for the diagnosis, 38 characters of base64url
    HOLE_ORIGIN = 72          # 'H'  "http://host:port" as requested; empty if that is in doubt
    HOLE_HELD = 70            # 'F'  decimal money: what requests in progress hold
    HOLE_SPENDER = 86         # 'V'  whose spending limit refused: key, consumer, account
    HOLE_PLAN = 79            # 'O'  name of the plan in force
    HOLE_DUE = 74             # 'J'  decimal money: the bill that is due first
    HOLE_DUE_CURRENCY = 89    # 'Y'  three letters
    HOLE_DUE_AT = 88          # 'X'  RFC 3339 UTC
    HOLE_INVOICE = 75         # 'K'  its number
    HOLE_ENDED = 90           # 'Z'  RFC 3339 UTC: when access ended
    HOLE_METER = 49           # '1'  name of a meter
    HOLE_UNITS = 50           # '2'  decimal: requested units
    HOLE_UNITS_FIT = 51       # '3'  decimal: units that would fit
    HOLE_SCOPES = 63          # '?'  the scopes that a token must have, separated by spaces
    HOLE_FAULT_AT = 59        # ';'  RFC 3339 UTC: what a token says, if its fault is about time
    HOLE_NOW = 58             # ':'  RFC 3339 UTC: the time here
    # The same for people: "30 November 2026, 00:00 UTC", "3 hours 20 minutes".
    HOLE_RESETS_WORDS = 52    # '4'
    HOLE_DUE_WORDS = 53       # '5'
    HOLE_ENDED_WORDS = 54     # '6'
    HOLE_RETRY_WORDS = 55     # '7'
    HOLE_LIMIT_WORDS = 56     # '8'  5 requests a month for each consumer
    HOLE_STATUS = 57          # '9'  decimal: the answer's status
    HOLE_MESSAGE = 48         # '0'  what the operator says about a maintenance
    # What is wrong with a request that was validated, as `exchange.errors` has it.
    HOLE_ERRORS = 61          # '='  a list, made for the kind of template; longer than other holes
    HOLE_ERROR_COUNT = 64     # '@'  decimal

# A section of a template is included in the answer only if its condition holds. It begins with byte
# 0x01 and one of these letters, and ends with 0x01 and a dot. Sections do not nest.
cpdef enum Section:
    SECTION_OWNER = 98        # 'b'  the request costs money, and the caller is known: balances may be shown
    SECTION_MONEY = 113       # 'q'  what the request needs is known
    SECTION_SPENDING = 101    # 'e'  a spending limit refused, and the caller is known
    SECTION_LIMIT = 108       # 'l'  a limit refused
    SECTION_RESETS = 116      # 't'  the time when waiting helps is known
    SECTION_CAPABILITY = 103  # 'g'  there are pages to link to
    SECTION_OPENAI = 111      # 'o'  the route is ROUTE_OPENAI_ERRORS
    SECTION_HELD = 104        # 'h'  requests in progress hold something, and the caller is known
    SECTION_PLAN = 112        # 'p'  the caller is on a plan
    SECTION_DUE = 100         # 'd'  the caller's account owes something
    SECTION_ENDED = 115       # 's'  the time when access ended is known
    SECTION_UNITS = 117       # 'u'  units of a meter were requested
    SECTION_FITS = 102        # 'f'  fewer of them would fit
    SECTION_FAULT_AT = 105    # 'i'  the fault is about time
    SECTION_WAIT = 119        # 'w'  waiting for the limit to reset helps
    SECTION_MESSAGE = 109     # 'm'  the operator says something
    SECTION_END = 46          # '.'

# ---- the image ------------------------------------------------------------------------
cdef struct snapshot_header:
    uint8_t magic[8]              # "FGSNAP\0\0"
    uint32_t version
    uint32_t size                 # bytes of the whole image
    uint64_t generation
    uint64_t checksum             # of the image with this word zero
    uint64_t identity             # of the gateway (for Via and loop detection)
    table_ref routes
    table_ref policies
    table_ref traffic
    table_ref services
    table_ref upstreams
    table_ref targets
    table_ref plans               # indexed by plan slot; a hole has name.len 0
    table_ref handlers
    table_ref auths
    table_ref cors
    table_ref statics
    table_ref refusals            # indexed by Reason, REASON_COUNT of them
    table_ref faults              # str_ref by ParseFault: text for HOLE_DETAIL
    table_ref trusted_proxies     # address_rule: peers whose X-Forwarded-* are trusted
    table_ref listeners           # listener_rec
    table_ref router              # private to router.pyx: byte offset and size
    str_ref via                   # pseudonym for Via, e.g. "fastgate"
    str_ref server                # value of Server on our own answers; len 0: none
    str_ref hidden_params         # query parameters that are not logged: lower-case names, each followed by a NUL
    # caps and timeouts of the listener side
    uint32_t max_line, max_head, max_fields, max_field
    uint32_t handshake_ms         # time for a TLS handshake
    uint32_t head_ms              # time for a complete head
    uint32_t body_ms              # between two reads of a request body
    uint32_t idle_ms              # keep-alive
    uint32_t write_ms             # for a slow reader: time without progress
    uint32_t min_rate             # bytes a second that a body must come or go at, after 5 s; 0: none
    uint32_t max_requests         # per connection; 0: no limit
    uint32_t max_connections      # per worker
    uint32_t max_upcalls          # handlers per worker that have not begun to answer
    uint32_t underscores          # 0 drop, 1 reject, 2 allow
    uint32_t loop_max             # how often Via may name this gateway
    uint32_t flags                # SettingFlag
    uint32_t max_streams          # handlers per worker that answer as a stream
    uint32_t max_handshakes       # clients' TLS handshakes in progress, per worker
    uint64_t shed_lag_ns, shed_buffers    # marks of shedding: lag of the loop, bytes of buffers; 0: none
    uint64_t head_checksum        # of this header with both checksum words zero
    uint64_t capability_key[2]    # for the tokens in links of refusals; both 0: no links

cdef class Snapshot:
    """A mapped, checked image. The mapping lives as long as this object."""
    cdef readonly int fd
    cdef const char *base
    cdef size_t size
    cdef const snapshot_header *header
    cdef public long in_flight    # exchanges routed with it (owned by the engine)
    cdef _check(self, bint verify)
    cdef bytes _text(self, dict ref)
    cdef dict _open(self, dict record)
    cdef list _limits(self, table_ref t)
    cdef list _strings(self, table_ref t)
    cdef list _rules(self, table_ref t)
    cdef list _predicates(self, table_ref t)
    cdef list _pieces(self, table_ref t)
    cdef list _addresses(self, table_ref t)
    cdef int _bounds(self, object index, uint32_t count) except -1

# Accessors, inlined.
cdef inline const char *snap_str(const snapshot_header *s, str_ref r) noexcept nogil:
    return <const char *>s + r.off

cdef inline const void *snap_table(const snapshot_header *s, table_ref t) noexcept nogil:
    return <const char *>s + t.off

cdef inline const route_rec *snap_route(const snapshot_header *s, uint32_t i) noexcept nogil:
    return <const route_rec *>(<const char *>s + s.routes.off) + i

cdef inline const policy_rec *snap_policy(const snapshot_header *s, uint32_t i) noexcept nogil:
    return <const policy_rec *>(<const char *>s + s.policies.off) + i

cdef inline const traffic_rec *snap_traffic(const snapshot_header *s, const policy_rec *p) noexcept nogil:
    """That of a route with one of the flags."""
    return <const traffic_rec *>(<const char *>s + s.traffic.off) + p.traffic

cdef inline const service_rec *snap_service(const snapshot_header *s, uint32_t i) noexcept nogil:
    return <const service_rec *>(<const char *>s + s.services.off) + i

cdef inline const upstream_rec *snap_upstream(const snapshot_header *s, uint32_t i) noexcept nogil:
    return <const upstream_rec *>(<const char *>s + s.upstreams.off) + i

cdef inline const target_rec *snap_target(const snapshot_header *s, uint32_t i) noexcept nogil:
    return <const target_rec *>(<const char *>s + s.targets.off) + i

cdef inline const listener_rec *snap_listener(const snapshot_header *s, uint64_t id) noexcept nogil:
    """The record of a listener, by its id; NULL: it has none."""
    cdef const listener_rec *r = <const listener_rec *>(<const char *>s + s.listeners.off)
    cdef uint32_t i
    for i in range(s.listeners.count):
        if r[i].id == id:
            return r + i
    return NULL

# Whether it is outside the image.
cdef inline bint table_out(const snapshot_header *h, table_ref t, uint64_t item) noexcept nogil:
    if t.count == 0:
        return False
    return (t.off & 7) != 0 or t.off < sizeof(snapshot_header) or <uint64_t>t.off + t.count * item > h.size

cdef inline bint str_out(const snapshot_header *h, str_ref r) noexcept nogil:
    if r.len == 0:
        return False
    return r.off < sizeof(snapshot_header) or <uint64_t>r.off + r.len > h.size

cdef inline const auth_rec *snap_auth(const snapshot_header *s, uint32_t i) noexcept nogil:
    return <const auth_rec *>(<const char *>s + s.auths.off) + i

# ---- hashing ----------------------------------------------------------------------------
# One 64-bit hash for identities and the router's tables, but for nothing secret: eight bytes a step, the
# same result in every process, on every (little-endian) machine and in every version. Names in shared
# memory and in saved quotas are identified by it.
cdef enum:
    HASH_SEED = 0x46474154        # of `stable_hash`

cdef inline uint64_t hash64(const char *p, uint32_t length, uint64_t seed) noexcept nogil:
    cdef uint64_t h = seed ^ (<uint64_t>length * <uint64_t>0x9E3779B97F4A7C15)
    cdef uint64_t w
    cdef uint32_t a, b
    while length >= 8:
        memcpy(&w, p, 8)
        h = (h ^ w) * <uint64_t>0xD6E8FEB86659FD93
        h ^= h >> 32
        p += 8
        length -= 8
    if length >= 4:
        memcpy(&a, p, 4)
        memcpy(&b, p + length - 4, 4)
        w = <uint64_t>a | (<uint64_t>b << 32)
    elif length:
        w = (<uint64_t>(<const uint8_t *>p)[0]
             | (<uint64_t>(<const uint8_t *>p)[length >> 1] << 8)
             | (<uint64_t>(<const uint8_t *>p)[length - 1] << 16))
    else:
        w = 0
    h = (h ^ w) * <uint64_t>0xC2B2AE3D27D4EB4F
    h ^= h >> 29
    h *= <uint64_t>0x9E3779B97F4A7C15
    return h ^ (h >> 32)

cdef enum:
    HUGE = 2 << 20            # bytes of a huge page; larger images are a multiple of it

cdef void *map_image(int fd, uint64_t size, int prot, int flags) noexcept
    # mmap of the whole image; MAP_FAILED if there is no memory
cdef uint64_t image_checksum(const char *base, uint64_t size) noexcept nogil
    # size: a multiple of 32
cdef uint64_t checksum_without(const char *base, uint64_t size, bint whole) noexcept nogil
