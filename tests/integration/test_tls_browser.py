"""Chromium as a client of a real gateway: a page with scripts over TLS on both sides, and what it
refuses to show. Its profile trusts the tests' authority alone."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from certkit import Material
from gatewaykit import Gateway
from tlspeerkit import authority, document, program, secure
from tlsserverkit import Request, TlsServer

Start = Callable[..., Gateway]

PAGE = """<!doctype html><html><body><p id="said">nothing yet</p><script>
(async () => {
  const got = await Promise.all([...Array(20).keys()].map(n => fetch(`/echo/${n}`)));
  const texts = await Promise.all(got.map(answer => answer.text()));
  const sent = await fetch("/echo/post", {method: "POST", body: "x".repeat(300000)});
  const last = await sent.text();
  document.getElementById("said").textContent =
    `${location.protocol} ${got.every(answer => answer.ok)} ${new Set(texts).size} ${last}`;
})();
</script></body></html>"""


def respond(request: Request) -> bytes:
    """The page; below /echo the method, the target and how long the body was."""
    kind, body = "text/html; charset=utf-8", PAGE
    if request.target.startswith("/echo"):
        kind = "text/plain"
        body = f"{request.method} {request.target} {len(request.body)}"
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


@pytest.fixture(scope="module")
def server(tls_material: Material) -> Iterator[TlsServer]:
    with TlsServer(tls_material.leaf(), respond=respond) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(shared_gateway: Start, server: TlsServer, tls_material: Material) -> Gateway:
    tls = {"authority": "root"}
    config = document(
        {
            "upstreams": [{"name": "app", "targets": [server.url], "tls": tls}],
            "services": [{"name": "app", "upstream": "app"}],
            "routes": [{"name": "all", "path": "/{rest*}", "service": "app"}],
        },
        listeners=[
            secure("public", certificates=["good"]),
            secure("expired", certificates=["expired"]),
            secure("unknown", certificates=["unknown"]),
            secure("required", certificates=["good"], client={"authorities": ["root"]}),
            {"name": "clear", "bind": "127.0.0.1:0", "redirect": "https", "https_port": 443},
        ],
        authorities=[authority("root", tls_material.root)],
        good=tls_material.leaf(),
        expired=tls_material.expired(),
        unknown=tls_material.unknown_issuer(),
    )
    running = shared_gateway(config)
    config["listeners"][-1]["https_port"] = running.address()[1]
    running.reload_and_wait(config)
    return running


@pytest.fixture(scope="module")
def home(tls_material: Material, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder whose certificates of authorities are the tests'."""
    program("chromium", "chromium")
    certutil = program("certutil", "libnss3-tools")
    folder = tmp_path_factory.mktemp("chromium")
    store = folder / ".pki" / "nssdb"
    store.mkdir(parents=True)
    add = ["-A", "-n", "tests", "-t", "C,,", "-i", str(tls_material.root.ca)]
    for arguments in (["-N", "--empty-password"], add):
        subprocess.run([certutil, "-d", f"sql:{store}", *arguments], check=True)
    return folder


def browse(home: Path, url: str) -> tuple[str, str]:
    """What Chromium makes of a page in the end, and the error if it does not show it."""
    done = subprocess.run(
        [
            program("chromium", "chromium"), "--headless=new", "--no-sandbox", "--disable-gpu",
            "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
            f"--user-data-dir={home / 'profile'}", "--virtual-time-budget=60000", "--dump-dom", url,
        ],
        capture_output=True, text=True, timeout=240,
        env={"HOME": str(home), "PATH": os.environ["PATH"]},
    )  # fmt: skip
    failed = re.search(r"Page load failed: net::(\w+)", done.stderr)
    return done.stdout, failed[1] if failed else ""


def test_a_page_with_scripts(gateway: Gateway, server: TlsServer, home: Path) -> None:
    """It comes from an https upstream; so do twenty-one answers to its script."""
    page, failed = browse(home, f"https://localhost:{gateway.address()[1]}/")
    assert failed == ""
    assert '<p id="said">https: true 20 POST /echo/post 300000</p>' in page
    targets = {request.target for request in server.requests}
    assert {f"/echo/{n}" for n in range(20)} <= targets
    assert {request.headers["x-forwarded-proto"] for request in server.requests} == {"https"}


def test_a_redirect_to_https(gateway: Gateway, home: Path) -> None:
    page, failed = browse(home, f"http://localhost:{gateway.address('clear')[1]}/")
    assert failed == ""
    assert '<p id="said">https: true 20 POST /echo/post 300000</p>' in page


@pytest.mark.parametrize(
    ("listener", "host", "error"),
    [
        ("unknown", "localhost", "ERR_CERT_AUTHORITY_INVALID"),
        ("expired", "localhost", "ERR_CERT_DATE_INVALID"),
        ("public", "other.localhost", "ERR_CERT_COMMON_NAME_INVALID"),
        # With TLS 1.3 the refusal follows the handshake. If it comes before the request is sent,
        # Chromium only says that the connection cannot be used.
        ("required", "localhost", "ERR_BAD_SSL_CLIENT_AUTH_CERT|ERR_SOCKET_NOT_CONNECTED"),
    ],
)
def test_what_it_does_not_show(
    gateway: Gateway, server: TlsServer, home: Path, listener: str, host: str, error: str
) -> None:
    before = len(server.requests)
    page, failed = browse(home, f"https://{host}:{gateway.address(listener)[1]}/")
    assert re.fullmatch(error, failed)
    assert "nothing yet" not in page
    assert len(server.requests) == before
