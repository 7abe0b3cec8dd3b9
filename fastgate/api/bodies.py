"""Bodies of requests, decoded strictly; conditions of requests.

**Conditions.** What can be changed has an ETag. PUT and PATCH of something that exists need
`If-Match` with the ETag that was read, or `*` for "whatever it is now": without it the answer is
428, with an outdated one 412 and the present ETag. DELETE heeds `If-Match` and does without.
`If-None-Match: *` on PUT means "only if it is not there yet".
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import msgspec
import orjson
from msgspec import Meta

from fastgate.api.context import AnyRequest
from fastgate.api.problems import Fault, Problem, invalid

T = TypeVar("T")

When = Annotated[datetime, Meta(tz=True, description="RFC 3339, with a time zone.")]

_AT = re.compile(r" - at `(?:key` in `)?\$\.?(.*)`$", re.S)
_TYPES = {"str": "text", "int": "a whole number", "bool": "true or false", "object": "an object"}


async def body_bytes(request: AnyRequest, *types: str) -> bytes:
    """The body, if its type is one of `types` (JSON without one). Raises Problem."""
    media = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    if media.lower() not in types:
        raise Problem(
            "unsupported_media_type",
            f"Content-Type is {media!r}; send {' or '.join(types)} (curl: --json, or -H).",
        )
    raw = await request.body()
    if not raw.strip():
        raise invalid("", "A body is needed.")
    return raw


async def json_data(request: AnyRequest, *more: str) -> Any:
    """The body as plain data. Raises Problem."""
    raw = await body_bytes(request, "application/json", *more)
    try:
        # orjson bounds the nesting by itself, whatever the interpreter's recursion limit is.
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Problem("invalid_json", f"{error}.") from None


async def read(request: AnyRequest, kind: type[T], *, optional: bool = False) -> T:
    """The body as a struct: unknown members and other types are errors that name the member.

    `optional`: an empty body stands for {}. Raises Problem.
    """
    if optional and not (await request.body()).strip():
        data: Any = {}
    else:
        data = await json_data(request)
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None


def _invalid(text: str) -> Problem:
    match = _AT.search(text)
    message = text[: match.start()] if match else text
    path = match[1] if match else ""
    if found := re.fullmatch(r"Object contains unknown field `(.*)`", message, re.S):
        path = f"{path}.{found[1]}" if path else found[1]
        message = "There is no such member."
    elif found := re.fullmatch(r"Object missing required field `(.*)`", message):
        path = f"{path}.{found[1]}" if path else found[1]
        message = "It is missing."
    elif found := re.fullmatch(r"Expected `([^`]*)`, got `([^`]*)`", message):
        wanted = " or ".join(_TYPES.get(part, part) for part in found[1].split(" | "))
        message = f"It must be {wanted}, not {_TYPES.get(found[2], found[2])}."
    return Problem(
        "invalid_member",
        f"{path}: {message}" if path else message,
        errors=[Fault(path=path, message=message)],
    )


def future(when: datetime | None) -> datetime | None:
    """A time in the future, in UTC. Raises Problem for one in the past."""
    if when is None:
        return None
    if when <= datetime.now(UTC):
        raise invalid("expires_at", "It is in the past.")
    return when.astimezone(UTC)


# ---- conditions -------------------------------------------------------------------------


def etag(text: str) -> str:
    return f'"{text}"'


def etag_of(data: Any) -> str:
    """The ETag of plain data: of its canonical JSON."""
    packed = msgspec.json.encode(data, order="deterministic")
    return etag(hashlib.sha256(packed).hexdigest()[:32])


def _tags(value: str) -> list[str]:
    return [part.strip() for part in value.split(",")]


def require_match(request: AnyRequest, current: str, *, required: bool = True) -> bool:
    """Check If-Match against the ETag `current`. Returns whether it named that ETag (not `*`).

    Raises Problem: stale, precondition_required.
    """
    given = request.headers.get("if-match")
    if given is None:
        if not required:
            return False
        raise Problem(
            "precondition_required",
            "Send If-Match with the ETag that you read, or * to change it in any case.",
            headers={"ETag": current},
        )
    if given.strip() == "*":
        return False
    if current not in _tags(given):
        raise Problem(
            "stale",
            "It has changed since you read it. Read it again and repeat the change.",
            headers={"ETag": current},
            etag=current,
        )
    return True


def forbid_existing(request: AnyRequest, exists: bool) -> None:
    """Check If-None-Match: * of a PUT. Raises Problem."""
    if exists and request.headers.get("if-none-match", "").strip() == "*":
        raise Problem("stale", "It exists already.")
