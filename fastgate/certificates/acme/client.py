"""Requests to one authority, with `acme`'s client: signed, with fresh nonces, bounded.

What the library lacks is here: a nonce that the authority refuses is retried several times, a
response is bounded in size and time, `Retry-After` is read from refusals too, and every fault is an
`AcmeError` with a sentence for the operator. All of it blocks; `call` runs it in the thread.
"""

from __future__ import annotations

import contextlib
import io
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import requests
from acme import errors, messages
from acme.client import ClientNetwork, ClientV2
from josepy.errors import Error as JoseError
from josepy.interfaces import JSONDeSerializable
from josepy.jwa import ES256

import fastgate
from fastgate.certificates.acme.call_thread import CallThread
from fastgate.certificates.acme.problems import (
    PREFIX,
    AcmeError,
    Problem,
    one_line,
    refusal,
)
from fastgate.certificates.acme.settings import Authority

CONNECT_S, READ_S = 10, 30
WHOLE_S = 60
"""The longest time for a response."""
MOST_BYTES = 1 << 20
"""The most octets of a response; a chain of certificates has about ten thousand."""
NONCE_TRIES = 4
"""Each is two requests, since the library repeats one too."""
NEEDED = ("newNonce", "newAccount", "newOrder")

T = TypeVar("T")


class Client:
    """Requests to an authority, with an account once `account` has set it."""

    def __init__(self, authority: Authority, ca: Path | None) -> None:
        """`ca`: a file with the certificates that verify its server; None: those of the system."""
        self.authority = authority
        self.name = authority.name
        self.directory: Mapping[str, Any] = {}
        self.net = ClientNetwork(
            alg=ES256,
            # requests takes a path, too.
            verify_ssl=cast("bool", str(ca) if ca is not None else _system_authorities()),
            user_agent=f"fastgate/{fastgate.__version__}",
            timeout=cast("int", (CONNECT_S, READ_S)),
        )
        self.net.session.hooks["response"].append(self._take)
        self.acme = ClientV2(messages.Directory({}), self.net)
        self._last: requests.Response | None = None
        self._thread = CallThread(f"acme {authority.name}", self.net.session.close)

    async def call(self, work: Callable[[], T]) -> T:
        """Run something that uses the client in its thread, completely, even if the caller is
        cancelled. Raises AcmeError."""
        return await self._thread.call(work)

    def close(self) -> None:
        """End the thread when it has nothing to do."""
        self._thread.close()

    # ---- requests ---------------------------------------------------------------------------

    def connect(self) -> None:
        """Fetch the directory. Raises AcmeError."""
        url = self.authority.directory
        found = self.get(url, "its directory").json()
        if not isinstance(found, dict):
            raise AcmeError(f"What {url} answers is not the directory of an ACME authority.")
        for name in (*NEEDED, "renewalInfo"):
            where = found.get(name)
            if where is None and name not in NEEDED:
                continue
            if not isinstance(where, str) or not where.startswith("https://"):
                raise AcmeError(
                    f"What {url} answers is not the directory of an ACME authority: its {name!r} "
                    "is not an address that begins with 'https://'."
                )
        self.directory = found
        self.acme.directory = messages.Directory(found)

    def get(self, url: str, what: str) -> requests.Response:
        """An unsigned request for JSON. `what`: for errors, "the renewal information"."""
        return self.guarded(f"refused to give {what}", lambda: self.net.get(url))

    def post(
        self, url: str, doing: str, content: JSONDeSerializable | None = None
    ) -> requests.Response:
        """A signed request; without content, one that only reads. `doing`: for errors, "refused
        the order"."""
        nonces = self.directory["newNonce"]
        return self.guarded(doing, lambda: self.net.post(url, content, new_nonce_url=nonces))

    def guarded(self, doing: str, work: Callable[[], T]) -> T:
        """Do something with the library, several times if nonces are refused. Raises AcmeError."""
        with self._faults(doing):
            for _ in range(NONCE_TRIES - 1):
                try:
                    return work()
                except messages.Error as error:
                    if error.code != "badNonce":
                        raise
            return work()

    def read(self, kind: Callable[[Any], T], response: requests.Response) -> T:
        """An object of the protocol. Raises AcmeError."""
        with self._faults("sent something that cannot be understood"):
            return kind(response.json())

    # ---- answers ----------------------------------------------------------------------------

    def retry_after(self, response: requests.Response | None) -> float | None:
        """Seconds that a response asks to wait; None: it does not ask."""
        text = "" if response is None else response.headers.get("Retry-After", "").strip()
        if text.isascii() and text.isdigit():
            return float(text[:12])
        try:
            when = parsedate_to_datetime(text)
        except ValueError:
            return None
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())

    def _take(self, response: requests.Response, **_: Any) -> requests.Response:
        """Read a response, within bounds, before anything else does."""
        taken, deadline, size = io.BytesIO(), time.monotonic() + WHOLE_S, 0
        for chunk in response.iter_content(1 << 16):
            size += taken.write(chunk)
            if size > MOST_BYTES or time.monotonic() > deadline:
                response.close()
                raise _TooLong
        response.close()
        taken.seek(0)
        whole = requests.Response()
        whole.status_code, whole.reason = response.status_code, response.reason
        whole.headers, whole.url = response.headers, response.url
        whole.request, whole.raw = response.request, taken
        self._last = whole
        return whole

    @contextlib.contextmanager
    def _faults(self, doing: str) -> Iterator[None]:
        """Turn what the library raises into AcmeError."""
        self._last = None
        try:
            yield
        except messages.Error as error:
            raise self.refused(doing, error) from error
        except _TooLong as error:
            raise AcmeError(
                f"{self.name} sent a response that is longer than {MOST_BYTES >> 20} MiB, or takes "
                f"longer than {WHOLE_S} seconds."
            ) from error
        except (errors.Error, JoseError, ValueError, LookupError, TypeError) as error:
            raise self._strange(doing) from error
        except (requests.RequestException, OSError) as error:
            raise AcmeError(
                f"{self.name} cannot be reached at {self.authority.directory}: {_cause(error)}."
            ) from error

    def refused(self, doing: str, error: messages.Error, challenge: str = "") -> AcmeError:
        """The error for a problem document of the authority."""
        return refusal(
            f"{self.name} {doing}",
            problem_of(error),
            challenge=challenge,
            retry_after=self.retry_after(self._last),
        )

    def _strange(self, doing: str) -> AcmeError:
        """The error for a response that the library does not understand."""
        response, code = self._last, ""
        if response is None:
            text = f"{self.name} {doing}, and what it sent cannot be understood."
        elif response.ok:
            text = f"{self.name} sent something that cannot be understood, from {response.url}."
        else:
            with contextlib.suppress(JoseError, ValueError, TypeError, AttributeError):
                # The library does not read the problem of a 409.
                return self.refused(doing, messages.Error.from_json(response.json()))
            code = str(response.status_code)
            text = f"{self.name} {doing}: status {code}, without an explanation."
        return AcmeError(text, code, self.retry_after(response))


class _TooLong(Exception):
    """A response is too long, or too slow."""


def problem_of(error: messages.Error) -> Problem:
    """A problem document."""
    identifier = error.identifier
    return Problem(
        str(error.typ).removeprefix(PREFIX),
        str(error.detail or error.title or ""),
        "" if identifier is None else str(identifier.value),
        tuple(problem_of(part) for part in error.subproblems or ()),
    )


def _system_authorities() -> str | bool:
    """Where the system's root certificates are; True: those that `requests` brings."""
    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.capath or True


def _cause(error: BaseException) -> str:
    """The innermost reason of a failed connection, in words."""
    seen: list[BaseException] = []
    pending: list[object] = [error]
    while pending and len(seen) < 20:
        each = pending.pop(0)
        if not isinstance(each, BaseException) or each in seen:
            continue
        seen.append(each)
        pending += [*each.args, getattr(each, "reason", None), each.__cause__, each.__context__]
    for each in seen:
        if isinstance(each, ssl.SSLCertVerificationError):
            return (
                f"its certificate cannot be verified ({each.verify_message}). If it has an "
                "authority of its own, name that with `ca`"
            )
    if any(isinstance(each, requests.Timeout) for each in seen):
        return "it does not answer"
    for each in reversed(seen):
        if isinstance(each, ssl.SSLError):
            return f"TLS failed ({each.reason or each})"
        if isinstance(each, OSError) and each.strerror:
            return one_line(each.strerror)
    return one_line(str(error))
