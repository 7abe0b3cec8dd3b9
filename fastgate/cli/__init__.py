"""The command line: `fastgate`. Thin: parse, call, print.

Exit codes, for scripts:

    0   done
    1   refused or failed (also: not ready, different, not found)
    2   used wrongly: unknown option, missing argument
    3   the control API cannot be reached
    4   the configuration is not valid

Results go to stdout, errors to stderr as one paragraph. With `--json` both are JSON. Commands are
imported when they are called, so that `fastgate --help` and shell completion are quick.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

OK = 0
FAILED = 1
USAGE = 2
UNREACHABLE = 3
INVALID = 4


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit. The console script's entry."""
    from fastgate.cli.app import execute

    sys.exit(execute(arguments))
