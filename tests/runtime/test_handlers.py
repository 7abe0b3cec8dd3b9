"""From a handler's name to its function, or to why not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastgate.runtime.worker.handlers import HandlerError, resolve, resolve_all


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = "handlers_under_test"
    (tmp_path / f"{name}.py").write_text(
        "async def hello(exchange): return 'hello'\n"
        "class Api:\n"
        "    async def get(exchange): return 'got'\n"
        "number = 5\n"
        "def plain(exchange): return 'plain'\n"
        "async def each(exchange): yield 1\n"
        "import functools\n"
        "def traced(f):\n"
        "    @functools.wraps(f)\n"
        "    def inner(exchange): return f(exchange)\n"
        "    return inner\n"
        "wrapped = traced(hello)\n"
        "wrapped_plain = traced(plain)\n"
        "partial = functools.partial(hello)\n"
        "class Greeter:\n"
        "    def __init__(self, text): self.number = int(text)\n"
        "    async def __call__(self, exchange): return self.number\n"
    )
    (tmp_path / "broken_under_test.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)
    sys.modules.pop("broken_under_test", None)


async def test_functions_and_methods_are_found(module: str) -> None:
    assert await resolve(f"{module}:hello")(None) == "hello"  # type: ignore[func-returns-value]
    assert await resolve(f"{module}:Api.get")(None) == "got"  # type: ignore[func-returns-value]


@pytest.mark.parametrize("name", ["wrapped", "partial"])
async def test_what_wraps_an_async_function_is_one(module: str, name: str) -> None:
    assert await resolve(f"{module}:{name}")(None) == "hello"  # type: ignore[func-returns-value]


async def test_a_factory_gets_the_text_behind_its_name(module: str) -> None:
    assert await resolve(f"{module}:Greeter 12")(None) == 12  # type: ignore[func-returns-value]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("handlers_under_test", "package.module:function"),
        ("handlers_under_test:absent", "has no absent"),
        ("handlers_under_test:number", "is a int, not a function"),
        ("handlers_under_test:Greeter twelve", "cannot use its text: ValueError"),
        ("handlers_under_test:plain", "write `async def plain"),
        ("handlers_under_test:each", "write `async def each"),
        ("handlers_under_test:wrapped_plain", "write `async def wrapped_plain"),
        ("handlers_under_test:Greeter", "is not an async function"),
        ("no_such_module:hello", "No module named"),
        ("broken_under_test:hello", "ZeroDivisionError"),
    ],
)
def test_what_cannot_be_had_says_why(module: str, name: str, why: str) -> None:
    with pytest.raises(HandlerError, match=why):
        resolve(name)


async def test_one_that_cannot_be_had_does_not_take_the_others_with_it(module: str) -> None:
    handlers, problems = resolve_all([f"{module}:absent", f"{module}:hello"])
    assert [problem.about for problem in problems] == [f"{module}:absent"]
    assert await handlers[1](None) == "hello"  # type: ignore[func-returns-value]
    with pytest.raises(HandlerError, match="has no absent"):
        await handlers[0](None)


def test_an_error_does_not_show_the_description_behind_a_validators_settings(module: str) -> None:
    _, (problem,) = resolve_all([f"{module}:Greeter twelve\n{'x' * 100_000}"])
    assert problem.about == f"{module}:Greeter twelve"
    assert len(problem.error) < 100_200
