"""What an audit says: each check with its numbers, and where it does not hold."""

from __future__ import annotations

import msgspec

FINDINGS_MAX = 20
"""Findings that a check lists; it counts all."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that must hold. `numbers`: what was counted; `findings`: where it does not hold;
    `notes`: what to know when reading the numbers."""

    name: str
    passed: bool
    numbers: dict[str, int]
    findings: list[str] = []
    notes: list[str] = []


class AuditReport(msgspec.Struct, frozen=True):
    """All checks, in their order."""

    checks: list[Check]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


def check(name: str, findings: list[str], **numbers: int) -> Check:
    return Check(
        name=name,
        passed=not findings,
        numbers={**numbers, "wrong": len(findings)},
        findings=findings[:FINDINGS_MAX],
    )
