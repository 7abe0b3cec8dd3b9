"""certificates: those of a gateway, those of a file, those that a listener presents, own ones."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from fastgate import settings
from fastgate.cli import output
from fastgate.cli.exit_codes import FAILED, INVALID, OK
from fastgate.cli.options import client_of, control_options, json_option
from fastgate.errors import ConfigurationError, FastGateError, UnreachableError

if TYPE_CHECKING:
    from fastgate.certificates.presented import Presented

DAY = 86_400
ACME = "acme: "
POLL_S = 1.0
LOCALHOST = ("localhost", "127.0.0.1", "::1")
_COLORS = {"valid": "green", "expiring": "yellow", "pending": "yellow"}


@click.group(short_help="Show, test and make TLS certificates.")
def certificates() -> None:
    """Show, test and make TLS certificates.

    \b
    Examples:
      fastgate certificates list
      fastgate certificates renew shop --wait
      fastgate certificates test
      fastgate certificates test --connect api.example.com:443
      fastgate certificates pin client.pem
      fastgate certificates self-signed localhost
    """


# ---- list -------------------------------------------------------------------------------


@certificates.command("list", short_help="List the certificates of the gateway.")
@control_options
def list_(control: str | None, state_dir: str | None, as_json: bool) -> int:
    """List the certificates of the gateway: hosts, key, issuer, validity, renewal.

    Exits 1 if one has expired, if the files of one cannot be used, or if one could not be ordered.

    \b
    Examples:
      fastgate certificates list
      fastgate certificates list --json
    """
    items = client_of(control, state_dir).get("/v1/certificates")["items"]
    if as_json:
        output.print_json(items)
    else:
        _print_list(items)
    bad = any(each["problem"] or each["state"] in ("expired", "not_yet_valid") for each in items)
    return FAILED if bad else OK


def _print_list(items: list[dict[str, Any]]) -> None:
    now = time.time()
    rows = [
        (
            each["name"],
            each["hosts"],
            each["key_type"],
            each["issuer"],
            _until(each["not_after"], now),
            output.when(each["renews"])[:10],
            each["source"],
            _state(each),
            each["used_by"],
        )
        for each in items
    ]
    heads = ("name", "hosts", "key", "issuer", "expires", "renews", "source", "state", "used by")
    output.table(heads, rows, "The configuration has no certificates.")
    for each in items:
        if each["problem"]:
            said = f"{each['name']}: {_problem(each)}"
            click.echo(f"{click.style('Problem:', fg='red')} {said}", err=True)


def _state(certificate: dict[str, Any]) -> str:
    state = certificate["state"]
    text = output.colour(state.replace("_", " "), _COLORS.get(state, "red"))
    return f"{text}, being ordered" if certificate["ordering"] else text


def _problem(certificate: dict[str, Any]) -> str:
    """Why the files cannot be used, or why it was not issued."""
    if not certificate["source"].startswith(ACME):
        return f"{certificate['problem']}. Its last content stays in use."
    following = certificate["next_attempt"]
    again = f" The next attempt is at {output.when(following)}." if following else ""
    return f"{certificate['problem']}{again}"


def _until(unix: int | None, now: float) -> str:
    """A time with the days until then."""
    if unix is None:
        return "-"
    days = int((unix - now) // DAY)
    return f"{output.when(unix)[:10]} ({days} d)"


# ---- renew ------------------------------------------------------------------------------


@certificates.command(short_help="Order a new certificate from its ACME authority now.")
@click.argument("name")
@click.option("--wait", is_flag=True, help="Wait until it is there, or the attempt has failed.")
@control_options
def renew(name: str, wait: bool, control: str | None, state_dir: str | None, as_json: bool) -> int:
    """Order a new certificate from its ACME authority now.

    Renewal is automatic; this is for a key that others may have read, or after a fault is fixed, to
    try again without waiting. The old certificate stays in use until the new one is there. With
    --wait, exits 1 if the attempt fails.

    \b
    Examples:
      fastgate certificates renew shop
      fastgate certificates renew shop --wait
    """
    client = client_of(control, state_dir)
    path = f"/v1/certificates/{quote(name, safe='')}/renew"
    found = client.call("POST", path, query={"wait": wait}).data
    while wait and found["ordering"]:
        time.sleep(POLL_S)
        items = client.get("/v1/certificates")["items"]
        found = next((each for each in items if each["name"] == name), None)
        if found is None:
            raise FastGateError(f"The certificate {name} is not configured any more.")
    failed = wait and found["next_attempt"] is not None
    if as_json:
        output.print_json(found)
    elif failed:
        click.echo(f"{click.style('Problem:', fg='red')} {name}: {_problem(found)}", err=True)
    elif wait:
        until = _until(found["not_after"], time.time())
        output.say(f"{name}: issued by {found['issuer']}, expires {until}")
    else:
        output.say(f"{name}: being ordered; `fastgate certificates list` shows how it went")
    return FAILED if failed else OK


# ---- test -------------------------------------------------------------------------------


@certificates.command(short_help="Test the certificates of a configuration, or a listener's.")
@click.argument("file", required=False, metavar="[FILE]")
@click.option(
    "--connect",
    metavar="HOST:PORT",
    help="Test what is presented there instead. Default port: 443.",
)
@click.option("--name", metavar="HOST", help="With --connect: the host to ask for.")
@click.option(
    "--ca",
    type=click.Path(dir_okay=False),
    help="With --connect: a file of trusted certificates, instead of the operating system's.",
)
@json_option
def test(
    file: str | None, connect: str | None, name: str | None, ca: str | None, as_json: bool
) -> int:
    """Test the certificates of a configuration, or what a listener presents.

    Reads FILE (default: fastgate.yaml) and all files that it names, as the gateway would: whether
    keys fit, chains are complete, and nothing has expired. With --connect, shows what a listener
    presents, and whether a client would accept it.

    \b
    Examples:
      fastgate certificates test
      fastgate certificates test --connect 127.0.0.1:8443 --name api.example.com
      fastgate certificates test --connect localhost:8443 --ca localhost.pem
    """
    if connect is not None:
        return _test_listener(connect, name, ca, as_json)
    if name is not None or ca is not None:
        raise click.UsageError("--name and --ca belong to --connect.")
    return _test_files(file, as_json)


def _test_files(file: str | None, as_json: bool) -> int:
    from fastgate.certificates.judge import doubts, out_of_date
    from fastgate.certificates.material import NOTHING, problems, refresh
    from fastgate.config.file import load

    loaded = load(settings.value_of("config", file))
    gateway = loaded.gateway
    found = refresh(gateway, NOTHING)
    errors = [*problems(gateway, found), *out_of_date(gateway, found, time.time())]
    warnings = doubts(gateway, found)
    for each in (*errors, *warnings):
        loaded.locate(each)
    rows = []
    for certificate in gateway.certificates:
        pair = found.certificates[certificate.name].pair
        rows.append(
            {
                "name": certificate.name,
                "source": f"acme: {certificate.acme}"
                if certificate.acme
                else str(certificate.cert),
                "hosts": list(certificate.hosts or (pair.hosts if pair is not None else ())),
                "key_type": None if pair is None else pair.key_type,
                "issuer": None if pair is None else pair.issuer,
                "not_after": None if pair is None else pair.not_after,
                "fingerprint": None if pair is None else pair.fingerprint,
            }
        )
    if as_json:
        output.print_json(
            {
                "valid": not errors,
                "certificates": rows,
                "errors": [output.fault_data(each) for each in errors],
                "warnings": [output.fault_data(each) for each in warnings],
            }
        )
    else:
        _print_files(rows, errors, warnings)
    return INVALID if errors else OK


def _print_files(
    rows: list[dict[str, Any]],
    errors: list[ConfigurationError],
    warnings: list[ConfigurationError],
) -> None:
    now = time.time()
    cells = [
        (
            each["name"],
            each["hosts"],
            each["key_type"],
            each["issuer"],
            _until(each["not_after"], now),
            each["source"],
        )
        for each in rows
    ]
    heads = ("name", "hosts", "key", "issuer", "expires", "source")
    output.table(heads, cells, "The configuration has no certificates.")
    for warning in warnings:
        click.echo(f"{click.style('Warning:', fg='yellow')} {warning}", err=True)
    for error in errors:
        click.echo(f"{click.style('Error:', fg='red', bold=True)} {error}", err=True)
    if not errors and rows:
        output.say(click.style("All of them can be used.", fg="green"))


def _test_listener(connect: str, name: str | None, ca: str | None, as_json: bool) -> int:
    from fastgate.certificates.presented import look

    host, port = _address(connect)
    wanted = name or host
    try:
        found = look(host, port, wanted, ca)
    except FileNotFoundError:
        raise click.UsageError(f"--ca: there is no file {ca!r}.") from None
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or str(error)
        raise UnreachableError(
            f"{connect}: no TLS there: {str(reason).replace('_', ' ').lower()}"
        ) from None
    if as_json:
        output.print_json({**found._asdict(), "accepted": not found.problem})
    else:
        _print_presented(found, wanted)
    return FAILED if found.problem else OK


def _address(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::(\d{1,5}))?", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is not HOST:PORT.", param_hint="--connect")
    return match[1].strip("[]"), int(match[2] or 443)


def _print_presented(found: Presented, name: str) -> None:
    for label, value in (
        ("protocol", f"{found.version}, {found.cipher}"),
        ("subject", found.subject),
        ("hosts", ", ".join([*found.hosts, *found.addresses]) or "none"),
        ("key", found.key_type),
        ("issuer", found.issuer),
        ("valid", f"{output.when(found.not_before)} to {_until(found.not_after, time.time())}"),
        ("chain", " <- ".join(found.chain)),
        ("SHA-256", found.fingerprint),
    ):
        output.say(f"{label:>10}  {value}")
    if found.problem:
        output.say(click.style(f"A client that asks for {name} refuses it: {found.problem}", "red"))
    else:
        output.say(click.style(f"A client that asks for {name} accepts it.", "green"))


# ---- pin --------------------------------------------------------------------------------


@certificates.command(short_help="Print the pins of certificates.")
@click.argument("file", metavar="FILE")
@json_option
def pin(file: str, as_json: bool) -> int:
    """Print the pins of the certificates in FILE, one line each: `sha256/` and the SHA-256 of the
    public key. They are for `certificates` of consumers and `pins` of upstreams.

    \b
    Example:
      fastgate certificates pin client.pem
    """
    from fastgate.cli.credentials import pins_in

    pins = pins_in(file)
    if as_json:
        output.print_json(pins)
    else:
        for each in pins:
            output.say(each)
    return OK


# ---- self-signed ------------------------------------------------------------------------


@certificates.command("self-signed", short_help="Make a certificate for tests.")
@click.argument("hosts", nargs=-1, required=True, metavar="HOST...")
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    default=".",
    help="The directory for the files. Default: the current one.",
)
@click.option(
    "--days", type=click.IntRange(1, 3650), default=365, help="How long it is valid. Default: 365."
)
@click.option("--force", is_flag=True, help="Replace files that are there.")
@json_option
def self_signed(hosts: tuple[str, ...], out: str, days: int, force: bool, as_json: bool) -> int:
    """Make a certificate that signs itself, and its key, for tests.

    HOST is a name, `*.` and a name, or an IP address; `localhost` includes 127.0.0.1 and ::1. The
    files are named after the first one. Browsers and other clients refuse such a certificate unless
    you make them trust it.

    \b
    Examples:
      fastgate certificates self-signed localhost
      fastgate certificates self-signed api.test "*.api.test" --out /etc/fastgate
    """
    from fastgate.certificates.self_signed import self_signed as make

    names = _names(hosts)
    stem = re.sub(r"[^A-Za-z0-9.-]", "_", hosts[0]).strip("._-") or "certificate"
    folder = Path(out)
    cert, key = folder / f"{stem}.pem", folder / f"{stem}.key"
    if not force:
        for path in (cert, key):
            if path.exists():
                raise FastGateError(f"{path} exists. Name another directory, or use --force.")
    made = make(names, days)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(key, made.key, 0o600)
        _write(cert, made.certificate, 0o644)
    except OSError as error:
        raise FastGateError(f"{error.filename or folder}: {error.strerror}") from None
    cert, key = cert.resolve(), key.resolve()
    if as_json:
        output.print_json(
            {"cert": str(cert), "key": str(key), "hosts": names, "not_after": made.not_after}
        )
    else:
        _print_made(stem, cert, key, names[0], made.not_after)
    return OK


def _names(hosts: tuple[str, ...]) -> list[str]:
    """The hosts of a certificate. Raises BadParameter."""
    import ipaddress

    from fastgate.model.tls import check_certificate_host

    names: list[str] = []
    for host in hosts:
        try:
            names.append(str(ipaddress.ip_address(host.strip("[]"))))
            continue
        except ValueError:
            pass
        try:
            check_certificate_host("HOST", host.lower())
        except ValueError as error:
            raise click.UsageError(f"{error}.") from None
        names += LOCALHOST if host.lower() == "localhost" else [host.lower()]
    return list(dict.fromkeys(names))


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replace a file; nobody else may read it before it has its mode."""
    from fastgate.files import replace_file

    replace_file(path, [content])
    os.chmod(path, mode)


def _print_made(name: str, cert: Path, key: Path, host: str, not_after: int) -> None:
    url = f"[{host}]" if ":" in host else host.replace("*.", "any.")
    output.say(f"Certificate: {cert}, valid until {output.when(not_after)[:10]}")
    output.say(f"Key:         {key}")
    output.say("")
    output.say("For the configuration:")
    output.say("")
    output.say("listeners:")
    output.say('  - {name: https, bind: ":8443", tls: true}')
    output.say("certificates:")
    output.say(f'  - {{name: {name}, cert: "path:{cert}", key: "path:{key}"}}')
    output.say("")
    output.say(f"Try it: curl --cacert {cert} https://{url}:8443/")
