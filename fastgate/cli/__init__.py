"""The command line: `fastgate`. Thin: parse, call, print.

Results go to stdout, errors to stderr as one paragraph. With `--json` both are JSON. Commands are
imported when they are called, so that `fastgate --help` and shell completion are quick.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit. The console script's entry."""
    from fastgate.cli.app import execute

    sys.exit(execute(arguments))
