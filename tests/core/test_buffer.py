"""Buffers: what sizes they are made for, and that sizes are never cut to 32 bits."""

from __future__ import annotations

import pytest

from fastgate._core.platform.buffer import MOST_COLLECTED, room
from fastgate.model import check

MOST = 2**31 - 4096


@pytest.mark.parametrize("size", [0, 1, 16344, 16345, 65496, 65497, 1 << 20, 1 << 30, MOST])
def test_there_is_room_for_what_was_asked(size: int) -> None:
    found = room(size)
    assert found is not None
    assert found >= size


@pytest.mark.parametrize("size", [MOST + 1, 2**32 - 40, 2**32 - 1, 2**32, 2**32 + 1, 2**63])
def test_none_is_made_for_what_32_bits_cannot_count(size: int) -> None:
    """Cut to 32 bits, each of these would be a small buffer."""
    assert room(size) is None


def test_a_collected_body_and_what_goes_with_it_fit() -> None:
    assert check.MOST_COLLECTED.bytes == MOST_COLLECTED
    assert room(MOST_COLLECTED + (64 << 20)) is not None
