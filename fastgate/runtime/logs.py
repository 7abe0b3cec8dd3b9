"""The processes' own log lines, on stderr: readable text on a terminal, otherwise JSON.

Each line is one `write`, so that lines of several processes do not mix. (For the access log, see
`observability/accesslog.py`.)
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import Literal

from fastgate import settings

Style = Literal["auto", "human", "json"]

_COLOURS = {
    logging.DEBUG: "2",
    logging.INFO: "",
    logging.WARNING: "33",
    logging.ERROR: "31",
    logging.CRITICAL: "1;31",
}


class HumanFormatter(logging.Formatter):
    """`12:00:00 supervisor  worker 1 (pid 7) ended: …`"""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        name = record.name.removeprefix("fastgate").lstrip(".") or "fastgate"
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            text = f"{record.levelname.lower()}: {text}"
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        if self._colour:
            code = _COLOURS.get(record.levelno, "")
            text = f"\x1b[{code}m{text}\x1b[0m" if code else text
            return f"\x1b[2m{moment} {name:<10}\x1b[0m {text}"
        return f"{moment} {name:<10} {text}"


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (RFC 3339, UTC), level, logger, pid, message, error."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process or 0,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class LineHandler(logging.Handler):
    """Writes each record to a descriptor with one system call; ignores a closed reader."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd

    def emit(self, record: logging.LogRecord) -> None:
        try:
            os.write(self._fd, (self.format(record) + "\n").encode("utf-8", "replace"))
        except OSError:
            return
        except Exception:
            self.handleError(record)


def set_up(style: Style = "auto", level: int = logging.INFO) -> None:
    """Send the log of this process and of its children to stderr."""
    terminal = sys.stderr.isatty()
    human = style == "human" or (style == "auto" and terminal)
    handler = LineHandler(2)
    wanted = settings.color(os.environ)
    colour = terminal if wanted is None else wanted
    handler.setFormatter(HumanFormatter(colour=colour) if human else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("fastgate").setLevel(level)
