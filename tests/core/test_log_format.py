"""Log lines: what C renders is what a naive Python rendering of the same record says."""

from __future__ import annotations

import json
import re
import socket
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastgate._core.http.head import ParseFault
from fastgate._core.logs.drain import LogDrain
from fastgate._core.logs.drain import RecentRequests as Recent
from fastgate._core.logs.format import fault_name
from fastgate._core.shared.log_ring import PHASE_NAMES, TEXT_NAMES
from fastgate._core.shared.segment import Segment
from fastgate._core.testing.log_records import write_record
from fastgate._core.testing.render_bench import bench_render
from fastgate.errors import REASONS, reason_code

SEGMENT = Segment.create(
    1,
    limiter_cells=64,
    quota_cells=64,
    targets=8,
    route_rows=2,
    concurrency_cells=16,
    log_records=8,
)
JSON = LogDrain(SEGMENT, format="json")
BARE = LogDrain(SEGMENT, format="json", phases=False)
COMBINED = LogDrain(SEGMENT, format="combined")
SECOND = 1_000_000_000

# Texts short enough to be kept whole, of everything that may give trouble.
awkward = st.sampled_from(
    [
        '"',
        "\\",
        "\n",
        "\t",
        "\r",
        "\x00",
        "\x1f",
        "\x7f",
        "é",
        "€",
        "😀",
        "\u2028",
        "a" * 9,
        "{",
        "/",
    ]
)
short = st.lists(awkward | st.text(max_size=3), max_size=5).map(lambda parts: "".join(parts)[:6])
text_bytes = short.map(str.encode) | st.binary(max_size=16)
addresses = st.binary(min_size=16, max_size=16) | st.binary(min_size=4, max_size=4).map(
    lambda raw: bytes(10) + b"\xff\xff" + raw
)
big = st.integers(0, 2**64 - 1) | st.integers(0, 1000)

records = st.fixed_dictionaries(
    {
        "started_unix_ns": st.integers(0, 2**63 - 1),
        "request_id": st.binary(min_size=16, max_size=16),
        "trace_id": st.binary(min_size=16, max_size=16) | st.just(bytes(16)),
        "span_id": st.binary(min_size=8, max_size=8),
        "address": addresses,
        "port": st.integers(0, 65_535),
        "status": st.integers(0, 999),
        "reason": st.sampled_from([0, *(r.number for r in REASONS)]),
        "fault": st.integers(0, 20),
        "attempts": st.integers(0, 5) | st.just(65_535),
        "flags": st.integers(0, 511),
        "bytes_in": big,
        "bytes_out": big,
        "duration_ns": big,
        "upstream_ns": big,
        "amount_micros": big,
        "generation": st.integers(0, 2**32 - 1),
        "phases": st.dictionaries(st.sampled_from(PHASE_NAMES), st.integers(0, 2**32 - 2)),
        **dict.fromkeys(TEXT_NAMES, text_bytes),
    }
)


def rendered(drain: LogDrain, record: dict[str, Any]) -> bytes:
    assert write_record(SEGMENT, 0, **record)
    return drain.drain(0)


def moment(record: dict[str, Any]) -> datetime:
    return datetime.fromtimestamp(record["started_unix_ns"] // SECOND, UTC)


def address(raw: bytes) -> str:
    if raw.startswith(bytes(10) + b"\xff\xff"):
        return socket.inet_ntop(socket.AF_INET, raw[12:])
    return socket.inet_ntop(socket.AF_INET6, raw)


def milliseconds(ns: int) -> float:
    return float(f"{ns // 1_000_000}.{ns // 1000 % 1000:03d}")


def naive(record: dict[str, Any]) -> dict[str, Any]:
    """The documented meaning of a JSON line, field by field, with no regard to speed."""
    text = {name: record[name].decode("utf-8", "replace") for name in TEXT_NAMES}
    micros = record["started_unix_ns"] % SECOND // 1000
    flags = record["flags"]
    out: dict[str, Any] = {
        "time": moment(record).strftime("%Y-%m-%dT%H:%M:%S") + f".{micros:06d}Z",
        "id": record["request_id"].hex(),
        "client": address(record["address"]),
        "port": record["port"],
        "method": text["method"],
        "host": text["host"],
        "path": text["path"],
        **({"query": text["query"]} if text["query"] else {}),
        "status": record["status"],
    }
    optional = {
        "reason": reason_code(record["reason"]),
        "fault": fault_name(record["fault"]),
        "limit": text["limit"],
        "route": text["route"],
        "service": text["service"],
        "consumer": text["consumer"],
    }
    out |= {name: value for name, value in optional.items() if value}
    out["bytes_in"] = record["bytes_in"]
    out["bytes_out"] = record["bytes_out"]
    out["duration_ms"] = milliseconds(record["duration_ns"])
    if text["target"]:
        out["target"] = text["target"]
    if record["attempts"]:
        out["attempts"] = record["attempts"]
        out["upstream_ms"] = milliseconds(record["upstream_ns"])
        if flags & 1:
            out["reused"] = True
    for bit, name in (
        (2, "keep_alive"), (128, "tls"), (256, "client_certificate"), (64, "http_1_0"),
        (4, "upcall"), (8, "tunnel"),
    ):  # fmt: skip
        if flags & bit:
            out[name] = True
    if flags & 16:
        out["aborted"] = True
    if record["amount_micros"]:
        out["amount_micros"] = record["amount_micros"]
    if text["user_agent"]:
        out["user_agent"] = text["user_agent"]
    if any(record["trace_id"]):
        out["trace"] = record["trace_id"].hex()
        out["span"] = record["span_id"].hex()
    out["worker"] = 0
    out["generation"] = record["generation"]
    out["phases"] = {
        name: record["phases"][name] for name in PHASE_NAMES if name in record["phases"]
    }
    return out


@settings(max_examples=600, deadline=None)
@given(records)
def test_a_json_line_says_what_the_record_says(record: dict[str, Any]) -> None:
    line = rendered(JSON, record)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert len(line) <= 4096
    # Two parsers: one strict about UTF-8, one that keeps the order of the members.
    assert orjson.loads(line) == naive(record)
    assert list(json.loads(line)) == list(naive(record))


@settings(max_examples=100, deadline=None)
@given(records)
def test_without_phases_the_rest_is_the_same(record: dict[str, Any]) -> None:
    expected = naive(record)
    del expected["phases"]
    assert orjson.loads(rendered(BARE, record)) == expected


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=160))
@example(b"\xf0\x80\x80\x80 overlong")
@example(b"\xed\xa0\x80 surrogate")
@example(b"\xf4\x90\x80\x80 past the end")
@example(b"\xe2\x82 cut")
@example(b"12345678\xff2345678\x00")
@example("1234567é abcdefgh €".encode())
@example(b"eight by" * 16 + b'"')
def test_anybodys_bytes_become_valid_json_as_python_replaces_them(raw: bytes) -> None:
    line = rendered(JSON, {"user_agent": raw})
    assert orjson.loads(line).get("user_agent", "") == raw.decode("utf-8", "replace")


@pytest.mark.parametrize("code", range(256))
def test_each_byte_alone_and_at_each_place_of_a_word(code: int) -> None:
    for before in range(9):
        raw = b"x" * before + bytes([code]) + b"y" * 9
        line = rendered(JSON, {"path": raw})
        assert orjson.loads(line)["path"] == raw.decode("utf-8", "replace")


def visible(raw: bytes) -> str:
    if not raw:
        return "-"
    return "".join(chr(c) if 0x20 <= c < 0x7F and c not in b'"\\' else f"\\x{c:02x}" for c in raw)


@settings(max_examples=300, deadline=None)
@given(records)
def test_a_combined_line_says_what_the_record_says(record: dict[str, Any]) -> None:
    version = "1.0" if record["flags"] & 64 else "1.1"
    when = moment(record).strftime("%d/%b/%Y:%H:%M:%S +0000")
    query = "?" + visible(record["query"]) if record["query"] else ""
    expected = (
        f"{address(record['address'])} - {visible(record['consumer'])} [{when}] "
        f'"{visible(record["method"])} {visible(record["path"])}{query} HTTP/{version}" '
        f'{record["status"]} {record["bytes_out"]} "-" "{visible(record["user_agent"])}"\n'
    )
    assert rendered(COMBINED, record).decode() == expected


def test_the_longest_line_fits() -> None:
    worst = {
        "started_unix_ns": 2**63 - 1, "address": bytes(range(0x11, 0x21)), "port": 65_535,
        "status": 65_535, "reason": 86, "fault": max(int(f) for f in ParseFault),
        "attempts": 65_535, "flags": 511, "generation": 2**32 - 1, "trace_id": b"\xff" * 16,
        "phases": dict.fromkeys(PHASE_NAMES, 2**32 - 2), **dict.fromkeys(TEXT_NAMES, b"\x00" * 99),
        **dict.fromkeys(
            ("bytes_in", "bytes_out", "duration_ns", "upstream_ns", "amount_micros"), 2**64 - 1
        ),
    }  # fmt: skip
    assert 2000 < len(rendered(JSON, worst)) < 4096
    assert len(rendered(COMBINED, worst)) < 4096


@pytest.mark.parametrize(
    "seconds",
    [
        0, 1, 59, 86_399, 86_400, 951_782_399, 951_782_400, 951_868_800, 1_709_164_800,
        1_709_251_199, 1_709_251_200, 4_102_444_799, 4_102_444_800, 4_107_542_399, 4_107_542_400,
    ],
)  # fmt: skip
def test_dates_at_the_edges_of_days_leap_years_and_centuries(seconds: int) -> None:
    line = orjson.loads(rendered(JSON, {"started_unix_ns": seconds * SECOND + 999_999_999}))
    expected = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.999999Z")
    assert line["time"] == expected


def test_a_time_before_1970_is_rendered_as_1970() -> None:
    line = orjson.loads(rendered(JSON, {"started_unix_ns": -5}))
    assert line["time"] == "1970-01-01T00:00:00.000000Z"


def test_faults_have_the_parsers_names() -> None:
    for name, member in ParseFault.__members__.items():
        expected = name.removeprefix("FAULT_").lower() if int(member) else ""
        assert fault_name(int(member)) == expected
    assert re.fullmatch(r"fault_\d+", fault_name(126))


def test_the_rendering_loop_renders_whole_lines() -> None:
    recent = Recent(4)
    write_record(SEGMENT, 0, status=200, path="/x")
    drain = LogDrain(SEGMENT, recent=recent)
    line = drain.drain(0)
    assert bench_render(drain, 100) == len(line)
