"""HTTP/1.1 messages as bytes."""

from __future__ import annotations


def render(method: str, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    """A request's bytes."""
    fields = {"Host": "gateway.test", **headers}
    if body or method in ("POST", "PUT", "PATCH"):
        fields["Content-Length"] = str(len(body))
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Status and fields of a response's head, without the blank line."""
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields[name.lower()] = value.strip()
    return int(first.split(" ", 2)[1]), fields


def dechunk(data: bytes) -> bytes:
    """A body that was sent in chunks. Raises ConnectionResetError if it is not complete."""
    out = bytearray()
    while True:
        size_text, _, data = data.partition(b"\r\n")
        if not size_text:
            raise ConnectionResetError("the answer is cut short")
        size = int(size_text, 16)
        if size == 0:
            return bytes(out)
        out += data[:size]
        data = data[size + 2 :]
