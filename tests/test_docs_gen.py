"""The generated references are as they would be generated, and leave nothing out."""

import pytest

from fastgate import docs_gen
from fastgate.cli.app import ENTRIES
from fastgate.errors import REASONS


@pytest.mark.parametrize("name", docs_gen.PAGES)
def test_a_page_is_up_to_date(name: str) -> None:
    made = docs_gen.PAGES[name]()
    assert (docs_gen.DOCS / name).read_text() == made, "run: python -m fastgate.docs_gen"


def test_pages_leave_nothing_out() -> None:
    reasons = docs_gen.reasons()
    assert all(f"\n## {reason.code}\n" in reasons for reason in REASONS)
    commands = docs_gen.cli()
    assert all(f"\n### fastgate {name}\n" in commands for name in ENTRIES)
    configuration = docs_gen.configuration()
    for link in ("#route", "#upstream", "#limit", "#control"):
        assert f"({link})" in configuration
        assert f"\n## {link[1:].capitalize()}\n" in configuration


def test_checking_writes_nothing(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(docs_gen, "DOCS", tmp_path)
    assert docs_gen.main(["--check"]) == 1
    assert list(tmp_path.iterdir()) == []  # type: ignore[attr-defined]
    assert docs_gen.main([]) == 0
    assert docs_gen.main(["--check"]) == 0
    assert "written: docs/cli.md" in capsys.readouterr().out
