"""curl as a client of a real gateway over TLS."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from certkit import Material
from gatewaykit import PATIENCE, Gateway, Upstream, proxying
from tlspeerkit import HOST, authority, curl, document, program, secure

Start = Callable[..., Gateway]
LARGE = 4_000_000  # octets, some hundred records


@pytest.fixture(scope="module")
def gateway(shared_gateway: Start, shared_upstream: Upstream, tls_material: Material) -> Gateway:
    """Listeners of all kinds, in front of one upstream."""
    partners = {"authorities": ["partners"]}
    plain = document(
        proxying(
            shared_upstream,
            {"name": "all", "path": "/{rest*}"},
            {
                "name": "partners",
                "path": "/partners",
                "hosts": ["partners.test.example"],
                "client_certificate": {**partners, "required": True, "forward": True},
            },
        ),
        listeners=[
            secure("public", hsts="180d"),
            secure("modern", min="1.3"),
            secure("strict", strict_names=True),
            secure("required", client=partners),
            secure("optional", client={**partners, "required": False}),
            {"name": "clear", "bind": "127.0.0.1:0", "redirect": "https", "https_port": 443},
        ],
        authorities=[authority("partners", tls_material.root)],
        api=tls_material.leaf(HOST, "partners.test.example"),
        wildcard=tls_material.leaf("*.wild.example"),
        other=tls_material.leaf("other.example"),
    )
    running = shared_gateway(plain)
    port = running.address("public")[1]
    plain["listeners"][-1]["https_port"] = port
    running.reload_and_wait(plain)
    assert running.address("public")[1] == port
    return running


# ---- versions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "version"),
    [
        (["--tlsv1.2", "--tls-max", "1.2"], "TLSv1.2"),
        (["--tlsv1.3"], "TLSv1.3"),
        ([], "TLSv1.3"),
    ],
    ids=["1.2", "1.3", "default"],
)
def test_versions(
    gateway: Gateway, tls_material: Material, arguments: list[str], version: str
) -> None:
    got = curl(gateway, "/echo", *arguments, ca=tls_material.root)
    assert got.code == 0, got.says
    assert got.status == 200
    assert got.version == version
    assert "ALPN: server accepted http/1.1" in got.says
    assert json.loads(got.body)["headers"]["x-forwarded-proto"] == "https"


@pytest.mark.parametrize(
    ("listener", "arguments"),
    [
        ("public", ["--tlsv1.0", "--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0"]),
        ("modern", ["--tls-max", "1.2"]),
    ],
)
def test_versions_that_are_too_old(
    gateway: Gateway, tls_material: Material, listener: str, arguments: list[str]
) -> None:
    got = curl(gateway, "/echo", *arguments, listener=listener, ca=tls_material.root)
    assert got.code == 35, got.says
    assert "alert protocol version" in got.says


# ---- names and authorities -----------------------------------------------------------------------


@pytest.mark.parametrize("host", [HOST, "a.wild.example", "other.example"])
@pytest.mark.parametrize("listener", ["public", "strict"])
def test_names(gateway: Gateway, tls_material: Material, host: str, listener: str) -> None:
    """Each gets the certificate that is valid for it, also under a wildcard."""
    got = curl(gateway, "/echo", host=host, listener=listener, ca=tls_material.root)
    assert got.code == 0, got.says
    assert json.loads(got.body)["headers"]["x-forwarded-host"].startswith(host)


@pytest.mark.parametrize("host", ["unknown.example", "b.a.wild.example", "wild.example"])
def test_names_without_a_certificate(gateway: Gateway, tls_material: Material, host: str) -> None:
    got = curl(gateway, "/echo", host=host, ca=tls_material.root)
    assert got.code == 60, got.says
    assert "no alternative certificate subject name matches target host name" in got.says
    got = curl(gateway, "/echo", host=host, listener="strict", ca=tls_material.root)
    assert got.code == 35, got.says
    assert "unrecognized name" in got.says


def test_an_unknown_authority(gateway: Gateway, tls_material: Material) -> None:
    got = curl(gateway, "/echo", ca=tls_material.stranger)
    assert got.code == 60, got.says
    assert "unable to get local issuer certificate" in got.says
    got = curl(gateway, "/echo", "--insecure")
    assert got.status == 200, got.says


# ---- client certificates -------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("listener", ["required", "optional"])
def test_client_certificates_of_a_listener(
    gateway: Gateway, tls_material: Material, listener: str, version: str
) -> None:
    def asked(*arguments: object) -> tuple[int, int, str]:
        more = ("--tls-max", version, *arguments)
        got = curl(gateway, "/echo", *more, listener=listener, ca=tls_material.root)
        return got.code, got.status, got.says

    good, strange = tls_material.client(), tls_material.client_of_stranger()
    assert asked("--cert", good.cert, "--key", good.key)[:2] == (0, 200)
    code, status, says = asked()
    if listener == "optional":
        assert (code, status) == (0, 200)
    else:
        assert (code, status) in ((35, 0), (56, 0)), says
        assert "certificate required" in says or "handshake failure" in says
    code, status, says = asked("--cert", strange.cert, "--key", strange.key)
    assert code in (35, 56), says
    assert status == 0
    assert "unknown ca" in says


def test_client_certificates_of_a_route(gateway: Gateway, tls_material: Material) -> None:
    good = tls_material.client()

    def asked(host: str, *arguments: object) -> tuple[int, str]:
        got = curl(gateway, "/partners", *arguments, host=host, ca=tls_material.root)
        assert got.code == 0, got.says
        found = json.loads(got.body)
        return got.status, found.get("reason") or found["headers"].get("client-cert", "")

    host = "partners.test.example"
    assert asked(host) == (403, "certificate_required")
    status, forwarded = asked(host, "--cert", good.cert, "--key", good.key)
    assert status == 200
    assert forwarded.startswith(":MII")
    forged = ("-H", "Client-Cert: :Zm9yZ2Vk:")
    assert asked(HOST, *forged)[0] == 200
    status, forwarded = asked(host, "--cert", good.cert, "--key", good.key, *forged)
    assert "Zm9yZ2Vk" not in forwarded


# ---- without TLS, and only with it ---------------------------------------------------------------


def test_plain_http_where_tls_is_spoken(gateway: Gateway) -> None:
    got = curl(gateway, "/echo", scheme="http")
    assert (got.code, got.status) == (0, 400), got.says
    problem = json.loads(got.body)
    assert problem["reason"] == "https_required"
    assert "https://" in problem["detail"]
    assert got.headers["connection"] == "close"
    assert "strict-transport-security" not in got.headers


def test_a_redirect_to_https(gateway: Gateway, tls_material: Material) -> None:
    """Followed, with a body that must be sent again."""
    ip, port = gateway.address("public")
    got = curl(
        gateway, "/echo/a%20b?c=d&e", "--location", "--data", "body",
        "--resolve", f"{HOST}:{port}:{ip}",
        listener="clear", scheme="http", ca=tls_material.root,
    )  # fmt: skip
    assert got.code == 0, got.says
    assert got.status == 308
    assert got.headers["location"] == f"https://{HOST}:{port}/echo/a%20b?c=d&e"
    head, _, body = got.body.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    found = json.loads(body)
    assert (found["method"], found["target"]) == ("POST", "/echo/a%20b?c=d&e")
    assert found["body"] == "body"


def test_hsts_is_kept_by_curl(gateway: Gateway, tls_material: Material, tmp_path: Path) -> None:
    """After one answer over TLS, curl turns http:// into https:// by itself."""
    kept = ("--hsts", tmp_path / "hsts")
    got = curl(gateway, "/echo", *kept, ca=tls_material.root)
    assert got.headers["strict-transport-security"] == f"max-age={180 * 86400}"
    assert HOST in (tmp_path / "hsts").read_text()
    got = curl(gateway, "/echo", *kept, scheme="http", ca=tls_material.root)
    assert (got.code, got.status) == (0, 200), got.says
    assert "Switched from HTTP to HTTPS due to HSTS" in got.says


# ---- bodies, connections -------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("how", ["length", "chunked"])
def test_a_large_upload(
    gateway: Gateway, tls_material: Material, tmp_path: Path, how: str, version: str
) -> None:
    data = os.urandom(64) * (LARGE // 64)
    (tmp_path / "large").write_bytes(data)
    more = ["-H", "Transfer-Encoding: chunked"] if how == "chunked" else []
    got = curl(
        gateway, "/echo", "--tls-max", version, "-T", tmp_path / "large", *more,
        ca=tls_material.root,
    )  # fmt: skip
    assert (got.code, got.status) == (0, 200), got.says
    arrived = json.loads(got.body)["body"].encode("latin-1")
    assert hashlib.sha256(arrived).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("path", [f"/size/{5 * LARGE}", f"/chunked/{5 * LARGE // 10_000}/10000"])
def test_a_large_download(
    gateway: Gateway, tls_material: Material, path: str, version: str
) -> None:
    got = curl(gateway, path, "--tls-max", version, ca=tls_material.root)
    assert (got.code, got.status) == (0, 200), got.says
    assert got.body == b"x" * (5 * LARGE)


@pytest.mark.parametrize("last", [False, True], ids=["kept", "closed"])
def test_connections_are_used_again(gateway: Gateway, tls_material: Material, last: bool) -> None:
    """Three requests of one curl; unless it asks for the end of the connection each time."""
    ip, port = gateway.address("public")
    ran = subprocess.run(
        [
            program("curl", "curl"), "-sS", "--max-time", str(int(PATIENCE)),
            "--cacert", str(tls_material.root.ca), "--resolve", f"{HOST}:{port}:{ip}",
            "-w", "\n%{http_code} %{num_connects}\n",
            *(["-H", "Connection: close"] if last else []),
            *[f"https://{HOST}:{port}/status/20{n}" for n in range(3)],
        ],
        capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    lines = [line for line in ran.stdout.splitlines() if line.startswith("20")]
    assert lines == [f"20{n} {int(last or n == 0)}" for n in range(3)]
