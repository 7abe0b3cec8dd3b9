"""Small things that the API's tests share."""

from __future__ import annotations

from typing import Any

from httpx import AsyncClient as Client

from fastgate.api.problems import PROBLEMS

__all__ = ["Client", "is_problem"]


def is_problem(response: Any, status: int, reason: str) -> dict[str, Any]:
    """The problem document of a response that must be one."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["reason"] == reason
    assert problem["status"] == status
    assert problem["type"] == f"urn:fastgate:control:{reason}"
    assert (status, problem["title"]) == PROBLEMS[reason]
    assert problem["detail"]
    return problem
