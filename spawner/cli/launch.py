"""`spawner launch`: a commit, by project path or by any GitLab address of it, as far as ready if asked.

Promises: HTTP only; the server resolves branches and commits with the person's own rights.
Must not know: anything of the server but its HTTP contract.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import click

from spawner.cli.connection import Connection, connect, connected
from spawner.cli.exits import CommandFailed, ExitCode
from spawner.cli.printing import document, json_option, prose
from spawner.cli.sessions import SERVERS, follow, open_in_browser

_KINDS_WITH_REVISION = frozenset({"tree", "blob", "commit", "commits", "raw", "blame", "tags"})
_READINGS_LIMIT = 6  # segments of a branch's name that are tried
_SMALLEST_PROJECT_PATH = 2  # a namespace and a project


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchTarget:
    """What a target names; `revisions` are the ways to read what follows `tree/`, shortest first."""

    project: str
    revisions: tuple[str, ...] = ()


def read_target(text: str) -> LaunchTarget:
    """Read a project path or a GitLab address of a project, branch, commit or file; raises CommandFailed."""
    path = urlsplit(text).path if "://" in text else text
    project, dash, rest = path.strip("/").partition("/-/")
    project = unquote(project).removesuffix(".git")
    if len(project.split("/")) < _SMALLEST_PROJECT_PATH or any(not part for part in project.split("/")):
        raise CommandFailed(
            f"{text!r} names no project.",
            code=ExitCode.USAGE,
            remedy="Give group/project, or the address of a project, branch, commit or file in GitLab.",
        )
    kind, _, revision = rest.partition("/")
    if not dash or kind not in _KINDS_WITH_REVISION or not revision:
        return LaunchTarget(project=project)
    parts = unquote(revision.strip("/")).split("/")[:_READINGS_LIMIT]
    readings = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    return LaunchTarget(project=project, revisions=tuple(readings[:1] if kind == "commit" else readings))


def resolve(connection: Connection, target: LaunchTarget, ref: str | None, sha: str | None) -> dict[str, str]:
    """Return the launch body's project, branch and commit; raises CommandFailed when something does not exist."""
    wanted = {name: value for name, value in (("ref", ref), ("sha", sha)) if value}
    tried = [wanted] if wanted or not target.revisions else [{"revision": each} for each in target.revisions]
    path = f"/api/slipway/v1/projects/{quote(target.project)}/revision"
    for query in tried[:-1]:
        if (found := connection.get_or_none(path, **query)) is not None:
            return _body(found)
    return _body(connection.ask("GET", path, **tried[-1]))


def _body(found: dict[str, Any]) -> dict[str, str]:
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
    """Launch TARGET: group/project, or the address of a project, branch, commit or file in GitLab."""
    wanted = read_target(target)
    connection = connect(url, token_file)
    optional = {"image": image, "fallback": fallback}
    body = {**resolve(connection, wanted, ref, sha), "build": build}
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
