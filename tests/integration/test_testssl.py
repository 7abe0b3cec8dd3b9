"""testssl.sh against a real gateway: nothing that it finds is worse than it should be.

The sections that take least run with all tests. `make testssl` runs every section, with clients of
many kinds simulated and each cipher tried; it takes some minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from certkit import Material, Validity
from gatewaykit import Gateway
from tlspeerkit import document, program, secure

Start = Callable[..., Gateway]

SHORT = ["--protocols", "--std", "--fs", "--server-defaults", "--server-preference", "--headers"]
SHORT += ["--heartbleed", "--ccs-injection", "--ticketbleed", "--renegotiation", "--crime"]
SHORT += ["--tls-fallback", "--robot"]
ALL = ["--each-cipher", "--grease", "--vulnerable", "--client-simulation", *SHORT[:6]]
FULL = bool(os.environ.get("FASTGATE_TESTSSL"))

FINE = {"OK", "INFO"}
EXPECTED = {
    # Of the tests' own certificates and answers:
    "cert_revocation": "a private authority, whose certificates name no place of revocation lists",
    "security_headers": "the application's to send",
    # Of testssl.sh with Debian's OpenSSL:
    "engine_problem": "GOST is not installed, and is not offered",
    "sessionresumption_ticket": "it closes before the tickets of TLS 1.3 have come",
}
"""Findings that are neither fine nor faults of the gateway, and why."""


@pytest.mark.slow
@pytest.mark.timeout(1800 if FULL else 300)
def test_no_weakness_is_found(gateway: Start, tls_material: Material, tmp_path: Path) -> None:
    names, validity = ("localhost", "127.0.0.1"), Validity(until=90)
    running = gateway(
        document(
            listeners=[secure(hsts="180d")],
            ecdsa=tls_material.leaf(*names, validity=validity),
            rsa=tls_material.leaf(*names, kind="rsa", validity=validity),
        )
    )
    found = tmp_path / "findings.json"
    done = subprocess.run(
        [
            program("testssl", "testssl.sh"), "--jsonfile", str(found), "--quiet", "--color", "0",
            "--warnings", "off", "--ip", "127.0.0.1", "--nodns", "none",
            "--add-ca", str(tls_material.root.ca), *(ALL if FULL else SHORT),
            f"localhost:{running.address()[1]}",
        ],
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert found.exists(), done.stdout + done.stderr
    findings = json.loads(found.read_text())
    by_id = {each["id"]: each["finding"] for each in findings}
    assert by_id["TLS1_1"] == "not offered"
    assert by_id["TLS1_2"] == "offered"
    assert by_id["TLS1_3"].startswith("offered")
    assert by_id["cert_chain_of_trust <cert#1>"] == "passed."
    assert by_id["scanTime"].isdigit(), "it has not come to its end"
    wrong = [
        f"{each['severity']} {each['id']}: {each['finding']}"
        for each in findings
        if each["severity"] not in FINE and each["id"].split()[0] not in EXPECTED
    ]
    assert wrong == []
