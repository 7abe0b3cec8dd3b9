"""An issuer of tokens for tests: a small provider on loopback that does what it is told.

    with Provider() as provider:                     # Provider(context): https
        provider.issuer                              # http://127.0.0.1:PORT/realms/test
        provider.rotate("k2")                        # its keys are others from now on
        provider.asked                               # the paths that were asked for, in order

| wanted | how |
| --- | --- |
| other keys, any JWKS | `provider.keys = [...]`, `provider.jwks = {...}` |
| no discovery of OpenID Connect, but RFC 8414 | `provider.oidc = False` |
| another issuer in the document | `provider.says["issuer"] = "…"`; the same for any member |
| headers | `provider.headers["Cache-Control"] = "…"` |
| a status instead of an answer | `provider.fails = 503` |
| any answer at a path | `provider.replies["/path"] = Reply(200, b"…")` |
| a provider that does not answer | `with provider.silent(): …` |

Keys are `SigningKey`s: they sign tokens, and have a JWK.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, NamedTuple

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

REALM = "/realms/test"
KEYS = f"{REALM}/keys"
OIDC = f"{REALM}/.well-known/openid-configuration"
OAUTH = f"/.well-known/oauth-authorization-server{REALM}"
CURVES: dict[str, tuple[ec.EllipticCurve, str]] = {
    "ES256": (ec.SECP256R1(), "P-256"),
    "ES384": (ec.SECP384R1(), "P-384"),
    "ES512": (ec.SECP521R1(), "P-521"),
}
_HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _integer(number: int, size: int = 0) -> str:
    return b64(number.to_bytes(size or (number.bit_length() + 7) // 8, "big"))


@cache
def _rsa(bits: int, number: int) -> rsa.RSAPrivateKey:
    """Slow to make, so each is made once."""
    return rsa.generate_private_key(65537, bits)


class SigningKey:
    """A key pair that signs tokens: by algorithm, "RS256", "PS384", "ES256", "EdDSA" …"""

    def __init__(
        self, kid: str = "k1", alg: str = "ES256", *, bits: int = 2048, n: int = 0
    ) -> None:
        self.kid, self.alg = kid, alg
        self.private: Any
        if alg in CURVES:
            self.private = ec.generate_private_key(CURVES[alg][0])
        elif alg == "EdDSA":
            self.private = ed25519.Ed25519PrivateKey.generate()
        else:
            self.private = _rsa(bits, n)

    @property
    def spki(self) -> bytes:
        return bytes(
            self.private.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

    @property
    def pem(self) -> bytes:
        return bytes(
            self.private.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

    @property
    def private_pem(self) -> bytes:
        return bytes(
            self.private.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    def jwk(self, **more: Any) -> dict[str, Any]:
        """The public key, with more members; None leaves one out."""
        public = self.private.public_key()
        if self.alg in CURVES:
            size = (public.curve.key_size + 7) // 8
            point = public.public_numbers()
            made = {
                "kty": "EC",
                "crv": CURVES[self.alg][1],
                "x": _integer(point.x, size),
                "y": _integer(point.y, size),
            }
        elif self.alg == "EdDSA":
            made = {"kty": "OKP", "crv": "Ed25519", "x": b64(public.public_bytes_raw())}
        else:
            numbers = public.public_numbers()
            made = {"kty": "RSA", "n": _integer(numbers.n), "e": _integer(numbers.e)}
        made = {**made, "kid": self.kid, "use": "sig", "alg": self.alg, **more}
        return {name: value for name, value in made.items() if value is not None}

    def token(self, claims: dict[str, Any], **header: Any) -> str:
        """A signed token; None leaves a member of the header out."""
        head = {"alg": self.alg, "typ": "JWT", "kid": self.kid, **header}
        head = {name: value for name, value in head.items() if value is not None}
        signed = ".".join(b64(json.dumps(part).encode()) for part in (head, claims))
        return f"{signed}.{b64(self._sign(signed.encode()))}"

    def _sign(self, data: bytes) -> bytes:
        if self.alg == "EdDSA":
            return bytes(self.private.sign(data))
        digest = _HASHES[self.alg[2:]]
        if self.alg in CURVES:
            size = (self.private.curve.key_size + 7) // 8
            pair = decode_dss_signature(self.private.sign(data, ec.ECDSA(digest)))
            return b"".join(number.to_bytes(size, "big") for number in pair)
        if self.alg.startswith("PS"):
            pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
            return bytes(self.private.sign(data, pss, digest))
        return bytes(self.private.sign(data, padding.PKCS1v15(), digest))


class Reply(NamedTuple):
    """What is answered at a path."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = MappingProxyType({})


class Provider:
    """A provider; see the table above."""

    def __init__(self, context: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                reply = provider._reply(self.path, dict(self.headers))
                self.send_response(reply.status)
                for name, value in {
                    "Content-Length": str(len(reply.body)),
                    **reply.headers,
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.body)

            def log_message(self, *arguments: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that has left, or does not trust the certificate

        self._server = Server((host, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._free = threading.Event()
        self._free.set()
        self.waiting = threading.Event()
        """Set when a request waits in vain."""
        scheme = "http"
        if context is not None:
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
            scheme = "https"
        self.origin = f"{scheme}://{host}:{self._server.server_address[1]}"
        self.issuer = f"{self.origin}{REALM}"
        self.keys = [SigningKey()]
        self.jwks: Any = None
        self.oidc = True
        self.says: dict[str, Any] = {}
        self.headers: dict[str, str] = {}
        self.fails = 0
        self.replies: dict[str, Reply] = {}
        self.asked: list[str] = []
        self.sent: list[dict[str, str]] = []
        """The header fields of the requests."""

    def __enter__(self) -> Provider:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._free.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def rotate(self, *kids: str, alg: str = "ES256") -> None:
        """New keys with these ids, and no others."""
        self.keys = [SigningKey(kid, alg) for kid in kids]

    @property
    def fetches(self) -> int:
        """How often its keys were asked for."""
        return self.asked.count(KEYS)

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Requests wait until the end of the block."""
        self._free.clear()
        self.waiting.clear()
        try:
            yield
        finally:
            self._free.set()

    def _reply(self, path: str, headers: dict[str, str]) -> Reply:
        self.asked.append(path)
        self.sent.append(headers)
        if not self._free.is_set():
            self.waiting.set()
            self._free.wait()
        if path in self.replies:
            return self.replies[path]
        if self.fails:
            return Reply(self.fails)
        if path == (OIDC if self.oidc else OAUTH):
            metadata = {"issuer": self.issuer, "jwks_uri": f"{self.origin}{KEYS}", **self.says}
            return Reply(200, json.dumps(metadata).encode(), {"Content-Type": "application/json"})
        if path == KEYS:
            jwks = self.jwks or {"keys": [key.jwk() for key in self.keys]}
            body = jwks if isinstance(jwks, bytes) else json.dumps(jwks).encode()
            return Reply(200, body, {"Content-Type": "application/jwk-set+json", **self.headers})
        return Reply(404)
