"""The client: addresses, Unix sockets, tokens, answers that are not what they should be."""

from __future__ import annotations

import http.server
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastgate.cli.client import TIMEOUT, Client, find_token
from fastgate.errors import ConfigurationError, ControlError, UnreachableError

ANSWERS = {
    "/healthz": (200, b"{}"),
    "/ok": (200, b'{"a": 1}'),
    "/empty": (204, b""),
    "/text": (200, b"plain"),
    "/bad": (500, b"oops"),
    "/problem": (409, b'{"title": "T", "detail": "The detail.", "reason": "conflict"}'),
    "/config": (
        422,
        b'{"reason": "invalid_configuration", "detail": "d", "errors": ['
        b'{"path": "a", "message": "one", "line": 3}, {"path": "b", "message": "two"}]}',
    ),
}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/slow":
            time.sleep(0.3)
            self.close_connection = True
            return
        status, body = ANSWERS[self.path.partition("?")[0]]
        if self.path.startswith("/ok?"):
            body = f'{{"path": "{self.path}"}}'.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"x"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Quiet."""

    def address_string(self) -> str:
        return "unix"


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """A client of a server on a Unix socket."""
    path = tmp_path / "control.sock"
    server = UnixServer(str(path), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Client(f"unix:{path}", "token")
    server.shutdown()
    thread.join()
    server.server_close()


def test_answers(client: Client) -> None:
    assert client.get("/ok") == {"a": 1}
    assert client.call("GET", "/ok").headers["etag"] == '"x"'
    assert client.get("/empty") is None
    assert client.get("/text") == "plain"
    assert client.get("/ok", a="b c", flag=True, none=None)["path"] == "/ok?a=b+c&flag=true"


def test_refusals(client: Client) -> None:
    with pytest.raises(ControlError, match=r"The detail\.") as caught:
        client.get("/problem")
    assert (caught.value.status, caught.value.problem["reason"]) == (409, "conflict")
    with pytest.raises(ControlError, match="GET /bad: status 500"):
        client.get("/bad")
    assert client.call("GET", "/problem", accept=(409,)).status == 409


def test_a_refused_configuration_is_a_configuration_error(client: Client) -> None:
    with pytest.raises(ConfigurationError) as caught:
        client.get("/config")
    assert [(one.path, one.line) for one in caught.value] == [("a", 3), ("b", None)]


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="No such file"):
        Client(f"unix:{tmp_path}/no.sock").get("/ok")
    with pytest.raises(UnreachableError, match="refused"):
        Client("127.0.0.1:1").get("/ok")


def test_no_answer_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        control = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UnreachableError, match=r"did not answer within 0\.05 s\. If the"):
            Client(control, timeout=0.05).get("/ok")


def test_an_api_that_is_there_and_slow_is_not_called_dead(client: Client) -> None:
    client.get("/ok")  # it was there
    client._timeout = 0.05
    with pytest.raises(UnreachableError, match="did not answer GET /slow within"):
        client.get("/slow")


def test_a_command_says_soon_that_nobody_answers(tmp_path: Path) -> None:
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as server:
        control = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UnreachableError, match="try again in a few seconds"):
            Client(control).get("/ok")
    assert time.monotonic() - began < TIMEOUT / 2


@pytest.mark.parametrize("address", ["https://", "http://", "http://a:99999", "ftp://x"])
def test_bad_addresses(address: str) -> None:
    with pytest.raises(ControlError, match=r"a control API|not a number"):
        Client(address)


def test_where_the_token_comes_from(tmp_path: Path) -> None:
    assert find_token(tmp_path, {}) == ""
    file = tmp_path / "admin-token"
    file.write_text("from-the-file\n")
    file.chmod(0o600)
    assert find_token(tmp_path, {}) == "from-the-file"
    assert find_token(tmp_path, {"FASTGATE_TOKEN": "from-outside"}) == "from-outside"


def test_a_token_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    file = tmp_path / "admin-token"
    file.write_text("from-the-file\n")
    file.chmod(0o640)
    with pytest.raises(ControlError, match=r"mode 0640.*chmod 600"):
        find_token(tmp_path, {})
