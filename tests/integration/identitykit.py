"""Identity providers for tests: Keycloak, and npm's oidc-provider, each as a process on loopback.

    provider = Keycloak(folder) or OidcProvider(folder)
    with provider:
        token = provider.token(["orders:read"], audience="orders")
        provider.introspect(token)["active"]
        provider.rotate()                 # signs with a new key from now on
        provider.stop(); provider.start() # at the same address, with the same keys and clients

`tools/identity-providers` installs them into `.cache/identity`; `missing()` says what is not there.
Keycloak keeps everything over a stop, oidc-provider its clients and keys but no tokens.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, Self

from cryptography.hazmat.primitives.asymmetric import rsa
from waitkit import free_port

PROJECT = Path(__file__).resolve().parents[2]
CACHE = PROJECT / ".cache" / "identity"
START_S = 120.0
"""Bounds a start, which takes Keycloak ten seconds of two processors."""
HINT = "run tools/identity-providers"

OPAQUE = "/opaque"
"""oidc-provider's tokens for audiences that end with this are opaque."""

SCOPES = ("orders:read", "orders:write")
"""Scopes that both providers know from the start."""


class Client(NamedTuple):
    """A client of a provider, with its secret."""

    id: str
    secret: str


class Refused(Exception):
    """A provider answered with an error; its text is the answer."""


class IdentityProvider:
    """What tests can do with a provider, whichever it is."""

    issuer: str
    """The issuer, as in tokens; the discovery document is below it."""
    client = Client("tests", "tests-s3cret")
    """Gets tokens with its own credentials."""
    gateway = Client("gateway", "gateway-s3cret")
    """Asks the introspection endpoint."""

    def __init__(self, folder: Path) -> None:
        """folder: for files and the log."""
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    # ---- for subclasses ------------------------------------------------------------------

    def command(self) -> tuple[list[str], dict[str, str]]:
        """The command that starts it, and its environment."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Called after each start, when it answers."""

    def probe(self) -> str:
        """An address that answers once it is started."""
        return self.discovery_url

    def rotate(self, *, keep_old: bool = True) -> str:
        """Sign with a new key from now on; returns its `kid`. keep_old: tokens signed with earlier
        keys stay valid; otherwise these keys are gone."""
        raise NotImplementedError

    # ---- life ----------------------------------------------------------------------------

    def start(self) -> Self:
        """Start it, and wait until it answers. AssertionError with its log: it does not."""
        arguments, environment = self.command()
        with (self.folder / "provider.log").open("ab") as log:
            # It ends with this process, however that ends.
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *arguments],
                cwd=self.folder,
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._until(lambda: _fetch(self.probe()) is not None, "the provider answers")
        self.prepare()
        return self

    def stop(self) -> None:
        """End it at once, with its children."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        deadline = time.monotonic() + START_S
        with contextlib.suppress(ProcessLookupError):  # its children are gone, too
            while time.monotonic() < deadline:
                os.killpg(self.process.pid, 0)
                time.sleep(0.01)
        self.process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def log_text(self) -> str:
        path = self.folder / "provider.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _until(self, probe: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError, Refused):
                if probe():
                    return
            if self.process is None or self.process.poll() is not None:
                raise AssertionError(f"{what}: it has ended\n{self.log_text()[-4000:]}")
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not yet\n{self.log_text()[-4000:]}")
            time.sleep(0.05)

    # ---- what it offers ------------------------------------------------------------------

    @property
    def discovery_url(self) -> str:
        return f"{self.issuer}/.well-known/openid-configuration"

    def discovery(self) -> dict[str, Any]:
        """The discovery document."""
        found: dict[str, Any] = _fetch(self.discovery_url)
        return found

    def public_keys(self) -> list[dict[str, Any]]:
        """The public keys for signatures, as the JWKS has them."""
        found = _fetch(self.discovery()["jwks_uri"])["keys"]
        return [key for key in found if key.get("use", "sig") == "sig"]

    @property
    def introspection_url(self) -> str:
        return str(self.discovery()["introspection_endpoint"])

    def token(self, scopes: Iterable[str] = (), audience: str | None = None) -> str:
        """An access token for `client` (client credentials grant)."""
        return str(self.token_answer(scopes, audience)["access_token"])

    def token_answer(self, scopes: Iterable[str], audience: str | None) -> dict[str, Any]:
        """The whole answer of the token endpoint."""
        form = {"grant_type": "client_credentials", "scope": " ".join(scopes)}
        if audience is not None:
            form["resource"] = audience
        found: dict[str, Any] = self._post("token_endpoint", form, self.client)
        return found

    def introspect(self, token: str) -> dict[str, Any]:
        """What the introspection endpoint (RFC 7662) says about a token."""
        found: dict[str, Any] = self._post("introspection_endpoint", {"token": token}, self.gateway)
        return found

    def revoke(self, token: str) -> None:
        """Revoke a token (RFC 7009)."""
        self._post("revocation_endpoint", {"token": token}, self.client)

    def _post(self, endpoint: str, form: dict[str, str], client: Client) -> Any:
        pair = ":".join(map(urllib.parse.quote, client))
        basic = base64.b64encode(pair.encode()).decode()
        data = urllib.parse.urlencode(form).encode()
        return _fetch(self.discovery()[endpoint], data, Authorization=f"Basic {basic}")


def _fetch(url: str, data: bytes | None = None, method: str | None = None, **headers: str) -> Any:
    """The JSON of an answer; {} if it has no body. Raises Refused for a status from 400 on, and
    OSError if there is none."""
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            body = answer.read()
    except urllib.error.HTTPError as error:
        with error:
            raise Refused(f"{url}: {error.status} {error.read()[:1000]!r}") from None
    return json.loads(body) if body else {}


def claims(token: str) -> dict[str, Any]:
    """The claims of a JWT, unverified."""
    return _part(token, 1)


def header(token: str) -> dict[str, Any]:
    """The header of a JWT."""
    return _part(token, 0)


def _part(token: str, number: int) -> dict[str, Any]:
    text = token.split(".")[number]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return found


# ---- oidc-provider --------------------------------------------------------------------------


class OidcProvider(IdentityProvider):
    """npm's oidc-provider. Tokens with an audience, which is a URI, are JWTs, unless it ends with
    OPAQUE; others are opaque.

    Its introspection endpoint knows opaque tokens only, as long as the process lives.
    """

    seconds = 300
    """How long tokens are valid."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.issuer = f"http://127.0.0.1:{self.port}"
        self._keys = [_private_key()]

    @staticmethod
    def missing() -> str:
        """What is not there; empty: nothing."""
        if _module() is None:
            return f"oidc-provider is not installed: {HINT}"
        return ""

    def command(self) -> tuple[list[str], dict[str, str]]:
        self._write()
        script = Path(__file__).with_name("oidcprovider.mjs")
        return ["node", str(script), str(self.folder / "settings.json")], {}

    def _write(self) -> None:
        settings = {
            "module": str(_module()),
            "port": self.port,
            "issuer": self.issuer,
            "keys": self._keys,
            "scopes": list(SCOPES),
            "opaque": OPAQUE,
            "seconds": self.seconds,
            "clients": [self.client._asdict(), self.gateway._asdict()],
        }
        (self.folder / "settings.json").write_text(json.dumps(settings))

    def rotate(self, *, keep_old: bool = True) -> str:
        self._keys = [_private_key(), *(self._keys if keep_old else ())]
        self._write()
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)
        names = {key["kid"] for key in self._keys}
        self._until(
            lambda: {key["kid"] for key in self.public_keys()} == names, "the new keys are there"
        )
        return str(self._keys[0]["kid"])


def _module() -> Path | None:
    """The installed module; None: it is not."""
    found = sorted(CACHE.glob("oidc-provider-*/.installed"))
    if not found:
        return None
    return found[-1].parent / "node_modules" / "oidc-provider" / "lib" / "index.js"


def _private_key() -> dict[str, Any]:
    """A new RSA key as a JWK."""
    numbers = rsa.generate_private_key(65537, 2048).private_numbers()
    parts = {
        "n": numbers.public_numbers.n, "e": numbers.public_numbers.e, "d": numbers.d,
        "p": numbers.p, "q": numbers.q, "dp": numbers.dmp1, "dq": numbers.dmq1, "qi": numbers.iqmp,
    }  # fmt: skip
    key = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": uuid.uuid4().hex}
    for name, number in parts.items():
        raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
        key[name] = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    return key


# ---- Keycloak -------------------------------------------------------------------------------

ADMIN = Client("admin", "admin-s3cret")
REALM = "tests"
PROVIDERS = "org.keycloak.keys.KeyProvider"


class Keycloak(IdentityProvider):
    """Keycloak with a realm. All tokens are JWTs, and its introspection endpoint knows all of them.

    Scopes and audiences are created in the realm when a token with them is first asked for.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.base = f"http://127.0.0.1:{self.port}"
        self.issuer = f"{self.base}/realms/{REALM}"
        self._made: dict[str, str] = {}  # client scope → its id
        self._priority = 1000

    @staticmethod
    def missing() -> str:
        """What is not there; empty: nothing."""
        if _keycloak_home() is None:
            return f"Keycloak is not installed: {HINT}"
        return ""

    def command(self) -> tuple[list[str], dict[str, str]]:
        home = _keycloak_home()
        assert home is not None
        database = f"jdbc:h2:file:{self.folder}/keycloak;NON_KEYWORDS=VALUE;DB_CLOSE_ON_EXIT=FALSE"
        arguments = [
            "bash", str(home / "bin" / "kc.sh"), "start", "--optimized", "--http-enabled=true",
            "--http-host=127.0.0.1", f"--http-port={self.port}", f"--hostname={self.base}",
            f"--db-url={database}", "--cache=local",
        ]  # fmt: skip
        environment = {
            "KC_BOOTSTRAP_ADMIN_USERNAME": ADMIN.id,
            "KC_BOOTSTRAP_ADMIN_PASSWORD": ADMIN.secret,
            "JAVA_OPTS_KC_HEAP": "-Xms64m -Xmx512m",
            "JAVA_OPTS_APPEND": "-XX:TieredStopAtLevel=1",  # it does not live long
        }
        return arguments, environment

    def probe(self) -> str:
        return f"{self.base}/realms/master/.well-known/openid-configuration"

    def prepare(self) -> None:
        if REALM in (one["realm"] for one in self._admin("/admin/realms")):
            return
        clients: list[dict[str, Any]] = [
            {
                "clientId": client.id,
                "secret": client.secret,
                "publicClient": False,
                "serviceAccountsEnabled": True,
                "standardFlowEnabled": False,
            }
            for client in (self.client, self.gateway)
        ]
        # Keycloak says about a token only to those that it is for.
        clients[0]["protocolMappers"] = [
            _mapper({"included.client.audience": self.gateway.id}, "introspection")
        ]
        realm = {"realm": REALM, "enabled": True, "clients": clients}
        self._admin("/admin/realms", realm)
        for scope in SCOPES:
            self._scope(scope)

    def token_answer(self, scopes: Iterable[str], audience: str | None) -> dict[str, Any]:
        names = list(scopes)
        for name in names:
            self._scope(name)
        if audience is not None:
            names.append(self._audience(audience))
        return super().token_answer(names, None)

    def rotate(self, *, keep_old: bool = True) -> str:
        path = f"/admin/realms/{REALM}/components"
        old = self._admin(f"{path}?type={PROVIDERS}")
        before = {key["kid"] for key in self.public_keys()}
        self._priority += 1
        config = {"priority": [str(self._priority)], "algorithm": ["RS256"], "keySize": ["2048"]}
        component = {"providerId": "rsa-generated", "providerType": PROVIDERS, "config": config}
        self._admin(path, {"name": f"rsa-{self._priority}", **component})
        if not keep_old:
            for one in old:
                if one["providerId"] == "rsa-generated":
                    self._admin(f"{path}/{one['id']}", method="DELETE")
        (new,) = {key["kid"] for key in self.public_keys()} - before
        return str(new)

    def _scope(self, name: str) -> None:
        """The client may ask for this scope."""
        attributes = {"include.in.token.scope": "true"}
        self._client_scope(name, {"attributes": attributes})

    def _audience(self, audience: str) -> str:
        """The scope by which tokens are for this audience; it is not in the token itself."""
        name = f"audience-{audience.replace('/', '_').replace(':', '_')}"
        mapper = _mapper({"included.custom.audience": audience}, "audience")
        attributes = {"include.in.token.scope": "false"}
        self._client_scope(name, {"attributes": attributes, "protocolMappers": [mapper]})
        return name

    def _client_scope(self, name: str, more: dict[str, Any]) -> None:
        if name in self._made:
            return
        path = f"/admin/realms/{REALM}"
        self._admin(f"{path}/client-scopes", {"name": name, "protocol": "openid-connect", **more})
        scopes = self._admin(f"{path}/client-scopes")
        self._made[name] = next(one["id"] for one in scopes if one["name"] == name)
        (client,) = self._admin(f"{path}/clients?clientId={self.client.id}")
        place = f"{path}/clients/{client['id']}/optional-client-scopes/{self._made[name]}"
        self._admin(place, method="PUT")

    def _admin(self, path: str, data: Any = None, method: str | None = None) -> Any:
        """Ask the admin API. `data` is sent as JSON."""
        form = {"grant_type": "password", "client_id": "admin-cli", "username": ADMIN.id,
                "password": ADMIN.secret}  # fmt: skip
        url = f"{self.base}/realms/master/protocol/openid-connect/token"
        token = _fetch(url, urllib.parse.urlencode(form).encode())["access_token"]
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        body = None if data is None else json.dumps(data).encode()
        return _fetch(f"{self.base}{path}", body, method, **headers)


def _mapper(config: dict[str, str], name: str) -> dict[str, Any]:
    """What adds an audience to access tokens."""
    return {
        "name": name,
        "protocol": "openid-connect",
        "protocolMapper": "oidc-audience-mapper",
        "config": {"access.token.claim": "true", "introspection.token.claim": "true", **config},
    }


def _keycloak_home() -> Path | None:
    """Where it is installed; None: nowhere."""
    found = sorted(CACHE.glob("keycloak-*/.built"))
    return found[-1].parent if found else None
