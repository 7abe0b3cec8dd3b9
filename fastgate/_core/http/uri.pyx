"""uri: hosts and ports, and the one canonical spelling of a path.

Authorities (Host, absolute-form and authority-form targets) are `host [":" port]`:

    name      letters, digits, "-", ".", "_", "~"; no empty label; at most 255 octets; one
              final dot is accepted and left out of `host_len`, so that "a.example." is
              routed as "a.example"
    IPv4      is spelt like a name
    IPv6      "[" eight groups, or fewer with one "::", the last two optionally as IPv4 "]";
              zone identifiers and IPvFuture are refused
    port      1 to 5 digits, 0..65535; a colon without digits is refused

Percent-escapes, sub-delimiters ("a,b"), userinfo, paths and whitespace are refused. This is
stricter than RFC 3986's reg-name: two peers must never read different hosts from one value.

The canonical path is what FastGate routes, limits, logs and forwards, so that no two parts
of a deployment can disagree about which resource was requested:

    escape of an unreserved character      decoded            /%61 → /a
    any other escape                       upper-cased        /%c3%a9 → /%C3%A9
    "//"                                   merged             /a//b → /a/b
                                           kept, if asked     /a//b (an empty segment)
    "." and ".." segments, also escaped    removed            /a/%2e%2e/b → /b
    above the root                         refused            /a/../../b
    "..;x" and ".;x", also escaped         refused (some servers drop the parameter and
                                           then see a dot segment)
    %00, incomplete escape, raw octet that RFC 3986 and the URL standard escape: refused
    %2f, %5c, "\\"                          refused; if a route allows them: %2F, %5C, and a
                                           dot segment between them is still refused

Everything else stays, including `;params`. Escapes are decoded once: "%252e" stays. The result is a
fixed point: its own canonical path is itself.
"""
from libc.stdint cimport uint8_t

from fastgate._core.platform.chars cimport CH_DIGIT, CH_HOST, CH_NAME, CH_PATH, CH_UNRESERVED, fg_hex, is_class
from fastgate._core.platform.text cimport put_escape
from fastgate._core.reason cimport BAD_TARGET, TARGET_TOO_LONG

cdef enum:
    MAX_NAME = 255


cdef int _ipv4(const char *p, uint32_t length) noexcept nogil:
    """Whether the whole text is four decimal octets without leading zeros."""
    cdef uint32_t i = 0, start, value
    cdef int part
    for part in range(4):
        if part:
            if i >= length or p[i] != c".":
                return 0
            i += 1
        start = i
        value = 0
        while i < length and i - start < 3 and is_class(p[i], CH_DIGIT):
            value = value * 10 + <uint8_t>p[i] - 48
            i += 1
        if i == start or value > 255 or (i - start > 1 and p[start] == c"0"):
            return 0
    return i == length


cdef int _ipv6(const char *p, uint32_t length) noexcept nogil:
    """Whether the whole text is an IPv6 address, without brackets."""
    cdef uint32_t i = 0, start
    cdef int groups = 0, gap = 0
    if length >= 2 and p[0] == c":" and p[1] == c":":
        gap = 1
        i = 2
        if i == length:
            return 1
    while True:
        start = i
        while i < length and i - start < 5 and fg_hex(<uint8_t>p[i]) != 0xff:
            i += 1
        if i < length and p[i] == c".":
            if not _ipv4(p + start, length - start):
                return 0
            groups += 2
            i = length
        elif i == start or i - start > 4:
            return 0
        else:
            groups += 1
        if i == length:
            return groups == 8 if not gap else groups < 8
        if p[i] != c":":
            return 0
        i += 1
        if i < length and p[i] == c":":
            if gap:
                return 0
            gap = 1
            i += 1
            if i == length:
                return groups < 8
        if groups > 7:
            return 0


cdef int parse_authority(const char *p, uint32_t length, authority *out) noexcept nogil:
    cdef const char *at
    cdef uint32_t i = 0, n, digit, value = 0
    if length == 0:
        return AUTHORITY_EMPTY
    if p[0] == c"[":
        while i < length and p[i] != c"]":
            i += 1
        if i == length or not _ipv6(p + 1, i - 1):
            return AUTHORITY_HOST
        i += 1
        n = i
    else:
        at = p
        while True:
            while is_class(at[0], CH_NAME):      # nearly all characters of hosts
                at += 1
            if not is_class(at[0], CH_HOST):
                break
            # an empty label: a dot at the start, or after a dot
            if at[0] == c"." and (at == p or (at - 1)[0] == c"."):
                return AUTHORITY_HOST
            at += 1
        i = <uint32_t>(at - p)
        n = i
        if n and p[n - 1] == c".":
            n -= 1
        if n > MAX_NAME:
            return AUTHORITY_HOST
    out.port = -1
    if i < length:
        if p[i] != c":":
            while i < length and p[i] != c"@":
                i += 1
            return AUTHORITY_USERINFO if i < length else AUTHORITY_HOST
        out.port = 0
        i += 1
        if i == length or length - i > 5:
            return _after_colon(p + i, length - i)
        while i < length:
            digit = <uint32_t>(<uint8_t>p[i]) - 48
            if digit > 9:
                return _after_colon(p + i, length - i)
            value = value * 10 + digit
            i += 1
        if value > 65535:
            return AUTHORITY_PORT
        out.port = <int32_t>value
    if n == 0:
        return AUTHORITY_EMPTY
    out.host_len = n
    return AUTHORITY_OK


cdef int _after_colon(const char *p, uint32_t length) noexcept nogil:
    """What is wrong after a host and its colon: "user:password@host", or the port."""
    cdef uint32_t i
    for i in range(length):
        if p[i] == c"@":
            return AUTHORITY_USERINFO
    return AUTHORITY_PORT


cdef inline int _dots(const char *p, uint32_t length) noexcept nogil:
    """1: ".", 2: "..", else 0."""
    if length == 1 and p[0] == c".":
        return 1
    if length == 2 and p[0] == c"." and p[1] == c".":
        return 2
    return 0


cdef inline uint32_t _escaped(const char *p, uint32_t length, char c) noexcept nogil:
    """Length of a separator at p: the raw octet c or its upper-case escape; 0: neither."""
    if length and p[0] == c:
        return 1
    if length >= 3 and p[0] == c"%":
        if <uint8_t>((fg_hex(<uint8_t>p[1]) << 4) | fg_hex(<uint8_t>p[2])) == <uint8_t>c:
            return 3
    return 0


cdef int _hides_dots(const char *p, uint32_t length) noexcept nogil:
    """Whether a server may read a segment, not itself a dot segment, as one: a part of it
    between kept %2F, %5C and ";" is "." or ".."; of parameters only the name counts."""
    cdef uint32_t i = 0, start = 0, n
    cdef bint parameters = False
    while True:
        n = 0
        if i < length:
            n = _escaped(p + i, length - i, c"/")
            if not n:
                n = _escaped(p + i, length - i, c"\\")
        if n or i == length or (not parameters and _escaped(p + i, length - i, c";")):
            if not parameters and _dots(p + start, i - start):
                return 1
            if i == length:
                return 0
            parameters = n == 0
            i += n if n else 1
            start = i
        else:
            i += 1


cdef int normalize_path(const char *path, uint32_t length, char *out, uint32_t cap,
                        int allow_encoded_slash, int merge_slashes) noexcept nogil:
    cdef uint32_t i = 0, o = 0, start
    cdef uint8_t c, hi, lo
    cdef bint suspicious, due = True
    cdef int dots
    if length == 0 or path[0] != c"/":
        return -BAD_TARGET
    while i < length:
        # path[i] is a slash: it begins a segment; after a dot segment it is already written
        if due:
            if o >= cap:
                return -TARGET_TOO_LONG
            out[o] = c"/"
            o += 1
        due = True
        i += 1
        if merge_slashes:
            while i < length and path[i] == c"/":
                i += 1
        start = o
        suspicious = False
        while i < length and path[i] != c"/":
            if cap - o < 3 and (cap == o or path[i] == c"%" or path[i] == c"\\"):
                # an escape may decode to one octet that still fits
                if cap == o or path[i] == c"\\" or not _decodes(path + i, length - i):
                    return -TARGET_TOO_LONG
            c = <uint8_t>path[i]
            if c == c"%":
                if length - i < 3:
                    return -BAD_TARGET
                hi = fg_hex(<uint8_t>path[i + 1])
                lo = fg_hex(<uint8_t>path[i + 2])
                if (hi | lo) == 0xff or (hi | lo) == 0:
                    return -BAD_TARGET
                c = <uint8_t>((hi << 4) | lo)
                i += 3
                if is_class(<char>c, CH_UNRESERVED):
                    out[o] = <char>c
                    o += 1
                    continue
            elif is_class(<char>c, CH_PATH):
                suspicious |= c == c";"
                out[o] = <char>c
                o += 1
                i += 1
                continue
            elif c == c"\\":
                i += 1
            else:
                return -BAD_TARGET
            # an escape that stays one, or a raw backslash that becomes one
            if c == c"/" or c == c"\\":
                if not allow_encoded_slash:
                    return -BAD_TARGET
                suspicious = True
            elif c == c";":
                suspicious = True
            put_escape(out + o, c)
            o += 3
        dots = _dots(out + start, o - start)
        if dots:
            due = False
            o = start
            if dots == 2:
                if start == 1:
                    return -BAD_TARGET
                o -= 1
                while out[o - 1] != c"/":
                    o -= 1
        elif suspicious and _hides_dots(out + start, o - start):
            return -BAD_TARGET
    return <int>o


cdef bint _decodes(const char *p, uint32_t length) noexcept nogil:
    """Whether an escape at p represents an unreserved character."""
    cdef uint8_t hi, lo
    if length < 3:
        return False
    hi = fg_hex(<uint8_t>p[1])
    lo = fg_hex(<uint8_t>p[2])
    return (hi | lo) != 0xff and is_class(<char>((hi << 4) | lo), CH_UNRESERVED)


def normalize(path: bytes, allow_encoded_slash: bool = False, cap: int = -1,
              merge_slashes: bool = True) -> bytes | int:
    """The canonical path, or minus the Reason why there is none.

    `cap` is the room for the result in octets; the default is always enough.
    """
    cdef uint32_t room = 3 * <uint32_t>len(path) + 1 if cap < 0 else <uint32_t>cap
    cdef bytearray out = bytearray(room + 1)
    cdef int n = normalize_path(path, <uint32_t>len(path), <char *>out, room, allow_encoded_slash, merge_slashes)
    return bytes(out[:n]) if n > 0 else n
