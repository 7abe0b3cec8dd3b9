# ruff: noqa: RUF012 - msgspec copies the mutable defaults of a struct for each instance
"""Parties: plans, and the consumers that a document may contain.

Consumers and keys are records: they are in the store and change at once, without a new snapshot.
Those in the document are for small installations that need nothing else; they are created when the
document is applied.
"""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

from fastgate.model.base import Model, Name, worded
from fastgate.model.billing import Price
from fastgate.model.policy import MAX_OVERRIDES, LimitOverride, Rules
from fastgate.model.values import KeyDigest

PARTY_NAME = worded(
    r"^[A-Za-z0-9][A-Za-z0-9._@+ -]{0,94}$",
    "a name: 1 to 95 letters, digits, spaces, '.', '_', '@', '+' or '-', beginning with a letter "
    "or digit",
)


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

    @property
    def ident(self) -> str:
        """Its id, or the one derived from its name."""
        return self.id or re.sub(r"[^A-Za-z0-9._:-]", "-", self.name)[:64]
