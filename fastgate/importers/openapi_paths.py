"""Paths of OpenAPI as paths of routes: parameters are whole segments, with plain names."""

from __future__ import annotations

import re
from urllib.parse import quote

from fastgate.importers.source import Fields

_WHOLE = re.compile(r"\{([^{}]*)\}")
_REST = ("+", "*")
_SAFE = "._~!$&'()*+,;=:@%-"


def pattern(path: str, fields: Fields) -> str:
    """The path of a route for a path of a description."""
    names: set[str] = set()
    segments = path.split("/")
    made = []
    for number, segment in enumerate(segments):
        found = _WHOLE.fullmatch(segment)
        if found is not None:
            rest = found[1].endswith(_REST) and number == len(segments) - 1
            made.append(f"{{{_name(found[1], names)}{'*' if rest else ''}}}")
        elif _WHOLE.search(segment):
            fields.note(
                "changed",
                f"{segment!r}: a parameter is a whole segment, so any segment matches here",
            )
            made.append(f"{{{_name('_'.join(_WHOLE.findall(segment)), names)}}}")
        else:
            made.append(quote(segment, safe=_SAFE + "{}"))
    return "/".join(made)


def _name(text: str, names: set[str]) -> str:
    """A valid name that the path does not have yet."""
    name = re.sub(r"\W+", "_", text, flags=re.A).strip("_") or "p"
    if name[0].isdigit():
        name = f"p{name}"
    wanted, number = name, 1
    while name in names:
        number += 1
        name = f"{wanted}_{number}"
    names.add(name)
    return name


def slug(path: str) -> str:
    """A name for a route, from its path."""
    return re.sub(r"[^A-Za-z0-9]+", "-", path).strip("-") or "root"
