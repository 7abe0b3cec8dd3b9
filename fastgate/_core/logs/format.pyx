"""format: log records as text, fast enough that requests do not slow down.

Rendering is the larger part of the cost of a request's log line, so it is C over one output buffer:
literals and numbers are copied, the date is rendered once a second, and text is scanned eight bytes
at a time for anything that needs escaping.

**JSON.** One object a line. Always included: time, id, client, port, method, host, path, status,
bytes_in, bytes_out, duration_ms, worker, generation. Other fields only if they apply. Times
are RFC 3339 in UTC with microseconds, durations are milliseconds with three decimals, phases
are microseconds after the start. Texts may contain any bytes: quotes, backslashes and control
characters are escaped, and what is not UTF-8 becomes U+FFFD, one for each maximal part of a
sequence (as in Python's "replace"), so that every line is valid JSON in UTF-8.

**Combined.** The format that every log tool reads. The referer is not recorded. Quotes, backslashes
and everything that is not printable ASCII are written as \\xHH.
"""
from libc.stdint cimport uint16_t, uint64_t, uint8_t
from libc.string cimport memcpy, memset, strlen

from fastgate._core.shared.log_ring cimport (
    LOG_ABORTED, LOG_CERTIFICATE, LOG_DELAYED, LOG_HTTP_1_0, LOG_KEEP_ALIVE, LOG_TLS, LOG_TUNNEL, LOG_UPCALL,
    LOG_UPSTREAM_REUSED, PHASES, PHASE_NEVER, TEXTS, TEXT_CONSUMER, TEXT_HOST, TEXT_LIMIT, TEXT_METHOD, TEXT_PATH, TEXT_QUERY, TEXT_ROUTE, TEXT_SERVICE,
    TEXT_TARGET, TEXT_USER_AGENT)
from fastgate._core.reason cimport reason_text
from fastgate._core.platform.text cimport put_hex, put_lit
from fastgate._core.http.head import ParseFault
from fastgate._core.tls.faults import TlsFault
from fastgate._core.tokens.faults import TokenFault
from fastgate._core.shared.log_ring import PHASE_NAMES

cdef extern from "<arpa/inet.h>" nogil:
    int AF_INET6
    const char *inet_ntop(int family, const void *address, char *out, unsigned int size)

cdef enum:
    KNOWN_FAULTS = 128
    FAULT_ROOM = 48
    PHASE_ROOM = 24
    NS_PER_S = 1000000000
    DAY_S = 86400

cdef char DIGITS[200]                        # "00" to "99"
cdef uint8_t PLAIN[256]                      # 1: may appear unescaped within a JSON string
cdef char PHASE_KEYS[PHASES][PHASE_ROOM]     # '"read_head":'
cdef uint8_t PHASE_KEY_LENS[PHASES]
cdef char FAULTS[KNOWN_FAULTS][FAULT_ROOM]
cdef const char *MONTHS = b"JanFebMarAprMayJunJulAugSepOctNovDec"


cdef _fill():
    cdef int i
    cdef bytes text
    for i in range(100):
        text = b"%02d" % i
        memcpy(DIGITS + 2 * i, <const char *>text, 2)
    for i in range(256):
        PLAIN[i] = 0x20 <= i < 0x80 and i != 0x22 and i != 0x5C
    for i, name in enumerate(PHASE_NAMES):
        text = b'"%s":' % name.encode("ascii")
        if len(text) > PHASE_ROOM:
            raise AssertionError(f"the name of phase {name} is too long")
        memcpy(PHASE_KEYS[i], <const char *>text, len(text))
        PHASE_KEY_LENS[i] = <uint8_t>len(text)
    for i in range(KNOWN_FAULTS):
        text = b"fault_%d" % i
        memcpy(FAULTS[i], <const char *>text, len(text))
    for name, member in [
            *ParseFault.__members__.items(), *TlsFault.__members__.items(), *TokenFault.__members__.items()]:
        text = name.removeprefix("FAULT_").lower().encode("ascii")
        i = int(member)
        if i >= KNOWN_FAULTS or len(text) >= FAULT_ROOM:
            raise AssertionError(f"no room for the name of {name}")
        memset(FAULTS[i], 0, FAULT_ROOM)
        memcpy(FAULTS[i], <const char *>text, len(text))


_fill()


def fault_name(number: int) -> str:
    """The name of a ParseFault or TlsFault as in log lines; "" for 0."""
    if number == 0:
        return ""
    return FAULTS[min(number, KNOWN_FAULTS - 1)].decode("ascii")


# ---- pieces ---------------------------------------------------------------------------

cdef inline char *put_two(char *p, uint32_t n) noexcept nogil:
    memcpy(p, DIGITS + 2 * n, 2)
    return p + 2


cdef inline char *put_number(char *p, uint64_t n) noexcept nogil:
    """Most are short: those are written in place directly, without a second copy."""
    cdef uint32_t high, low
    if n >= 10000:
        return put_long(p, n)
    high = <uint32_t>n // 100
    low = <uint32_t>n % 100
    if high >= 10:
        return put_two(put_two(p, high), low)
    if high:
        p[0] = <char>(c'0' + high)
        return put_two(p + 1, low)
    if low >= 10:
        return put_two(p, low)
    p[0] = <char>(c'0' + low)
    return p + 1


cdef char *put_long(char *p, uint64_t n) noexcept nogil:
    cdef uint64_t rest = n
    cdef uint32_t at = 1
    cdef char *end
    while rest >= 10:
        rest //= 10
        at += 1
    end = p + at
    while n >= 100:
        at -= 2
        put_two(p + at, <uint32_t>(n % 100))
        n //= 100
    if n >= 10:
        put_two(p, <uint32_t>n)
    else:
        p[0] = <char>(c'0' + n)
    return end


cdef inline char *put_ms(char *p, uint64_t ns) noexcept nogil:
    """Nanoseconds as milliseconds with three decimals, truncated."""
    cdef uint64_t us = ns // 1000
    cdef uint32_t rest = <uint32_t>(us % 1000)
    p = put_number(p, us // 1000)
    p[0] = c'.'
    p[1] = <char>(c'0' + rest // 100)
    return put_two(p + 2, rest % 100)


cdef uint32_t utf8_length(const uint8_t *s, uint32_t n, bint *valid) noexcept nogil:
    """Length of the UTF-8 sequence at s (its first byte is >= 0x80) or, if it is invalid, of the part
    that is replaced by a single U+FFFD (Unicode 3.9, table 3-7)."""
    cdef uint8_t first = s[0], low = 0x80, high = 0xBF
    cdef uint32_t want, i
    valid[0] = False
    if first < 0xC2 or first > 0xF4:
        return 1
    if first < 0xE0:
        want = 2
    elif first < 0xF0:
        want = 3
        if first == 0xE0:
            low = 0xA0
        elif first == 0xED:
            high = 0x9F
    else:
        want = 4
        if first == 0xF0:
            low = 0x90
        elif first == 0xF4:
            high = 0x8F
    for i in range(1, want):
        if i >= n or s[i] < low or s[i] > high:
            return i
        low = 0x80
        high = 0xBF
    valid[0] = True
    return want


cdef char *put_escaped(char *p, const uint8_t *s, uint32_t n) noexcept nogil:
    """The slow path of put_text: byte by byte, for any input."""
    cdef uint32_t i = 0, length
    cdef uint8_t c
    cdef bint valid
    while i < n:
        c = s[i]
        if PLAIN[c]:
            p[0] = <char>c
            p += 1
            i += 1
        elif c >= 0x80:
            length = utf8_length(s + i, n - i, &valid)
            if valid:
                memcpy(p, s + i, length)
                p += length
            else:
                p = put_lit(p, b"\xef\xbf\xbd")
            i += length
        else:
            i += 1
            p[0] = c'\\'
            if c == c'"' or c == c'\\':
                p[1] = <char>c
                p += 2
            elif c == c'\n':
                p[1] = c'n'
                p += 2
            elif c == c'\t':
                p[1] = c't'
                p += 2
            elif c == c'\r':
                p[1] = c'r'
                p += 2
            else:
                p = put_hex(put_lit(p, b"\\u00"), &c, 1)
    return p


cdef inline uint64_t needs_escape(uint64_t w) noexcept nogil:
    """Non-zero if one of the eight bytes is below 0x20, a quote, a backslash, or above 0x7f.

    Each term sets the top bit of a byte that is zero after the exclusive or, or too small; a
    borrow can only come from a byte that is itself marked, so no bad word is missed.
    """
    cdef uint64_t ones = 0x0101010101010101, tops = 0x8080808080808080
    cdef uint64_t quote = w ^ (ones * 0x22), slash = w ^ (ones * 0x5C)
    return (w | (w - ones * 0x20) | (quote - ones) | (slash - ones)) & tops


cdef inline char *put_text(char *p, const char *s, uint32_t n) noexcept nogil:
    """A text within a JSON string."""
    cdef uint32_t i = 0
    cdef uint64_t w
    while n - i >= 8:
        memcpy(&w, s + i, 8)
        memcpy(p + i, &w, 8)
        if needs_escape(w):
            return put_escaped(p + i, <const uint8_t *>s + i, n - i)
        i += 8
    if i and i < n:
        # The remaining bytes, together with some before them, as one word that ends with the text.
        memcpy(&w, s + n - 8, 8)
        if not needs_escape(w):
            memcpy(p + n - 8, &w, 8)
            return p + n
    while i < n:
        if not PLAIN[<uint8_t>s[i]]:
            return put_escaped(p + i, <const uint8_t *>s + i, n - i)
        p[i] = s[i]
        i += 1
    return p + n


cdef char *put_visible(char *p, const uint8_t *s, uint32_t n) noexcept nogil:
    """A text within the quotes of the combined format; "-" if it is empty."""
    cdef uint32_t i
    if n == 0:
        return put_lit(p, b"-")
    for i in range(n):
        if s[i] < 0x7F and PLAIN[s[i]]:
            p[0] = <char>s[i]
            p += 1
        else:
            p = put_hex(put_lit(p, b"\\x"), s + i, 1)
    return p


cdef uint32_t format_address(const log_record *r, char *out) noexcept nogil:
    cdef const uint8_t *a = &r.address[0]
    cdef uint64_t high
    cdef uint32_t middle
    cdef char *p = out
    memcpy(&high, a, 8)
    memcpy(&middle, a + 8, 4)
    if high == 0 and middle == <uint32_t>0xFFFF0000U:    # ::ffff:a.b.c.d
        p = put_number(p, a[12])
        p[0] = c'.'
        p = put_number(p + 1, a[13])
        p[0] = c'.'
        p = put_number(p + 1, a[14])
        p[0] = c'.'
        p = put_number(p + 1, a[15])
        return <uint32_t>(p - out)
    inet_ntop(AF_INET6, a, out, 46)
    return <uint32_t>strlen(out)


# ---- the date -------------------------------------------------------------------------

cdef void set_clock(line_clock *clock, int64_t second) noexcept nogil:
    """Days to year, month, day, in eras of 400 years that begin on the first of March."""
    cdef int64_t days = second // DAY_S + 719468
    cdef uint32_t of_day = <uint32_t>(second % DAY_S)
    cdef int64_t era = days // 146097
    cdef uint32_t of_era = <uint32_t>(days - era * 146097)
    cdef uint32_t year_of_era = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    cdef uint32_t of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    cdef uint32_t march = (5 * of_year + 2) // 153
    cdef uint32_t day = of_year - (153 * march + 2) // 5 + 1
    cdef uint32_t month = march + 3 if march < 10 else march - 9
    cdef uint32_t year = <uint32_t>(era * 400) + year_of_era + (1 if month <= 2 else 0)
    cdef char *p = put_two(put_two(clock.rfc3339, year // 100), year % 100)
    p[0] = c'-'
    p = put_two(p + 1, month)
    p[0] = c'-'
    p = put_two(p + 1, day)
    p[0] = c'T'
    p = put_two(p + 1, of_day // 3600)
    p[0] = c':'
    p = put_two(p + 1, of_day // 60 % 60)
    p[0] = c':'
    p = put_two(p + 1, of_day % 60)
    p[0] = c'.'
    p = put_two(clock.clf, day)
    p[0] = c'/'
    memcpy(p + 1, MONTHS + 3 * (month - 1), 3)
    p[4] = c'/'
    p = put_two(put_two(p + 5, year // 100), year % 100)
    p[0] = c':'
    memcpy(p + 1, clock.rfc3339 + 11, 8)
    put_lit(p + 9, b" +0000")
    clock.second = second + 1


cdef inline uint32_t tick(line_clock *clock, int64_t unix_ns) noexcept nogil:
    """Set the clock to this time; returns its microseconds. Times before 1970 count as 1970."""
    cdef int64_t second
    if unix_ns < 0:
        unix_ns = 0
    second = unix_ns // NS_PER_S
    if clock.second != second + 1:
        set_clock(clock, second)
    return <uint32_t>(unix_ns % NS_PER_S) // 1000


# ---- lines ----------------------------------------------------------------------------

cdef inline char *put_phases(char *p, const log_record *r) noexcept nogil:
    cdef int i
    p = put_lit(p, b',"phases":{')
    for i in range(PHASES):
        if r.phase_us[i] != PHASE_NEVER and PHASE_KEY_LENS[i]:
            memcpy(p, PHASE_KEYS[i], PHASE_ROOM)
            p = put_number(p + PHASE_KEY_LENS[i], r.phase_us[i])
            p[0] = c','
            p += 1
    if (p - 1)[0] == c',':
        p -= 1
    return put_lit(p, b"}")


cdef inline uint64_t any_byte(const uint8_t *bytes) noexcept nogil:
    cdef uint64_t w
    memcpy(&w, bytes, 8)
    return w


cdef struct texts_of:         # where each text of a record begins
    const char *at[TEXTS]
    uint32_t len[TEXTS]


cdef inline void find_texts(const log_record *r, texts_of *t) noexcept nogil:
    cdef const char *p = &r.text[0]
    cdef int i
    for i in range(<int>TEXTS):
        t.at[i] = p
        t.len[i] = r.lens[i]
        p += r.lens[i]


cdef inline char *put_member(char *p, const char *key, const texts_of *t, int which) noexcept nogil:
    """`key` (with all its punctuation) and text `which` as a string; nothing if it is empty."""
    if t.len[which] == 0:
        return p
    p = put_text(put_lit(p, key), t.at[which], t.len[which])
    p[0] = c'"'
    return p + 1


cdef inline char *put_required(char *p, const char *key, const texts_of *t, int which) noexcept nogil:
    """The same, even if it is empty, and without the closing quote."""
    return put_text(put_lit(p, key), t.at[which], t.len[which])


cdef inline char *put_field(char *p, const char *before, const texts_of *t, int which) noexcept nogil:
    """A text in the combined format."""
    return put_visible(put_lit(p, before), <const uint8_t *>t.at[which], t.len[which])


cdef uint32_t format_json(const log_record *r, char *out, line_clock *clock, bint phases) noexcept nogil:
    cdef texts_of t
    cdef const char *name
    cdef uint32_t length, micros = tick(clock, r.started_unix_ns)
    cdef char *p = out
    find_texts(r, &t)
    p = put_lit(p, b'{"time":"')
    memcpy(p, clock.rfc3339, 20)
    p = put_two(p + 20, micros // 10000)
    p = put_two(p, micros // 100 % 100)
    p = put_two(p, micros % 100)
    p = put_hex(put_lit(p, b'Z","id":"'), r.request_id, 16)
    p = put_lit(p, b'","client":"')
    p += format_address(r, p)
    p = put_number(put_lit(p, b'","port":'), r.port)
    p = put_required(p, b',"method":"', &t, TEXT_METHOD)
    p = put_required(p, b'","host":"', &t, TEXT_HOST)
    p = put_required(p, b'","path":"', &t, TEXT_PATH)
    if t.len[<int>TEXT_QUERY]:
        p = put_required(p, b'","query":"', &t, TEXT_QUERY)
    p = put_number(put_lit(p, b'","status":'), r.status)
    if r.reason:
        name = reason_text(r.reason, &length)
        p = put_lit(p, b',"reason":"')
        memcpy(p, name, length)
        p = put_lit(p + length, b'"')
    if r.fault:
        name = &FAULTS[min(r.fault, <uint16_t>(KNOWN_FAULTS - 1))][0]
        length = <uint32_t>strlen(name)
        p = put_lit(p, b',"fault":"')
        memcpy(p, name, length)
        p = put_lit(p + length, b'"')
    p = put_member(p, b',"limit":"', &t, TEXT_LIMIT)
    p = put_member(p, b',"route":"', &t, TEXT_ROUTE)
    p = put_member(p, b',"service":"', &t, TEXT_SERVICE)
    p = put_member(p, b',"consumer":"', &t, TEXT_CONSUMER)
    p = put_number(put_lit(p, b',"bytes_in":'), r.bytes_in)
    p = put_number(put_lit(p, b',"bytes_out":'), r.bytes_out)
    p = put_ms(put_lit(p, b',"duration_ms":'), r.duration_ns)
    p = put_member(p, b',"target":"', &t, TEXT_TARGET)
    if r.attempts:
        p = put_number(put_lit(p, b',"attempts":'), r.attempts)
        p = put_ms(put_lit(p, b',"upstream_ms":'), r.upstream_ns)
        if r.flags & LOG_UPSTREAM_REUSED:
            p = put_lit(p, b',"reused":true')
    if r.flags & LOG_KEEP_ALIVE:
        p = put_lit(p, b',"keep_alive":true')
    if r.flags & LOG_TLS:
        p = put_lit(p, b',"tls":true')
    if r.flags & (LOG_CERTIFICATE | LOG_UPCALL | LOG_TUNNEL | LOG_ABORTED | LOG_HTTP_1_0 | LOG_DELAYED):
        if r.flags & LOG_CERTIFICATE:
            p = put_lit(p, b',"client_certificate":true')
        if r.flags & LOG_HTTP_1_0:
            p = put_lit(p, b',"http_1_0":true')
        if r.flags & LOG_UPCALL:
            p = put_lit(p, b',"upcall":true')
        if r.flags & LOG_TUNNEL:
            p = put_lit(p, b',"tunnel":true')
        if r.flags & LOG_ABORTED:
            p = put_lit(p, b',"aborted":true')
        if r.flags & LOG_DELAYED:
            p = put_lit(p, b',"delayed":true')
    if r.amount_micros:
        p = put_number(put_lit(p, b',"amount_micros":'), r.amount_micros)
    p = put_member(p, b',"user_agent":"', &t, TEXT_USER_AGENT)
    if any_byte(r.trace_id) | any_byte(r.trace_id + 8):
        p = put_hex(put_lit(p, b',"trace":"'), r.trace_id, 16)
        p = put_hex(put_lit(p, b'","span":"'), r.span_id, 8)
        p = put_lit(p, b'"')
    p = put_number(put_lit(p, b',"worker":'), r.worker)
    p = put_number(put_lit(p, b',"generation":'), r.generation)
    if phases:
        p = put_phases(p, r)
    p = put_lit(p, b"}\n")
    return <uint32_t>(p - out)


cdef uint32_t format_combined(const log_record *r, char *out, line_clock *clock) noexcept nogil:
    cdef texts_of t
    cdef char *p = out
    find_texts(r, &t)
    tick(clock, r.started_unix_ns)
    p += format_address(r, p)
    p = put_field(p, b" - ", &t, TEXT_CONSUMER)
    p = put_lit(p, b" [")
    memcpy(p, clock.clf, 26)
    p = put_field(p + 26, b'] "', &t, TEXT_METHOD)
    p = put_field(p, b" ", &t, TEXT_PATH)
    if t.len[<int>TEXT_QUERY]:
        p = put_field(p, b"?", &t, TEXT_QUERY)
    p = put_lit(p, b' HTTP/1.0" ') if r.flags & LOG_HTTP_1_0 else put_lit(p, b' HTTP/1.1" ')
    p = put_number(p, r.status)
    p = put_number(put_lit(p, b" "), r.bytes_out)
    p = put_field(p, b' "-" "', &t, TEXT_USER_AGENT)
    p = put_lit(p, b'"\n')
    return <uint32_t>(p - out)
