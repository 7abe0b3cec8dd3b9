"""Imports in the core: they point down, by no detour to the module itself, and are used."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

CORE = Path(__file__).resolve().parent.parent / "fastgate" / "_core"

FLOORS = (
    "engine testing",
    "rounds reports",
    "handlers",
    "exchange",
    "upstream http1.server http1.client http1.deadlines http1.entry http1.handshakes http1.reader"
    " http1.writer",
    "route_deadline",
    "state",
    "logs",
    "money",
    "tokens",
    "shared",
    "snapshot",
    "http1",
    "io",
    "tls",
    "http",
    "platform",
    "reason",
)
"""From the top. A folder, or one of its modules that stands elsewhere than the rest of it."""


def floor_of(module: str) -> int:
    """The number of the floor, 0 at the top."""
    floors = {name: i for i, names in enumerate(FLOORS) for name in names.split()}
    found = floors.get(module, floors.get(module.partition(".")[0]))
    assert found is not None, f"{module} has no place in FLOORS"
    return found


def imports(module: str) -> Iterator[str]:
    """Modules of the core that this one takes names from, at compile time or at run time."""
    for suffix in (".pxd", ".pyx", ".py"):
        path = (CORE / Path(*module.split("."))).with_suffix(suffix)
        if path.exists():
            text = re.sub(r'""".*?"""', "", path.read_text(), flags=re.DOTALL)
            found = re.findall(r"^\s*from fastgate\._core\.(\S+) c?import", text, re.MULTILINE)
            yield from (name for name in found if name != module)


def cimported(text: str) -> dict[str, str]:
    """Name → module, of what a file cimports."""
    found = {}
    for module, names in re.findall(r"^from (\S+) cimport (\([^)]*\)|[^\n]*)", text, re.MULTILINE):
        for each in re.sub(r"#.*", "", names).strip("()").split(","):
            if each.strip():
                found[each.split()[-1]] = module
    for module, alias in re.findall(r"^cimport (\S+)(?: as (\w+))?", text, re.MULTILINE):
        found[alias or module] = module
    return found


def graph() -> dict[str, set[str]]:
    """Every module of the core with what it imports."""
    modules = {
        ".".join(path.relative_to(CORE).with_suffix("").parts)
        for suffix in ("pxd", "pyx", "py")
        for path in CORE.rglob(f"*.{suffix}")
        if path.stem != "__init__"
    }
    return {module: set(imports(module)) for module in sorted(modules)}


def test_imports_point_down() -> None:
    up = [
        f"{module} imports {other}"
        for module, others in graph().items()
        for other in sorted(others)
        if floor_of(other) < floor_of(module)
    ]
    assert up == []


def test_no_module_imports_itself_by_a_detour() -> None:
    found, done = [], set[str]()
    modules = graph()

    def walk(module: str, way: tuple[str, ...]) -> None:
        if module in way:
            found.append(" → ".join((*way[way.index(module) :], module)))
        elif module not in done:
            for other in sorted(modules[module]):
                walk(other, (*way, module))
            done.add(module)

    for module in modules:
        walk(module, ())
    assert found == []


def test_every_place_is_taken() -> None:
    """A name in FLOORS that no module has is left over from a move."""
    modules = set(graph())
    rooms = {module.partition(".")[0] for module in modules}
    assert {name for floor in FLOORS for name in floor.split()} <= modules | rooms


def test_what_is_cimported_is_used() -> None:
    """What a .pxd brings in may be used by its .pyx, or by those that cimport it from there."""
    unused = []
    texts = {path: path.read_text() for path in CORE.rglob("*.p[yx][xd]")}
    passed_on = {(m.rsplit(".")[-1], n) for t in texts.values() for n, m in cimported(t).items()}
    for path, text in texts.items():
        code = text
        if path.suffix == ".pxd" and path.with_suffix(".pyx").exists():
            code += path.with_suffix(".pyx").read_text()
        imports = r"^(from \S+ cimport (\([^)]*\)|[^\n]*)|cimport [^\n]*)"
        code = re.sub(imports, "", code, flags=re.MULTILINE)
        code = re.sub(r'""".*?"""', "", code, flags=re.DOTALL)
        code = re.sub(r"#[^\n]*", "", code)
        unused += [
            f"{path.relative_to(CORE)}: {each} of {module}"
            for each, module in cimported(text).items()
            if not re.search(rf"(?<![\w.]){re.escape(each)}\b", code)
            and not (path.suffix == ".pxd" and (path.stem, each) in passed_on)
        ]
    assert unused == []


SYSTEM_CALLS = {
    "accept4", "close", "connect", "getsockopt", "ioctl", "read", "recv", "send", "sendmsg",
    "setsockopt", "shutdown", "socket", "write",
}  # fmt: skip


def test_only_io_touches_a_descriptor() -> None:
    """Everybody else asks `transport`: with TLS, a socket that is readable says little."""
    touching = []
    for path in sorted(CORE.rglob("*.pyx")):
        room = path.parent.name
        text = re.sub(r'""".*?"""|#[^\n]*', "", path.read_text(), flags=re.DOTALL)
        if room in ("io", "platform", "testing"):
            continue
        for names in re.findall(r"platform\.sys cimport (\([^)]*\)|[^\n]*)", text):
            calls = SYSTEM_CALLS & set(re.findall(r"\w+", names))
            touching += [f"{path.stem}: {call}" for call in sorted(calls)]
        flags = re.findall(r"\bIO_[A-Z]+\b|\bout_(?:head|tail)\b|\bio\.io\b", text)
        touching += [f"{path.stem}: {flag}" for flag in sorted(set(flags))]
    assert touching == []


def test_exchanges_know_no_version_of_http() -> None:
    """How a message stands on the wire is for codecs to know (state.pxd)."""
    framing = r"chunk|\bminor\b|\\r\\n|\bHTTP/1|FRAMING_|_core\.http1"
    knowing = [
        f"{path.name}:{number}: {line.strip()}"
        for path in sorted((CORE / "exchange").glob("*.p[yx][xd]"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(framing, line, re.IGNORECASE)
    ]
    assert knowing == []
