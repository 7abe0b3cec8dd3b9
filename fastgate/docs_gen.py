"""Generates reference documents from the code, so that they are always up to date.

    python -m fastgate.docs_gen          write docs/{configuration,reasons,cli,core}.md
    python -m fastgate.docs_gen --check  exit 1 if one of them is not up to date

The configuration comes from the structs and their descriptions, the reasons from the table in
`errors`, the command line from its own help, the list of the core's modules from the first
sentence of each. A test runs the check.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import click
from msgspec import Meta

from fastgate import settings
from fastgate.errors import OWN_STATUS, REASONS
from fastgate.model.base import Model
from fastgate.model.codec import encode
from fastgate.model.gateway import Gateway
from fastgate.model.shape import Field, fields_of, shape_of
from fastgate.model.short import SHORT
from fastgate.model.values import Value
from fastgate.refusal.pages import RETRY_TEXTS
from fastgate.refusal.remedies import PROBLEMS, REMEDIES, retry_of
from fastgate.refusal.templates import MEMBERS

MADE = "<!-- Made by `python -m fastgate.docs_gen`; edit what it is made from instead. -->"
DOCS = Path(__file__).resolve().parent.parent / "docs"


# ---- configuration ----------------------------------------------------------------------


def configuration() -> str:
    """docs/configuration.md."""
    return "\n".join(_configuration()).rstrip() + "\n"


def _configuration() -> Iterator[str]:
    yield from (
        "# Configuration",
        MADE,
        "",
        "One document, YAML, JSON or TOML by the file's name (`.json`, `.toml`, anything else is "
        "YAML), says what the gateway does. `fastgate check` says whether it is right, `fastgate "
        "schema` prints a JSON Schema for editors, `examples/fastgate.yaml` shows all of it in "
        "use. Unknown keys, wrong types and names that lead nowhere are errors with their line.",
        "",
        "## Writing values",
        "",
        "| value | written as |",
        "| --- | --- |",
    )
    for kind in _values():
        examples = ", ".join(f"`{_cell(text)}`" for text in kind.EXAMPLES)
        yield f"| {kind.WHAT.removeprefix('an ').removeprefix('a ')} | {examples} |"
    yield from (
        "",
        "- Where a list is expected, one text or number stands for a list of one; in `limits`, "
        "`quotas`, `concurrency` and `targets` one mapping does too.",
        "- `${NAME}` in a text is the environment variable NAME (an error when there is none), "
        "`${NAME:-default}` has a default. A text that begins with `file:`, or a mapping "
        "`{file: path}`, is what the file holds, without its last line break; relative paths are "
        "relative to the document. `$${NAME}` and `$file:` stand for the characters `${NAME}` and "
        "`file:`. References belong to files: the control API refuses them.",
        "- YAML is read as YAML 1.2: `on`, `yes` and `0660` are texts, only `true` and `false` are "
        "booleans. Anchors, aliases and `<<` work; top-level keys that begin with `x-` are yours.",
        "- Keys and tokens are turned into their SHA-256 while the document is read; what is kept "
        "and shown never holds one in clear.",
        "",
    )
    for struct in _structs():
        yield from _struct(struct)
    yield from (
        "## Settings of the programs",
        "",
        "What is not in the document: options of the command line, and environment variables.",
        "",
        "| variable | default | what it says |",
        "| --- | --- | --- |",
    )
    for setting in settings.SETTINGS:
        default = f"`{setting.default}`" if setting.default else ""
        yield f"| `{setting.env}` | {default} | {_cell(setting.text)} |"


def _struct(struct: type[Model]) -> Iterator[str]:
    title = "The document" if struct is Gateway else struct.__name__
    yield from (f"## {title}", "", (struct.__doc__ or "").strip(), "")
    forms = SHORT.get(struct, ())
    if forms:
        words = {str: "a text", int: "a number", bool: "true or false", list: "a list"}
        short = "; ".join(f"{words[form.kinds[0]]} is {form.meaning}" for form in forms)
        yield from (f"Short: {short}.", "")
    yield from ("| key | value | default | what it says |", "| --- | --- | --- | --- |")
    for field in fields_of(struct).values():
        value = _kind(field.annotation)
        yield f"| `{field.name}` | {value} | {_default(field)} | {_cell(field.description)} |"
    yield ""


def _kind(annotation: Any) -> str:
    """The type of a field in words, linked to its section."""
    shape = shape_of(annotation)
    if shape.kind == "struct" and shape.struct is not None:
        return f"[{shape.struct.__name__}](#{shape.struct.__name__.lower()})"
    if shape.kind == "list":
        return f"list of {_kind(shape.item)}"
    if shape.kind == "dict":
        return f"mapping to {_kind(shape.item)}"
    if shape.kind == "value" and shape.value is not None:
        return shape.value.WHAT.removeprefix("an ").removeprefix("a ").partition(",")[0]
    if shape.choices and shape.choices != (1,):
        choices = ", ".join(f"`{choice}`" for choice in shape.choices)
        return f"number or {choices}" if int in _parts(annotation) else choices
    if shape.choices:
        return "`1`"
    bounds = _bounds(annotation)
    parts = _parts(annotation)
    if bool in parts:
        return "true or false"
    if int in parts:
        return f"number{bounds}"
    return "text" if str in parts else "anything"


def _parts(annotation: Any) -> list[Any]:
    """The plain types in an annotation, through Annotated and unions."""
    if hasattr(annotation, "__metadata__"):
        return _parts(get_args(annotation)[0])
    arguments = get_args(annotation)
    if arguments and get_origin(annotation) is not None:
        return [part for argument in arguments for part in _parts(argument)]
    return [annotation]


def _bounds(annotation: Any) -> str:
    low, high = None, None
    stack = [annotation]
    while stack:
        one = stack.pop()
        for meta in getattr(one, "__metadata__", ()):
            if isinstance(meta, Meta):
                low = meta.ge if meta.ge is not None else low
                high = meta.le if meta.le is not None else high
        stack.extend(argument for argument in get_args(one) if not isinstance(argument, Meta))
    if low is not None and high is not None:
        return f", {low} to {high}"
    return ""


def _default(field: Field) -> str:
    if field.required:
        return "*needed*"
    default = encode(field.default)
    if default is None or default in ({}, []):
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, list) and isinstance(default[0], dict):
        return "see there"
    if isinstance(default, list):
        return f"`[{', '.join(map(str, default))}]`"
    return f"`{default}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _structs() -> list[type[Model]]:
    """All structs, each after the first that refers to it."""
    found: list[type[Model]] = []

    def visit(annotation: Any) -> None:
        shape = shape_of(annotation)
        if shape.item is not None:
            visit(shape.item)
        if shape.struct is None or shape.struct in found:
            return
        found.append(shape.struct)
        for field in fields_of(shape.struct).values():
            visit(field.annotation)

    visit(Gateway)
    return found


def _values() -> list[type[Value]]:
    found: list[type[Value]] = []

    def visit(annotation: Any) -> None:
        shape = shape_of(annotation)
        if shape.value is not None and shape.value not in found:
            found.append(shape.value)
        if shape.item is not None:
            visit(shape.item)

    for struct in _structs():
        for field in fields_of(struct).values():
            visit(field.annotation)
    return sorted(found, key=lambda kind: kind.__name__)


# ---- reasons ----------------------------------------------------------------------------


def reasons() -> str:
    """docs/reasons.md."""
    lines = [
        "# Reasons",
        MADE,
        "",
        "Every refusal is a problem document (RFC 9457, `application/problem+json`) with a stable "
        "`reason`, and an id for `fastgate explain ID`. The access log and metrics use the same "
        "codes.",
        "",
        "The status says what helps: **401** send a valid credential; **402** pay; **403** neither "
        "paying nor waiting helps; **429** wait; **5xx** the problem is on our side.",
        "",
        "While `billing.public` is on, the gateway serves a page for each at the problem's `type`, "
        f"`{PROBLEMS}REASON`, and refusals come in three forms, by `Accept`: problem documents for "
        "programs, Markdown for agents, HTML for people. `retry` says when to send the same again: "
        + "; ".join(f"`{name}`: {text}" for name, text in RETRY_TEXTS.items()),
        "",
    ]
    titles = {"client": "the caller", "gateway": "the gateway", "upstream": "the upstream"}
    for reason in REASONS:
        status = str(reason.status) if reason.status else "no answer"
        if reason.code in OWN_STATUS:
            status = "a configured status"
        lines += [f"## {reason.code}", "", f"**{status}** · {reason.title}", "", reason.text, ""]
        facts = [f"to be fixed by {titles[reason.side]}"]
        if reason.status:
            facts.append(
                "may succeed when repeated"
                if reason.retryable
                else "refused until something changes"
            )
        if reason.close and reason.status:
            facts.append("the connection is closed")
        members = MEMBERS.get(reason.code, {})
        if members:
            facts.append("has " + ", ".join(f"`{name}`" for name in members))
        if reason.status:
            facts.append(f"retry `{retry_of(reason.code, reason.status, reason.retryable)}`")
        lines += [f"*{'; '.join(facts).capitalize()}.*", ""]
        if remedies := REMEDIES.get(reason.code):
            helps = "; ".join(f"{remedy.title} (`{remedy.action}`)" for remedy in remedies)
            lines += [f"What helps: {helps}.", ""]
    return "\n".join(lines).rstrip() + "\n"


# ---- command line -----------------------------------------------------------------------


def cli() -> str:
    """docs/cli.md."""
    from fastgate.cli.app import COMMANDS, root

    options: dict[str, Any] = {**root.context_settings, "max_content_width": 92}
    context = click.Context(root, info_name="fastgate", **options)
    lines = [
        "# Command line",
        MADE,
        "",
        "| code | exit |",
        "| --- | --- |",
        "| 0 | success |",
        "| 1 | refused or failed (also: not ready, different, not found) |",
        "| 2 | wrong usage: unknown option, missing argument |",
        "| 3 | the control API cannot be reached |",
        "| 4 | the configuration is not valid |",
        "",
        "Results go to stdout, errors to stderr. With `--json` both are JSON. Shell completion: "
        "`fastgate completion bash|zsh|fish`.",
        "",
        *_command(root, context, 2),
    ]
    for heading, entries in COMMANDS.items():
        lines += [f"## {heading}", ""]
        for name in entries:
            command = root.get_command(context, name)
            assert command is not None
            lines += _tree(command, click.Context(command, context, name, max_content_width=92), 3)
    return "\n".join(lines).rstrip() + "\n"


def _tree(command: click.Command, context: click.Context, level: int) -> Iterator[str]:
    yield from _command(command, context, level)
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            below = click.Context(inner, context, name, max_content_width=92)
            yield from _tree(inner, below, level + 1)


def _command(command: click.Command, context: click.Context, level: int) -> Iterator[str]:
    context.terminal_width = 92
    text = command.get_help(context)
    yield from (f"{'#' * level} {context.command_path}", "", "```text")
    yield from (line.rstrip() for line in text.splitlines())
    yield from ("```", "")


# ---- the core ---------------------------------------------------------------------------


def core() -> str:
    """docs/core.md: the modules of the core, one sentence each."""
    folder = Path(__file__).resolve().parent / "_core"
    lines = [
        "# The core, module by module",
        MADE,
        "",
        "`fastgate/_core`, Cython. A module has its `.pyx` and its `.pxd` (what others may "
        "`cimport`); those without a `.pyx` are declarations and inlined functions. Each opens "
        "with how it works: theory, drawings, invariants. Which folder may use which is listed in "
        "`tests/test_cimports.py`.",
    ]
    for room in (folder, *sorted(path.parent for path in folder.glob("*/__init__.py"))):
        if room != folder:
            opening = ast.get_docstring(ast.parse((room / "__init__.py").read_text()))
            lines += ["", f"## {room.name}", "", opening or ""]
        lines += ["", "| module | what it is |", "| --- | --- |"]
        for name in sorted({path.stem for path in room.glob("*.p[xy][xd]")}):
            path = next(p for p in (room / f"{name}.pyx", room / f"{name}.pxd") if p.exists())
            link = f"../{path.relative_to(folder.parent.parent)}"
            lines.append(f"| [{name}]({link}) | {_cell(_first_sentence(path))} |")
    return "\n".join(lines) + "\n"


def _first_sentence(path: Path) -> str:
    found = re.match(
        r'"""(?:\w+: )?(.*?)(?:\.(?=\s|""")|:\n|\n\n|""")', path.read_text(), re.DOTALL
    )
    if found is None:
        raise ValueError(f"{path.name} does not open with what it is")
    text = " ".join(found[1].split())
    return text[0].upper() + text[1:]


# ---- writing ----------------------------------------------------------------------------

PAGES: dict[str, Callable[[], str]] = {
    "configuration.md": configuration,
    "reasons.md": reasons,
    "cli.md": cli,
    "core.md": core,
}


def main(arguments: list[str]) -> int:
    """Write the pages, or check them."""
    stale = []
    for name, make in PAGES.items():
        path = DOCS / name
        text = make()
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if "--check" not in arguments:
                path.write_text(text)
    for name in stale:
        print(f"{'not up to date' if '--check' in arguments else 'written'}: docs/{name}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
