"""Signing in on the command line: a token is kept, looked at and forgotten.

Promises: no token is ever an argument; a GitLab token is exchanged for one of the spawner's own where the person has
signed in there, for one of those acts with that sign-in, and is kept itself otherwise; the file is its owner's alone.
Must not know: anything of the server but its HTTP contract.
"""

import socket
import webbrowser
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import click

from spawner.cli.connection import Connection, connect, connected, forget, keep, read_token
from spawner.cli.exits import CommandFailed, ExitCode
from spawner.cli.printing import document, json_option, prose, table

TOKENS = "/api/slipway/v1/tokens"


@click.command("login")
@click.argument("url")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="A file with a GitLab token or one of your tokens, - for standard input; the browser otherwise.",
)
@json_option
def login_command(*, url: str, token_file: Path | None, as_json: bool) -> None:
    """Keep a token for the spawner at URL."""
    address = url.rstrip("/")
    if urlsplit(address).scheme not in {"http", "https"} or not urlsplit(address).netloc:
        raise CommandFailed(f"{url!r} is no address; it begins with https:// or http://.", code=ExitCode.USAGE)
    token = read_token(token_file) if token_file is not None else _ask(address)
    given = Connection(url=address, token=token)
    person = given.ask("GET", "/api/slipway/v1/person")
    connection = _own(given) if person["has_sign_in"] else given
    kept = keep(connection)
    if as_json:
        document({"url": address, "username": person["username"], "file": str(kept)})
        return
    prose(f"Signed in to {address} as {person['username']}; the token is in {kept}.")
    if connection is given and not _is_ours(token):
        prose(f"It is GitLab's own token. Sign in at {address} once, then here again, to keep one of the spawner's.")


def _ask(address: str) -> str:
    page = f"{address}/tokens"
    opened = webbrowser.open(page)
    prose(f"{'Opened' if opened else 'Open'} {page} in your browser: sign in, make a token, and paste it here.")
    token: str = click.prompt("Token", hide_input=True, err=True)
    return token.strip()


def _own(given: Connection) -> Connection:
    """Exchange a GitLab token for one of ours; a token of ours stays."""
    if _is_ours(given.token):
        return given
    body = {"name": f"command line on {socket.gethostname()}"[:100]}
    made = given.ask("POST", TOKENS, body=body)
    return Connection(url=given.url, token=str(made["token"]))


def _is_ours(token: str) -> bool:
    """Tell a token of the spawner's own, which is a JWT, from GitLab's."""
    return token.count(".") == 2  # noqa: PLR2004 - header, claims, signature


@click.command("logout")
@json_option
def logout_command(*, as_json: bool) -> None:
    """Forget the token. It stays valid until it is revoked or expires: `spawner token revoke`."""
    had = forget()
    if as_json:
        document({"forgotten": had})
    else:
        prose("Signed out." if had else "Nobody was signed in.")


@click.group("token")
def token_command() -> None:
    """Make, list and revoke your tokens."""


@token_command.command("list")
@json_option
@connected
def list_tokens(*, as_json: bool, url: str | None, token_file: Path | None) -> None:
    """List your tokens, newest first."""
    found: list[dict[str, Any]] = connect(url, token_file).ask("GET", TOKENS)["tokens"]
    if as_json:
        document({"tokens": found})
        return
    rows = [
        [row["id"], row["name"], row["created_at"], row["expires_at"], "revoked" if row["revoked_at"] else "valid"]
        for row in found
    ]
    table(("ID", "NAME", "MADE", "EXPIRES", "STATE"), rows, empty="No tokens.")


@token_command.command("create")
@click.argument("name")
@click.option("--days", type=click.IntRange(min=1), help="How long it lives; 90, or the most that the service allows.")
@json_option
@connected
def create_token(*, name: str, days: int | None, as_json: bool, url: str | None, token_file: Path | None) -> None:
    """Make a token and print it: it is shown only now."""
    body = {"name": name, "expires_in_days": days}
    made = connect(url, token_file).ask("POST", TOKENS, body=body)
    if as_json:
        document(made)
    else:
        click.echo(made["token"])


@token_command.command("revoke")
@click.argument("identifier", metavar="ID")
@json_option
@connected
def revoke_token(*, identifier: str, as_json: bool, url: str | None, token_file: Path | None) -> None:
    """Revoke a token by its ID."""
    connect(url, token_file).ask("DELETE", f"{TOKENS}/{quote(identifier, safe='')}")
    if as_json:
        document({"revoked": identifier})
    else:
        prose("Revoked.")
