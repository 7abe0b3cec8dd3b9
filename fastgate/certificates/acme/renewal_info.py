"""Renewal information: when an authority suggests to renew a certificate (RFC 9773)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from fastgate.certificates.acme.client import Client
from fastgate.certificates.acme.problems import AcmeError, Refused, one_line
from fastgate.certificates.acme.schedule import Window


class Information(NamedTuple):
    """What the authority says."""

    window: Window | None
    """None: it has no renewal information, or none for this certificate."""
    retry_after: float | None
    """Seconds until it wants to be asked again."""
    explanation: str
    """The URL of a page that explains the window; empty: none."""


class _Answer(msgspec.Struct, rename="camel"):
    suggested_window: Window
    explanation_url: str = msgspec.field(default="", name="explanationURL")


def ask(client: Client, renewal_id: str) -> Information:
    """Ask an authority. Blocks. Raises AcmeError if it cannot be asked now, and Refused if it
    refuses, or its answer cannot be used."""
    client.connect()
    where = client.directory.get("renewalInfo")
    if where is None:
        return Information(None, None, "")
    try:
        response = client.get(f"{where.rstrip('/')}/{renewal_id}", "the renewal information")
    except AcmeError as error:
        if error.code.startswith("4") and error.code != "429":  # a status without a problem
            raise Refused(str(error), error.code, error.retry_after) from error
        raise
    try:
        found = msgspec.json.decode(response.content, type=_Answer)
        window = Window(_utc(found.suggested_window.start), _utc(found.suggested_window.end))
    except (msgspec.DecodeError, ValueError) as error:
        raise Refused(
            f"The renewal information of {client.name} cannot be used: {one_line(str(error))}."
        ) from error
    if window.end <= window.start:
        raise Refused(
            f"The renewal information of {client.name} cannot be used: its window ends before it "
            "begins."
        )
    return Information(window, client.retry_after(response), one_line(found.explanation_url))


def _utc(when: datetime) -> datetime:
    if when.tzinfo is None:
        raise ValueError("a time has no time zone")
    return when.astimezone(UTC)
