"""A mutation fuzzer for heads, paths and chunked bodies, without any library.

    python tests/fuzz/fuzz_http1.py [--seconds N] [--rounds N] [--seed N] [--scanner NAME]

Each round takes a message from a small corpus, damages it (octets flipped, pieces removed,
doubled, swapped, spliced with another message, dictionary words put in), and checks what must
hold of any bytes whatever:

- the size of a head is not more than there was, every span is inside and where it should be
- the verdict is the same whole, octet by octet and in random pieces
- a refusal is one of the known faults with its reason; more bytes do not change it
- a canonical path is its own canonical path and holds no dot segment
- a chunked body: never more out than in, same data in any split; what is relayed decodes to
  the same data

What fails is printed as a Python literal, with the seed. Best run on a sanitizer build: the
parser sees buffers that end exactly where their bytes end.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence

from fastgate._core.http.head import ParseFault
from fastgate._core.http.uri import normalize
from fastgate._core.reason import Reason
from fastgate._core.testing.chunk_decoder import ChunkDecoder
from fastgate._core.testing.parsed_head import ParsedHead, fault_reason_of
from fastgate._core.testing.scanners import use_scanner

REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /a/b;c=d/%7Ee?f=%20g HTTP/1.1\r\nHost: api.example.com:8080\r\nContent-Length: 5\r\n"
    b"Content-Type: application/json\r\nX-Consumer-Id: 1\r\n\r\nhello",
    b"PUT http://[::1]:80/x HTTP/1.1\r\nhost: [::1]\r\nTransfer-Encoding: chunked\r\n"
    b"Expect: 100-continue\r\nTrailer: x\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close, x-a, te\r\nX-A: \t1 \r\nx_b: 2\r\n\r\n",
    b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n",
    b"\r\nGET /a/../b//./c HTTP/1.0\r\nConnection: keep-alive, Upgrade\r\nUpgrade: h2c\r\n\r\n",
    b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
]
RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nServer: x\r\n\r\nhello",
    b"HTTP/1.0 304 Not Modified\r\nConnection: keep-alive\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\nHTTP/1.1 200\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n",
]
BODIES = [
    b"5\r\nhello\r\n0\r\n\r\n",
    b'00a;x=y;z="\\"q"\r\n0123456789\r\n1\r\n\n\r\n0\r\nA: b\r\nC:\r\n\r\nrest',
    b"1\r\nx\r\n" * 6 + b"000;last\r\n\r\n",
]
PATHS = [b"/a/%2e%2e/b//c/./d", b"/a;x/..b/%c3%a9%2f", b"/x\\y/%5c../%3b", b"/../..;/"]
WORDS = [
    b"\r\n", b"\r", b"\n", b"\x00", b" ", b"\t", b":", b",", b";", b"%", b"%00", b"%2e", b"%2f",
    b"/", b"//", b"..", b"\\", b"\x7f", b"\x80", b"\xff", b"_", b"#", b"?", b"@", b"[", b"]",
    b"Host: b\r\n", b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n", b"chunked",
    b"Connection: ", b"HTTP/1.1", b"HTTP/1.0", b"0", b"9" * 20, b"f" * 16, b"A" * 300, b"\r\n ",
]  # fmt: skip
LIMITS = [(8192, 32768, 100, 16384), (60, 200, 5, 50), (20, 100, 100, 100)]


def mutate(rng: random.Random, data: bytes, other: bytes, words: Sequence[bytes] = WORDS) -> bytes:
    """The same, damaged in a few places."""
    out = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 5, 8))):
        at = rng.randrange(len(out) + 1)
        end = min(len(out), at + rng.choice((1, 1, 2, 4, 8, 32)))
        kind = rng.randrange(7)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(out):
            out[at] = rng.randrange(256)
        elif kind == 2:
            del out[at:end]
        elif kind == 3:
            out[at:at] = out[at:end]
        elif kind == 4:
            out[at:end] = rng.choice(words)
        elif kind == 5:
            out[at:at] = rng.choice(words)
        else:
            out[at:] = other[rng.randrange(len(other)) :]
    return bytes(out)


def pieces(rng: random.Random, length: int) -> list[int]:
    return sorted({rng.randrange(length) for _ in range(rng.randrange(6))}) if length else []


def check_head(rng: random.Random, data: bytes, response: bool) -> str:
    """Parses a head in three ways; a word for the statistics."""
    limits = rng.choice(LIMITS)
    method = rng.choice((1, 2, 3))

    def parse(data: bytes, cuts: list[int]) -> ParsedHead:
        if response:
            return ParsedHead.response(data, method, cuts, limits)
        return ParsedHead.request(data, cuts, limits)

    head = parse(data, [])
    for cuts in (list(range(len(data))), pieces(rng, len(data))):
        assert parse(data, cuts).summary == head.summary, cuts
    assert head.code <= len(data)
    if head.code < 0:
        assert 0 < head.fault < ParseFault.FAULT_COUNT
        reason = Reason.UPSTREAM_INVALID_RESPONSE if response else fault_reason_of(head.fault)
        assert head.code == -reason
        assert parse(data + rng.choice(WORDS), []).fault == head.fault
        return ParseFault(head.fault).name
    assert head.fault == 0
    if head.code == 0:
        return "incomplete"
    raw = data[: head.code]
    assert raw.endswith(b"\r\n\r\n")
    assert raw.count(b"\n") == raw.count(b"\r") == len(head.fields) + 2 + raw.startswith(b"\r\n")
    assert b"".join(head.lines) == raw[raw.index(b"\r\n", 2) + 2 : -2]
    for (name, value, _, _), line in zip(head.fields, head.lines, strict=True):
        assert re.fullmatch(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", name)
        assert re.fullmatch(re.escape(name) + rb":[ \t]*" + re.escape(value) + rb"[ \t]*\r\n", line)
    if not response:
        assert head.path.startswith(b"/")
        assert head.target.isascii()
        check_path(head.path)
    return "complete"


def check_path(path: bytes) -> None:
    for allow in (False, True):
        once = normalize(path, allow)
        if isinstance(once, int):
            assert once in (-Reason.BAD_TARGET, -Reason.TARGET_TOO_LONG)
            continue
        assert normalize(once, allow) == once
        assert len(once) <= len(path) + 2 * path.count(b"\\")
        assert not re.search(rb"(?i)(?:/|%2F|%5C)\.\.?(?:/|%2F|%5C|;|%3B|$)|//", once)
        assert once.startswith(b"/")


def decode(data: bytes, relay: bool, cuts: list[int]) -> tuple[int, int, bytes]:
    decoder = ChunkDecoder(relay)
    code, consumed, out, start = 0, 0, b"", 0
    for end in [*cuts, len(data)]:
        code, used, piece = decoder.feed(data[start:end])
        assert len(piece) <= used <= end - start
        consumed += used
        out += piece
        start = end
        if code:
            break
    return code, consumed, out


def check_body(rng: random.Random, data: bytes) -> str:
    cuts = pieces(rng, len(data))
    whole = decode(data, False, [])
    relayed = decode(data, True, [])
    assert whole[:2] == relayed[:2]
    for way in (cuts, list(range(1, len(data)))):
        assert decode(data, False, way) == whole
        assert decode(data, True, way) == relayed
    if whole[0] == 1:
        assert decode(relayed[2], False, []) == (1, len(relayed[2]), whole[2])
        return "body complete"
    return "body refused" if whole[0] < 0 else "body incomplete"


def fuzz(seconds: float, rounds: int, seed: int) -> Counter[str]:
    """Runs until one of the bounds is met; how often what came of it. AssertionError: a
    broken law, with the bytes that broke it in a note."""
    rng = random.Random(seed)
    until = time.monotonic() + seconds
    seen: Counter[str] = Counter()
    for done in range(rounds):
        if done % 64 == 0 and time.monotonic() > until:
            break
        kind = rng.randrange(8)
        corpus = (REQUESTS, REQUESTS, REQUESTS, REQUESTS, RESPONSES, RESPONSES, BODIES, PATHS)[kind]
        data = mutate(rng, rng.choice(corpus), rng.choice(corpus))
        try:
            if corpus is PATHS:
                check_path(data)
                seen["path"] += 1
            elif corpus is BODIES:
                seen[check_body(rng, data)] += 1
            else:
                seen[check_head(rng, data, corpus is RESPONSES)] += 1
        except AssertionError as error:
            error.add_note(f"round {done} of seed {seed}: {data!r}")
            raise
    return seen


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Fuzz the HTTP/1.1 parser.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=1 << 62)
    parser.add_argument("--seed", type=int, default=None, help="default: a fresh one, printed")
    parser.add_argument("--scanner", default=None, help="avx2, sse4.2, neon, word or table")
    options = parser.parse_args(arguments)
    if options.scanner:
        use_scanner(options.scanner)
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    seen = fuzz(options.seconds, options.rounds, seed)
    print(f"{seen.total()} rounds")
    for what, count in seen.most_common():
        print(f"{count:10}  {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
