"""The client of a control API with TLS: what it verifies, and with what."""

from __future__ import annotations

import http.server
import json
import os
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from certkit import Identity, Material
from conftest import Cli
from cryptography.hazmat.primitives import hashes

from fastgate import settings
from fastgate.cli.client import Client, Found, Trust, find_running
from fastgate.errors import ControlError, UnreachableError


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"items": [], "token": self.headers["Authorization"]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Quiet."""


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, address: object) -> None:
        """A client that does not accept the certificate leaves."""


@contextmanager
def api(identity: Identity) -> Iterator[int]:
    """A control API with this certificate; yields its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.cert, identity.key)
    server = Server(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def get(port: int, trust: Trust, host: str = "127.0.0.1") -> object:
    return Client(f"https://{host}:{port}", "secret", trust=trust).get("/v1/certificates")["token"]


def refused(port: int, trust: Trust, host: str = "127.0.0.1") -> str:
    with pytest.raises(UnreachableError) as caught:
        get(port, trust, host)
    return str(caught.value)


def digest(identity: Identity) -> str:
    return identity.certificate.fingerprint(hashes.SHA256()).hex()


def test_certificates_that_are_trusted(tls_material: Material) -> None:
    with api(tls_material.leaf()) as port:
        trust = Trust(str(tls_material.root.ca))
        assert get(port, trust) == "Bearer secret"
        assert get(port, trust, "localhost") == "Bearer secret"


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("expired", "certificate has expired"),
        ("unknown_issuer", "unable to get local issuer certificate"),
        ("wrong_name", "IP address mismatch"),
    ],
)
def test_certificates_that_are_not(kind: str, says: str, tls_material: Material) -> None:
    with api(getattr(tls_material, kind)()) as port:
        said = refused(port, Trust(str(tls_material.root.ca)))
    assert f"The certificate of the control API at https://127.0.0.1:{port} is not acc" in said
    assert says in said
    assert "Name who has issued it with --ca or FASTGATE_CA." in said


def test_the_operating_systems_certificates_do_not_include_ours(tls_material: Material) -> None:
    with api(tls_material.leaf()) as port:
        assert "is not accepted" in refused(port, Trust())


def test_the_one_certificate_that_is_expected(tls_material: Material) -> None:
    """Whatever its host and its issuer: the state directory has said which one it is."""
    own = tls_material.wrong_name()
    with api(own) as port:
        assert get(port, Trust(certificate=digest(own))) == "Bearer secret"
        other = Trust(certificate=digest(tls_material.leaf()))
        assert "its certificate is not the one of the gateway that runs here" in refused(
            port, other
        )
        # A file of certificates is more than that.
        ca = Trust(str(tls_material.root.ca), digest(own))
        assert "is not accepted" in refused(port, ca)


def test_no_token_is_sent_before_the_certificate_is_accepted(tls_material: Material) -> None:
    seen: list[str] = []

    class Listening(Handler):
        def do_GET(self) -> None:
            seen.append(self.path)
            super().do_GET()

    original = Handler.do_GET
    Handler.do_GET = Listening.do_GET  # type: ignore[method-assign]
    try:
        with api(tls_material.unknown_issuer()) as port:
            refused(port, Trust(str(tls_material.root.ca)))
    finally:
        Handler.do_GET = original  # type: ignore[method-assign]
    assert seen == []


def test_clear_http_where_there_is_tls(tls_material: Material) -> None:
    with api(tls_material.leaf()) as port, pytest.raises(UnreachableError) as caught:
        Client(f"http://127.0.0.1:{port}").get("/")
    assert "If it has TLS, write https://." in str(caught.value)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ControlError, match=r"--ca: there is no file 'none\.pem'"):
        Client("https://127.0.0.1:1", trust=Trust("none.pem"))


def running(state: Path, control: str, **more: str) -> None:
    state.mkdir(exist_ok=True)
    found = {"pid": os.getpid(), "generation": 1, "listeners": {}, "control": control, **more}
    (state / settings.RUNNING).write_text(json.dumps(found))


def test_commands_know_the_certificate_of_the_gateway_that_runs_here(
    cli: Cli, tls_material: Material, tmp_path: Path
) -> None:
    own = tls_material.wrong_name()
    with api(own) as port:
        state, url = tmp_path / settings.STATE_DIR, f"https://127.0.0.1:{port}"
        running(state, url, control_certificate=digest(own))
        assert find_running(state) == Found(url, digest(own))
        assert cli("certificates", "list").code == 0
        assert cli("certificates", "list", "--control", url).code == 3
        running(state, url)  # it does not say
        assert cli("certificates", "list").code == 3


def test_a_file_of_certificates_by_option_and_by_variable(
    cli: Cli, tls_material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = str(tls_material.root.ca)
    with api(tls_material.leaf()) as port:
        control = ["--control", f"https://127.0.0.1:{port}"]
        assert cli("certificates", "list", *control).code == 3
        assert cli("certificates", "list", *control, "--ca", ca).code == 0
        monkeypatch.setenv("FASTGATE_CA", ca)
        assert cli("certificates", "list", *control).code == 0
        assert cli("certificates", "list", *control, "--ca", "none.pem").code == 1
