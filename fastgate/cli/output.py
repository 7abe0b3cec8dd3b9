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
    """Rows under headings; `empty` where there are none. Numbers stand right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    listed = [list(row) for row in rows]
    if not listed:
        say(empty)
        return
    built = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        number = all(isinstance(row[index], int | float) for row in listed)
        built.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in listed:
        built.add_row(*(cell if isinstance(cell, Text) else Text(cell_text(cell)) for cell in row))
    screen = console()
    with screen.capture() as printed:  # rich would end the program at a broken pipe
        screen.print(built)
    click.echo(printed.get(), nl=False)


def cell_text(value: Any) -> str:
    """A value in a table: nothing is a dash, lists are joined, times are without fractions."""
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
