"""Validators of requests, as `Plane(handlers=...)` takes them."""

from __future__ import annotations

import orjson


class Wrong:
    """What a validator returns for a request that is not valid."""

    def __init__(self, said: str = "must be 'x'", count: int = 1) -> None:
        self.said = said
        self.count = count
        self.form = ""

    def rendered(self, form: str) -> tuple[bytes, bytes, int]:
        self.form = form
        listed = orjson.dumps([{"pointer": "/a", "detail": self.said}])
        return f"It {self.said}.".encode(), listed if form == "json" else b"* it", self.count


class Validator:
    """Says that requests are valid whose body does not begin with "bad"."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str, bytes]] = []
        self.wrong: Wrong | None = None

    def __call__(self, view) -> Wrong | None:
        self.view = view
        self.seen.append((view.method, view.path, view.query, view.body))
        if view.body.startswith(b"bad"):
            self.wrong = Wrong()
            return self.wrong
        return None
