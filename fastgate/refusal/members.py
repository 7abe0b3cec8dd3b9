"""Members of a refusal's body whose values are known only when a request is refused.

A template has marks for them, byte 0x01 and a letter (`Hole` and `Section` in the core's
snapshot.pxd); the worker that refuses the request fills the holes, and leaves out sections whose
condition is false.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec


class Hole(NamedTuple):
    """A member's value that the worker fills in."""

    letter: str
    text: bool
    """In quotes."""


class When(NamedTuple):
    """A member that is there only if the section's condition is true."""

    section: str
    value: Any


class Remedies(NamedTuple):
    """A list in which some entries are there only if their section's condition is true."""

    entries: list[tuple[str, dict[str, Any]]]


def json_of(value: Any) -> bytes:
    """JSON with holes. In an object, a `When` must follow a member that is always there, or all
    members must belong to one section."""
    if isinstance(value, Remedies):
        return b"[" + _listed(value.entries) + b"]"
    if isinstance(value, Hole):
        hole = f"\1{value.letter}".encode()
        return b'"' + hole + b'"' if value.text else hole
    if isinstance(value, dict):
        return b"{" + _members(value) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(json_of(inner) for inner in value) + b"]"
    return msgspec.json.encode(value).replace(b"\\u0001", b"\1")


def _listed(entries: list[tuple[str, dict[str, Any]]]) -> bytes:
    """The entries of a list. Those that are always there come first. An entry that may be missing
    includes the comma before it."""
    always = [json_of(value) for section, value in entries if not section]
    out = b",".join(always)
    before = ""
    for section, value in entries:
        if not section:
            continue
        comma = b"," if always else b""
        if not always and before:
            comma = b"\1" + before.encode() + b",\1."
        out += b"\1" + section.encode() + comma + json_of(value) + b"\1."
        before = section
    return out


def _members(members: dict[str, Any]) -> bytes:
    """The text between the braces; adjacent members of one section share it."""
    out = bytearray()
    section, written = "", False
    for name, value in members.items():
        now = value.section if isinstance(value, When) else ""
        if now != section:
            out += b"\1." if section else b""
            out += b"\1" + now.encode() if now else b""
            section = now
        out += b"," if written else b""
        written = True
        out += msgspec.json.encode(name) + b":"
        out += json_of(value.value if isinstance(value, When) else value)
    return bytes(out + (b"\1." if section else b""))
