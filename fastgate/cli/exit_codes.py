"""Exit codes, for scripts.

0   done
1   refused or failed (also: not ready, different, not found)
2   used wrongly: unknown option, missing argument
3   the control API cannot be reached
4   the configuration is not valid
"""

from __future__ import annotations

OK = 0
FAILED = 1
USAGE = 2
UNREACHABLE = 3
INVALID = 4
