"""Header fields in which upstreams are told about a caller: from claims, or from another service.

Whatever a client sends in such a field is removed, also under a name that some servers read as the
same one: in other case, or with `_` or `.` in place of `-`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from fastgate.model.policy import OURS, UNTOUCHABLE

_RESERVED = UNTOUCHABLE | OURS | {"client-cert", "client-cert-chain", "forwarded", "set-cookie"}
_FAMILIES = ("x-forwarded-", "x-consumer-")


def folded(name: str) -> str:
    """A field's name, the same for all names that some servers read as one."""
    return re.sub(r"[^a-z0-9]", "-", name.lower())


def check_caller_fields(field: str, names: Iterable[str], also: Iterable[str] = ()) -> None:
    """Raise ValueError for names that such fields cannot have, and for one that is there twice.

    also: further names that are not possible here, in lower case."""
    seen: dict[str, str] = {}
    reserved = _RESERVED.union(also)
    for name in names:
        same = folded(name)
        if same in reserved or same.startswith(_FAMILIES):
            raise ValueError(f"{field}: {name!r} has another meaning and cannot be used")
        if same in seen:
            raise ValueError(
                f"{field}: {seen[same]!r} and {name!r} are the same field to some servers"
                if seen[same] != name
                else f"{field}: {name!r} is there twice"
            )
        seen[same] = name
