"""The container: built with podman on a base that mmdebstrap makes, and run."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rootkit import PATIENCE, PROJECT, base, built, missing, wheelhouse

STORAGE = PROJECT / "build" / "containers"
BASE = "localhost/debian:12-slim"
IMAGE = "localhost/fastgate:test"
FETCH = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/').read().decode())"

pytestmark = pytest.mark.skipif(bool(missing("podman", "runc")), reason=missing("podman", "runc"))


def podman(*arguments: str, check: bool = True) -> str:
    """Run podman on a storage of its own, and return what it prints."""
    ran = subprocess.run(
        [
            "podman", f"--root={STORAGE}/images", f"--runroot={STORAGE}/run", "--runtime=runc",
            "--events-backend=none", "--cgroup-manager=cgroupfs", *arguments,
        ],
        capture_output=True, text=True, check=False, timeout=4 * PATIENCE,
    )  # fmt: skip
    assert not check or ran.returncode == 0, f"{arguments}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout.strip()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """The image, as `podman inspect` describes it; built without a package index."""
    archive = base("bookworm-base", "bookworm", "python3-venv,ca-certificates")
    podman("import", str(archive), BASE)
    context = tmp_path_factory.mktemp("context")
    shutil.copy(PROJECT / "Containerfile", context)
    shutil.copy(PROJECT / ".containerignore", context)
    (context / "packages").mkdir()
    shutil.copy(PROJECT / "packages" / "fastgate.yaml", context / "packages")
    shutil.copytree(wheelhouse(built("fastgate-*-cp311-*.whl")), context / "dist")
    (context / "dist" / "secret.txt").write_text("must not be copied")
    podman(
        "build", "--isolation=chroot", "--network=host", "--format=docker", f"--tag={IMAGE}",
        f"--build-arg=BASE={BASE}", "--build-arg=PIP_NO_INDEX=1", str(context),
    )  # fmt: skip
    (found,) = json.loads(podman("inspect", IMAGE))
    yield found
    podman("rmi", "--force", IMAGE, check=False)


@pytest.fixture
def container(image: dict[str, object]) -> Iterator[str]:
    """A container of it, as restricted as the documentation says it can be. Its limits are lower
    than podman's defaults, which not every machine allows."""
    name = podman(
        "run", "--detach", "--read-only", "--read-only-tmpfs=false", "--cap-drop=all",
        "--security-opt=no-new-privileges", "--network=none",
        "--ulimit=nofile=4096:4096", "--ulimit=nproc=1024:1024", IMAGE,
    )  # fmt: skip
    yield name
    podman("rm", "--force", "--volumes", name, check=False)


def test_it_is_small_and_has_no_tools_and_no_secrets(image: dict[str, object]) -> None:
    config = image["Config"]
    assert isinstance(config, dict)
    assert config["User"] == "10001:10001"
    assert set(config["Volumes"]) == {"/var/lib/fastgate"}
    assert {line.partition("=")[0] for line in config["Env"]} == {
        "PATH", "FASTGATE_LISTEN", "FASTGATE_STATE_DIR"
    }  # fmt: skip
    mounted = Path(podman("image", "mount", IMAGE))
    try:
        assert not list(mounted.rglob("secret.txt"))
        assert not list((mounted / "opt/fastgate").rglob("site-packages/pip"))
        assert not (mounted / "wheels").exists()
        added = subprocess.run(
            ["du", "--summarize", "--block-size=1M", mounted / "opt/fastgate"],
            capture_output=True, text=True, check=True, timeout=PATIENCE,
        ).stdout  # fmt: skip
        assert int(added.split()[0]) < 200
    finally:
        podman("image", "unmount", IMAGE)


def test_it_serves_read_only_and_unprivileged(container: str) -> None:
    podman("exec", container, "sh", "-c", "until fastgate status; do sleep 0.2; done")
    assert "FastGate is running" in podman("exec", container, "python3", "-c", FETCH)
    podman("healthcheck", "run", container)
    assert "is ready" in podman("exec", container, "fastgate", "status")
    assert podman("exec", container, "id", "-u") == "10001"
    cannot = "for f in /opt/fastgate/x /etc/fastgate/x /tmp/x; do ! touch $f || exit 1; done"
    podman("exec", container, "sh", "-c", f"({cannot}) 2>&1 && touch /var/lib/fastgate/x")
    podman("stop", "--time=40", container)
    assert podman("inspect", "--format={{.State.ExitCode}}", container) == "0"
