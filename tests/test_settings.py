"""Settings of the programs: option, then variable, then default."""

from pathlib import Path

import pytest

from fastgate.settings import SETTINGS, state_dir, value_of


def test_the_order_of_sources() -> None:
    environ = {"FASTGATE_CONTROL": "unix:/run/x"}
    assert value_of("control", "http://a", environ) == "http://a"
    assert value_of("control", None, environ) == "unix:/run/x"
    assert value_of("control", None, {}) == "http://127.0.0.1:8081"


@pytest.mark.parametrize(
    ("config", "given", "environ", "expected"),
    [
        ("/etc/fg/fastgate.yaml", None, {}, "/etc/fg/.fastgate"),
        ("fastgate.yaml", None, {}, ".fastgate"),
        (None, None, {}, ".fastgate"),
        ("-", None, {}, ".fastgate"),
        ("/etc/fg/a.yaml", None, {"FASTGATE_STATE_DIR": "/var/lib/fg"}, "/var/lib/fg"),
        ("/etc/fg/a.yaml", "/tmp/s", {"FASTGATE_STATE_DIR": "/var/lib/fg"}, "/tmp/s"),
    ],
)
def test_the_state_directory(
    config: str | None, given: str | None, environ: dict[str, str], expected: str
) -> None:
    assert state_dir(config, given, environ) == Path(expected)


def test_every_setting_is_described() -> None:
    assert all(one.text.endswith(".") and one.env.startswith("FASTGATE_") for one in SETTINGS)
