"""Amounts as people read them, and as payment methods can take them."""

from __future__ import annotations

from fastgate.billing.payments.base import exponent
from fastgate.model.units import MICROS


def show(micros: int, currency: str) -> str:
    """As people write it: "-12.50 EUR"; all decimals needed, at least those of the currency."""
    whole, rest = divmod(abs(micros), MICROS)
    decimals = f"{rest:06d}".rstrip("0").ljust(exponent(currency), "0")
    sign = "-" if micros < 0 else ""
    return f"{sign}{whole}{'.' if decimals else ''}{decimals} {currency}"


def coin(currency: str) -> int:
    """Micro-units in the smallest coin."""
    return int(10 ** (6 - exponent(currency)))


def whole_coins(micros: int, currency: str) -> int:
    """Rounded down to whole coins: what can be charged."""
    return micros - micros % coin(currency)
