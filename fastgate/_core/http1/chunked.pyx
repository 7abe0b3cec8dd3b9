"""chunked: the chunked transfer coding (RFC 9112 7.1), strict, resumable, in place.

One state machine reads the body; two functions write what it found back over the same buffer:

    chunk_decode   the data alone
    chunk_relay    the same body, canonical: no extensions, no trailers, no padding

    SIZE ──digits──► DIGITS ──";"──► EXT_NAME … ──CR──► SIZE_LF ─┬─ size > 0 ─► DATA
      ▲                 └────────────CR──────────────────▲       │                │
      │                                                          │            CR, LF
      └──────────────────────────────────────────────────────────┼────────────────┘
                                                                 └─ size = 0 ─► TRAILER
    TRAILER ──tchar──► NAME ──":"──► VALUE ──CR LF──► TRAILER        TRAILER ──CR LF──► DONE

Writing in place is safe because the writer never overtakes the reader, however the input is split:
each octet read allows at most one octet to be written. The end of a size line is an example: its CR
is written when the first octet after the digits is read (";" or CR), its LF when the LF is read. This
is also why a zero-padded size keeps one zero: its first digit must be written when it is read, and
"0" may still turn out to be the last chunk.

Refused (-MALFORMED_REQUEST): whitespace, a sign or "0x" at a size; a size over 2^62 or with more
than 16 digits; an extension other than *( ";" token [ "=" ( token / quoted-string ) ] ) without
whitespace; any line end but CRLF; control characters; a trailer that is not a field line; and more
than CHUNK_EXTRA_MAX octets of extensions and trailers in one body. Without that limit, a sender
could make the gateway read forever what is never forwarded.
"""
from libc.string cimport memmove, memset

from fastgate._core.platform.chars cimport CH_TEXT, CH_TOKEN, fg_hex, is_class
from fastgate._core.reason cimport MALFORMED_REQUEST

cdef enum State:
    SIZE                      # the first digit
    DIGITS
    EXT_NAME                  # its first character, after ";"
    EXT_NAME_MORE
    EXT_VALUE                 # its first character, after "="
    EXT_TOKEN
    EXT_QUOTED
    EXT_ESCAPED               # after a backslash in a quoted string
    EXT_DONE                  # after the closing quote
    SIZE_LF
    DATA
    DATA_CR
    DATA_LF
    TRAILER                   # the start of a line
    NAME
    VALUE
    TRAILER_LF
    END_LF
    DONE
    FAILED

cdef enum:
    MAX_DIGITS = 16

cdef uint64_t MAX_CHUNK = <uint64_t>1 << 62


cdef void chunk_reset(chunk_state *s) noexcept nogil:
    memset(s, 0, sizeof(chunk_state))


cdef inline int _extra(chunk_state *s, uint8_t state) noexcept nogil:
    """Go on to `state` after one more octet of an extension or a trailer."""
    s.extension += 1
    s.state = state
    return CHUNK_FAULT_EXTRA if s.extension > CHUNK_EXTRA_MAX else 0


cdef int _step(chunk_state *s, char c) noexcept nogil:
    """Take one octet outside of data; returns a ChunkFault, or 0. A state machine without output."""
    cdef uint8_t digit
    if s.state == SIZE or s.state == DIGITS:
        digit = fg_hex(<uint8_t>c)
        if digit != 0xff:
            s.digits += 1
            s.remaining = (s.remaining << 4) | digit
            s.state = DIGITS
            # 16 digits fill the word: the check before the next shift would lose them
            return CHUNK_FAULT_OVERFLOW if s.digits > MAX_DIGITS or s.remaining > MAX_CHUNK else 0
        if s.state == SIZE:
            return CHUNK_FAULT_SIZE
        if c == c";":
            return _extra(s, EXT_NAME)
        if c == c"\r":
            s.state = SIZE_LF
            return 0
        return CHUNK_FAULT_LINE if c == c"\n" else CHUNK_FAULT_SIZE
    if s.state == SIZE_LF:
        if c != c"\n":
            return CHUNK_FAULT_LINE
        s.digits = 0
        s.state = DATA if s.remaining else TRAILER
        return 0
    if s.state == DATA_CR:
        s.state = DATA_LF
        return 0 if c == c"\r" else CHUNK_FAULT_DATA
    if s.state == DATA_LF:
        s.state = SIZE
        return 0 if c == c"\n" else CHUNK_FAULT_DATA
    if s.state == TRAILER:
        if c == c"\r":
            s.state = END_LF
            return 0
        return _extra(s, NAME) if is_class(c, CH_TOKEN) else CHUNK_FAULT_TRAILER
    if s.state == NAME:
        if c == c":":
            return _extra(s, VALUE)
        return _extra(s, NAME) if is_class(c, CH_TOKEN) else CHUNK_FAULT_TRAILER
    if s.state == VALUE:
        if c == c"\r":
            return _extra(s, TRAILER_LF)
        if is_class(c, CH_TEXT):
            return _extra(s, VALUE)
        return CHUNK_FAULT_LINE if c == c"\n" else CHUNK_FAULT_TRAILER
    if s.state == TRAILER_LF:
        return _extra(s, TRAILER) if c == c"\n" else CHUNK_FAULT_LINE
    if s.state == END_LF:
        s.state = DONE
        return 0 if c == c"\n" else CHUNK_FAULT_LINE
    return _extension(s, c)


cdef int _extension(chunk_state *s, char c) noexcept nogil:
    """The states EXT_*."""
    if s.state == EXT_QUOTED:
        if c == c'"':
            return _extra(s, EXT_DONE)
        if not is_class(c, CH_TEXT):
            return CHUNK_FAULT_EXTENSION
        return _extra(s, EXT_ESCAPED if c == c"\\" else EXT_QUOTED)
    if s.state == EXT_ESCAPED:
        return _extra(s, EXT_QUOTED) if is_class(c, CH_TEXT) else CHUNK_FAULT_EXTENSION
    if is_class(c, CH_TOKEN):
        if s.state == EXT_NAME or s.state == EXT_NAME_MORE:
            return _extra(s, EXT_NAME_MORE)
        if s.state == EXT_VALUE or s.state == EXT_TOKEN:
            return _extra(s, EXT_TOKEN)
        return CHUNK_FAULT_EXTENSION
    if c == c'"' and s.state == EXT_VALUE:
        return _extra(s, EXT_QUOTED)
    if c == c"=" and s.state == EXT_NAME_MORE:
        return _extra(s, EXT_VALUE)
    if s.state == EXT_NAME or s.state == EXT_VALUE:
        return CHUNK_FAULT_EXTENSION
    # a name, a token or a closing quote may be followed by the next extension or by the end
    if c == c";":
        return _extra(s, EXT_NAME)
    if c == c"\r":
        s.state = SIZE_LF
        return 0
    return CHUNK_FAULT_LINE if c == c"\n" else CHUNK_FAULT_EXTENSION


cdef int _run(chunk_state *s, char *buf, uint32_t length, uint32_t *consumed,
              uint32_t *out_len, bint relay) noexcept nogil:
    cdef uint32_t i = 0, o = 0, n
    cdef uint8_t before
    cdef int fault
    cdef char c
    while i < length and s.state < DONE:
        if s.state == DATA:
            n = length - i
            if s.remaining < n:
                n = <uint32_t>s.remaining
            if o != i:
                memmove(buf + o, buf + i, n)
            i += n
            o += n
            s.total += n
            s.remaining -= n
            if s.remaining == 0:
                s.state = DATA_CR
            continue
        c = buf[i]
        before = s.state
        fault = _step(s, c)
        if fault:
            s.state = FAILED
            s.fault = <uint16_t>fault
            break
        i += 1
        if not relay:
            continue
        # what the octet allows to be written; see the module's docstring on never overtaking
        if before == DIGITS and s.state == DIGITS:
            if s.remaining == 0:
                continue              # padding: the first zero is already written
        elif before == DIGITS:
            c = c"\r"                 # the digits have ended: ";" or CR
        elif EXT_NAME <= before <= EXT_DONE or TRAILER <= before <= TRAILER_LF:
            if s.state != END_LF:
                continue
        buf[o] = c
        o += 1
    consumed[0] = i
    out_len[0] = o
    if s.state == DONE:
        return CHUNK_END
    return -MALFORMED_REQUEST if s.state == FAILED else CHUNK_MORE


cdef int chunk_relay(chunk_state *s, char *buf, uint32_t length,
                     uint32_t *consumed, uint32_t *out_len) noexcept nogil:
    return _run(s, buf, length, consumed, out_len, True)


cdef int chunk_decode(chunk_state *s, char *buf, uint32_t length,
                      uint32_t *consumed, uint32_t *out_len) noexcept nogil:
    return _run(s, buf, length, consumed, out_len, False)
