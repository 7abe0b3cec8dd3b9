"""What a handler accepts and returns, declared beside it; `openapi` generates the document from it.

    @get("/v1/accounts/{ident:str}", opt=spec("read", answer=AccountView, etag=True))

The permission is what `auth` asks for; a test holds every handler to declare one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastgate.api.roles import Permission


def spec(
    permission: Permission,
    *,
    answer: Any = None,
    status: int = 200,
    body: Any = None,
    etag: bool = False,
    match: str = "",
    idempotent: bool = True,
    media: str = "application/json",
    also: Sequence[int | str] = (),
) -> dict[str, Any]:
    """A handler's `opt`.

    answer, body: types; `status` of success; `etag`: the answer carries one; `match`: "required"
    or "optional" where If-Match is heeded; `idempotent`: whether Idempotency-Key is (of writes);
    `media`: the answer's type; `also`: other statuses of success, with the same answer, and
    other types that can be asked for.
    """
    return {
        "permission": permission,
        "answer": answer,
        "status": status,
        "body": body,
        "etag": etag,
        "match": match,
        "idempotent": idempotent,
        "media": media,
        "also": also,
    }
