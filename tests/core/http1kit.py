"""What the tests of heads share: to write one, and to say what must become of it."""

from __future__ import annotations

from fastgate._core.http.head import ParseFault
from fastgate._core.testing.parsed_head import ParsedHead, fault_reason_of

FIELD_HOP = 1
FIELD_UNDERSCORE = 2
FIELD_UNUSUAL = 8


def request(*lines: bytes, start: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: a") -> bytes:
    """A request head of these field lines, with a Host unless told otherwise."""
    return b"\r\n".join([start, *([host] if host else []), *lines, b"", b""])


def response(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK") -> bytes:
    """A response head of these field lines."""
    return b"\r\n".join([start, *lines, b"", b""])


def accepted(data: bytes) -> ParsedHead:
    """It is one whole head."""
    head = ParsedHead.request(data)
    assert head.fault == ParseFault.FAULT_NONE, ParseFault(head.fault).name
    assert head.code == len(data)
    return head


def refused(data: bytes, fault: str) -> ParsedHead:
    """It is refused for this fault, with that fault's reason."""
    head = ParsedHead.request(data)
    assert ParseFault(head.fault).name == "FAULT_" + fault
    assert head.code == -fault_reason_of(head.fault) < 0
    # and for the same fault when it comes octet by octet
    assert ParsedHead.request(data, cuts=range(len(data))).fault == head.fault
    return head
