"""How many instructions a request takes in user space, counted by callgrind.

    python -m benchmarks.instructions [--against CHECKOUT] [--requests N] [--tls]

Unlike time, this hardly depends on what else the machine does, so two versions can be compared to
a percent: `--against` names another checkout with its core built. The traffic is that of
`benchmarks.training`: keyed and open, bodies and chunks, refusals. Counted is what the engine does
in its rounds, without the kernel; start-up drops out, since two lengths of traffic are compared.
With `--tls`, clients speak TLS over connections that are kept, and libssl's instructions count;
handshakes drop out, too.
Needs valgrind (Debian: valgrind).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
ROUND = "*poller_round*"


def counted(checkout: Path, requests: int, *, tls: bool) -> int:
    """Instructions of all rounds for so many requests. Raises CalledProcessError, OSError."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [
                "valgrind", "--tool=callgrind", "--collect-atstart=no",
                f"--toggle-collect={ROUND}", f"--callgrind-out-file={folder}/%p",
                sys.executable, "-m", "benchmarks.training", str(requests), *["--tls"] * tls,
            ],
            cwd=checkout, env={**os.environ, "PYTHONPATH": str(checkout)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        said = b"".join(process.communicate())
        if process.returncode:
            raise OSError(f"callgrind failed: {said[-2000:].decode('utf-8', 'replace')}")
        text = Path(folder, str(process.pid)).read_text()
    found = re.search(r"^totals: (\d+)", text, re.M)
    if found is None or found[1] == "0":
        raise OSError("callgrind has counted nothing; is the core built?")
    return int(found[1])


def a_request(checkout: Path, requests: int, *, tls: bool) -> float:
    """Instructions a request."""
    few, many = (counted(checkout, times * requests, tls=tls) for times in (1, 3))
    return (many - few) / (2 * requests)


def main(arguments: list[str]) -> int:
    """Count, compare, print."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.instructions", description="Instructions a request, by callgrind."
    )
    parser.add_argument("--against", type=Path, help="another checkout, its core built")
    parser.add_argument("--requests", type=int, default=4000, help="of the shorter run")
    parser.add_argument("--tls", action="store_true", help="clients speak TLS")
    given = parser.parse_args(arguments)
    if shutil.which("valgrind") is None:
        print("valgrind is missing; install the Debian package of this name", file=sys.stderr)
        return 1
    try:
        here = a_request(HERE, given.requests, tls=given.tls)
        print(f"this checkout: {here:,.0f} instructions a request")
        if given.against is not None:
            other = a_request(given.against.resolve(), given.requests, tls=given.tls)
            print(f"the other:     {other:,.0f}\nratio:         {here / other:.3f}")
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
