"""Proving that a host is ours: http-01 (RFC 8555, 8.3) and tls-alpn-01 (RFC 8737).

    http-01       GET http://HOST/.well-known/acme-challenge/TOKEN   → the key authorization
    tls-alpn-01   a handshake with HOST, ALPN acme-tls/1             → a certificate with its digest

A proof can be fetched before the authority is told to look, and is withdrawn when it has looked,
or when the attempt ends in another way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple, Protocol

from acme import challenges
from josepy.jwk import JWK

from fastgate.certificates.acme.keys import challenge_certificate
from fastgate.certificates.acme.problems import AcmeError
from fastgate.certificates.acme.settings import ChallengeType
from fastgate.certificates.acme.tokens import Tokens
from fastgate.errors import FastGateError
from fastgate.tasks import to_the_end

log = logging.getLogger("fastgate.acme")

ACKNOWLEDGED_S = 30.0
"""The longest wait for the workers to have, or to drop, a certificate of a challenge."""


class Answers(Protocol):
    """Where proofs are shown; implemented by control."""

    tokens: Tokens

    async def publish(self, host: str, certificate: bytes, key: bytes) -> None:
        """Present a certificate to handshakes with acme-tls/1 for a host; both DER, the key
        PKCS #8. Returns when every worker presents it."""

    async def withdraw(self, host: str) -> None:
        """Present it no longer."""


class Proof(NamedTuple):
    """What proves a host."""

    host: str
    token: str
    key_authorization: str


@challenges.ChallengeResponse.register
class TlsAlpn01Response(challenges.KeyAuthorizationChallengeResponse):
    """The response to a challenge of tls-alpn-01, which the library does not have."""

    typ = "tls-alpn-01"


@challenges.Challenge.register
class TlsAlpn01(challenges.KeyAuthorizationChallenge):
    """A challenge of tls-alpn-01."""

    response_cls = TlsAlpn01Response
    typ = TlsAlpn01Response.typ

    def validation(self, account_key: JWK, **_: Any) -> str:
        return self.key_authorization(account_key)


def proof_of(host: str, challenge: challenges.KeyAuthorizationChallenge, key: JWK) -> Proof:
    """What answers a challenge, for an account's key."""
    return Proof(host, challenge.encode("token"), challenge.key_authorization(key))


class Shown:
    """Shows proofs. One for all attempts: two of them must not prove the same host at once."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._hosts: dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def shown(self, kind: ChallengeType, proofs: Mapping[str, Proof]) -> AsyncIterator[None]:
        """Show proofs, by host, while the context lasts. Raises AcmeError."""
        async with AsyncExitStack() as stack:
            for host in sorted(proofs):  # always in the same order: no two wait for each other
                proof = proofs[host]
                if kind == "http-01":
                    showing = self._answers.tokens.showing(proof.token, proof.key_authorization)
                    stack.enter_context(showing)
                else:
                    await stack.enter_async_context(self._hosts.setdefault(host, asyncio.Lock()))
                    await stack.enter_async_context(self._published(proof))
            yield

    @asynccontextmanager
    async def _published(self, proof: Proof) -> AsyncIterator[None]:
        certificate, key = challenge_certificate(proof.host, proof.key_authorization)
        try:
            try:
                async with asyncio.timeout(ACKNOWLEDGED_S):
                    await self._answers.publish(proof.host, certificate, key)
            except TimeoutError as error:
                raise AcmeError(
                    f"The workers did not take the certificate that proves {proof.host} within "
                    f"{ACKNOWLEDGED_S:.0f} seconds."
                ) from error
            except FastGateError as error:
                raise AcmeError(
                    f"The workers cannot present the certificate that proves {proof.host}: {error}."
                ) from error
            yield
        finally:
            await to_the_end(self._withdraw(proof.host))

    async def _withdraw(self, host: str) -> None:
        try:
            async with asyncio.timeout(ACKNOWLEDGED_S):
                await self._answers.withdraw(host)
        except Exception as error:  # it proves nothing any more
            log.warning("The certificate that proved %s could not be withdrawn: %s", host, error)
