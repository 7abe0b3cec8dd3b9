"""The processes' own log: lines for people, objects for machines, whole lines always."""

from __future__ import annotations

import json
import logging
import os

from fastgate.runtime.logs import HumanFormatter, JsonFormatter, LineHandler


def record(
    level: int = logging.INFO, message: str = "hello %s", *args: object
) -> logging.LogRecord:
    return logging.LogRecord("fastgate.worker", level, "x.py", 1, message, args or ("you",), None)


def test_people_read_the_time_who_and_what() -> None:
    line = HumanFormatter(colour=False).format(record())
    assert line[2] == line[5] == ":"
    assert line.endswith("worker     hello you")


def test_trouble_is_named() -> None:
    assert "error: hello you" in HumanFormatter(colour=False).format(record(logging.ERROR))
    assert "\x1b[31m" in HumanFormatter(colour=True).format(record(logging.ERROR))


def test_machines_read_one_object_a_line() -> None:
    line = JsonFormatter().format(record(logging.WARNING, "a\nb %s", "é"))
    assert "\n" not in line
    found = json.loads(line)
    assert found["message"] == "a\nb é"
    assert found["level"] == "warning"
    assert found["logger"] == "fastgate.worker"
    assert found["time"].endswith("Z")


def test_a_record_is_one_line_and_a_reader_that_left_is_no_error() -> None:
    read, write = os.pipe()
    handler = LineHandler(write)
    handler.setFormatter(JsonFormatter())
    handler.handle(record())
    assert json.loads(os.read(read, 4096))["message"] == "hello you"
    os.close(read)
    handler.handle(record())
    os.close(write)
