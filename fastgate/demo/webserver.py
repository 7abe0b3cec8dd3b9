"""Small HTTP servers on loopback, each in its own thread; and the API that is sold."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

BODY_MOST = 1 << 20


class Request(NamedTuple):
    """A request."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body or b"{}")

    @property
    def form(self) -> dict[str, str]:
        return {name: values[-1] for name, values in parse_qs(self.body.decode()).items()}


class Reply(NamedTuple):
    """An answer; a body that is not bytes is sent as JSON."""

    status: int
    body: Any = b""
    headers: tuple[tuple[str, str], ...] = ()


Answerer = Callable[[Request], Reply]


class WebServer:
    """Answers requests with a function, until closed."""

    def __init__(self, answer: Answerer) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_any(self) -> None:
                parts = urlsplit(self.path)
                size = min(int(self.headers.get("Content-Length") or 0), BODY_MOST)
                request = Request(
                    self.command,
                    parts.path,
                    {name: values[-1] for name, values in parse_qs(parts.query).items()},
                    {name.lower(): value for name, value in self.headers.items()},
                    self.rfile.read(size),
                )
                reply = answer(request)
                body, kind = reply.body, "text/html; charset=utf-8"
                if not isinstance(body, bytes):
                    body, kind = json.dumps(body).encode(), "application/json"
                self.send_response(reply.status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                for name, value in reply.headers:
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_POST = do_HEAD = handle_any

            def log_message(self, format: str, *args: Any) -> None:
                """Log nothing: the demonstration has its own output."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def weather(request: Request) -> Reply:
    """The API that is sold."""
    return Reply(200, {"city": "Utopia", "forecast": "sunny", "served_to": _caller(request)})


def _caller(request: Request) -> str:
    return request.headers.get("x-consumer-name", "a payer")
