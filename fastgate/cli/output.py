"""Printing: tables and colour on a terminal, JSON with `--json`; nothing is decided here.

rich is imported when the first table is printed; `--json` and errors do without.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from fastgate.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.console import Console


GAP = 3
"""Columns of the terminal between two of a table."""


def console() -> Console:
    """stdout as rich has it; wide and without colour when it is not a terminal."""
    from rich.console import Console

    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else 200
    return Console(file=sys.stdout, highlight=False, soft_wrap=False, width=width, emoji=False)


def print_json(data: Any) -> None:
    """`data` as indented JSON."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False, default=str))


def say(text: str) -> None:
    """A line for people."""
    click.echo(text)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: str) -> None:
    """Rows under headings; `empty` if there are none. Numbers are aligned right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    listed = [list(row) for row in rows]
    if not listed:
        say(empty)
        return
    screen = console()
    widths = _widths([(name, *(row[at] for row in listed)) for at, name in enumerate(columns)])
    slack = screen.width - sum(most for _, most in widths) - GAP * (len(columns) - 1)
    given = _given(widths, slack)
    if given is None:
        _blocks(columns, listed)
        return
    built = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        number = all(isinstance(row[index], int | float) for row in listed)
        built.add_column(column, justify="right" if number else "left", width=given[index])
    for row in listed:
        built.add_row(*(cell if isinstance(cell, Text) else Text(cell_text(cell)) for cell in row))
    with screen.capture() as printed:  # rich would end the program at a broken pipe
        screen.print(built)
    click.echo(printed.get(), nl=False)


def _widths(columns: Iterable[Sequence[Any]]) -> list[tuple[int, int]]:
    """Of each column, how wide it must be for every word to stay whole, and how wide it can be."""
    found = []
    for cells in columns:
        texts = [str(cell_text(cell)) for cell in cells]
        unwrapped = [text for text, cell in zip(texts, cells, strict=True) if _never_wraps(cell)]
        words = [word for text in texts for word in text.split()]
        found.append((max(map(len, [*words, *unwrapped, "-"])), max(map(len, texts))))
    return found


def _never_wraps(cell: Any) -> bool:
    return bool(getattr(cell, "no_wrap", None))


def _given(widths: list[tuple[int, int]], slack: int) -> list[int] | None:
    """The width of each column. A negative `slack` is how many characters must be saved; None: they
    cannot be.

    Rich saves where a column is widest, which breaks words; here, where most can be saved.
    """
    given = [most for _, most in widths]
    for _ in range(max(0, -slack)):
        at = max(range(len(given)), key=lambda index: given[index] - widths[index][0])
        if given[at] == widths[at][0]:
            return None
        given[at] -= 1
    return given


def _blocks(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Rows as blocks of lines, where the terminal is too narrow for a table."""
    wide = max(map(len, columns))
    for number, row in enumerate(rows):
        if number:
            say("")
        for name, cell in zip(columns, row, strict=True):
            say(f"{click.style(name.ljust(wide), bold=True)}  {cell_text(cell)}")


def cell_text(value: Any) -> str:
    """A value in a table: None is a dash, lists are joined, times have no fractions."""
    if value is None or value == "" or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(cell_text(item) for item in value)
    if isinstance(value, float):
        return f"{value:.1f}"
    return str(value)


def when(value: Any) -> str:
    """A time of the API (RFC 3339 text, or Unix seconds) as "2026-11-20 12:00:00Z"."""
    if value in (None, "", 0):
        return "-"
    if isinstance(value, int | float):
        moment = datetime.fromtimestamp(value, UTC)
    else:
        try:
            moment = datetime.fromisoformat(str(value).replace("Z", "+00:00")).astimezone(UTC)
        except ValueError:
            return str(value)
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


def plural(count: int, names: str) -> str:
    """ "1 route", "2 routes"; `names` is the plural."""
    one = {"policies": "policy"}.get(names, names[:-1])
    return f"{count} {one if count == 1 else names}"


def size(count: Any) -> str:
    """Bytes as people read them: "12.3 MiB"."""
    if not isinstance(count, int | float) or count <= 0:
        return "-"
    amount = float(count)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def no_wrap(text: str) -> Any:
    """A table's cell that is never broken into lines."""
    from rich.text import Text

    return Text(text, no_wrap=True)


def colour(text: str, style: str) -> Any:
    """A table's cell in a colour."""
    from rich.text import Text

    return Text(text, style=style)


def fault_data(error: ConfigurationError) -> dict[str, Any]:
    """A configuration error as data."""
    return {
        "message": error.message,
        "path": error.path,
        "line": error.line,
        "file": error.file,
        "hint": error.hint,
    }
