"""Runs below systemd in a container, after fastgate.service: what systemd makes of it.

Writes what was seen to /srv/found.json. The container ends with this unit.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
import traceback
from pathlib import Path
from typing import Any

from inside import PATIENCE, said, status_of

CONFIG = Path("/etc/fastgate/fastgate.yaml")


def shown(*names: str) -> dict[str, str]:
    """Properties of the service."""
    lines = said("systemctl", "show", "fastgate", *(f"--property={n}" for n in names)).splitlines()
    return dict(line.split("=", 1) for line in lines)


def restarted(before: str) -> bool:
    """Whether systemd has another main process for it, which serves."""
    now = shown("MainPID", "ActiveState")
    return now["ActiveState"] == "active" and now["MainPID"] not in ("0", before)


def look() -> dict[str, Any]:
    found: dict[str, Any] = shown("ActiveState", "NRestarts", "User", "StatusText")
    pid = shown("MainPID")["MainPID"]
    found["request"] = status_of("http://127.0.0.1:8080/")
    limits = Path(f"/proc/{pid}/limits").read_text()
    found["files"] = re.search(r"^Max open files +(\d+)", limits, re.MULTILINE)[1]  # type: ignore[index]
    found["owner"] = Path(f"/proc/{pid}").owner()
    found["state"] = [Path("/var/lib/fastgate").owner(), oct(os.stat("/var/lib/fastgate").st_mode)]
    said("systemctl", "reload", "fastgate", patience=PATIENCE)
    good = CONFIG.read_text()
    CONFIG.write_text(good + "nonsense: 1\n")
    nonsense = subprocess.run(["systemctl", "reload", "fastgate"], check=False)
    found["reload of nonsense"] = nonsense.returncode
    found["request after it"] = status_of("http://127.0.0.1:8080/")
    CONFIG.write_text(good)
    os.kill(int(pid), signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while not restarted(pid) and time.monotonic() < deadline:
        time.sleep(0.1)  # systemd has no command that waits for a restart
    found["request after a kill"] = status_of("http://127.0.0.1:8080/")
    found["security"] = said("systemd-analyze", "security", "--no-pager", "fastgate")
    said("systemctl", "stop", "fastgate")
    found["stopped"] = shown("ActiveState", "Result")
    found["log"] = said("journalctl", "--unit=fastgate", "--no-pager", "--output=cat")
    return found


if __name__ == "__main__":
    try:
        seen = look()
    except BaseException:
        seen = {"failed": traceback.format_exc()}
    Path("/srv/found.json").write_text(json.dumps(seen))
