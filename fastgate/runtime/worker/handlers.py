"""Handlers: finds the function for a name in the configuration.

The name is `package.module:function`; the function may be an attribute of an attribute
(`pkg.mod:Class.method`). With `package.module:factory TEXT`, the factory is called with the text
and returns the handler: this is how the compiler passes a route's settings.

Imports run only in the workers, because they are user code. A module is imported once in a worker's
life: a reload finds new handlers, but changed source needs a new worker, because reloading modules
in place would mix old and new classes.
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
    """A handler cannot be loaded; the text says why."""


def resolve(name: str) -> Handler:
    """Import the function with this name. Raises HandlerError."""
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
    """Whether calling it returns an awaitable; looks through decorators that set `__wrapped__`."""
    called = type(found).__call__ if callable(found) else found
    return any(map(inspect.iscoroutinefunction, (found, inspect.unwrap(found), called)))


def resolve_all(names: Iterable[str]) -> tuple[list[Handler], list[Problem]]:
    """All handlers in order. One that cannot be loaded is a problem, and a function that raises it.

    So a caller may refuse all, or serve the others (a worker that replaces a dead one).
    """
    handlers: list[Handler] = []
    problems: list[Problem] = []
    for name in names:
        try:
            handlers.append(resolve(name))
        except HandlerError as error:
            said = name.partition("\n")[0]  # a whole description may follow
            problems.append(Problem(said, str(error)))
            handlers.append(_broken(said, str(error)))
    return handlers, problems


def _broken(name: str, why: str) -> Handler:
    async def handler(exchange: Any) -> None:
        raise HandlerError(f"{name}: {why}")

    return handler
