"""What the service reports: rows for lists, failures for notices, calls for what changes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Literal, NamedTuple

import msgspec

State = Literal["valid", "outdated", "expired", "missing", "refused"]


class Failure(NamedTuple):
    """A failed attempt, for the notice `certificate.failed`."""

    name: str
    hosts: tuple[str, ...]
    error: str
    failures: int
    """In a row."""
    next_attempt: datetime
    expires: datetime | None
    """When the certificate that serves on expires; None: there is none."""


class Events(NamedTuple):
    """What the service calls. The calls must not raise."""

    on_certificate: Callable[[str], None]
    """There is another certificate with this name; `AcmeService.pair` has it."""
    on_failed: Callable[[Failure], None]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one certificate, for `fastgate certificates list`."""

    name: str
    hosts: list[str]
    authority: str
    challenge: str
    state: State
    """`outdated`: valid, but for other hosts or from another authority than configured; `refused`:
    the configuration makes it impossible to order."""
    ordering: bool = False
    """Whether an attempt is in progress."""
    not_before: datetime | None = None
    not_after: datetime | None = None
    renews: datetime | None = None
    next_attempt: datetime | None = None
    """After a failure."""
    failures: int = 0
    """In a row."""
    error: str = ""
    """Of the last attempt, if it failed, as a sentence."""
    failed: datetime | None = None
