"""The texts that people get: one file a notice, a frame for mails, the invoice.

A `.txt` file's first line is the title (a mail's subject), the rest its body. Holes are `${name}`;
one without a value is an error, so no incomplete text is sent. Values for `.html` files are escaped
by the code that fills them in.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from string import Template


@cache
def template(name: str) -> Template:
    """The template of a file in this package. Raises FileNotFoundError."""
    return Template(files(__name__).joinpath(name).read_text(encoding="utf-8"))


def fill(name: str, **values: str) -> str:
    """The text with its holes filled. Raises KeyError for a hole without a value."""
    return template(name).substitute(values)


def holes(name: str) -> frozenset[str]:
    """The names of a template's holes."""
    return frozenset(template(name).get_identifiers())
