"""A small client of the control API: standard library only, TCP or a Unix socket.

The address is FASTGATE_CONTROL, the token FASTGATE_TOKEN. Without them, files that the gateway
writes to its state directory are read: `running.json` for the address, `admin-token` for the token,
which is refused when others than its owner can read it. An API with TLS is verified: with the
operating system's certificates, those of FASTGATE_CA, or by the digest that `running.json` has.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import ssl
import stat
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fastgate import settings
from fastgate.errors import ConfigurationError, ControlError, UnreachableError

TIMEOUT = 60.0
"""Seconds: applying waits until every worker serves the new generation."""
REACH_S = 4.0
"""Seconds for a first answer of the control API, before the call itself is sent: its socket accepts
connections even while no process serves it."""
MAX_ANSWER = 256 << 20
ADVICE = "Is the gateway running? Set FASTGATE_CONTROL or --control if it is elsewhere."
DEFAULT_PORT = 8081


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(f"\0{self._path[1:]}" if self._path.startswith("@") else self._path)


class Trust(NamedTuple):
    """How a control API with `https` is verified."""

    ca: str = ""
    """A file of certificates; empty: the operating system's."""
    certificate: str = ""
    """SHA-256, in hex, of the one certificate that is accepted, as the running gateway has written
    it into its state directory; not if there is a `ca`. Empty: any that can be verified."""


SYSTEM = Trust()


class Found(NamedTuple):
    """A running gateway, as its state directory has it."""

    control: str
    certificate: str


class _TlsConnection(http.client.HTTPConnection):
    """Verified with certificates that are trusted, or by being the expected one."""

    default_port = DEFAULT_PORT

    def __init__(self, host: str, port: int, timeout: float, trust: Trust) -> None:
        super().__init__(host, port, timeout=timeout)
        self._trust = trust

    def connect(self) -> None:
        super().connect()
        expected = "" if self._trust.ca else self._trust.certificate
        context = ssl.create_default_context(cafile=self._trust.ca or None)
        if expected:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        sock = context.wrap_socket(self.sock, server_hostname=self.host)
        self.sock = sock
        found = hashlib.sha256(sock.getpeercert(True) or b"").hexdigest()
        if expected and found != expected:
            raise ssl.SSLError("its certificate is not the one of the gateway that runs here")


class Answer:
    """What the API answered: JSON in `data`, header fields in `headers`."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.data: Any = None
        if body:
            try:
                self.data = json.loads(body)
            except ValueError:
                self.data = body.decode("utf-8", "replace")


class Client:
    """Calls to one control API."""

    def __init__(
        self,
        control: str,
        token: str = "",
        timeout: float = TIMEOUT,
        hint: str = "",
        trust: Trust = SYSTEM,
    ) -> None:
        """hint: shown if the API cannot be reached, instead of the general advice."""
        self.control = control
        self._trust = trust
        self._secure = False
        self._hint = hint or ADVICE
        self._token = token
        self._timeout = timeout
        self._reached = False
        if trust.ca and not Path(trust.ca).is_file():
            raise ControlError(f"--ca: there is no file {trust.ca!r}")
        if control.startswith("unix:"):
            return
        parts = urllib.parse.urlsplit(control if "//" in control else f"http://{control}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ControlError(
                f"{control!r} is not the address of a control API. Write http://host:port, "
                "https://host:port or unix:/path"
            )
        self._secure = parts.scheme == "https"
        try:
            self._port = parts.port or DEFAULT_PORT
        except ValueError:
            raise ControlError(f"{control!r}: the port is not a number up to 65535") from None
        self._host = parts.hostname

    def get(self, path: str, **query: Any) -> Any:
        """The data at `path`. Raises ControlError, UnreachableError."""
        return self.call("GET", path, query=query).data

    def pages(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """Every item of a list, page by page."""
        while True:
            page = self.get(path, **query)
            if isinstance(page, list):
                yield from page
                return
            yield from page["items"]
            if not page.get("next"):
                return
            query["cursor"] = page["next"]

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        accept: tuple[int, ...] = (),
    ) -> Answer:
        """One call. Raises ControlError for a status of 400 and more that is not in `accept`;
        ConfigurationError where the configuration is what is wrong; UnreachableError."""
        given = {name: _text(value) for name, value in (query or {}).items() if value is not None}
        target = f"{path}?{urllib.parse.urlencode(given)}" if given else path
        fields = {"Accept": "application/json", "User-Agent": "fastgate-cli", **(headers or {})}
        if self._token:
            fields["Authorization"] = f"Bearer {self._token}"
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            fields["Content-Type"] = "application/json"
        answer = self._exchange(method, target, data, fields)
        if answer.status >= 400 and answer.status not in accept:
            raise _refusal(answer, f"{method} {path}", bool(self._token))
        return answer

    def _exchange(
        self, method: str, target: str, data: bytes | None, fields: Mapping[str, str]
    ) -> Answer:
        self._reach()
        connection = self._connection(self._timeout)
        try:
            connection.request(method, target, data, dict(fields))
            response = connection.getresponse()
            text = response.read(MAX_ANSWER)
        except TimeoutError:
            raise UnreachableError(
                f"The control API at {self.control} did not answer {method} {target} within "
                f"{self._timeout:g} s. It may have been done: check before you repeat it."
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()
        return Answer(response.status, dict(response.getheaders()), text)

    def _reach(self) -> None:
        """Before the first call: does the API answer? Any answer will do."""
        if self._reached:
            return
        limit = min(REACH_S, self._timeout)
        connection = self._connection(limit)
        try:
            connection.request("GET", "/healthz", headers={"User-Agent": "fastgate-cli"})
            connection.getresponse().close()
        except TimeoutError:
            raise UnreachableError(
                f"The control API at {self.control} did not answer within {limit:g} s. If the "
                "gateway has just started, try again in a few seconds. If this persists, the "
                'gateway\'s log says why: look for "the control API" in it. Traffic is served '
                "meanwhile."
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()
        self._reached = True

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        if self.control.startswith("unix:"):
            return _UnixConnection(self.control[5:].removeprefix("//"), timeout)
        if self._secure:
            return _TlsConnection(self._host, self._port, timeout, self._trust)
        return http.client.HTTPConnection(self._host, self._port, timeout=timeout)

    def _unreachable(self, error: Exception) -> UnreachableError:
        if isinstance(error, ssl.SSLCertVerificationError):
            return UnreachableError(
                f"The certificate of the control API at {self.control} is not accepted: "
                f"{error.verify_message}. Name who has issued it with --ca or FASTGATE_CA."
            )
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        hint = self._hint
        if not self._secure and isinstance(error, ConnectionResetError):
            hint = f"If it has TLS, write https://. {hint}"
        return UnreachableError(
            f"The control API at {self.control} cannot be reached: {reason}. {hint}"
        )


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refusal(answer: Answer, what: str, had_token: bool) -> ControlError | ConfigurationError:
    problem = answer.data if isinstance(answer.data, dict) else {}
    if problem.get("reason") == "invalid_configuration":
        faults = [
            ConfigurationError(
                one["message"], one["path"], one.get("line"), one.get("hint"), one.get("file")
            )
            for one in problem.get("errors", [])
        ]
        if faults:
            faults[0].others = tuple(faults[1:])
            return faults[0]
    words = str(problem.get("detail") or problem.get("title") or f"{what}: status {answer.status}")
    if answer.status == 401 and not had_token:
        words += (
            " No token was found. Set FASTGATE_TOKEN, or name the gateway's state directory with "
            "--state-dir."
        )
    return ControlError(words, answer.status, problem)


def find_token(state_dir: Path, environ: Mapping[str, str] = os.environ) -> str:
    """FASTGATE_TOKEN, else what the state directory's token file holds, else ""."""
    given = environ.get(settings.BY_NAME["token"].env)
    if given:
        return given.strip()
    path = state_dir / settings.ADMIN_TOKEN
    try:
        with open(path, encoding="ascii") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_IMODE(mode) & 0o077:
                raise ControlError(
                    f"{path} can be read by others than its owner (mode {stat.S_IMODE(mode):04o}), "
                    f"so it is not used. Run: chmod 600 {path}; and consider a new token."
                )
            return file.read(4096).strip()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return ""


def find_running(state_dir: Path) -> Found | None:
    """The gateway that runs with this state directory, if there is one."""
    running = _running(state_dir)
    return None if running is None or not _lives(running[0]) else running[1]


def no_gateway(places: Sequence[Path]) -> str:
    """What to do if no gateway runs with any of these state directories."""
    elsewhere = "Start it, or name another with --state-dir or --control."
    for place in places:
        if (running := _running(place)) is not None:
            return (
                f"The gateway with the state directory {place} (process {running[0]}) no longer "
                f"runs. {elsewhere}"
            )
    return f"No gateway runs with the state directory {places[0]}. {elsewhere}"


def _running(state_dir: Path) -> tuple[int, Found] | None:
    """Process and control API in `running.json`."""
    try:
        found = json.loads((state_dir / settings.RUNNING).read_bytes())
        control, certificate = found["control"], found.get("control_certificate", "")
        return int(found["pid"]), Found(str(control), str(certificate))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True
