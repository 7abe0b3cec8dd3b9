"""http1 on other people's cases: llhttp's, AWS http-desync-guardian's, Http11Probe's.

The vectors are not part of the project; they are used from a folder beside it, and these tests
are skipped where it is absent. Each case runs as a connection would: heads and bodies one
after the other until the bytes end or something is refused. Where our verdict is not that of
the vectors, the case stands in a table with the reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from fastgate._core.http.head import Framing, HeadFlag, ParseFault
from fastgate._core.reason import Reason
from fastgate._core.testing.chunk_decoder import ChunkDecoder
from fastgate._core.testing.parsed_head import ParsedHead

VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors"

pytestmark = pytest.mark.skipif(
    not VECTORS.is_dir(), reason="needs the HTTP vectors in ../shared/vectors"
)


@dataclass
class Verdict:
    """What became of one connection's bytes."""

    heads: list[ParsedHead]
    refused: str = ""  # the fault's name
    reason: int = 0
    complete: bool = False  # every message ended, nothing is left


def serve(data: bytes, *, response: bool = False, method: int = 1) -> Verdict:
    """Reads messages until the bytes end, one is refused, or the connection closes."""
    verdict = Verdict([])
    while data:
        head = ParsedHead.response(data, method) if response else ParsedHead.request(data)
        verdict.heads.append(head)
        if head.code <= 0:
            if head.code:
                verdict.refused = ParseFault(head.fault).name.removeprefix("FAULT_")
                verdict.reason = -head.code
            return verdict
        data = data[head.code :]
        if head.framing == Framing.FRAMING_CHUNKED:
            code, consumed, _ = ChunkDecoder().feed(data)
            if code < 0:
                verdict.refused, verdict.reason = "CHUNK", -code
            if code != 1:
                return verdict
            data = data[consumed:]
        elif head.framing == Framing.FRAMING_LENGTH:
            if head.content_length is None or len(data) < head.content_length:
                return verdict
            data = data[head.content_length :]
        elif head.framing == Framing.FRAMING_CLOSE:
            data = b""
        ends = not head.flags & HeadFlag.HEAD_KEEP_ALIVE
        if ends or head.flags & HeadFlag.HEAD_UPGRADE_WEBSOCKET or head.method == b"CONNECT":
            break
    verdict.complete = True
    return verdict


# ---- llhttp ------------------------------------------------------------------------------


@dataclass
class Case:
    name: str
    data: bytes
    kind: str
    error: str  # llhttp's words; "" when it takes the case

    def __str__(self) -> str:
        return self.name


def unescape(text: str) -> bytes:
    """A block of llhttp's test files as bytes: see its README on what is written how."""
    text = text.removesuffix("\n").replace("\\\n", "").replace("\n", "\r\n")
    for escape, char in (("\\r", "\r"), ("\\n", "\n"), ("\\t", "\t"), ("\\f", "\f")):
        text = text.replace(escape, char)
    text = re.sub(r"\\x([0-9a-fA-F]{2})", lambda m: chr(int(m[1], 16)), text)
    text = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), text)
    return text.encode("latin-1", "replace") if text.isascii() else text.encode("utf-8")


def llhttp_cases() -> Iterator[Case]:
    block = re.compile(
        r"<!-- meta=(\{[^\n]*\}) -->\n+```http\n(.*?)```\n+```log\n(.*?)```", re.DOTALL
    )
    for path in sorted((VECTORS / "llhttp").glob("*/*.md")):
        text = path.read_text()
        for found in block.finditer(text):
            meta = json.loads(found[1])
            heading = re.findall(r"^#+ (.*)$|\n(.*)\n===", text[: found.start()], re.MULTILINE)
            title = heading[-1][0] or heading[-1][1]
            error = re.search(r'error code=(\d+) reason="(.*)"', found[3])
            taken = error is None or error[1] in ("21", "22", "23")
            yield Case(
                f"{path.parent.name}/{path.stem}: {title}",
                unescape(found[2]),
                meta["type"],
                "" if taken or error is None else error[2],
            )


LLHTTP = list(llhttp_cases()) if VECTORS.is_dir() else []
STRICT = [c for c in LLHTTP if c.kind in ("request", "response")]
LENIENT = [c for c in LLHTTP if "lenient" in c.kind and not c.error]


def with_host(data: bytes) -> bytes:
    """llhttp's requests rarely have a Host; it is not what they are about."""
    if b"host:" in data.lower():
        return data
    absolute = re.search(rb" https?://([^/? ]*)", data)
    host = b"Host: " + (absolute[1] if absolute else b"a") + b"\r\n"
    start = rb"((?:^|\n)[^\r\n]* HTTP/1\.[01]\r\n)(?! )"
    return re.sub(start, lambda found: found[1] + host, data)


# Where the verdicts differ, and why.
BLANK = "an empty line before a status line is no HTTP: 502"
DROPPED = "what follows the last message of a connection is dropped unread, not an error"
HTTP_ONLY = "other protocols than HTTP are not spoken"
FRAGMENT = "a fragment in a target is refused"
WAITS = "the line is not complete yet: refused when it is"
LLHTTP_DIFFERENCES = {
    "request/connection: No restart when keep-alive is off (1.0)": DROPPED,
    "response/connection: HTTP/1.1 with keep-alive disabled and 204 status": DROPPED,
    "response/connection: HTTP/1.1 with keep-alive disabled, content-length": DROPPED,
    "request/invalid: HTTP protocol and ANNOUNCE method": "any token is a method",
    "request/invalid: Invalid method": "any token is a method",
    "request/invalid: Invalid HTTP version": WAITS,
    "request/invalid: Invalid space after start line": WAITS,
    "response/invalid: Invalid space after start line": WAITS,
    "request/method: M-SEARCH request": "the asterisk is for OPTIONS",
    "request/method: PRI request HTTP2": "the asterisk is for OPTIONS",
    "request/method: SOURCE request with ICE": HTTP_ONLY,
    "request/method: OPTIONS request with RTSP": HTTP_ONLY,
    "request/method: ANNOUNCE request with RTSP": HTTP_ONLY,
    "response/sample: RTSP response": HTTP_ONLY,
    "response/sample: ICE response": HTTP_ONLY,
    "response/sample: HTTP version 0.9": "HTTP/0.9 has no status line",
    "request/sample: No HTTP version": "HTTP/0.9 is not spoken",
    "request/sample: curl GET": "0.0.0.0=5000 is no host",
    "request/sample: Firefox GET": "0.0.0.0=5000 is no host",
    "request/transfer-encoding: POST with `chunked` as last transfer-encoding": FRAGMENT,
    "request/transfer-encoding: POST with `chunked` as last transfer-encoding (multiple headers)":
        FRAGMENT,
    "request/uri: Fragment in URI": FRAGMENT,
    "request/uri: Quotes in URI": "quotes must be escaped",
    "request/uri: `host:port` and basic auth": "userinfo is refused",
    "response/connection: HTTP 101 response with Upgrade and Transfer-Encoding header":
        "h2c is stripped from requests; after a 101 that nobody asked for the bytes are garbage",
    "response/connection: HTTP 304 with Content-Length": BLANK,
    "response/connection: HTTP 100 first, then 400": BLANK,
    "response/pipelining: Should parse multiple events": BLANK,
    "response/sample: Google 301": BLANK,
    "response/sample: Response starting with CRLF": BLANK,
    "response/transfer-encoding: `chunked` before other transfer-encoding":
        "a response whose coding is not exactly chunked is refused, not read to the close",
    "response/transfer-encoding: multiple transfer-encoding where chunked is not the last one":
        "a response with two codings is refused, not read to the close",
    "response/transfer-encoding: `chunkedchunked` transfer-encoding does not enable chunked"
    " enconding": "a response with an unknown coding is refused, not read to the close",
}  # fmt: skip


def judge(case: Case) -> Verdict:
    response = case.kind.startswith("response")
    return serve(case.data if response else with_host(case.data), response=response)


@pytest.mark.parametrize("case", STRICT, ids=str)
def test_llhttp(case: Case) -> None:
    verdict = judge(case)
    differs = bool(verdict.refused) != bool(case.error)
    assert differs == (case.name in LLHTTP_DIFFERENCES), verdict.refused


def test_each_difference_from_llhttp_is_a_case() -> None:
    assert LLHTTP_DIFFERENCES.keys() <= {c.name for c in STRICT}


@pytest.mark.parametrize("case", LENIENT, ids=str)
def test_llhttp_lenient(case: Case) -> None:
    """What llhttp takes only when told to be lenient, we never take; what follows the last
    message of a connection we do not even look at."""
    verdict = judge(case)
    after_close = "keep-alive" in case.kind or "data-after-close" in case.kind
    assert (len(verdict.heads) == 1 and verdict.complete) if after_close else verdict.refused


# ---- http-desync-guardian ----------------------------------------------------------------


@dataclass
class Desync:
    name: str
    data: bytes
    tier: str

    def __str__(self) -> str:
        return self.name


def desync_cases() -> Iterator[Desync]:
    for path in sorted((VECTORS / "http-desync-guardian").glob("*.yaml")):
        for case in yaml.safe_load(path.read_text()):
            lines = [f"{case.get('method', '')} {case.get('uri', '')} {case.get('version', '')}"]
            fields = case.get("headers") or []
            lines += [f"{f.get('name', '')}: {f.get('value', '')}" for f in fields]
            if not any(str(f.get("name", "")).lower() == "host" for f in fields):
                lines.append("Host: a")
            data = "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")
            name = f"{path.stem}: {case['name']}"
            yield Desync(name, data, case["expected"]["tier"])


DESYNC = list(desync_cases()) if VECTORS.is_dir() else []

# Where a tier says take ("Compliant", "Acceptable") and we refuse, or the other way round.
STRICTER = "stricter here: white space and control characters never stand near a name"
CODINGS = "chunked is the only transfer coding that is implemented: 501"
BODIES = "a body with GET or HEAD is framed like any other, and forwarded with its framing"
NAMES = "another name; with '_' in it, it is dropped unless the operator says otherwise"
DESYNC_DIFFERENCES = {
    "acceptable: No TE/CL headers, some others are non-compliant": STRICTER,
    "acceptable: TE and some others are non-compliant": STRICTER,
    "acceptable: CL and some others are non-compliant": STRICTER,
    "acceptable: A non-essential header with a non-printable character (x01)": STRICTER,
    r"bad-header-characters: Some-Header\x01": STRICTER,
    r"bad-header-characters: \x01Some-Header": STRICTER,
    r"bad-header-characters: Some-Header: \x01value": STRICTER,
    r"bad-header-characters: Some-Header: value\x01": STRICTER,
    "uri-specific-test-cases: Extra spaces in version": "stricter here: single spaces",
    "uri-specific-test-cases: [space] in URI": "a space must be escaped",
    "acceptable: Non-RFC, but OK HTTP/0.9": "HTTP/0.9 is not spoken",
    "acceptable: Empty version, which means HTTP/0.9": "HTTP/0.9 is not spoken",
    "acceptable: Unknown but OK HTTP/1.2": "only 1.0 and 1.1 are spoken",
    "more-compliant-tests: Correct TE OK": CODINGS,
    "more-compliant-tests: Transfer-Encoding: identity and chunked OK": CODINGS,
    "more-compliant-tests: Multiple transfer encoding headers in a single request OK": CODINGS,
    "rfc-compliant: Different Transfer-Encoding headers": CODINGS,
    "rfc-compliant: Different Transfer-Encoding headers combined": CODINGS,
    "more-compliant-tests: TE with custom parameters OK": "codings have no parameters here",
    "rfc-compliant: Transfer-Encoding with a param: chunked;custom_param":
        "codings have no parameters here",
    "rfc-compliant: Compliant URL": "a fragment in a target is refused",
    "rfc-compliant: International in URI": "what is not ASCII must be escaped",
    "rfc-compliant: Empty URI": "a target is never empty",
    "ambiguous: Get with a body and Content-Length": BODIES,
    "ambiguous: Get with a body and Transfer-Encoding": BODIES,
    "ambiguous: Head with a body and Content-Length": BODIES,
    "ambiguous: Head with a body and Transfer-Encoding": BODIES,
    "real-life-test-cases: Has a CL in GET": BODIES,
    "real-life-test-cases: Has a TE in GET": BODIES,
    "ambiguous: Transfer_Encoding with underscore.": NAMES,
    "ambiguous: Content_Length with underscore.": NAMES,
    "ambiguous: Transfer-Encoding with multiple hyphens": NAMES,
    "ambiguous: Transfer-Encoding with multiple delimiters": NAMES,
}  # fmt: skip


@pytest.mark.parametrize("case", DESYNC, ids=str)
def test_desync_guardian(case: Desync) -> None:
    head = ParsedHead.request(case.data)
    wanted = case.tier in ("Compliant", "Acceptable")
    assert (head.code > 0) == (wanted != (case.name in DESYNC_DIFFERENCES))
    assert case.tier != "Severe" or head.code < 0


def test_each_difference_from_desync_guardian_is_a_case() -> None:
    assert DESYNC_DIFFERENCES.keys() <= {c.name for c in DESYNC}


# ---- Http11Probe -------------------------------------------------------------------------

STATUS = {
    Reason.MALFORMED_REQUEST: "400",
    Reason.AMBIGUOUS_FRAMING: "400",
    Reason.BAD_TARGET: "400",
    Reason.BAD_HOST: "400",
    Reason.TARGET_TOO_LONG: "414",
    Reason.HEADERS_TOO_LARGE: "431",
    Reason.NOT_IMPLEMENTED: "501",
    Reason.VERSION_NOT_SUPPORTED: "505",
}


def probes() -> list[dict[str, Any]]:
    recorded = json.loads((VECTORS / "http11probe-143.json").read_text())
    cases: list[dict[str, Any]] = recorded["cases"]
    return cases


def outcome(data: bytes) -> str:
    """The status that the client of these bytes would see, or "timeout"."""
    verdict = serve(data)
    if verdict.refused:
        return STATUS[Reason(verdict.reason)]
    for head in verdict.heads:
        if head.code > 0 and head.method == b"CONNECT":
            return "405"
        if head.flags & HeadFlag.HEAD_BAD_EXPECT:
            return "417"
    return "2xx" if verdict.complete and verdict.heads else "timeout"


# Recorded as "?", what the description says they are.
OCTETS = {
    "MAL-NON-ASCII-HEADER-NAME": (b"X-T??st", b"X-T\xc3\xa9st"),
    "MAL-NON-ASCII-URL": (b"caf??", b"caf\xc3\xa9"),
    "MAL-URL-OVERLONG-UTF8": (b"/??", b"/\xc0\xaf"),
}


def raw(case: dict[str, Any]) -> bytes:
    """The octets that were sent. Long ones were recorded up to 8,192 octets, most of them in
    the middle of a run of one octet, which goes on here."""
    recorded = (case["rawRequest"] or "").encode("latin-1")
    if len(recorded) == 8192:
        recorded += recorded[-1:] * 70_000
    return recorded.replace(*OCTETS.get(case["id"], (b"", b"")))


@pytest.mark.parametrize("case", probes() if VECTORS.is_dir() else [], ids=lambda c: c["id"])
def test_http11probe(case: dict[str, Any]) -> None:
    status = outcome(raw(case))
    expected = case["expected"].replace("200", "2xx").replace("!101", "2xx")
    assert status in expected or (status not in ("2xx", "timeout") and "close" in expected)
