# ruff: noqa: RUF012 - msgspec copies the mutable defaults of a struct for each instance
"""Webhooks: addresses to which signed notices are posted."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from fastgate.model.base import Model, Name, worded
from fastgate.model.secret import Secret
from fastgate.model.units import Duration

Url = Annotated[
    str,
    Meta(
        pattern=worded(
            r"^https?://[^\s\x22<>\\]{1,1000}$",
            "an address that begins with 'http://' or 'https://', without spaces or quotes",
        )
    ),
]


class Webhook(Model, frozen=True, kw_only=True):
    """An address to which signed notices are posted."""

    name: Annotated[Name, Meta(description="Its name, in the records of sent notices.")]
    url: Annotated[Url, Meta(description="Where to post.")]
    secret: Annotated[
        Secret,
        Meta(
            description="The key for signatures (HMAC-SHA256; `FastGate-Signature: t=…,v1=…`), "
            "shared "
            "with the receiver."
        ),
    ]
    events: Annotated[
        list[
            Annotated[
                str,
                Meta(
                    pattern=worded(
                        r"^[a-z_]+(\.[a-z_]+)*(\.\*)?$",
                        "a kind of notice such as 'payment.failed', or a group, 'payment.*'",
                    )
                ),
            ]
        ],
        Meta(description="Kinds of notices to post; `payment.*` for a group. Empty: all."),
    ] = []
    timeout: Annotated[Duration, Meta(description="For one post.")] = Duration.parse("10s")


def check_webhooks(webhooks: list[Webhook]) -> None:
    """Raise ValueError if two have one name."""
    names = [webhook.name for webhook in webhooks]
    if len(set(names)) != len(names):
        raise ValueError("webhooks: each has a name of its own")
