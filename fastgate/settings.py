"""Settings of the programs themselves, which are not in the configuration document.

Each is declared once, here; the options of the command line, the environment variables and the
reference are generated from it. The document defines what the gateway does; the settings define
where the document is, where state is kept and how to reach a running gateway.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Setting(NamedTuple):
    """One setting."""

    name: str
    env: str
    """The environment variable."""
    default: str
    """The value if neither option nor variable is given; "": see `text`."""
    text: str
    """For `--help` and the reference."""
    secret: bool = False
    """Never shown; has no option, since other users can see command lines."""


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "config",
        "FASTGATE_CONFIG",
        "fastgate.yaml",
        "The configuration file.",
    ),
    Setting(
        "state_dir",
        "FASTGATE_STATE_DIR",
        "",
        "The state directory: database, admin token, counters that survive a restart. Default: "
        "`.fastgate` beside the configuration file.",
    ),
    Setting(
        "control",
        "FASTGATE_CONTROL",
        "http://127.0.0.1:8081",
        "The address of the control API: `http://host:port`, `https://host:port` or `unix:/path`. "
        "If it is not set, the one of the gateway that runs with the state directory.",
    ),
    Setting(
        "ca",
        "FASTGATE_CA",
        "",
        "A file of certificates that an `https` control API is verified with. Default: the "
        "operating system's, or what the state directory says.",
    ),
    Setting(
        "token",
        "FASTGATE_TOKEN",
        "",
        "The token for the control API. Default: the content of the file `admin-token` in the "
        "state directory.",
        secret=True,
    ),
    Setting(
        "log_level",
        "FASTGATE_LOG_LEVEL",
        "info",
        "The least severe level that is logged: `debug`, `info`, `warning` or `error`.",
    ),
)

BY_NAME: dict[str, Setting] = {setting.name: setting for setting in SETTINGS}

STATE_DIR = ".fastgate"
RUNNING = "running.json"
"""The file in the state directory with the process that uses it, and its addresses."""
ADMIN_TOKEN = "admin-token"
"""The file of the first admin token in the state directory, readable only by its owner."""


def value_of(name: str, given: str | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """A setting's value: the given one, otherwise the variable, otherwise the default."""
    setting = BY_NAME[name]
    return given or environ.get(setting.env) or setting.default


def state_dir(
    config: str | os.PathLike[str] | None = None,
    given: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Path:
    """The state directory: as given or set; otherwise `.fastgate` beside `config`, or here."""
    named = value_of("state_dir", given, environ)
    if named:
        return Path(named)
    beside = Path(config).parent if config is not None and os.fspath(config) != "-" else Path()
    return beside / STATE_DIR


def color(environ: Mapping[str, str]) -> bool | None:
    """Whether output is to be colored; None: on a terminal. NO_COLOR is honored (see
    https://no-color.org), as are FORCE_COLOR and TERM=dumb."""
    if environ.get("NO_COLOR") or environ.get("TERM") == "dumb":
        return False
    return True if environ.get("FORCE_COLOR") else None
