"""headers: the fields of messages as Python handlers read and write them.

Field names and values are bytes on the wire and str here, in Latin-1, which maps each byte to the
character with the same number and loses nothing. What a handler writes is checked: a name is a
token, a value has no control characters, so no one can inject a line into a message.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint8_t, uint32_t

from fastgate._core.http.head cimport FIELD_CREDENTIAL, MAX_FIELDS, field
from fastgate._core.platform.chars cimport CH_TEXT, CH_TOKEN, is_class

cdef enum:
    LINES_MOST = 1 << 20      # bytes of the fields that a handler may write: no client reads more

# The gateway frames messages itself.
cdef frozenset FRAMING = frozenset((
    "connection", "content-length", "transfer-encoding", "keep-alive", "upgrade", "trailer", "te",
    "proxy-connection"))


cdef class Headers:
    """The fields of a message in order: (name, value) pairs of str; names are case-insensitive.

    `headers["name"]` is the first value, `get_all` all of them; iterating gives the pairs.
    """

    def __init__(self, pairs):
        self.pairs = list(pairs)

    def __iter__(self):
        return iter(self.pairs)

    def __len__(self):
        return len(self.pairs)

    def __contains__(self, name):
        return self.get(name) is not None

    def __getitem__(self, str name):
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __repr__(self):
        return f"Headers({self.pairs!r})"

    def get(self, str name, default=None):
        """The first value of a field, or the default."""
        name = name.lower()
        for key, value in self.pairs:
            if key.lower() == name:
                return value
        return default

    def get_all(self, str name):
        """All values of a field, in order."""
        name = name.lower()
        return [value for key, value in self.pairs if key.lower() == name]


cdef Headers headers_of(const head *h, const char *base, uint64_t hidden):
    """hidden: fields to leave out, by FieldName; credentials are always left out."""
    cdef list pairs = []
    cdef uint32_t i
    cdef const field *f
    for i in range(h.nfields):
        f = &h.fields[i]
        if hidden >> f.id & 1 or f.flags & FIELD_CREDENTIAL:
            continue
        pairs.append((
            PyBytes_FromStringAndSize(base + f.name, f.name_len).decode("latin-1"),
            PyBytes_FromStringAndSize(base + f.value, f.value_len).decode("latin-1")))
    return Headers(pairs)


cdef bint is_token(object text) except -1:
    """Whether this is a str that may be a method or the name of a field."""
    cdef Py_ssize_t n = 0
    cdef const char *p
    if not isinstance(text, str):
        return False
    p = PyUnicode_AsUTF8AndSize(text, &n)          # no octet of a non-ASCII character is in the class
    return n != 0 and all_of(p, n, CH_TOKEN)


cdef bint all_of(const char *p, Py_ssize_t n, uint8_t bits) noexcept:
    cdef Py_ssize_t i
    for i in range(n):
        if not is_class(p[i], bits):
            return False
    return True


cdef bytes field_line(str name, str value):
    return f"{name}: {value}\r\n".encode("latin-1")


cdef bytes render_fields(object headers, list left):
    """Field lines. Names and values are checked; framing fields are the gateway's, so they are put
    into `left` instead, in lower case."""
    cdef list lines = []
    cdef bytes octets
    if headers is None:
        return b""
    if hasattr(headers, "items"):
        headers = headers.items()
    for name, value in headers:
        if not is_token(name):
            raise ValueError(f"{name!r} is not the name of a header field")
        value = str(value)
        try:
            octets = value.encode("latin-1")
        except UnicodeEncodeError:
            raise ValueError(f"the value of {name} has a character that is not in Latin-1: {value!r}") from None
        if not all_of(octets, len(octets), CH_TEXT):
            raise ValueError(f"the value of {name} has a control character: {value!r}")
        if name.lower() in FRAMING:
            left.append((name.lower(), value))
            continue
        lines.append(field_line(name, value))
    if len(lines) > MAX_FIELDS:
        raise ValueError(f"{len(lines)} header fields are too many; at most {MAX_FIELDS} are allowed")
    written = b"".join(lines)
    if len(written) > LINES_MOST:
        raise ValueError(f"{len(written)} bytes of header fields are too many; at most {LINES_MOST} are allowed")
    return written
