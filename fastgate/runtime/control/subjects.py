"""Consumers that are made for subjects when they first call (`unknown: create` of an issuer).

A worker has verified the token and asks for the subject. The consumer is made in the store, so that
it is the same one for all workers and gateways; without the store, the request is refused, and the
next one asks again.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable

from fastgate.config.issuer_ids import id_of
from fastgate.errors import FastGateError
from fastgate.identity.identity import Identity
from fastgate.model.gateway import Gateway, Issuer
from fastgate.model.party import SUBJECT_MOST

log = logging.getLogger("fastgate.identity")

SAY_S = 60.0
"""Seconds between two log lines about subjects of one issuer."""


class Subjects:
    """Makes consumers for subjects of issuers."""

    def __init__(
        self,
        identity: Identity,
        gateway: Callable[[], Gateway | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """gateway: the served configuration."""
        self._identity = identity
        self._gateway = gateway
        self._clock = clock
        self._said: dict[str, float] = {}

    async def question(self, issuer: int, subject: str) -> bool:
        """A worker knows no consumer with this subject. Whether there is one now. `issuer`: its id
        in the keyring."""
        found = self._issuer(issuer)
        if found is None or found.unknown != "create":
            return False
        plan = found.plan.default if found.plan is not None else None
        assert plan is not None, "the configuration was checked"
        if len(subject.encode()) > SUBJECT_MOST or not re.fullmatch(r"[^\x00-\x1f\x7f]+", subject):
            self._say(found.name, "it has control characters, or is too long")
            return False
        try:
            return await self._identity.create_for_subject(found.name, subject, plan)
        except FastGateError as error:
            self._say(found.name, str(error))
            return False

    def _issuer(self, number: int) -> Issuer | None:
        gateway = self._gateway()
        issuers = [] if gateway is None else gateway.issuers
        return next((each for each in issuers if id_of(each) == number), None)

    def _say(self, issuer: str, why: str) -> None:
        now, last = self._clock(), self._said.get(issuer)
        if last is not None and now - last < SAY_S:
            return
        self._said[issuer] = now
        log.error(
            "No consumer can be made for a subject of %s, whose request is refused: %s", issuer, why
        )
