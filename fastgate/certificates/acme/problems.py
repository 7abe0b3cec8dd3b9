"""What went wrong with an authority, in full sentences for the operator.

An authority explains a refusal with a problem document (RFC 7807, RFC 8555 6.7). Its `detail` is
quoted, on one line and shortened; what to do about it is added for the types that people meet.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal, NamedTuple

from fastgate.errors import FastGateError

Result = Literal["issued", "refused", "limited", "failed"]
"""How an attempt ended: `limited` by the authority's rate limits, `failed` without its answer."""

PREFIX = "urn:ietf:params:acme:error:"
MOST_DETAIL = 400

_ADVICE = {
    "accountDoesNotExist": "A new account is registered with the next attempt.",
    "badCSR": "The authority does not accept the kind of key or names that were requested.",
    "caa": "A CAA record of the host's domain forbids it. Change the record, or use the authority "
    "that it names.",
    "connection": "Check that the host's DNS records lead to this gateway, and that port {port} is "
    "open to the Internet.",
    "dns": "Check the host's DNS records.",
    "externalAccountRequired": "Add `eab: {{kid: …, key: …}}` with the values that the authority "
    "has given you.",
    "incorrectResponse": "Check that the host's DNS records lead to this gateway only, and that "
    "nothing in front of it answers port {port} itself.",
    "invalidContact": "Check `email` of the authority.",
    "rejectedIdentifier": "The authority does not issue certificates for this host.",
    "serverInternal": "The fault is the authority's.",
    "tls": "Check that port {port} of the host leads to a listener with TLS of this gateway.",
    "unauthorized": "Check that the host's DNS records lead to this gateway only, and that nothing "
    "in front of it answers port {port} itself.",
    "unsupportedContact": "Check `email` of the authority.",
    "unsupportedIdentifier": "The authority does not issue certificates for this kind of host.",
    "userActionRequired": "The authority's terms have changed, or it wants something else of you: "
    "follow the link.",
}
_ABOUT_PROOF = {"connection", "dns", "incorrectResponse", "tls", "unauthorized"}
"""Advice for these is about proving a host; in other refusals it would mislead."""

PORTS = {"http-01": 80, "tls-alpn-01": 443}


class AcmeError(FastGateError):
    """A certificate could not be obtained now. The text says why, and what to do."""

    result: ClassVar[Result] = "failed"

    def __init__(self, message: str, code: str = "", retry_after: float | None = None) -> None:
        """`code`: the type of the authority's problem, without its prefix, or the status if it gave
        no problem. `retry_after`: seconds that the authority asks to wait."""
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after


class Refused(AcmeError):
    """The authority refused it, or what it sent cannot be used: the order is over."""

    result: ClassVar[Result] = "refused"


class RateLimited(Refused):
    """The authority refused it for now, since there were too many requests."""

    result: ClassVar[Result] = "limited"


_KINDS: dict[str, type[AcmeError]] = {"rateLimited": RateLimited, "serverInternal": AcmeError}


class Problem(NamedTuple):
    """A problem document, as far as it is used."""

    code: str
    """The type, without the prefix of ACME's own."""
    detail: str
    host: str = ""
    parts: tuple[Problem, ...] = ()
    """More problems, one for each host."""

    def sentence(self) -> str:
        """What the authority says."""
        text = f"{one_line(self.detail) or 'it gave no reason'} ({one_line(self.code)})"
        if self.host:
            text = f"{one_line(self.host)}: {text}"
        return "; ".join([text, *(part.sentence() for part in self.parts)])

    def codes(self) -> Iterable[str]:
        """The types of this problem and of its parts."""
        yield self.code
        for part in self.parts:
            yield from part.codes()


def refusal(
    what: str, problem: Problem, *, challenge: str = "", retry_after: float | None = None
) -> AcmeError:
    """The error for a problem; Refused unless the fault is the authority's own. `what`: begins the
    sentence, as in "letsencrypt refused the order". `challenge`: its type, if a proof failed."""
    text = f"{what}: {problem.sentence()}."
    for code in problem.codes():
        if code in _ADVICE and (challenge or code not in _ABOUT_PROOF):
            text = f"{text} {_ADVICE[code].format(port=PORTS.get(challenge, ''))}"
            break
    kind = _KINDS.get(problem.code, Refused)
    return kind(text, problem.code, retry_after)


def one_line(text: str) -> str:
    """A peer's text on one line, without control characters, shortened."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split()).rstrip(".")
    return line if len(line) <= MOST_DETAIL else f"{line[: MOST_DETAIL - 1]}…"
