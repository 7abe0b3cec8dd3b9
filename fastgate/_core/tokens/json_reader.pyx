"""json_reader: strict JSON (RFC 8259), read once into a flat list of values.

    {"iss": "a", "aud": ["b", "c"]}      0 object ─ first ─▶ 1 string "a", named iss ─ next ─▶ 2 array, named aud
                                                              2 ─ first ─▶ 3 string ─ next ─▶ 4 string

It decides what a signature is believed to say, so it takes nothing that another reader could take
differently: no duplicate names (compared after decoding), no invalid UTF-8, no lone surrogates, no
comments, no trailing commas, nothing after the value. Depth, values and length have bounds. Nothing is
copied: values are spans of the text, decoded when they are asked for.
"""
from libc.string cimport memcmp

cdef inline const char *skip(const char *p, const char *end) noexcept nogil:
    while p < end and (p[0] == 0x20 or p[0] == 0x09 or p[0] == 0x0a or p[0] == 0x0d):
        p += 1
    return p


cdef inline int hex4(const char *p) noexcept nogil:
    cdef int value = 0, i, c
    for i in range(4):
        c = <uint8_t>p[i]
        if 48 <= c <= 57:
            c -= 48
        elif 97 <= (c | 0x20) <= 102:
            c = (c | 0x20) - 87
        else:
            return -1
        value = value << 4 | c
    return value


cdef inline int sequence(const uint8_t *p, const char *end) noexcept nogil:
    """How many octets the UTF-8 sequence at p has, if it is valid (RFC 3629); 0: it is not."""
    cdef ssize_t left = <const uint8_t *>end - p
    cdef uint8_t a = p[0]
    if a < 0xc2 or a > 0xf4:
        return 0
    if left < 2 or p[1] & 0xc0 != 0x80:
        return 0
    if a < 0xe0:
        return 2
    if left < 3 or p[2] & 0xc0 != 0x80:
        return 0
    if a < 0xf0:
        if (a == 0xe0 and p[1] < 0xa0) or (a == 0xed and p[1] > 0x9f):
            return 0
        return 3
    if left < 4 or p[3] & 0xc0 != 0x80 or (a == 0xf0 and p[1] < 0x90) or (a == 0xf4 and p[1] > 0x8f):
        return 0
    return 4


cdef const char *read_string(const char *p, const char *end, int *escaped) noexcept nogil:
    """From after the quote to the closing quote; NULL: it is no string."""
    cdef int n, unit
    cdef uint8_t c
    escaped[0] = 0
    while p < end:
        c = <uint8_t>p[0]
        if c == c'"':
            return p
        if c < 0x20:
            return NULL
        if c == c"\\":
            escaped[0] = 1
            if end - p < 2:
                return NULL
            c = <uint8_t>p[1]
            if c == c"u":
                if end - p < 6:
                    return NULL
                unit = hex4(p + 2)
                if unit < 0 or 0xdc00 <= unit <= 0xdfff:
                    return NULL
                p += 6
                if 0xd800 <= unit <= 0xdbff:
                    if end - p < 6 or p[0] != c"\\" or p[1] != c"u":
                        return NULL
                    unit = hex4(p + 2)
                    if unit < 0xdc00 or unit > 0xdfff:
                        return NULL
                    p += 6
                continue
            if c != c'"' and c != c"\\" and c != c"/" and c != c"b" and c != c"f" and c != c"n" and c != c"r" and c != c"t":
                return NULL
            p += 2
        elif c < 0x80:
            p += 1
        else:
            n = sequence(<const uint8_t *>p, end)
            if n == 0:
                return NULL
            p += n
    return NULL


cdef inline const char *digits(const char *p, const char *end) noexcept nogil:
    while p < end and 48 <= p[0] <= 57:
        p += 1
    return p


cdef const char *read_number(const char *p, const char *end) noexcept nogil:
    """Behind the number; NULL: it is none."""
    cdef const char *start
    if p < end and p[0] == c"-":
        p += 1
    start = p
    p = digits(p, end)
    if p == start or (start[0] == c"0" and p - start > 1):
        return NULL
    if p < end and p[0] == c".":
        start = p + 1
        p = digits(start, end)
        if p == start:
            return NULL
    if p < end and p[0] | 0x20 == c"e":
        p += 1
        if p < end and (p[0] == c"+" or p[0] == c"-"):
            p += 1
        start = p
        p = digits(p, end)
        if p == start:
            return NULL
    return p


cdef inline const char *literal(const char *p, const char *end, const char *word, size_t n) noexcept nogil:
    return p + n if <size_t>(end - p) >= n and memcmp(p, word, n) == 0 else NULL


cdef int put_unit(char *out, int code) noexcept nogil:
    """A character as UTF-8; how many octets."""
    if code < 0x80:
        out[0] = <char>code
        return 1
    if code < 0x800:
        out[0] = <char>(0xc0 | code >> 6)
        out[1] = <char>(0x80 | code & 0x3f)
        return 2
    if code < 0x10000:
        out[0] = <char>(0xe0 | code >> 12)
        out[1] = <char>(0x80 | code >> 6 & 0x3f)
        out[2] = <char>(0x80 | code & 0x3f)
        return 3
    out[0] = <char>(0xf0 | code >> 18)
    out[1] = <char>(0x80 | code >> 12 & 0x3f)
    out[2] = <char>(0x80 | code >> 6 & 0x3f)
    out[3] = <char>(0x80 | code & 0x3f)
    return 4


cdef int next_character(const char **at, char *out) noexcept nogil:
    """The character at *at of a string that was read: its octets; moves past it."""
    cdef const char *p = at[0]
    cdef int code
    if p[0] != c"\\":
        out[0] = p[0]
        at[0] = p + 1
        return 1
    if p[1] != c"u":
        at[0] = p + 2
        out[0] = p[1]
        if p[1] == c"b":
            out[0] = 8
        elif p[1] == c"f":
            out[0] = 12
        elif p[1] == c"n":
            out[0] = 10
        elif p[1] == c"r":
            out[0] = 13
        elif p[1] == c"t":
            out[0] = 9
        return 1
    code = hex4(p + 2)
    at[0] = p + 6
    if 0xd800 <= code <= 0xdbff:
        code = 0x10000 + ((code - 0xd800) << 10) + (hex4(p + 8) - 0xdc00)
        at[0] = p + 12
    return put_unit(out, code)


cdef int decode(const char *p, uint32_t n, char *out, uint32_t room) noexcept nogil:
    """The octets of a string that was read; -1: they do not fit."""
    cdef const char *end = p + n
    cdef char piece[4]
    cdef uint32_t used = 0
    cdef int size, i
    while p < end:
        size = next_character(&p, piece)
        if used + <uint32_t>size > room:
            return -1
        for i in range(size):
            out[used] = piece[i]
            used += 1
    return <int>used


cdef int same_text(const char *p, uint32_t n, int escaped, const char *text, uint32_t length) noexcept nogil:
    """Whether a string that was read is this text."""
    cdef const char *end = p + n
    cdef char piece[4]
    cdef uint32_t at = 0
    cdef int size, i
    if not escaped:
        return n == length and memcmp(p, text, n) == 0
    while p < end:
        size = next_character(&p, piece)
        for i in range(size):
            if at == length or text[at] != piece[i]:
                return 0
            at += 1
    return at == length


cdef int same_name(const json_text *j, const json_value *a, const json_value *b) noexcept nogil:
    cdef const char *p = j.text + a.name
    cdef const char *q = j.text + b.name
    cdef const char *p_end = p + a.name_len
    cdef const char *q_end = q + b.name_len
    cdef char left[4]
    cdef char right[4]
    cdef int n = 0, m = 0, i = 0, k = 0
    if not (a.escaped | b.escaped) & 2:
        return a.name_len == b.name_len and memcmp(p, q, a.name_len) == 0
    while True:
        if i == n:
            n = next_character(&p, left) if p < p_end else 0
            i = 0
        if k == m:
            m = next_character(&q, right) if q < q_end else 0
            k = 0
        if n == 0 or m == 0:
            return n == m
        if left[i] != right[k]:
            return 0
        i += 1
        k += 1


cdef int repeated(const json_text *j, const json_value *of, const json_value *member) noexcept nogil:
    """Whether the object has another member of that name already."""
    cdef const json_value *v
    cdef uint32_t i = of.first
    while i:
        v = &j.values[i]
        if v is not member and same_name(j, v, member):
            return 1
        i = v.next
    return 0


cdef int json_read(json_text *j, const char *text, size_t length) noexcept nogil:
    cdef const char *p = text
    cdef const char *end = text + length
    cdef const char *stop
    cdef json_value *v
    cdef json_value *parent
    cdef uint16_t open_at[JSON_DEPTH]
    cdef uint16_t last[JSON_DEPTH]
    cdef uint32_t depth = 0
    cdef int escaped = 0, name_escaped
    cdef char c
    j.text = text
    j.n = 0
    if length > JSON_MOST:
        return -1
    while True:
        # A value begins here; in an object, its name.
        p = skip(p, end)
        if p == end or j.n == JSON_VALUES:
            return -1
        v = &j.values[j.n]
        v.name = v.name_len = v.next = v.first = v.count = 0
        name_escaped = 0
        parent = &j.values[open_at[depth - 1]] if depth else NULL
        if parent is not NULL and parent.kind == JSON_OBJECT:
            if p[0] != c'"':
                return -1
            stop = read_string(p + 1, end, &name_escaped)
            if stop is NULL:
                return -1
            v.name = <uint16_t>(p + 1 - text)
            v.name_len = <uint16_t>(stop - p - 1)
            v.escaped = <uint8_t>(name_escaped * 2)
            if repeated(j, parent, v):
                return -1
            p = skip(stop + 1, end)
            if p == end or p[0] != c":":
                return -1
            p = skip(p + 1, end)
            if p == end:
                return -1
        if parent is not NULL:
            if parent.count:
                j.values[last[depth - 1]].next = <uint16_t>j.n
            else:
                parent.first = <uint16_t>j.n
            parent.count += 1
            last[depth - 1] = <uint16_t>j.n
        v.start = <uint16_t>(p - text)
        v.escaped = <uint8_t>(name_escaped * 2)
        c = p[0]
        if c == c"{" or c == c"[":
            if depth == JSON_DEPTH:
                return -1
            v.kind = JSON_OBJECT if c == c"{" else JSON_ARRAY
            open_at[depth] = <uint16_t>j.n
            depth += 1
            j.n += 1
            p = skip(p + 1, end)
            if p == end:
                return -1
            if p[0] != c"}" and p[0] != c"]":
                continue
        elif c == c'"':
            stop = read_string(p + 1, end, &escaped)
            if stop is NULL:
                return -1
            v.kind = JSON_STRING
            v.start += 1
            v.escaped |= <uint8_t>escaped
            v.len = <uint16_t>(stop - p - 1)
            p = stop + 1
            j.n += 1
        else:
            if c == c"t":
                v.kind = JSON_TRUE
                stop = literal(p, end, b"true", 4)
            elif c == c"f":
                v.kind = JSON_FALSE
                stop = literal(p, end, b"false", 5)
            elif c == c"n":
                v.kind = JSON_NULL
                stop = literal(p, end, b"null", 4)
            else:
                v.kind = JSON_NUMBER
                stop = read_number(p, end)
            if stop is NULL:
                return -1
            v.len = <uint16_t>(stop - p)
            p = stop
            j.n += 1
        # What follows a value, or the opening of an empty object or array.
        while True:
            p = skip(p, end)
            if depth == 0:
                return 0 if p == end else -1
            if p == end:
                return -1
            parent = &j.values[open_at[depth - 1]]
            if p[0] == c"," and parent.count:
                p += 1
                break
            if p[0] != (c"}" if parent.kind == JSON_OBJECT else c"]"):
                return -1
            p += 1
            parent.len = <uint16_t>(p - text - parent.start)
            depth -= 1


cdef const json_value *json_member(const json_text *j, const json_value *of, const char *name, uint32_t length) noexcept nogil:
    cdef const json_value *v
    cdef uint32_t i
    if of is NULL or of.kind != JSON_OBJECT:
        return NULL
    i = of.first
    while i:
        v = &j.values[i]
        if same_text(j.text + v.name, v.name_len, v.escaped & 2, name, length):
            return v
        i = v.next
    return NULL


cdef int json_string(const json_text *j, const json_value *v, char *out, uint32_t room) noexcept nogil:
    if v is NULL or v.kind != JSON_STRING:
        return -1
    return decode(j.text + v.start, v.len, out, room)


cdef int json_equals(const json_text *j, const json_value *v, const char *text, uint32_t length) noexcept nogil:
    return v is not NULL and v.kind == JSON_STRING and same_text(j.text + v.start, v.len, v.escaped & 1, text, length)


cdef int json_seconds(const json_text *j, const json_value *v, int64_t *out) noexcept nogil:
    cdef const char *p
    cdef const char *end
    cdef int64_t n = 0
    if v is NULL or v.kind != JSON_NUMBER:
        return -1
    p = j.text + v.start
    end = p + v.len
    while p < end and 48 <= p[0] <= 57:
        n = n * 10 + (p[0] - 48)
        if n > <int64_t>1 << 53:
            return -1
        p += 1
    if p < end and p[0] != c".":
        return -1                        # negative, or with an exponent
    if p < end:
        for i in range(1, end - p):
            if not 48 <= p[i] <= 57:
                return -1
    out[0] = n
    return 0
