"""A name server on a UDP port of this machine, with records that tests change."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


class NameServer:
    """It answers from `records`. While it is `down`, it answers nothing."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], list[str]] = {}
        self.ttl = 0
        self.down = False
        self.asked: list[tuple[str, str]] = []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def put(self, name: str, kind: str, *texts: str) -> None:
        """The records of a name, of a kind. Without texts: none, though the name exists."""
        self.records[name, kind] = list(texts)

    def drop(self, name: str) -> None:
        """There is no such name any more."""
        self.records = {key: texts for key, texts in self.records.items() if key[0] != name}

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                data, peer = self.socket.recvfrom(4096)
            except OSError:
                return
            if not data:
                return
            question = dns.message.from_wire(data)
            name = question.question[0].name.to_text(omit_final_dot=True).lower()
            kind = dns.rdatatype.to_text(question.question[0].rdtype)
            self.asked.append((name, kind))
            if not self.down:
                with contextlib.suppress(OSError):
                    self.socket.sendto(self.answer(question, name, kind), peer)

    def answer(self, question: dns.message.Message, name: str, kind: str) -> bytes:
        """What it says."""
        reply = dns.message.make_response(question)
        reply.flags |= dns.flags.RA | dns.flags.AA
        seen = name
        while alias := self.records.get((seen, "CNAME")):
            reply.answer.append(dns.rrset.from_text(seen + ".", self.ttl, "IN", "CNAME", *alias))
            seen = alias[0].rstrip(".")
        if texts := self.records.get((seen, kind)):
            reply.answer.append(dns.rrset.from_text(seen + ".", self.ttl, "IN", kind, *texts))
        elif not any(key[0] == seen for key in self.records):
            reply.set_rcode(dns.rcode.NXDOMAIN)
        return reply.to_wire()


@contextlib.contextmanager
def name_server() -> Iterator[NameServer]:
    """A name server, until the block ends."""
    server = NameServer()
    try:
        yield server
    finally:
        server.stop()
