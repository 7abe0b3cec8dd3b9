"""Which form of a refusal an Accept field asks for, against the standard word for word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgate._core.exchange.accept import form_for

BROWSER = b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (b"", "json"),
        (b"*/*", "json"),
        (b"application/problem+json", "json"),
        (b"application/json", "json"),
        (b"APPLICATION/JSON , text/html;q=0.9", "json"),
        (BROWSER, "html"),
        (b"text/html", "html"),
        (b"text/html, */*", "html"),
        (b"text/html;q=0.5, application/json", "json"),
        (b"text/html; level=1; q=0.4, application/json; q=.3", "html"),
        (b'text/html;a="x,;q=0";q=0.9, application/json;q=0.8', "html"),
        (b"text/markdown, text/html;q=0.9, */*;q=0.1", "markdown"),
        (b"text/markdown, text/html, */*", "markdown"),
        (b"text/x-markdown", "markdown"),
        (b"text/*", "markdown"),
        (b"text/*, text/markdown;q=0", "html"),
        (b"application/*, text/html;q=0.9", "json"),
        (b"application/json, text/plain, */*", "json"),
        (b"text/html;q=0, */*;q=0.1", "json"),
        (b"image/png, audio/*", "json"),
        (b"text/html;q=0", "json"),
        (b", ,;q=1,\t, text/html", "html"),
        (b"text/html;q=oops, application/json;q=0.9", "html"),
        (b"text/html;q=0.0009, application/json;q=0", "json"),
        (b"text/html;q=1.7, application/json;q=1", "json"),
    ],
)
def test_accept_chooses(accept: bytes, form: str) -> None:
    assert form_for(accept) == form


RANGES = {
    "json": ["application/problem+json", "application/json"],
    "markdown": ["text/markdown", "text/x-markdown"],
    "html": ["text/html", "application/xhtml+xml"],
}
WIDE = {"json": "application/*", "markdown": "text/*", "html": "text/*"}
ALL = [*(name for names in RANGES.values() for name in names), "text/*", "application/*", "*/*"]


def naive_form(ranges: list[tuple[str, int]]) -> str:
    """RFC 9110, 12.5.1, word for word."""
    best = ("json", 0, 0)
    for form in ("json", "markdown", "html"):
        for rank, names in ((3, RANGES[form]), (2, [WIDE[form]]), (1, ["*/*"])):
            said = [q for name, q in ranges if name in names]
            if said:
                if (max(said), rank) > best[1:]:
                    best = (form, max(said), rank)
                break
    return best[0] if best[1] > 0 else "json"


@given(
    st.lists(
        st.tuples(st.sampled_from([*ALL, "image/png"]), st.integers(0, 1000)),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from([",", " , ", ",\t"]),
)
def test_accept_is_understood_as_the_standard_says(
    ranges: list[tuple[str, int]], comma: str
) -> None:
    accept = comma.join(f"{name};q={q / 1000:.3f}" for name, q in ranges)
    assert form_for(accept.encode()) == naive_form(ranges)


@given(st.binary(max_size=200))
def test_no_accept_is_too_strange(accept: bytes) -> None:
    assert form_for(accept) in ("json", "markdown", "html")
