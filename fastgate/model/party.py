# ruff: noqa: RUF012 - msgspec copies the mutable defaults of a struct for each instance
"""Parties: plans, and the consumers that a document may contain.

Consumers and keys are records: they are in the store and change at once, without a new snapshot.
Those in the document are for small installations that need nothing else; they are created when the
document is applied.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

from msgspec import Meta

from fastgate.model.base import Model, Name, worded
from fastgate.model.billing import Price
from fastgate.model.policy import MAX_OVERRIDES, LimitOverride, Rules
from fastgate.model.tls import Pin
from fastgate.model.values import KeyDigest

PARTY_NAME = worded(
    r"^[A-Za-z0-9][A-Za-z0-9._@+ -]{0,94}$",
    "a name: 1 to 95 letters, digits, spaces, '.', '_', '@', '+' or '-', beginning with a letter "
    "or digit",
)


SUBJECT_MOST = 255
"""Maximum bytes of a subject. The core has the same limit."""
Subject = Annotated[
    str,
    Meta(
        pattern=worded(
            r"^[^\x00-\x1f\x7f]{1,255}$", "a subject: 1 to 255 characters, no control characters"
        )
    ),
]
BASIC_USER = worded(
    r"^[^:\x00-\x1f\x7f]{1,128}$",
    "a user: 1 to 128 characters, without ':' and control characters",
)
BasicUser = Annotated[str, Meta(pattern=BASIC_USER)]


class Plan(Rules, frozen=True, kw_only=True):
    """What a group of consumers may use, and how much of it."""

    name: Annotated[Name, Meta(description="The name that consumers and services use.")]
    services: Annotated[
        list[str],
        Meta(
            description="Services its consumers may use, by name. A service that no plan names "
            "(and that names no plan) is open to every consumer."
        ),
    ] = []
    policies: Annotated[
        list[str],
        Meta(
            description="Policies that apply to its consumers, by name; of a policy only limits, "
            "quotas and concurrency."
        ),
    ] = []
    price: Annotated[
        Price | None, Meta(description="Its price. Default: only the prices of its routes.")
    ] = None


class Consumer(Model, frozen=True, kw_only=True):
    """Who calls: an application, a team, a customer."""

    name: Annotated[
        str,
        Meta(
            pattern=PARTY_NAME,
            description="Its name, which is also sent to upstreams (`X-Consumer-Name`).",
        ),
    ]
    id: Annotated[
        Annotated[
            str,
            Meta(
                pattern=worded(
                    r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$",
                    "an id: 1 to 64 letters, digits, '.', '_', ':' or '-', beginning with a letter "
                    "or digit",
                )
            ),
        ]
        | None,
        Meta(description="Its id, which never changes. Default: made from the name."),
    ] = None
    keys: Annotated[
        list[KeyDigest],
        Meta(
            description="Its API keys: in clear from the environment or a file, or as "
            "`sha256:<hex>` (`fastgate hash` prints it). Only digests are stored."
        ),
    ] = []
    subjects: Annotated[
        dict[Name, list[Subject]],
        Meta(
            description="Its subjects: what tokens of an issuer say about who it is, by the name "
            "of the issuer: `{corp: [build-server]}`."
        ),
    ] = {}
    certificates: Annotated[
        list[Pin],
        Meta(
            description="The public keys of its client certificates: `sha256/` and the SHA-256 of "
            "the SubjectPublicKeyInfo in base64 (`fastgate certificates pin FILE` prints it). A "
            "certificate that is renewed with the same key needs no change."
        ),
    ] = []
    basic: Annotated[
        dict[BasicUser, KeyDigest],
        Meta(
            description="Its users for HTTP Basic, each with a secret as in `keys`: "
            '`{acme: "${ACME_SECRET}"}`. Take long random secrets: they are kept as digests that '
            "are quick to compute."
        ),
    ] = {}
    plan: Annotated[str | None, Meta(description="Its plan, by name. Default: none.")] = None
    limits: Annotated[
        dict[Name, LimitOverride],
        Meta(
            description="Its own numbers for limits, quotas and concurrency that count by "
            "consumer or credential, by their `name`: `{burst: {rate: 500/s, burst: 1000}}`. "
            "They replace those of the route, service, plan or policy, for this consumer only."
        ),
    ] = {}
    suspended: Annotated[bool, Meta(description="Refuse its requests with 403.")] = False

    def __post_init__(self) -> None:
        if len(self.limits) > MAX_OVERRIDES:
            raise ValueError(f"limits: {MAX_OVERRIDES} is the most")
        for i, pin in enumerate(self.certificates):
            if pin in self.certificates[:i]:
                raise ValueError(f"certificates[{i}]: {pin} is there twice")
        for issuer, subjects in self.subjects.items():
            for i, subject in enumerate(subjects):
                if len(subject.encode()) > SUBJECT_MOST:
                    raise ValueError(
                        f"subjects.{issuer}[{i}]: a subject has at most {SUBJECT_MOST} bytes"
                    )
                if subject in subjects[:i]:
                    raise ValueError(f"subjects.{issuer}[{i}]: {subject!r} is there twice")

    @property
    def ident(self) -> str:
        """Its id, or the one derived from its name."""
        return self.id or re.sub(r"[^A-Za-z0-9._:-]", "-", self.name)[:64]


def ident_of(consumers: Iterable[Consumer], name: str) -> str:
    """The id of a consumer that a route names in `anonymous`: one of the document, by name or id,
    or a stored one, by id."""
    return next((each.ident for each in consumers if each.name == name), name)
