"""What tests of the compiler are made with: small documents, compiled."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from fastgate._core.snapshot.snapshot import (
    Snapshot,
)
from fastgate.config.compiler import SlotBook, compile_gateway
from fastgate.config.rendering import Found
from fastgate.errors import ConfigurationError
from fastgate.model import codec

NONE = 0xFFFFFFFF
BASE: dict[str, Any] = {
    "version": 1,
    "upstreams": [{"name": "up", "targets": ["http://10.0.0.1:9000"]}],
    "services": [{"name": "svc", "upstream": "up"}],
}


def decode(document: Mapping[str, Any]) -> Any:
    return codec.decode({**BASE, **document})


@contextmanager
def compiled(
    document: Mapping[str, Any],
    *,
    slots: SlotBook | None = None,
    addresses: Mapping[str, Sequence[Found]] | None = None,
) -> Iterator[Snapshot]:
    image = compile_gateway(
        decode(document),
        generation=7,
        slots=slots if slots is not None else SlotBook(),
        addresses=addresses or {},
    )
    try:
        snapshot = Snapshot(image.fd, verify=True)
        assert image.generation == snapshot.generation == 7
        yield snapshot
    finally:
        os.close(image.fd)


def one_route(**fields: Any) -> dict[str, Any]:
    if not {"handler", "respond", "redirect", "retired"} & fields.keys():
        fields.setdefault("service", "svc")
    return {"routes": [{"name": "r", "path": "/x", **fields}]}


def refused(document: Mapping[str, Any]) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught, compiled(document):
        pass
    return caught.value
