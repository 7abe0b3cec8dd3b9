"""Compiled schemas, the same in the control process and in workers."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import jsonschema_rs


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def compiled(schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    """The validator of a schema. Nothing is fetched. Raises ValueError for an invalid one."""
    return jsonschema_rs.Draft202012Validator(
        schema, validate_formats=True, formats={"byte": _is_base64}, offline=True
    )
