"""`spawner launch`: a commit, by project path or by any GitLab address of it, as far as ready if asked.

Promises: HTTP only; the server reads addresses, and resolves branches and commits with the person's own rights; a
credential that stands in an address is not sent.
Must not know: anything of the server but its HTTP contract.
"""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from spawner.cli.connection import Connection, connect, connected
from spawner.cli.exits import CommandFailed, ExitCode
from spawner.cli.printing import document, json_option, prose
from spawner.cli.sessions import SERVERS, follow, open_in_browser

ADDRESS = "/api/slipway/v1/address"


def without_credentials(address: str) -> str:
    """Return an address without the name and password that an http(s) one may carry; raises CommandFailed."""
    try:
        parts = urlsplit(address)
    except ValueError as exc:
        raise CommandFailed(f"{address.rpartition('@')[2]!r} is no address: {exc}.", code=ExitCode.USAGE) from exc
    if parts.scheme not in {"http", "https"}:
        return address
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def resolve(connection: Connection, target: str, ref: str | None, sha: str | None) -> dict[str, str]:
    """Return the launch body's project, branch and commit; raises CommandFailed when something does not exist."""
    wanted = {"address": without_credentials(target), "ref": ref, "sha": sha}
    return launch_body(connection.ask("GET", ADDRESS, **{name: value for name, value in wanted.items() if value}))


def launch_body(found: dict[str, Any]) -> dict[str, str]:
    """Return what a launch of a found commit must name."""
    namespace, _, name = str(found["project"]).rpartition("/")
    return {"namespace": namespace, "project": name, "branch": found["branch"], "commit_sha": found["commit_sha"]}


@click.command("launch")
@click.argument("target")
@click.option("--ref", help="A branch or tag; the project's default branch otherwise.")
@click.option("--sha", help="A commit; the newest of the branch otherwise.")
@click.option("--image", help="Start this image instead of the commit's own.")
@click.option("--build", type=click.Choice(["wait", "now", "never"]), default="wait", show_default=True)
@click.option("--fallback", type=click.Choice(["default", "ancestor", "fail"]), help="When no image can be had.")
@click.option("--wait/--no-wait", "waits", default=False, help="Show progress and return when it is ready.")
@click.option("--open", "opens", is_flag=True, help="Wait, then open it in the browser.")
@click.option("--timeout", "timeout_seconds", type=click.FloatRange(min=1), default=3600.0, show_default=True)
@json_option
@connected
def launch_command(  # noqa: PLR0913 - one parameter per option
    *,
    target: str,
    ref: str | None,
    sha: str | None,
    image: str | None,
    build: str,
    fallback: str | None,
    waits: bool,
    opens: bool,
    timeout_seconds: float,
    as_json: bool,
    url: str | None,
    token_file: Path | None,
) -> None:
    """Launch TARGET: group/project, or the address of any page of it in GitLab, down to a commit or a file."""
    if "/" not in target.strip("/"):
        raise CommandFailed(
            f"{target!r} names no project.",
            code=ExitCode.USAGE,
            remedy="Give group/project, or the address of any page of it in GitLab.",
        )
    connection = connect(url, token_file)
    optional = {"image": image, "fallback": fallback}
    body = {**resolve(connection, target, ref, sha), "build": build}
    body |= {key: value for key, value in optional.items() if value is not None}
    server = connection.ask("POST", SERVERS, body=body)
    name = str(server["name"])
    if waits or opens:
        prose(f"{name}: commit {body['commit_sha'][:8]} on {body['branch']}")
        server = follow(connection, name, timeout_seconds=timeout_seconds)
    _show(connection, server, as_json=as_json, opens=opens)


def _show(connection: Connection, server: dict[str, Any], *, as_json: bool, opens: bool) -> None:
    if as_json:
        document(server)
    else:
        click.echo(server["name"])
        prose(server["url"])
    if opens and not as_json:
        open_in_browser(connection, server["name"], as_json=False, show_only=False)
