"""A mutation fuzzer for PROXY headers.

    PYTHONPATH=tests python tests/fuzz/fuzz_proxy.py [--seconds N] [--rounds N] [--seed N]

Each round damages a header and compares the verdict on it, and on each of its beginnings, with that
of a plain reading in Python (`proxykit.naive`). Best run on a sanitizer build: the parser sees
buffers that end exactly where their bytes end.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter

from fuzz_http1 import mutate
from proxykit import LOCAL, SIGNATURE, binary, naive, tlv, version_1, version_2

from fastgate._core.io.proxy_header import ProxyFault
from fastgate._core.testing.proxy_headers import parse

HEADERS = [
    version_1("203.0.113.9"),
    version_1("2001:db8::9", ports=(65535, 65535)),
    b"PROXY UNKNOWN ffff:f...f:ffff 65535 65535\r\n",
    version_2("203.0.113.9"),
    version_2("203.0.113.9", tlvs=tlv(2, b"a.example") + tlv(4, b"\0" * 20), checksum=True),
    version_2("2001:db8::9", checksum=True),
    binary(b"rest", 0x11, LOCAL),
    binary(b"\1" * 216, 0x31),
    binary(),
]
WORDS = [
    b" ", b"  ", b"\r\n", b"\n", b"\r", b"\0", b"%", b"::", b".", b"0", b"65536", b"PROXY ",
    b"TCP4 ", b"TCP6 ", b"UNKNOWN", SIGNATURE, b"\x20", b"\x21\x11", b"\x21\x21",
    b"\x03\0\x04", b"\xff\xff",
]  # fmt: skip


def fuzz(seconds: float, rounds: int, seed: int) -> Counter[str]:
    """Runs until one of the bounds is met; how often what came of it. AssertionError: two verdicts
    differ, with the bytes in a note."""
    rng = random.Random(seed)
    until = time.monotonic() + seconds
    seen: Counter[str] = Counter()
    for done in range(rounds):
        if done % 64 == 0 and time.monotonic() > until:
            break
        data = mutate(rng, rng.choice(HEADERS), rng.choice(HEADERS), WORDS)
        data += rng.choice((b"", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01"))
        try:
            whole = parse(data)
            assert whole == naive(data)
            for n in range(len(data)):
                assert parse(data[:n]) in ((0, None), whole)
        except AssertionError as error:
            error.add_note(f"round {done} of seed {seed}: {data!r}")
            raise
        seen[outcome(*whole)] += 1
    return seen


def outcome(result: int, client: object) -> str:
    if result < 0:
        return ProxyFault(-result).name or ""
    return "incomplete" if result == 0 else "no client" if client is None else "client"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Fuzz the parser of PROXY headers.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=1 << 62)
    parser.add_argument("--seed", type=int, default=None, help="default: a fresh one, printed")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    seen = fuzz(options.seconds, options.rounds, seed)
    print(f"{seen.total()} rounds")
    for what, count in seen.most_common():
        print(f"{count:10}  {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
