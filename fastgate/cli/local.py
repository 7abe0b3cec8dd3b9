"""version, completion, hash, new-key: commands that need no running gateway."""

from __future__ import annotations

import sys

import click

from fastgate.cli import output
from fastgate.cli.exit_codes import OK
from fastgate.cli.options import json_option


def version_text() -> str:
    """ "fastgate 0.1.0 (Python 3.12.1, uvloop 0.22.1, OpenSSL 3.0.19, Linux x86_64)"."""
    found = _versions()
    return (
        f"fastgate {found['version']} (Python {found['python']}, uvloop {found['uvloop']}, "
        f"OpenSSL {found['openssl']}, {found['system']} {found['machine']})"
    )


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import version as installed

    from fastgate._core.platform.openssl import openssl_version

    return {
        "version": _version(),
        "python": platform.python_version(),
        "uvloop": installed("uvloop"),
        "openssl": openssl_version(),
        "system": platform.system(),
        "machine": platform.machine(),
    }


def _version() -> str:
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("fastgate")
    except PackageNotFoundError:  # run from a checkout
        import fastgate

        return getattr(fastgate, "__version__", "unknown")


@click.command(short_help="Print the version.")
@json_option
def version(as_json: bool) -> int:
    """Print the versions of FastGate, Python, uvloop and the core's OpenSSL, and the system."""
    if as_json:
        output.print_json(_versions())
    else:
        output.say(version_text())
    return OK


@click.command(short_help="Print shell completion.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print a script that lets a shell complete fastgate's commands and options.

    \b
    Examples:
      bash:  fastgate completion bash > ~/.local/share/bash-completion/completions/fastgate
      zsh:   fastgate completion zsh > "${fpath[1]}/_fastgate"
      fish:  fastgate completion fish > ~/.config/fish/completions/fastgate.fish
    """
    from click.shell_completion import get_completion_class

    root = click.get_current_context().find_root().command
    kind = get_completion_class(shell)
    assert kind is not None  # the choices are the shells that click knows
    script = kind(root, {}, "fastgate", "_FASTGATE_COMPLETE")
    values = script.source_vars()
    output.say(script.source_template % values)  # source() would run the shell to ask its version
    return OK


@click.command("hash", short_help="Print the digest of a key.")
@click.argument("key", required=False)
@json_option
def hash_key(key: str | None, as_json: bool) -> int:
    """Print the digest of a key, for use in a configuration instead of the key.

    Reads the key from standard input if no KEY is given. Other users of the machine can see
    arguments, and the shell stores them in its history.

    \b
    Examples:
      printf %s "$DEMO_KEY" | fastgate hash
      fastgate new-key | tee key.txt | fastgate hash
    """
    from fastgate.model.values import KeyDigest

    if key is None:
        if sys.stdin.isatty():
            key = click.prompt("Key", hide_input=True, err=True)
        else:
            key = sys.stdin.readline().rstrip("\r\n")
    try:
        digest = str(KeyDigest.parse(key))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        output.print_json({"digest": digest})
    else:
        output.say(digest)
    return OK


@click.command("new-key", short_help="Create a key without a running gateway.")
@click.option(
    "--environment", metavar="NAME", help="A word that is part of the key, such as live or test."
)
@json_option
def new_key(environment: str | None, as_json: bool) -> int:
    """Create a key without a running gateway, for `consumers` in the configuration.

    Give the key to the caller, and put its digest into the file. To create a key in a running
    gateway, use `fastgate keys create`.

    \b
    Example:
      fastgate new-key --environment test --json
    """
    from fastgate.model.keys import new_key as make
    from fastgate.model.values import KeyDigest

    try:
        key = make(environment)
    except ValueError as error:
        raise click.UsageError(f"{error}.") from None
    if as_json:
        output.print_json({"key": key, "digest": str(KeyDigest.of(key))})
    else:
        output.say(key)
    return OK
