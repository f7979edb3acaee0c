"""`spawner launch`: a commit by project path, by any GitLab address of it or of a checkout, as far as ready if asked.

Promises: the spawner is asked by HTTP only; nothing is pushed unasked; the server reads addresses, and resolves
branches and commits with the person's own rights; a credential that stands in an address is not sent.
Must not know: anything of the server but its HTTP contract; how Git is asked.
"""

import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from spawner.cli.checkout import Checkout, Remote, Work
from spawner.cli.connection import Connection, connect, connected
from spawner.cli.exits import CommandFailed, ExitCode
from spawner.cli.printing import document, json_option, prose
from spawner.cli.sessions import SERVERS, follow, open_in_browser
from spawner.errors import foreign

ADDRESS = "/api/slipway/v1/address"
FILES_SHOWN = 20
ARRIVAL_SECONDS = 20.0  # GitLab tells its own caches of a push in a background job
_LOOK_SECONDS = 0.5


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


def is_folder(target: str) -> bool:
    """Say whether a target is a folder of this machine rather than a project: it begins as paths begin."""
    return target in {".", ".."} or target.startswith(("./", "../", "/", "~"))


def resolve_checkout(
    connection: Connection, folder: Path, ref: str | None, sha: str | None, *, is_yes: bool
) -> dict[str, str]:
    """Return the launch body of a checkout's work, pushed first where the person allows it; raises CommandFailed."""
    checkout = Checkout(folder)
    remote = _remote(connection, checkout)
    if ref or sha:
        return resolve(connection, remote.url, ref, sha)
    work = checkout.work()
    found = _pushed(connection, checkout, remote, work)
    if found is not None:
        return launch_body(found)
    username = str(connection.ask("GET", "/api/slipway/v1/person")["username"])
    branch = checkout.own_branch(username, work)
    _ask_to_push(checkout, remote, work, branch, is_yes=is_yes)
    checkout.push(remote, work, branch)
    return launch_body(_arrived(connection, remote, work, branch))


def _remote(connection: Connection, checkout: Checkout) -> Remote:
    """Return the first remote that is a project of this spawner's GitLab."""
    told = ""
    for remote in checkout.remotes():
        try:
            connection.ask("GET", ADDRESS, address=without_credentials(remote.url))
        except CommandFailed as failure:
            if failure.code not in {ExitCode.NOT_FOUND, ExitCode.FAILED, ExitCode.USAGE}:
                raise
            told += f"\n  {remote.name}: {failure.message}"
        else:
            return remote
    raise CommandFailed(
        f"No remote of this checkout is a project that {connection.url} launches.{told}",
        code=ExitCode.NOT_FOUND,
        remedy="Add one (`git remote add`), or name the project.",
    )


def _pushed(connection: Connection, checkout: Checkout, remote: Remote, work: Work) -> dict[str, Any] | None:
    """Return where GitLab has the commit: on the branch of its name, else on any; None where it was not pushed."""
    address = without_credentials(remote.url)
    branch = checkout.branch_at(remote) if not work.uncommitted else None
    on_branch = connection.get_or_none(ADDRESS, address=address, sha=work.sha, ref=branch) if branch else None
    found: dict[str, Any] | None = on_branch or connection.get_or_none(ADDRESS, address=address, sha=work.sha)
    return found


def _ask_to_push(checkout: Checkout, remote: Remote, work: Work, branch: str, *, is_yes: bool) -> None:
    """Say what would be pushed, and where to; raises CommandFailed unless the person says yes."""
    if work.uncommitted:
        prose(f"{len(work.uncommitted)} files of this checkout are not committed:")
        for path in work.uncommitted[:FILES_SHOWN]:
            prose(f"  {foreign(path)}")
        if len(work.uncommitted) > FILES_SHOWN:
            prose(f"  and {len(work.uncommitted) - FILES_SHOWN} more")
    else:
        prose(f"Commit {work.sha[:8]} is not pushed.")
    if is_yes:
        prose(f"Pushing to {remote.name}, branch {branch}.")
        return
    if not sys.stdin.isatty():
        raise CommandFailed(
            "What is not pushed cannot be launched, and nobody is here to be asked.",
            code=ExitCode.USAGE,
            remedy=f"Push it, or say --yes to have it pushed to {remote.name}, branch {branch}; "
            f"or launch what is pushed: --sha {checkout.head}.",
        )
    if not click.confirm(f"Push to {remote.name}, branch {branch}, and launch that?", err=True):
        raise CommandFailed("Nothing was pushed, and nothing launched.")


def _arrived(connection: Connection, remote: Remote, work: Work, branch: str) -> dict[str, Any]:
    """Return what was pushed as GitLab shows it; it may take a moment to."""
    address, ends = without_credentials(remote.url), time.monotonic() + ARRIVAL_SECONDS
    while time.monotonic() < ends:
        found: dict[str, Any] | None = connection.get_or_none(ADDRESS, address=address, sha=work.sha, ref=branch)
        if found is not None:
            return found
        time.sleep(_LOOK_SECONDS)
    raise CommandFailed(
        f"GitLab does not show branch {branch}, which was pushed.",
        code=ExitCode.WAITED_TOO_LONG,
        remedy="Launch again: it is not pushed twice.",
    )


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
@click.option("--yes", "is_yes", is_flag=True, help="Push what a checkout has not pushed, without asking.")
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
    is_yes: bool,
    waits: bool,
    opens: bool,
    timeout_seconds: float,
    as_json: bool,
    url: str | None,
    token_file: Path | None,
) -> None:
    """Launch TARGET: group/project, the address of any page of it in GitLab, or a checkout: `.`.

    Of a checkout, what is committed and pushed is launched as it is. Anything else is pushed first, if you allow it, to
    a branch of its own; your branches, index and files stay as they are.
    """
    if not is_folder(target) and "/" not in target.strip("/"):
        raise CommandFailed(
            f"{target!r} names no project.",
            code=ExitCode.USAGE,
            remedy="Give group/project, the address of any page of it in GitLab, or a folder: `.`.",
        )
    connection = connect(url, token_file)
    optional = {"image": image, "fallback": fallback}
    if is_folder(target):
        found = resolve_checkout(connection, Path(target).expanduser(), ref, sha, is_yes=is_yes)
    else:
        found = resolve(connection, target, ref, sha)
    body = {**found, "build": build}
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
