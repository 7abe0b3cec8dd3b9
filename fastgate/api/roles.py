"""Roles: who may do what with the control API. This table is the only place that defines it."""

from __future__ import annotations

from typing import Literal

Role = Literal["viewer", "operator", "admin"]
Permission = Literal[
    "open", "metrics", "read", "configure", "parties", "operate", "money", "tokens"
]

ROLES: tuple[Role, ...] = ("viewer", "operator", "admin")
"""From the least to the most powerful; each may do what the ones before it may do."""

NEEDS: dict[Permission, Role | None] = {
    "open": None,  # anyone who can connect: health and documentation
    "metrics": "viewer",  # and anyone, if the configuration has control.metrics_open
    "read": "viewer",  # everything but secrets and tokens
    "configure": "operator",  # change, reload and roll back the configuration
    "parties": "operator",  # accounts, consumers, credentials
    "operate": "operator",  # drain
    "money": "operator",  # wallets, subscriptions, invoices: what customers have and owe
    "tokens": "admin",  # tokens of this API; also control.tokens in the configuration
}


def allows(role: Role, permission: Permission) -> bool:
    """Whether the role has the permission."""
    need = NEEDS[permission]
    return need is None or ROLES.index(role) >= ROLES.index(need)
