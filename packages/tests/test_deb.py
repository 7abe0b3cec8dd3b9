"""The Debian package: installed, run, upgraded, removed, purged; without systemd and with it."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
from pathlib import Path

import pytest
from rootkit import PATIENCE, Root, base, built, missing

HERE = Path(__file__).parent
INSIDE = sorted(HERE.glob("inside*.py"))
SYSTEM = "python3,adduser,ca-certificates,libssl3"
"""What the package depends on: it is installed without a network."""
CONFIG = "/etc/fastgate/fastgate.yaml"

pytestmark = pytest.mark.skipif(
    bool(missing("unshare", "dpkg-deb")), reason=missing("unshare", "dpkg-deb")
)


@pytest.fixture
def package() -> Path:
    return built("fastgate_*.deb")


@pytest.fixture
def root(tmp_path: Path, package: Path) -> Root:
    """A system without systemd, and the package beside it."""
    found = Root(tmp_path / "root", base("bookworm-plain", "bookworm", SYSTEM))
    found.put(package, *INSIDE)
    return found


def install(root: Root, package: Path) -> None:
    root.run("dpkg", "--install", "--force-confdef", "--force-confold", f"/srv/{package.name}")


def newer(package: Path, folder: Path) -> Path:
    """The package as a later version, with another default configuration."""
    tree = folder / "newer"
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True, timeout=PATIENCE)
    control = tree / "DEBIAN" / "control"
    control.write_text(re.sub(r"(?m)^(Version: .*)$", r"\1+next", control.read_text()))
    config = tree / CONFIG.lstrip("/")
    config.write_text(config.read_text() + "# another default\n")
    made = folder / "fastgate_next.deb"
    subprocess.run(
        ["dpkg-deb", "-Znone", "--root-owner-group", "--build", tree, made], check=True,
        timeout=PATIENCE, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    shutil.rmtree(tree)
    return made


def test_it_is_installed_and_the_service_runs_as_its_unit_says(root: Root, package: Path) -> None:
    install(root, package)
    assert root.run("stat", "--format=%U %G %a", "/etc/fastgate").stdout == "root fastgate 750\n"
    assert root.run("getent", "passwd", "fastgate").stdout.split(":")[5:] == [
        "/var/lib/fastgate", "/usr/sbin/nologin\n"
    ]  # fmt: skip
    assert root.run("fastgate", "check", CONFIG).stdout == "Valid: 1 listener, 1 route.\n"
    found = json.loads(root.run("python3", "/srv/inside_service.py").stdout)
    assert found["request"] == 200
    assert found["ready"] is True
    assert found["ended"] == 0
    # Debian's OpenSSL, which Debian keeps up to date.
    assert all(path.startswith("/usr/lib/") for path in found["mapped"])
    assert not list(root.path("/usr/lib/fastgate").rglob("fastgate.libs"))
    # Nothing was compiled at the start, or would be at each start.
    assert (
        root.run("find", "/usr/lib/fastgate", "-type", "f", "-newer", "/srv/inside.py").stdout == ""
    )


def test_the_demonstration_runs_from_it(root: Root, package: Path) -> None:
    install(root, package)
    found = json.loads(root.run("python3", "/srv/inside.py", "/usr/bin/fastgate").stdout)
    assert found["requests"] == [200, 401, 200]
    assert "OpenSSL 3." in found["version"]


def test_an_upgrade_keeps_configuration_and_state(
    root: Root, package: Path, tmp_path: Path
) -> None:
    install(root, package)
    root.path(CONFIG).write_text(root.path(CONFIG).read_text() + "# ours\n")
    state = root.path("/var/lib/fastgate")
    root.run("install", "-d", "-o", "fastgate", "-m", "0700", "/var/lib/fastgate")
    (state / "kept").touch()
    install(root, package)  # the same once more, as after a failure
    following = newer(package, tmp_path)
    root.put(following)
    install(root, following)
    assert root.run("dpkg-query", "-W", "-f", "${Version}", "fastgate").stdout.endswith("+next")
    assert root.path(CONFIG).read_text().endswith("# ours\n")
    assert root.path(f"{CONFIG}.dpkg-dist").read_text().endswith("# another default\n")
    assert (state / "kept").exists()
    assert root.run("stat", "--format=%U %a", "/var/lib/fastgate").stdout == "fastgate 700\n"
    assert root.run("fastgate", "check", CONFIG).stdout.startswith("Valid")


def test_what_is_removed_leaves_configuration_and_state_and_what_is_purged_does_not(
    root: Root, package: Path
) -> None:
    install(root, package)
    root.run("install", "-d", "-o", "fastgate", "-m", "0700", "/var/lib/fastgate")
    root.run("dpkg", "--remove", "fastgate")
    assert root.path(CONFIG).exists()
    assert root.path("/var/lib/fastgate").exists()
    assert not root.path("/usr/lib/fastgate").exists()
    root.run("dpkg", "--purge", "fastgate")
    for gone in ("/etc/fastgate", "/var/lib/fastgate", "/var/log/fastgate"):
        assert not root.path(gone).exists(), gone
    assert root.run("getent", "passwd", "fastgate", check=False).returncode == 2
    left = root.run("find", "/etc", "/usr", "/var", "/lib", "-name", "*fastgate*").stdout
    assert left == ""
    install(root, package)  # and again
    assert root.run("fastgate", "check", CONFIG).stdout.startswith("Valid")


@pytest.mark.skipif(not shutil.which("lintian"), reason="needs lintian")
def test_lintian_finds_no_error(package: Path) -> None:
    ran = subprocess.run(
        ["lintian", "--allow-root", "--fail-on=error", package],
        capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout


@pytest.mark.skipif(bool(missing("systemd-nspawn")), reason=missing("systemd-nspawn"))
def test_systemd_starts_reloads_and_restarts_it(package: Path, tmp_path: Path) -> None:
    """In a container that boots: with the unit's sandbox, limits and readiness."""
    system = f"{SYSTEM},systemd,systemd-sysv"
    root = Root(tmp_path / "root", base("bookworm-systemd", "bookworm", system))
    root.put(package, *INSIDE)
    install(root, package)
    unit = root.path("/etc/systemd/system/look.service")
    unit.write_text(
        "[Unit]\nAfter=fastgate.service\nSuccessAction=poweroff\nFailureAction=poweroff\n"
        "[Service]\nType=oneshot\nExecStart=/usr/bin/python3 /srv/inside_systemd.py\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )
    root.run("systemctl", "enable", "look.service")
    subprocess.run(
        [
            "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network",
            f"--directory={root.folder}", "--boot",
        ],
        stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    found = json.loads(root.path("/srv/found.json").read_text())
    assert "failed" not in found, found["failed"]
    assert found["ActiveState"] == "active", found
    assert (found["owner"], found["state"]) == ("fastgate", ["fastgate", "0o40700"])
    # As the unit says, or what this machine allows at most.
    assert int(found["files"]) == min(1048576, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    assert [found[name] for name in found if name.startswith("request")] == [200, 200, 200]
    assert found["reload of nonsense"] != 0
    assert found["stopped"] == {"ActiveState": "inactive", "Result": "success"}
    exposure = re.search(
        r"Overall exposure level for fastgate.service: ([\d.]+)", found["security"]
    )
    assert exposure is not None, found["security"]
    assert float(exposure[1]) < 3, found["security"]
