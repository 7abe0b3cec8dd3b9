"""The report of an audit: each check with its numbers and findings."""

from __future__ import annotations

import msgspec

FINDINGS_MAX = 20
"""Maximum findings that a check lists; it counts all."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One condition that must hold. `numbers`: the counts; `findings`: violations; `notes`:
    remarks about the numbers."""

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
