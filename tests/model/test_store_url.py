"""A store's URL: what is accepted, and what a mistake in it is called."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from fastgate.config.file import loads
from fastgate.errors import ConfigurationError
from fastgate.model.codec import redact
from fastgate.model.store_url import StoreUrl


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("sqlite:///x.db", None),
        ("sqlite:////var/lib/x.db", None),
        ("sqlite+aiosqlite:///x.db", "sqlite:///x.db"),
        ("postgresql://u:p@h/d", None),
        ("postgres://h/d", "postgresql://h/d"),
        ("PostgreSQL+asyncpg://h/d", "postgresql://h/d"),
        ("postgresql://u@h1:5432,h2,10.0.0.1:5433/d?target_session_attrs=primary", None),
        ("postgresql://u:p@[::1]:5433/d", None),
        (
            "postgresql://u:p@h1:5432,h2,[::1]:5433/d?target_session_attrs=primary",
            "postgresql://u:p@/d?host=h1:5432,h2,[::1]:5433&target_session_attrs=primary",
        ),
        ("postgresql://[::1],[fe80::1%eth0]", "postgresql:///?host=[::1],[fe80::1%eth0]"),
        ("postgresql:///d?host=/run/postgresql", None),
        ("postgresql://h/d?sslmode=verify-full&sslrootcert=/etc/ca.pem", None),
        ("postgresql://h/d?application_name=gate&options=-c%20geqo%3Doff", None),
        ("postgresql://", None),
    ],
)
def test_what_is_accepted(text: str, canonical: str | None) -> None:
    url = StoreUrl.parse(text)
    assert str(url) == canonical or (canonical is None and str(url) == text)
    assert StoreUrl.parse(str(url)) == url


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mysql://h/d", "begins with 'sqlite:///' or 'postgresql://'"),
        ("fastgate.db", "begins with"),
        ("postgresql+psycopg2://h/d", "the driver 'psycopg2' is not used"),
        ("sqlite://x.db", "three slashes"),
        ("sqlite://", "is a file"),
        ("sqlite:///:memory:", "is a file"),
        ("sqlite:///x.db?mode=ro", "takes no parameters"),
        ("postgresql://h/d?sslmod=require", "Did you mean 'sslmode'"),
        ("postgresql://h/d?sslmode=yes", "sslmode cannot be 'yes'. Choices: disable, "),
        ("postgresql://h/d?sslmode=verify_full", "Did you mean 'verify-full'"),
        ("postgresql://h/d?connect_timeout=5", "'connect_timeout' is not understood"),
        ("postgresql://h/d?work_mem=5MB", "write options=-c%20work_mem%3DVALUE"),
        ("postgresql://h/d?sslmode", "cannot be read"),
        ("postgresql://h:0/d", "'0' is not a port"),
        ("postgresql://h1,[::1/d", "'[::1' is not a host"),
        ("postgresql://h1,[::g]:1/d", "'[::g]:1' is not a host"),
        ("postgresql://[::1]x/d", "'[::1]x' is not a host"),
        ("postgresql://h:543211/d", "not a port"),
        ("postgresql://h/d?port=x", "not a port"),
        ("postgresql://u:p[@h/d", "write '@' as %40"),
        ("postgresql://h/a/b", "is not the name of a database"),
        ("postgresql://h/d#x", "write it as %23"),
        ("postgresql://h/d?target_session_attrs=standby", "cannot be 'standby'"),
    ],
)
def test_a_mistake_is_reported_by_check(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loads(f"version: 1\nstore: {{url: '{text}'}}\n")
    assert caught.value.path == "store.url"
    assert caught.value.line == 2
    assert words in str(caught.value)


def test_the_driver_is_looked_for_by_check(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "version: 1\nstore: postgresql://h/d\n"
    loads(text)
    real = sys.modules["fastgate.model.check"].find_spec  # type: ignore[attr-defined]
    monkeypatch.setattr(
        "fastgate.model.check.find_spec", lambda name: None if name == "asyncpg" else real(name)
    )
    with pytest.raises(ConfigurationError, match=r"pip install 'fastgate\[postgresql\]'") as caught:
        loads(text)
    assert caught.value.path == "store.url"
    loads("version: 1\nstore: sqlite:///x.db\n")


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:hunter2@h/d",
        "postgresql://h/d?user=u&password=hunter2&sslmode=require",
        "postgresql://h/d?sslpassword=hunter2",
        "postgresql://h/d?password=hunter2",
    ],
)
def test_passwords_are_not_shown(text: str) -> None:
    url = StoreUrl.parse(text)
    shown: Any = redact({"store": {"url": str(url)}})
    for one in (url.shown, repr(url), str(shown)):
        assert "hunter2" not in one
        assert "***" in one
    assert "hunter2" in str(url)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:hunter2@h:99999/d",
        "postgresql://u:hunter2@h/d?sslmode=x",
        "postgresql://u:hunter2[@h/d",
        "mysql://u:hunter2@h/d",
        "postgresql+x://u:hunter2@h/d",
        "postgresql://u:hunter2@h/d?nothing=1",
    ],
)
def test_no_error_shows_a_password(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loads(f"version: 1\nstore: {{url: '{text}'}}\n")
    assert "hunter2" not in str(caught.value)
