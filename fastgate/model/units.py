"""Quantities in the form that people write: durations, rates, sizes, shares, money.

All are stored as integers: nanoseconds, requests per nanoseconds, bytes, permille, micro-units.
Fractions are converted exactly (decimal, never binary floating point) or refused.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Self

from fastgate.model.values import Value

_US, _MS, _S = 1_000, 1_000_000, 1_000_000_000
_MIN, _H, _D, _W = 60 * _S, 3600 * _S, 86_400 * _S, 7 * 86_400 * _S

_DURATION_UNITS = {
    "ns": 1, "us": _US, "µs": _US, "ms": _MS, "s": _S, "m": _MIN, "min": _MIN, "h": _H, "d": _D,
    "w": _W,
}  # fmt: skip
_DURATION_TEXTS = (("d", _D), ("h", _H), ("m", _MIN), ("s", _S), ("ms", _MS), ("us", _US))
_DURATION_MAX = 3650 * _D


def _exact(text: str, scale: int) -> int | None:
    """`text`, a decimal number, times `scale`, if that is a whole number."""
    value = Decimal(text) * scale
    whole = int(value)
    return whole if whole == value else None


class Duration(Value):
    """A length of time: "250ms", "10s", "1.5m", "1h30m", "1d"; 0 to 3650 days."""

    __slots__ = ("ns",)

    WHAT = "a duration"
    EXAMPLES = ("250ms", "10s", "5m", "2h", "1d")

    def __init__(self, ns: int) -> None:
        self.ns = ns
        """Nanoseconds."""

    @classmethod
    def parse(cls, raw: object) -> Self:
        if isinstance(raw, int | float) and not isinstance(raw, bool):
            if raw == 0:
                return cls(0)
            raise ValueError(f"a duration needs a unit: '{raw}s' or '{raw}ms', not {raw}")
        text = cls._text(raw)
        if text == "0":
            return cls(0)
        if not re.fullmatch(r"(\d{1,18}(\.\d{1,9})?(ns|us|µs|ms|s|min|m|h|d|w))+", text, re.A):
            if re.fullmatch(r"\d+(\.\d+)?", text, re.A):
                raise ValueError(f"a duration needs a unit: '{text}s' or '{text}ms'")
            raise cls._bad(raw)
        total = 0
        last = _W + 1
        for number, unit in re.findall(r"([\d.]+)([a-zµ]+)", text):
            scale = _DURATION_UNITS[unit]
            if scale >= last:
                raise ValueError(f"{raw!r}: write larger units before smaller ones, each once")
            last = scale
            part = _exact(number, scale)
            if part is None:
                raise ValueError(f"{raw!r} is finer than a nanosecond")
            total += part
        if total > _DURATION_MAX:
            raise ValueError(f"{raw!r} is longer than 3650 days")
        return cls(total)

    def _key(self) -> tuple[int]:
        return (self.ns,)

    @property
    def ms(self) -> int:
        """Whole milliseconds, rounded up, so that a timeout never becomes 0, which means none."""
        return -(-self.ns // _MS)

    @property
    def seconds(self) -> float:
        """Seconds."""
        return self.ns / _S

    def __str__(self) -> str:
        if self.ns == 0:
            return "0s"
        for unit, scale in _DURATION_TEXTS:
            if self.ns % scale == 0:
                return f"{self.ns // scale}{unit}"
        return f"{self.ns}ns"


_RATE_UNITS = {
    "s": _S, "sec": _S, "second": _S, "m": _MIN, "min": _MIN, "minute": _MIN,
    "h": _H, "hour": _H, "d": _D, "day": _D,
}  # fmt: skip
_RATE_TEXTS = {_S: "s", _MIN: "min", _H: "h", _D: "d"}


class Rate(Value):
    """A number per time: "50/s", "1000/min", "5/10s". At most one per nanosecond."""

    __slots__ = ("amount", "period_ns")

    WHAT = "a rate"
    EXAMPLES = ("50/s", "1000/min", "20000/h", "5/10s")

    def __init__(self, amount: int, period_ns: int) -> None:
        self.amount = amount
        """The number; at least 1."""
        self.period_ns = period_ns
        """The period in nanoseconds."""

    @classmethod
    def parse(cls, raw: object) -> Self:
        if isinstance(raw, int) and not isinstance(raw, bool):
            raise ValueError(f"a rate needs its period: '{raw}/s' or '{raw}/min'")
        text = cls._text(raw)
        match = re.fullmatch(r"(\d{1,12})\s*/\s*(\d{0,6})\s*([a-z]+)", text, re.A)
        if match is None or match[3] not in _RATE_UNITS:
            raise cls._bad(raw)
        amount = int(match[1])
        period = int(match[2] or 1) * _RATE_UNITS[match[3]]
        if amount == 0 or period == 0:
            raise ValueError(f"{raw!r} allows no request; use addresses.deny or respond instead")
        if amount > period:
            raise ValueError(f"{raw!r} is more than one per nanosecond")
        if period > 366 * _D:
            raise ValueError(f"{raw!r}: the period is longer than 366 days; use a quota")
        return cls(amount, period)

    def _key(self) -> tuple[int, int]:
        return (self.amount, self.period_ns)

    @property
    def interval_ns(self) -> int:
        """Nanoseconds between two requests, rounded up so that the rate is never exceeded."""
        return -(-self.period_ns // self.amount)

    def __str__(self) -> str:
        unit = _RATE_TEXTS.get(self.period_ns)
        if unit is None:
            return f"{self.amount}/{Duration(self.period_ns)}"
        return f"{self.amount}/{unit}"


_SIZE_UNITS = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "k": 2**10, "kib": 2**10, "m": 2**20, "mib": 2**20, "g": 2**30, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_SIZE_TEXTS = (
    ("TiB", 2**40), ("TB", 10**12), ("GiB", 2**30), ("GB", 10**9),
    ("MiB", 2**20), ("MB", 10**6), ("KiB", 2**10), ("KB", 10**3),
)  # fmt: skip


class Size(Value):
    """A number of bytes: "16KiB", "1MB", "512B", or a bare number."""

    __slots__ = ("bytes",)

    WHAT = "a size"
    EXAMPLES = ("16KiB", "10MB", "1GiB")
    ALSO = ("integer",)

    def __init__(self, count: int) -> None:
        self.bytes = count
        """Bytes."""

    @classmethod
    def parse(cls, raw: object) -> Self:
        if isinstance(raw, int) and not isinstance(raw, bool):
            raw = str(raw)
        text = cls._text(raw)
        match = re.fullmatch(r"(\d{1,16}(?:\.\d{1,6})?)\s*([A-Za-z]*)", text, re.A)
        if match is None or match[2].lower() not in _SIZE_UNITS:
            raise cls._bad(raw)
        count = _exact(match[1], _SIZE_UNITS[match[2].lower()])
        if count is None:
            raise ValueError(f"{raw!r} is not a whole number of bytes")
        if count > 2**50:
            raise ValueError(f"{raw!r} is more than 1024 TiB")
        return cls(count)

    def _key(self) -> tuple[int]:
        return (self.bytes,)

    def __str__(self) -> str:
        if self.bytes:
            for unit, scale in _SIZE_TEXTS:
                if self.bytes % scale == 0:
                    return f"{self.bytes // scale}{unit}"
        return f"{self.bytes}B"


class Percent(Value):
    """A share: "20%", "12.5%"; 0 to 100, to a tenth."""

    __slots__ = ("permille",)

    WHAT = "a percentage from 0% to 100%"
    EXAMPLES = ("20%", "12.5%")

    def __init__(self, permille: int) -> None:
        self.permille = permille
        """Thousandths, 0 to 1000."""

    @classmethod
    def parse(cls, raw: object) -> Self:
        if isinstance(raw, int | float) and not isinstance(raw, bool):
            raise ValueError(f"a percentage needs its sign: '{raw}%'")
        match = re.fullmatch(r"(\d{1,3}(?:\.\d{1,9})?)\s*%", cls._text(raw), re.A)
        if match is None:
            raise cls._bad(raw)
        permille = _exact(match[1], 10)
        if permille is None:
            raise ValueError(f"{raw!r} is finer than a tenth of a percent")
        if permille > 1000:
            raise ValueError(f"{raw!r} is more than 100%")
        return cls(permille)

    def _key(self) -> tuple[int]:
        return (self.permille,)

    def __str__(self) -> str:
        whole, tenth = divmod(self.permille, 10)
        return f"{whole}.{tenth}%" if tenth else f"{whole}%"


class Share(Value):
    """A share of requests: "5%", "0.25%"; 0 to 100, to a ten-thousandth."""

    __slots__ = ("parts",)

    WHAT = "a share from 0% to 100%"
    EXAMPLES = ("5%", "0.25%")

    def __init__(self, parts: int) -> None:
        self.parts = parts
        """Millionths, 0 to 1,000,000."""

    @classmethod
    def parse(cls, raw: object) -> Self:
        if isinstance(raw, int | float) and not isinstance(raw, bool):
            raise ValueError(f"a share needs its sign: '{raw}%'")
        match = re.fullmatch(r"(\d{1,3}(?:\.\d{1,9})?)\s*%", cls._text(raw), re.A)
        if match is None:
            raise cls._bad(raw)
        parts = _exact(match[1], 10_000)
        if parts is None:
            raise ValueError(f"{raw!r} is finer than a ten-thousandth of a percent")
        if parts > 1_000_000:
            raise ValueError(f"{raw!r} is more than 100%")
        return cls(parts)

    def _key(self) -> tuple[int]:
        return (self.parts,)

    def __str__(self) -> str:
        whole, rest = divmod(self.parts, 10_000)
        return f"{whole}.{rest:04d}".rstrip("0") + "%" if rest else f"{whole}%"


MICROS = 1_000_000
"""Micro-units in one unit of a currency."""
MONEY_MOST = 1 << 60
"""Maximum micro-units of one movement; the same as in `_core/money/holds.pxd`."""


def decimal_text(micros: int) -> str:
    """Micro-units as units, exact, with at least two decimals: 1234567 is "1.234567"."""
    whole, rest = divmod(abs(micros), MICROS)
    decimals = f"{rest:06d}".rstrip("0").ljust(2, "0")
    return f"{'-' if micros < 0 else ''}{whole}.{decimals}"


class Money(Value):
    """An amount in a currency: "0.002 USD". Integer micro-units inside; never negative."""

    __slots__ = ("currency", "micros")

    WHAT = "an amount of money"
    EXAMPLES = ("0.002 USD", "5 EUR")

    def __init__(self, micros: int, currency: str) -> None:
        self.micros = micros
        """Millionths of the currency's unit, 0 to 2^63 - 1."""
        self.currency = currency
        """Its code, three to eight upper-case letters ("USD", "EUR", "USDC")."""

    @classmethod
    def parse(cls, raw: object) -> Self:
        if isinstance(raw, int | float) and not isinstance(raw, bool):
            raise ValueError(f"an amount of money needs its currency: '{raw} USD'")
        match = re.fullmatch(r"(\d{1,13}(?:\.\d{1,18})?)\s*([A-Z]{3,8})", cls._text(raw), re.A)
        if match is None:
            raise cls._bad(raw)
        micros = _exact(match[1], MICROS)
        if micros is None:
            raise ValueError(f"{raw!r} is finer than a millionth of a {match[2]}")
        if micros >= 2**63:
            raise ValueError(f"{raw!r} is more than can be counted")
        return cls(micros, match[2])

    def _key(self) -> tuple[int, str]:
        return (self.micros, self.currency)

    def __str__(self) -> str:
        whole, rest = divmod(self.micros, MICROS)
        fraction = f".{rest:06d}".rstrip("0") if rest else ""
        return f"{whole}{fraction} {self.currency}"
