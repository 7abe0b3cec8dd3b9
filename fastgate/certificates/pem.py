"""PEM: blocks of base64 between `-----BEGIN X-----` and `-----END X-----`, in any order.

Text around the blocks is allowed and ignored, as openssl writes it.
"""

from __future__ import annotations

import binascii
import re
from typing import NamedTuple

_BLOCK = re.compile(
    rb"-----BEGIN ([A-Z0-9 ]{1,40})-----\r?\n(.*?)-----END ([A-Z0-9 ]{1,40})-----", re.S
)
_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----")
_HEADERS = re.compile(rb"\A(?:[A-Za-z-]+:[^\n]*\n)+\s*\n")
_DER = re.compile(rb"\A\x30[\x80-\x84]")

CERTIFICATES = frozenset({"CERTIFICATE", "X509 CERTIFICATE"})
KEYS = frozenset({"PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"})
ENCRYPTED = "ENCRYPTED PRIVATE KEY"
OPENSSH = "OPENSSH PRIVATE KEY"
CRL = "X509 CRL"


class PemError(ValueError):
    """What is wrong with a file, and how to fix it. Never contains content of the file."""

    def __init__(self, message: str, hint: str = "", field: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        self.field = field
        """The field of the document that is at fault: "cert", "key", "ca", "crl"; "": unknown."""

    def bare(self) -> PemError:
        """The same without a traceback, whose frames would keep keys in memory."""
        return PemError(str(self), self.hint, self.field)


def pem(label: str, der: bytes) -> bytes:
    """A block."""
    body = binascii.b2a_base64(der, newline=False)
    lines = [body[i : i + 64] for i in range(0, len(body), 64)]
    name = label.encode()
    return b"\n".join([b"-----BEGIN %b-----" % name, *lines, b"-----END %b-----" % name, b""])


class Block(NamedTuple):
    """One block."""

    label: str
    der: bytes
    encrypted: bool


def blocks(content: bytes, where: str) -> list[Block]:
    """The blocks of a file, in order. `where`: its name, for errors. Raises PemError."""
    if _DER.match(content):
        raise PemError(
            f"{where} is in binary form (DER or PKCS #12), not in PEM form",
            "Convert it: `openssl x509 -inform der -in FILE`, `openssl pkey -inform der -in FILE` "
            "or `openssl pkcs12 -in FILE -nodes`.",
        )
    found = []
    for number, match in enumerate(_BLOCK.finditer(content), 1):
        label = match[1].decode()
        if match[1] != match[3]:
            raise PemError(
                f"{where}: block {number} begins as {label} and ends as {match[3].decode()}",
                "The file was cut or put together wrongly; write it again.",
            )
        found.append(_block(label, match[2], f"{where}: block {number} ({label})"))
    if len(found) != len(_BEGIN.findall(content)):
        raise PemError(
            f"{where}: a block begins and does not end",
            "The file was cut; write it again.",
        )
    if not found:
        raise PemError(
            f"{where} has no PEM block" if content.strip() else f"{where} is empty",
            "A certificate in PEM form begins with the line -----BEGIN CERTIFICATE-----.",
        )
    return found


def _block(label: str, body: bytes, where: str) -> Block:
    headers = _HEADERS.match(body)
    encrypted = label == ENCRYPTED or (headers is not None and b"ENCRYPTED" in headers[0])
    if headers is not None:
        body = body[headers.end() :]
    try:
        der = binascii.a2b_base64(b"".join(body.split()), strict_mode=True)
    except binascii.Error:
        der = b""
    if not der:
        raise PemError(f"{where} is not valid base64", "The file is damaged; write it again.")
    return Block(label, der, encrypted)
