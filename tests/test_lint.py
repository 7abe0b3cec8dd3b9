"""The house rules that a program can check: style, types, layers, stubs, and a few of our own.

Files are looked at as they stand in the tree (what git ignores is left out), so a new file is
held to them from its first minute.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
CORE = PROJECT / "fastgate" / "_core"
BUILT = {".cache", ".venv", "build", "dist", "__pycache__", ".git", "results"}
SOURCES = {".py", ".pyi", ".pyx", ".pxd", ".c", ".h"}
TEXTS = SOURCES | {
    ".md",
    ".toml",
    ".yaml",
    ".yml",
    ".cfg",
    ".svg",
    ".json",
    ".service",
    ".socket",
    "",
}

LONGEST = 600

# What stubtest cannot see rightly of a Cython module.
STUBS = r"""
fastgate\._core\..*\.__init__        # arguments are taken by __cinit__, which shows as *args
fastgate\._core\..*\.__new__
fastgate\._core\.handlers\.upcall\.Consumer    # names for types, not there at run time
fastgate\._core\.handlers\.upcall\.type_\w+
"""


def files(suffixes: set[str]) -> list[Path]:
    """All files of the project with these suffixes that are not made by a tool."""
    found = []
    for path in sorted(PROJECT.rglob("*")):
        parts = path.relative_to(PROJECT).parts
        if path.suffix not in suffixes or not path.is_file() or BUILT & set(parts):
            continue
        if any(p.startswith(".") and p not in (".ci", ".github", ".importlinter") for p in parts):
            continue
        if any(p.endswith(".egg-info") for p in parts):
            continue
        found.append(path)
    return found


def name(path: Path) -> str:
    return path.relative_to(PROJECT).as_posix()


def run(*command: str) -> None:
    """Run a tool; what it says is the failure."""
    ran = subprocess.run(
        [sys.executable, "-m", *command], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, f"{' '.join(command)}:\n{ran.stdout}{ran.stderr}"


# ---- tools -------------------------------------------------------------------------------


def test_ruff() -> None:
    run("ruff", "check", ".")


def test_format() -> None:
    run("ruff", "format", "--check", ".")


def test_types() -> None:
    run("mypy")


def test_layers() -> None:
    """Imports point down only: .importlinter."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_stubs_agree_with_the_core(tmp_path: Path) -> None:
    allow = tmp_path / "allow"
    allow.write_text(STUBS)
    run(
        "mypy.stubtest", "fastgate._core", "--concise", "--ignore-missing-stub",
        "--ignore-disjoint-bases", "--ignore-unused-allowlist", "--allowlist", str(allow),
    )  # fmt: skip


# ---- Cython ------------------------------------------------------------------------------


def test_every_cython_module_declares_itself() -> None:
    modules = {path.with_suffix("") for path in CORE.rglob("*.pyx")}
    declared = {path.with_suffix("") for path in CORE.rglob("*.pxd")}
    assert sorted(modules - declared) == []


def test_cython_is_written_in_modules() -> None:
    """cimport, not include; enums, not DEF; functions, not IF."""
    assert [name(path) for path in files({".pxi"})] == []
    old = re.compile(r"^\s*(include\s+[\"']|DEF\s|IF\s)", re.MULTILINE)
    found = [name(path) for path in files({".pyx", ".pxd"}) if old.search(path.read_text())]
    assert found == []


def test_cython_directives_stand_in_setup() -> None:
    directive = re.compile(r"^#\s*(cython|distutils):", re.MULTILINE)
    found = [name(path) for path in files({".pyx", ".pxd"}) if directive.search(path.read_text())]
    assert found == []


# ---- patterns of texts -----------------------------------------------------------------------


def test_patterns_end_where_the_text_ends() -> None:
    """msgspec searches with Python's `re`, whose `$` also stands before a last line feed."""
    open_ended = [
        f"{name(path)}: {found}"
        for path in files({".py"})
        if name(path).startswith("fastgate/")
        for found in re.findall(r"""pattern=(r?f?"[^"]*\$)\"""", path.read_text())
    ]
    assert open_ended == [], "write them with `exact_pattern` or `worded` of fastgate.model.base"


# ---- files -------------------------------------------------------------------------------


def test_files_are_short() -> None:
    long = [
        name(path)
        for path in files(SOURCES)
        if len(path.read_text(encoding="utf-8").splitlines()) > LONGEST
    ]
    assert long == [], f"over {LONGEST} lines"


def test_modules_open_with_what_they_are() -> None:
    bare = []
    for path in files({".py", ".pyx"}):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".pyx":
            opens = text.startswith('"""')
        else:
            opens = not text.strip() or ast.get_docstring(ast.parse(text)) is not None
        if not opens:
            bare.append(name(path))
    assert bare == []


def test_nothing_of_a_single_machine_is_in_the_tree() -> None:
    place = re.compile(r"/(?:home|root|work|Users)/\w")
    found = []
    for path in files(TEXTS):
        if path == Path(__file__).resolve():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [
            f"{name(path)}: {line.strip()}" for line in text.splitlines() if place.search(line)
        ]
    assert found == []


def test_tests_have_names_of_their_own() -> None:
    """pytest imports test modules by their base names: two of one name cannot both be run."""
    tests = [
        path for path in files({".py"}) if name(path).startswith(("tests/", "benchmarks/micro"))
    ]
    counts = Counter(path.name for path in tests if path.name not in ("conftest.py", "__init__.py"))
    assert [base for base, count in counts.items() if count > 1] == []
    assert [
        name(path)
        for path in tests
        if name(path).startswith("tests/") and path.name == "__init__.py"
    ] == []
