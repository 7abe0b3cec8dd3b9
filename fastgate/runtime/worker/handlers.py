"""Handlers: from the name in the configuration to the function.

`package.module:function`, where the function may be an attribute of an attribute
(`pkg.mod:Class.method`). `package.module:factory TEXT` is what the factory makes of the text:
so the compiler gives a handler what its route says.

Imports run in the workers only, since they are code of users. A module is imported once in a
worker's life: a reload finds new handlers, but reads changed source only in a new worker, because
modules reloaded in place make old and new classes meet.
"""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from fastgate.runtime.wire.messages import Problem

log = logging.getLogger("fastgate.worker")

Handler = Callable[[Any], Awaitable[None]]


class HandlerError(Exception):
    """A handler cannot be had; the text says why."""


def resolve(name: str) -> Handler:
    """Import the function that `name` stands for. Raises HandlerError."""
    place, space, text = name.partition(" ")
    module_name, colon, path = place.partition(":")
    if not colon or not module_name or not path:
        raise HandlerError('write it as "package.module:function"')
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise HandlerError(
            f"the import of {module_name} failed: {type(error).__name__}: {error}"
        ) from error
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise HandlerError(f"{module_name} has no {path}") from error
    if not callable(found):
        raise HandlerError(f"{place} is a {type(found).__name__}, not a function")
    if space:
        try:
            return found(text)  # type: ignore[no-any-return]
        except Exception as error:
            raise HandlerError(
                f"{place} cannot use its text: {type(error).__name__}: {error}"
            ) from error
    if not _awaits(found):
        raise HandlerError(f"{place} is not an async function; write `async def {path}(exchange)`")
    return found  # type: ignore[no-any-return]


def _awaits(found: Any) -> bool:
    """Whether calling it gives something to await; a decorator that says what it wraps may."""
    called = type(found).__call__ if callable(found) else found
    return any(map(inspect.iscoroutinefunction, (found, inspect.unwrap(found), called)))


def resolve_all(names: Iterable[str]) -> tuple[list[Handler], list[Problem]]:
    """All handlers in order; one that cannot be had is a problem and a function that says so.

    So a caller may refuse the whole, or (a worker that replaces a dead one) serve the rest.
    """
    handlers: list[Handler] = []
    problems: list[Problem] = []
    for name in names:
        try:
            handlers.append(resolve(name))
        except HandlerError as error:
            problems.append(Problem(name, str(error)))
            handlers.append(_broken(name, str(error)))
    return handlers, problems


def _broken(name: str, why: str) -> Handler:
    async def handler(exchange: Any) -> None:
        raise HandlerError(f"{name}: {why}")

    return handler
