"""The descriptions of a configuration in control: read, kept, and there for the next process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from validationkit import document, operation, written

from fastgate.errors import ConfigurationError
from fastgate.model import codec
from fastgate.model.gateway import Gateway
from fastgate.runtime.control.descriptions import FILE, Descriptions
from fastgate.runtime.persist import StateDirectory, StateError


def gateway(*paths: Path) -> Gateway:
    policies = [{"name": f"p{number}", "validate": str(path)} for number, path in enumerate(paths)]
    found: Gateway = codec.decode({"version": 1, "policies": policies})
    return found


def gone(path: Path) -> None:
    path.unlink()


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    (tmp_path / "state").mkdir()
    return StateDirectory(tmp_path / "state")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return written(tmp_path, document({"/x": {"get": operation()}}))


async def test_nothing_is_read_without_the_setting(state: StateDirectory, path: Path) -> None:
    descriptions = Descriptions(state, successor=False)
    assert await descriptions.prepare(gateway()) == {}
    descriptions.keep()
    assert state.read(FILE) is None


async def test_what_is_served_is_kept_for_the_next_process(
    state: StateDirectory, path: Path
) -> None:
    first = Descriptions(state, successor=False)
    texts = await first.prepare(gateway(path))
    assert list(texts) == [str(path)]
    assert state.read(FILE) is None  # not before it is served
    first.keep()
    gone(path)
    second = Descriptions(state, successor=True)
    assert await second.prepare(gateway(path)) == texts
    second.keep()
    with pytest.raises(ConfigurationError):
        await second.prepare(gateway(path))  # a reload needs the file
    with pytest.raises(ConfigurationError):
        await Descriptions(state, successor=False).prepare(gateway(path))  # so does a start


async def test_what_was_kept_does_not_help_with_another_file(
    state: StateDirectory, path: Path
) -> None:
    first = Descriptions(state, successor=False)
    await first.prepare(gateway(path))
    first.keep()
    other = path.with_name("other.json")
    with pytest.raises(ConfigurationError, match=r"other\.json there is no such file"):
        await Descriptions(state, successor=True).prepare(gateway(path, other))


async def test_new_addresses_of_targets_read_no_file(state: StateDirectory, path: Path) -> None:
    descriptions = Descriptions(state, successor=False)
    texts = await descriptions.prepare(gateway(path))
    descriptions.keep()
    written(path.parent, "no longer a description", path.name)
    with pytest.raises(ConfigurationError):
        await descriptions.prepare(gateway(path))
    assert await descriptions.prepare(gateway(path), again=True) == texts


async def test_what_was_only_tried_is_not_kept(state: StateDirectory, path: Path) -> None:
    descriptions = Descriptions(state, successor=False)
    texts = await descriptions.prepare(gateway(path))
    descriptions.keep()
    written(path.parent, document({"/y": {"get": operation()}}), path.name)
    assert await descriptions.prepare(gateway(path)) != texts  # a dry run
    assert await descriptions.prepare(gateway(path), again=True) == texts


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff"])
async def test_a_damaged_file_is_as_none(
    state: StateDirectory, path: Path, content: bytes, caplog: Any
) -> None:
    state.write(FILE, content)
    descriptions = Descriptions(state, successor=True)
    assert "descriptions.json cannot be used" in caplog.text
    assert list(await descriptions.prepare(gateway(path))) == [str(path)]


async def test_a_full_disk_is_logged(
    state: StateDirectory, path: Path, monkeypatch: Any, caplog: Any
) -> None:
    def full(name: str, content: bytes) -> None:
        raise StateError("the disk is full")

    descriptions = Descriptions(state, successor=False)
    await descriptions.prepare(gateway(path))
    monkeypatch.setattr(state, "write", full)
    descriptions.keep()
    assert "the disk is full; the next control process would have to read the files" in caplog.text
