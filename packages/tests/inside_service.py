"""Runs in a system without systemd: starts the service as its unit file says, by hand.

Prints, as JSON, what was seen. The unit's sandbox is not applied; `inside_systemd.py` has it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from pathlib import Path

from inside import PATIENCE, loopback_up, mapped, said, status_of

UNIT = Path("/lib/systemd/system/fastgate.service").read_text()
STATE = "/var/lib/fastgate"
NOTIFY = "/tmp/notify"


def setting(name: str) -> str:
    """A setting of the unit file, %S filled in."""
    found = re.search(rf"^{name}=(.*)$", UNIT, re.MULTILINE)
    assert found is not None, name
    return found[1].replace("%S", "/var/lib")


def as_the_user(command: str) -> list[str]:
    """The unit's command, as the unit's user, with the unit's environment."""
    user = setting("User")
    switch = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    return [*switch, "env", setting("Environment"), *command.split()]


def started() -> subprocess.Popen[bytes]:
    """The service's main process, as soon as it has reported that it is ready."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reports:
        reports.bind(NOTIFY)
        os.chmod(NOTIFY, 0o777)
        reports.settimeout(PATIENCE)
        service = subprocess.Popen(
            as_the_user(setting("ExecStart")), env={**os.environ, "NOTIFY_SOCKET": NOTIFY}
        )
        while b"READY=1" not in reports.recv(4096):
            pass
    return service


def main() -> None:
    loopback_up()
    subprocess.run(["install", "-d", "-o", setting("User"), "-m", "0700", STATE], check=True)
    service = started()
    status = json.loads(said(*as_the_user("fastgate status --json"), patience=PATIENCE))
    found = {
        "request": status_of("http://127.0.0.1:8080/"),
        "ready": status["ready"],
        "mapped": mapped(status["workers"][0]["pid"]),
        "reload": said(*as_the_user(setting("ExecReload"))),
    }
    service.send_signal(signal.SIGTERM)
    found["ended"] = service.wait(PATIENCE)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
