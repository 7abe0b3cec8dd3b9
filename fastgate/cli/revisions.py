"""revisions: earlier configurations, what changed between them, and rolling back."""

from __future__ import annotations

import click

from fastgate.cli import output
from fastgate.cli.configure import CONFIG, print_applied, print_changes
from fastgate.cli.exit_codes import OK
from fastgate.cli.options import client_of, control_options

REVISIONS = f"{CONFIG}/revisions"


@click.group(short_help="List, compare and restore earlier configurations.")
def revisions() -> None:
    """List, compare and restore earlier configurations.

    Every change creates a revision, whether it came from the file or through the control API.

    \b
    Examples:
      fastgate revisions list
      fastgate revisions diff 12
      fastgate revisions rollback 11 --dry-run
    """


@revisions.command("list", short_help="List revisions, newest first.")
@control_options
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True)
def list_(control: str | None, state_dir: str | None, as_json: bool, limit: int) -> int:
    """List revisions, newest first.

    \b
    Example:
      fastgate revisions list --limit 5
    """
    page = client_of(control, state_dir).get(REVISIONS, limit=limit)
    if as_json:
        output.print_json(page["items"])
        return OK
    rows = [
        (
            one["number"],
            output.when(one["created"]),
            one["author"],
            one["source"],
            one["digest"][:12],
            one["note"],
        )
        for one in page["items"]
    ]
    heads = ("revision", "created", "author", "source", "digest", "note")
    output.table(heads, rows, "No revisions yet.")
    return OK


@revisions.command(short_help="Print a revision's document.")
@click.argument("number", type=click.IntRange(min=1))
@control_options
def show(number: int, control: str | None, state_dir: str | None, as_json: bool) -> int:
    """Print a revision's document, as YAML (with --json: with its author and time, as JSON).

    \b
    Example:
      fastgate revisions show 11 > back-then.yaml
    """
    client = client_of(control, state_dir)
    if as_json:
        output.print_json(client.get(f"{REVISIONS}/{number}"))
        return OK
    headers = {"Accept": "application/yaml"}
    document = client.call("GET", f"{REVISIONS}/{number}", headers=headers).data
    output.say(str(document).rstrip("\n"))
    return OK


@revisions.command(short_help="Show what a revision changed.")
@click.argument("number", type=click.IntRange(min=1))
@click.option(
    "--against",
    type=click.IntRange(min=0),
    help="Compare with this revision instead of the one before.",
)
@control_options
def diff(
    number: int, against: int | None, control: str | None, state_dir: str | None, as_json: bool
) -> int:
    """Show what a revision changed, compared with the one before it or another.

    \b
    Examples:
      fastgate revisions diff 12
      fastgate revisions diff 12 --against 3
    """
    import msgspec

    from fastgate.config.diff import Change

    client = client_of(control, state_dir)
    data = client.get(f"{REVISIONS}/{number}/diff", against=against)
    print_changes(msgspec.convert(data["changes"], list[Change]), as_json)
    return OK


@revisions.command(short_help="Restore an earlier configuration.")
@click.argument("number", type=click.IntRange(min=1))
@click.option("--dry-run", is_flag=True, help="Validate and compare; change nothing.")
@control_options
def rollback(
    number: int, dry_run: bool, control: str | None, state_dir: str | None, as_json: bool
) -> int:
    """Restore an earlier configuration, as a new revision.

    The file is not changed: correct it too, or the next reload applies it again.

    \b
    Example:
      fastgate revisions rollback 11
    """
    client = client_of(control, state_dir)
    query = {"dry_run": True} if dry_run else None
    answer = client.call("POST", f"{REVISIONS}/{number}/rollback", query=query).data
    print_applied(answer, as_json)
    return OK
