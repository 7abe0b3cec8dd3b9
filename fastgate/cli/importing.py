"""import: documents of other gateways, and OpenAPI, as FastGate documents."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fastgate.cli import output
from fastgate.cli.exit_codes import FAILED, OK
from fastgate.cli.options import json_option

if TYPE_CHECKING:
    from fastgate.importers.report import Finding

F = TypeVar("F", bound=Callable[..., Any])


@click.group("import", short_help="Import the configuration of another gateway.")
def import_() -> None:
    """Import the configuration of another gateway, or an API's description.

    Writes a FastGate document that passes `fastgate check`. Whatever cannot be expressed is
    listed, with its name and its place in FILE.

    \b
    Examples:
      fastgate import kong kong.yaml --output fastgate.yaml
      fastgate import apisix apisix.yaml --json
      fastgate import openapi openapi.yaml --upstream http://127.0.0.1:9000
    """


def _options(command: F) -> F:
    for option in (
        click.argument("file", metavar="FILE"),
        click.option(
            "--output", "-o", "target", metavar="FILE", type=click.Path(dir_okay=False),
            help="Write the document to this file. Default: standard output.",
        ),
        click.option(
            "--strict", is_flag=True, help="Exit 1 if something could not be expressed."
        ),
        json_option,
    ):  # fmt: skip
        command = option(command)
    return command


def _import(
    form: str, file: str, target: str | None, strict: bool, as_json: bool, **options: Any
) -> int:
    from fastgate.importers.run import run

    imported = run(form, file, **options)
    findings = imported.findings
    if target is not None:
        try:
            Path(target).write_text(imported.text, encoding="utf-8")
        except OSError as error:
            raise click.FileError(target, error.strerror) from None
    if as_json:
        output.print_json(
            {"document": imported.document, "findings": [one.data for one in findings]}
        )
    else:
        if target is None:
            click.echo(imported.text, nl=False)
        _list(findings)
    return FAILED if strict and findings else OK


def _list(findings: list[Finding]) -> None:
    for one in findings:
        color = {"open": "red", "lost": "yellow"}.get(one.kind)
        click.echo(click.style(str(one), fg=color), err=True)
    if findings:
        click.echo(f"{len(findings)} to look at.", err=True)


@import_.command("kong", short_help="Import a declarative document of Kong.")
@_options
def kong(file: str, target: str | None, strict: bool, as_json: bool) -> int:
    """Import a declarative document of Kong (decK, or DB-less), format 1.1 to 3.0.

    FILE is YAML or JSON ("-": standard input). What FastGate cannot express is listed on standard
    error. Keys of consumers become digests.

    \b
    Examples:
      fastgate import kong kong.yaml --output fastgate.yaml
      deck gateway dump -o - | fastgate import kong - --json
    """
    return _import("kong", file, target, strict, as_json)


@import_.command("apisix", short_help="Import a document of APISIX.")
@_options
def apisix(file: str, target: str | None, strict: bool, as_json: bool) -> int:
    """Import a document of APISIX: `apisix.yaml`, or answers of the Admin API as JSON.

    FILE is YAML or JSON ("-": standard input). What FastGate cannot express is listed on standard
    error. Keys of consumers become digests.

    \b
    Examples:
      fastgate import apisix apisix.yaml --output fastgate.yaml
      curl -H "X-API-KEY: $KEY" localhost:9180/apisix/admin/routes | fastgate import apisix -
    """
    return _import("apisix", file, target, strict, as_json)


@import_.command("openapi", short_help="Import a description of OpenAPI or Swagger.")
@_options
@click.option(
    "--upstream", metavar="URL", help="Where the API is. Default: the first of its servers."
)
@click.option("--validate", is_flag=True, help="Validate requests against FILE.")
def openapi(
    file: str,
    target: str | None,
    strict: bool,
    as_json: bool,
    upstream: str | None,
    validate: bool,
) -> int:
    """Import a description of OpenAPI 3 or Swagger 2: its paths, servers and API keys.

    FILE is YAML or JSON ("-": standard input). What FastGate cannot express is listed on standard
    error. With --validate, the document names FILE, which the gateway then reads with each reload.

    \b
    Examples:
      fastgate import openapi openapi.yaml --output fastgate.yaml
      fastgate import openapi openapi.yaml --output fastgate.yaml --validate
      fastgate import openapi swagger.json --upstream http://10.0.0.7:8080/api
    """
    from fastgate.importers.openapi import check_upstream

    try:
        checked = None if upstream is None else check_upstream(upstream)
    except ValueError as error:
        raise click.UsageError(f"--upstream: {error}.") from None
    place = _description(file, target) if validate else None
    return _import("openapi", file, target, strict, as_json, upstream=checked, validate=place)


def _description(file: str, target: str | None) -> str:
    """The path of the description for the document. Raises ConfigurationError if requests cannot be
    validated against it."""
    from fastgate.validation.load import read

    if file == "-":
        raise click.UsageError("--validate: FILE must be a file, which the gateway reads later.")
    read(os.path.abspath(file))
    if target is None or os.path.isabs(file):
        return file
    return os.path.relpath(file, os.path.dirname(os.path.abspath(target)))
