"""Consumers' own numbers for limits: as records keep them, and as the workers' index does.

{"burst": {"rate": "500/s"}}  ──▶  LimitOverride(key, amount, interval_ns, tolerance_ns)
  configuration, store, cache         the index, as limits of the snapshot have it
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastgate._core.shared.callers import LimitOverride as Row
from fastgate._core.snapshot.snapshot import stable_hash
from fastgate.model import codec
from fastgate.model.gateway import Limit, LimitOverride
from fastgate.model.overrides import override_name

Numbers = Mapping[str, Mapping[str, Any]]
"""Plain data, by name of the limit."""


def decoded(numbers: Numbers) -> dict[str, LimitOverride]:
    """Raises ConfigurationError for data that is not an override."""
    return {name: codec.decode(dict(each), LimitOverride) for name, each in numbers.items()}


def encoded(overrides: Mapping[str, LimitOverride]) -> dict[str, dict[str, Any]]:
    return {name: codec.encode(override) for name, override in overrides.items()}


def rows(numbers: Numbers) -> list[Row]:
    """The same numbers, as the index takes them."""
    return [_row(name, override) for name, override in decoded(numbers).items()]


def _row(name: str, override: LimitOverride) -> Row:
    key = stable_hash(override_name(override.kind, name))
    if override.rate is None:
        return Row(key, override.requests or override.max or 0)
    limit = Limit(rate=override.rate, burst=override.burst)
    return Row(key, limit.bucket, override.rate.interval_ns, limit.tolerance_ns)
