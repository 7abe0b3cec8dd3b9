"""Reasons: why an exchange ended, as stable numbers. `fastgate/errors.py` gives each its
name, status and text; a test compares the two lists. Never renumber: the numbers are in shared
memory and in logs. Any unused number will do; related ones are together as far as there is room."""
from libc.stdint cimport uint8_t, uint32_t

cpdef enum Reason:
    REASON_NONE = 0
    # 400
    MALFORMED_REQUEST = 1
    AMBIGUOUS_FRAMING = 2
    BAD_TARGET = 3
    BAD_HOST = 4
    HTTPS_REQUIRED = 5
    REQUEST_INVALID = 6
    # 401
    CREDENTIAL_MISSING = 10
    CREDENTIAL_UNKNOWN = 11
    CREDENTIAL_EXPIRED = 12
    CREDENTIAL_REVOKED = 13
    TOKEN_INVALID = 14
    # 402
    INSUFFICIENT_BALANCE = 20
    SUBSCRIPTION_EXPIRED = 21
    SUBSCRIPTION_PAST_DUE = 22
    SPENDING_LIMIT_REACHED = 23
    QUOTA_EXHAUSTED_UPGRADE = 24
    PAYMENT_FAILED = 25
    PAYMENT_ACTION_REQUIRED = 26
    PAYMENT_REQUIRED = 27
    PAYMENT_INVALID = 28
    PAYMENT_METHOD_MISSING = 29
    # 403
    NOT_SUBSCRIBED = 40
    FORBIDDEN = 41
    CONSUMER_SUSPENDED = 42
    ADDRESS_DENIED = 43
    SUBSCRIPTION_PAUSED = 44
    CERTIFICATE_REQUIRED = 45
    INSUFFICIENT_SCOPE = 46
    SUBJECT_UNKNOWN = 47
    # 404, 405, 406, 408, 410, 413, 414, 417, 421, 431
    NO_ROUTE = 50
    METHOD_NOT_ALLOWED = 51
    NOT_ACCEPTABLE = 52
    REQUEST_TIMEOUT = 53
    ROUTE_RETIRED = 54
    BODY_TOO_LARGE = 55
    TARGET_TOO_LONG = 56
    HEADERS_TOO_LARGE = 57
    EXPECTATION_FAILED = 58
    MISDIRECTED_REQUEST = 59
    # 429
    RATE_LIMITED = 60
    QUOTA_EXHAUSTED = 61
    CONCURRENCY_LIMITED = 62
    HOLD_IN_FLIGHT = 63
    # the status that its route says
    FAULT_INJECTED = 64
    # 500, 501, 505, 503, 502, 504
    INTERNAL_ERROR = 70
    NOT_IMPLEMENTED = 71
    VERSION_NOT_SUPPORTED = 72
    ACCOUNT_NOT_LOADED = 73
    MAINTENANCE = 74
    UPSTREAM_TLS_FAILED = 75
    AUTHORIZATION_UNAVAILABLE = 76
    DEADLINE_EXCEEDED = 77
    # 502, 503, 504, 508
    UPSTREAM_INVALID_RESPONSE = 80
    UPSTREAM_CONNECT_FAILED = 81
    UPSTREAM_RESET = 82
    NO_HEALTHY_TARGET = 83
    OVERLOADED = 84
    DRAINING = 85
    PAYMENT_PROVIDER_UNAVAILABLE = 86
    SETTLEMENT_UNKNOWN = 87
    UPSTREAM_TIMEOUT = 88
    LOOP_DETECTED = 89
    # Ends without an answer of ours: the client left, or the relayed answer broke off.
    CLIENT_CLOSED = 100
    RESPONSE_TRUNCATED = 101
    TUNNEL_CLOSED = 102
    CLIENT_TIMEOUT = 103
    REASON_COUNT = 160        # numbers up to here; those without a name are free

# The stable name ("rate_limited") of a reason, for text written in C: NUL-terminated, always
# valid, its length in *length. "" for REASON_NONE; "reason_<n>" for a number without a name.
cdef const char *reason_text(uint32_t reason, uint32_t *length) noexcept nogil

cdef inline bint failed_here(uint32_t reason, uint32_t status) noexcept nogil:
    """Whether an exchange that ended so failed on our side or upstream, not because of its client or on purpose."""
    return (status >= 500 or INTERNAL_ERROR <= reason < CLIENT_CLOSED) and reason != FAULT_INJECTED \
        and reason != MAINTENANCE
