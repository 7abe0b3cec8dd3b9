"""Imports: no cycles; in a running process one at a time, through `fastgate.imports` only."""

from __future__ import annotations

import ast
import asyncio
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import fastgate
from fastgate.imports import import_late, importing

ROOT = Path(fastgate.__file__).parent
NO_THREADS = ("cli", "demo", "docs_gen.py", "__main__.py")  # no other thread imports there
MAY = {
    # No circle that another module is part of.
    ("config/documents.py", "yaml"),
    ("config/revisions.py", "yaml"),
    # Called under `importing()`.
    ("store/engine.py", "asyncpg"),
    # Before a thread can be there.
    ("runtime/worker/worker.py", "fastgate._core.engine"),
    ("runtime/control/main.py", "fastgate.runtime.control.control"),
    ("runtime/start.py", "fastgate"),
}


@pytest.fixture
def circle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two modules that import each other; it goes well when `circle_a` is the first."""
    (tmp_path / "circle_a.py").write_text(
        "import time\ntime.sleep(0.1)\nimport circle_b\nlast = circle_b.last\n"
    )
    (tmp_path / "circle_b.py").write_text(
        "import time\nimport circle_a\ntime.sleep(0.1)\nlast = 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in ("circle_a", "circle_b"):
        sys.modules.pop(name, None)


async def test_a_circle_that_two_threads_enter_is_imported_whole(circle: None) -> None:
    first = asyncio.create_task(import_late("circle_a"))
    while "circle_a" not in sys.modules:  # noqa: ASYNC110  an import tells nobody
        await asyncio.sleep(0)
    # At the same time, each would wait for the other, and one would get the other half-made.
    second = await import_late("circle_b")
    assert ((await first).last, second.last) == (1, 1)


async def test_imports_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("turn_a", "turn_b", "turn_c"):
        (tmp_path / f"{name}.py").write_text(
            "import sys, time\n"
            "turns = sys.modules.setdefault('turns', [])\n"
            f"turns.append('{name} begins')\ntime.sleep(0.03)\nturns.append('{name} ends')\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))

    def now() -> None:
        with importing():
            import turn_c  # type: ignore[import-not-found]

            assert turn_c

    try:
        modules = await asyncio.gather(
            import_late("turn_a"), import_late("turn_b"), asyncio.to_thread(now)
        )
        turns = modules[0].turns
    finally:
        for name in ("turn_a", "turn_b", "turn_c", "turns"):
            sys.modules.pop(name, None)
    for begins, ends in zip(turns[::2], turns[1::2], strict=True):
        assert begins.split()[0] == ends.split()[0]
        assert (begins.split()[1], ends.split()[1]) == ("begins", "ends")


async def test_a_module_that_is_missing_raises() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        await import_late("no_such_module")
    assert (await import_late("json", "csv")).__name__ == "json"


class Late(ast.NodeVisitor):
    """Finds imports within functions that are not under `with importing():`."""

    def __init__(self) -> None:
        self.depth = self.guarded = 0
        self.found: list[str] = []

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_With(self, node: ast.With) -> None:
        guards = any("importing" in ast.unparse(item.context_expr) for item in node.items)
        self.guarded += guards
        self.generic_visit(node)
        self.guarded -= guards

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.note(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.note(node.module or "")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if ast.unparse(node) == "importlib.import_module":
            self.note("importlib.import_module")
        self.generic_visit(node)

    def note(self, name: str) -> None:
        if self.depth and not self.guarded:
            self.found.append(name)


def test_nothing_is_imported_late_by_another_way() -> None:
    found = set()
    for path in sorted(ROOT.rglob("*.py")):
        place = path.relative_to(ROOT).as_posix()
        if place.startswith(NO_THREADS) or place == "imports.py":
            continue
        late = Late()
        late.visit(ast.parse(path.read_text()))
        for name in late.found:
            top = name.partition(".")[0]
            if name == "importlib.import_module":
                no_thread = ("runtime/start.py", "runtime/worker/handlers.py")
                if place not in no_thread:
                    found.add((place, name))
            elif top not in sys.stdlib_module_names and not {(place, name), (place, top)} & MAY:
                found.add((place, name))
    assert not found, "use fastgate.imports"


# ---- cycles -----------------------------------------------------------------------------


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(tree: ast.AST, modules: set[str]) -> set[str]:
    """The modules of the package that a module imports: at its top, in functions, for types only,
    and by name with `import_late`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                member = f"{node.module}.{alias.name}"
                found.add(member if member in modules else str(node.module))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "import_late":
            found.update(str(ast.literal_eval(name)) for name in node.args)
    return found & modules


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one cycle, each imported by the next; empty when there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_imports_itself_through_others() -> None:
    paths = {module_name(path): path for path in ROOT.rglob("*.py")}
    modules = set(paths)
    graph = {
        name: imports_of(ast.parse(path.read_text()), modules) - {name}
        for name, path in paths.items()
    }
    assert sum(map(len, graph.values())) > len(graph)  # the imports were found
    cycle = cycle_in(graph)
    assert not cycle, f"an import cycle: {' <- '.join(cycle)}"


@pytest.mark.parametrize(
    "back",
    [
        "import p.a",
        "from p.a import x",
        "from p import a",
        "if TYPE_CHECKING:\n    from p.a import X",
        "def f():\n    from p.a import x",
        "async def f():\n    await import_late('json', 'p.a')",
    ],
)
def test_a_cycle_is_found_however_a_module_is_imported(back: str) -> None:
    modules = {"p", "p.a", "p.b", "p.c"}
    graph = {
        "p.a": imports_of(ast.parse("from p.b import x"), modules),
        "p.b": imports_of(ast.parse("from p import c"), modules),
        "p.c": imports_of(ast.parse("import os"), modules),
    }
    assert cycle_in(graph) == []
    graph["p.c"] = imports_of(ast.parse(back), modules)
    assert set(cycle_in(graph)) == {"p.a", "p.b", "p.c"}
