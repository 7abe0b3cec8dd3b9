"""A mail server that accepts all mail, forwards none, and keeps it for inspection."""

from __future__ import annotations

import socketserver
import threading
from email import message_from_bytes, policy
from email.message import EmailMessage


class MailSink:
    """SMTP on loopback (the part of RFC 5321 that a client needs for one message)."""

    def __init__(self) -> None:
        self._arrived = threading.Condition()
        self._mails: list[EmailMessage] = []
        sink = self

        class Session(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self._say("220 mail sink")
                while line := self.rfile.readline(2048):
                    verb = line[:4].upper().strip()
                    if verb == b"EHLO":
                        self._say("250 mail sink")
                    elif verb == b"DATA":
                        self._say("354 go on")
                        sink._keep(self._data())
                        self._say("250 kept")
                    elif verb == b"QUIT":
                        self._say("221 bye")
                        return
                    else:
                        self._say("250 fine")

            def _data(self) -> bytes:
                lines = []
                while (line := self.rfile.readline(1 << 16)) not in (b".\r\n", b""):
                    lines.append(line[1:] if line.startswith(b"..") else line)
                return b"".join(lines)

            def _say(self, text: str) -> None:
                self.wfile.write(f"{text}\r\n".encode())

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Session)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def _keep(self, raw: bytes) -> None:
        mail = message_from_bytes(raw, policy=policy.default)
        assert isinstance(mail, EmailMessage)
        with self._arrived:
            self._mails.append(mail)
            self._arrived.notify_all()

    def wait_for(self, words: str, seconds: float) -> EmailMessage | None:
        """The first mail with these words in its subject; None if none arrives in time."""

        def find() -> EmailMessage | None:
            return next((mail for mail in self._mails if words in str(mail["Subject"])), None)

        with self._arrived:
            return self._arrived.wait_for(find, seconds)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
