"""parsed_head: heads parsed for Python, in pieces or whole, and the Reason for refusing one."""
cimport cython
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from fastgate._core.http.head cimport METHOD_GET, caps, fault_reason, field, head, head_reset, span
from fastgate._core.http1.parser cimport PARSE_INCOMPLETE, parse_request, parse_response


def fault_reason_of(fault: int) -> int:
    """The Reason for refusing a request with this ParseFault."""
    return fault_reason(fault)


# line, head, fields, field: large, for callers that do not test caps
DEFAULT_CAPS = (8192, 32768, 100, 16384)


@cython.final
cdef class ParsedHead:
    """A head and the octets it was parsed from, as Python objects.

    `code`: > 0 the head's size, 0 incomplete, < 0 minus a Reason; then `fault` is the fault.
    """
    cdef head h
    cdef bytes data
    cdef readonly int code

    @staticmethod
    def request(data: bytes, cuts: Iterable[int] = (), limits: tuple = DEFAULT_CAPS) -> ParsedHead:
        """Parse a request head that arrives up to each of the growing offsets `cuts` in turn,
        then whole. `limits`: the caps line, head, fields, field of parser.pxd."""
        return _parse(data, cuts, limits, -1)

    @staticmethod
    def response(data: bytes, method: int = METHOD_GET, cuts: Iterable[int] = (),
                 limits: tuple = DEFAULT_CAPS) -> ParsedHead:
        """The same for the head of a response to a request with this Method."""
        return _parse(data, cuts, limits, method)

    cdef bytes _cut(self, span s):
        return self.data[s.off:s.off + s.len]

    @property
    def fault(self) -> int:
        return self.h.fault

    @property
    def flags(self) -> int:
        return self.h.flags

    @property
    def method(self) -> bytes:
        return self._cut(self.h.method)

    @property
    def method_id(self) -> int:
        return self.h.method_id

    @property
    def form(self) -> int:
        return self.h.form

    @property
    def target(self) -> bytes:
        return self._cut(self.h.target)

    @property
    def authority(self) -> bytes:
        return self._cut(self.h.authority)

    @property
    def path(self) -> bytes:
        return self._cut(self.h.path)

    @property
    def query(self) -> bytes | None:
        return self._cut(self.h.query) if self.h.has_query else None

    @property
    def host(self) -> bytes:
        return self._cut(self.h.host)

    @property
    def host_port(self) -> int:
        return self.h.host_port

    @property
    def minor(self) -> int:
        return self.h.version

    @property
    def status(self) -> int:
        return self.h.status

    @property
    def reason(self) -> bytes:
        return self._cut(self.h.reason)

    @property
    def framing(self) -> int:
        return self.h.framing

    @property
    def content_length(self) -> int | None:
        return self.h.content_length if self.h.content_length >= 0 else None

    @property
    def fields(self) -> list[tuple[bytes, bytes, int, int]]:
        """(name, value, FieldName, FIELD_* flags) in the order in which they came."""
        cdef uint32_t i
        cdef field *f
        cdef list out = []
        for i in range(self.h.nfields):
            f = &self.h.fields[i]
            out.append((
                self.data[f.name:f.name + f.name_len],
                self.data[f.value:f.value + f.value_len], f.id, f.flags))
        return out

    @property
    def lines(self) -> list[bytes]:
        """The field lines with their CRLF."""
        return [
            self.data[self.h.fields[i].name:self.h.fields[i].line_end]
            for i in range(self.h.nfields)]

    @property
    def first(self) -> dict[int, int]:
        """FieldName to the index of its first field."""
        return {i: self.h.first[i] - 1 for i in range(64) if self.h.first[i]}

    @property
    def summary(self) -> tuple[object, ...]:
        """Everything in the result; equal for equal parses."""
        return (
            self.code, self.fault, self.flags, self.method, self.method_id, self.form,
            self.target, self.authority, self.path, self.query, self.host, self.host_port,
            self.minor, self.status, self.reason, self.framing, self.content_length,
            self.fields, self.lines, self.first)


cdef ParsedHead _parse(bytes data, cuts, limits, int method):
    """Parse `data` as it grows; method < 0: a request."""
    cdef ParsedHead parsed = ParsedHead.__new__(ParsedHead)
    cdef const char *whole = data
    cdef char *seen
    cdef uint32_t length
    cdef caps c
    c.line, c.head, c.fields, c.field = limits
    head_reset(&parsed.h)
    parsed.data = data
    for cut in (*cuts, len(data)):
        length = <uint32_t>min(cut, len(data))
        # a block that ends where the octets end, so that a sanitizer finds any read beyond it
        seen = <char *>malloc(length)
        if seen == NULL and length:
            raise MemoryError
        memcpy(seen, whole, length)
        if method < 0:
            parsed.code = parse_request(&parsed.h, seen, length, &c)
        else:
            parsed.code = parse_response(&parsed.h, seen, length, &c, <uint8_t>method)
        free(seen)
        if parsed.code != PARSE_INCOMPLETE:
            break
    return parsed
