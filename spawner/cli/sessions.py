"""The commands on sessions that exist: list, logs, events, open, stop, explain.

Promises: HTTP only; the same facts as the pages; an unambiguous beginning of a name will do for the name.
Must not know: anything of the server but its HTTP contract.
"""

import time
import webbrowser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from spawner.cli.connection import Connection, connect, connected
from spawner.cli.exits import CommandFailed, ExitCode
from spawner.cli.printing import Steps, document, json_option, prose, table

SERVERS = "/api/notebooks/servers"
_SHORT = 8
_POLL_SECONDS = 0.3


def all_sessions(connection: Connection, **filters: str) -> dict[str, Any]:
    """Return a person's server objects by name."""
    found: dict[str, Any] = connection.ask("GET", SERVERS, **filters)["servers"]
    return found


def full_name(connection: Connection, name: str) -> str:
    """Return the one session whose name begins so; the text itself where none does."""
    names = [known for known in all_sessions(connection) if known.startswith(name)]
    if name in names or not names:
        return name
    if len(names) > 1:
        raise CommandFailed(
            f"{name!r} is the beginning of {len(names)} names: {', '.join(sorted(names))}.", code=ExitCode.USAGE
        )
    return names[0]


def open_in_browser(connection: Connection, name: str, *, as_json: bool, show_only: bool) -> None:
    """Print the one-time address of a session, and open it unless it is only to be shown."""
    opened = connection.ask("POST", f"{SERVERS}/{quote(name)}/open")
    if as_json:
        document(opened)
    else:
        click.echo(opened["url"])
    if not show_only and not as_json and not webbrowser.open(opened["url"]):
        prose("No browser could be opened; open that address yourself, within a minute.")


@click.command("sessions")
@click.option("--project", help="Only of this project, by its full path.")
@json_option
@connected
def sessions_command(*, project: str | None, as_json: bool, url: str | None, token_file: Path | None) -> None:
    """List your sessions."""
    filters = {}
    if project:
        namespace, _, name = project.lower().rpartition("/")
        filters = {"namespace": namespace, "project": name}
    found = all_sessions(connect(url, token_file), **filters)
    if as_json:
        document({"servers": found})
        return
    rows = [_row(name, server) for name, server in sorted(found.items(), key=lambda item: str(item[1]["started"]))]
    table(("NAME", "PROJECT", "BRANCH", "COMMIT", "STATE", "SINCE", "WHY"), rows, empty="No sessions.")


def _row(name: str, server: dict[str, Any]) -> list[str]:
    notes, ours = server["annotations"], server["slipway"]
    error = ours.get("error") or {}
    why = error.get("message") or ours.get("reason") or (ours["image"] or {}).get("reason") or ""
    return [
        name,
        f"{notes['renku.io/namespace']}/{notes['renku.io/projectName']}",
        notes["renku.io/branch"],
        notes["renku.io/commit-sha"][:_SHORT],
        str(ours["phase"]).lower(),
        str(ours.get("since") or server["started"]),
        why,
    ]


@click.command("logs")
@click.argument("name")
@click.option("--max-lines", type=click.IntRange(min=0), default=250, show_default=True, help="Of each container.")
@click.option("--container", help="Only this one, such as jupyter-server or image-build.")
@json_option
@connected
def logs_command(
    *, name: str, max_lines: int, container: str | None, as_json: bool, url: str | None, token_file: Path | None
) -> None:
    """Print a session's logs."""
    connection = connect(url, token_file)
    name = full_name(connection, name)
    found: dict[str, str] = connection.ask("GET", f"/api/notebooks/logs/{quote(name)}", max_lines=str(max_lines))
    if container is not None:
        if container not in found:
            known = ", ".join(sorted(found)) or "none yet"
            raise CommandFailed(f"{name} has no log of {container!r}; it has: {known}.", code=ExitCode.NOT_FOUND)
        found = {container: found[container]}
    if as_json:
        document(found)
        return
    for title, text in found.items():
        if len(found) > 1:
            click.echo(f"==> {title} <==")
        click.echo(text.rstrip("\n"))


@click.command("events")
@click.argument("name")
@click.option("--until", type=click.Choice(["ready"]), help="End when it is ready, has failed or is gone.")
@json_option
@connected
def events_command(*, name: str, until: str | None, as_json: bool, url: str | None, token_file: Path | None) -> None:
    """Follow a session's events from the first; with --json one document per line."""
    connection = connect(url, token_file)
    name = full_name(connection, name)
    for kind, data in connection.events(name, until=until):
        if as_json:
            document({"event": kind, **data})
        else:
            click.echo(f"{data.get('at', '')}  {data.get('phase', ''):<9} {kind:<8} {data.get('message', '')}".rstrip())


@click.command("open")
@click.argument("name")
@click.option("--no-browser", is_flag=True, help="Only print the address, which is good once, for a minute.")
@json_option
@connected
def open_command(*, name: str, no_browser: bool, as_json: bool, url: str | None, token_file: Path | None) -> None:
    """Open a session in the browser."""
    connection = connect(url, token_file)
    open_in_browser(connection, full_name(connection, name), as_json=as_json, show_only=no_browser)


@click.command("stop")
@click.argument("names", nargs=-1)
@click.option("--all", "stops_all", is_flag=True, help="All of yours.")
@click.option("--force", is_flag=True, help="Do not wait for work to be saved.")
@click.option("--wait", is_flag=True, help="Return when they are gone.")
@click.option("--timeout", "timeout_seconds", type=click.FloatRange(min=0), default=60.0, show_default=True)
@json_option
@connected
def stop_command(  # noqa: PLR0913 - one parameter per option
    *,
    names: tuple[str, ...],
    stops_all: bool,
    force: bool,
    wait: bool,
    timeout_seconds: float,
    as_json: bool,
    url: str | None,
    token_file: Path | None,
) -> None:
    """Stop sessions."""
    if bool(names) == stops_all:
        raise click.UsageError("Name sessions, or say --all.")
    connection = connect(url, token_file)
    wanted = sorted(all_sessions(connection)) if stops_all else [full_name(connection, name) for name in names]
    for name in wanted:
        connection.ask("DELETE", f"{SERVERS}/{quote(name)}", **({"forced": "true"} if force else {}))
    if wait:
        _until_gone(connection, wanted, timeout_seconds)
    if as_json:
        document({"stopped": wanted})
    else:
        for name in wanted:
            click.echo(name)


def _until_gone(connection: Connection, names: list[str], timeout_seconds: float) -> None:
    deadline = time.monotonic() + timeout_seconds
    left = set(names)
    while left := {name for name in left if connection.get_or_none(f"{SERVERS}/{quote(name)}") is not None}:
        if time.monotonic() > deadline:
            raise CommandFailed(
                f"After {timeout_seconds:.0f} s still stopping: {', '.join(sorted(left))}.",
                code=ExitCode.WAITED_TOO_LONG,
                remedy="They go on stopping; look again with `spawner sessions`.",
            )
        time.sleep(_POLL_SECONDS)


@click.command("explain")
@click.argument("name")
@json_option
@connected
def explain_command(*, name: str, as_json: bool, url: str | None, token_file: Path | None) -> None:
    """Say why a session runs the image it runs, and what it waits for."""
    connection = connect(url, token_file)
    name = full_name(connection, name)
    server = connection.ask("GET", f"{SERVERS}/{quote(name)}")
    ours = server["slipway"]
    shown = {key: ours.get(key) for key in ("phase", "reason", "image", "build", "queue", "error")}
    if as_json:
        document({"name": name, **shown, "warnings": server["status"]["warnings"]})
        return
    for line in explanation(server):
        click.echo(line)


def explanation(server: dict[str, Any]) -> list[str]:
    """Return the lines that explain a server object's image."""
    notes, ours = server["annotations"], server["slipway"]
    lines = [f"{server['name']}: commit {notes['renku.io/commit-sha']} on {notes['renku.io/branch']}, {ours['phase']}"]
    if image := ours.get("image"):
        lines.append(f"image        {image['reference']}")
        lines.append(f"source       {image['source']}: {image['reason']}")
        if image.get("environment_key"):
            lines.append(f"environment  {image['environment_key']}")
        if image.get("built_for_commit"):
            lines.append(f"built for    {image['built_for_commit']}")
    if build := ours.get("build"):
        lines.append(f"build        job {build['job_id']} is {build['status']}: {build['web_url']}")
    if queue := ours.get("queue"):
        lines.append(f"queue        position {queue['position']}")
    if reason := ours.get("reason"):
        lines.append(f"waiting for  {reason}")
    if error := ours.get("error"):
        lines.append(f"failed       {error['message']} {error['remedy']}".rstrip())
    lines.extend(f"warning      {warning['message']}" for warning in server["status"]["warnings"])
    return lines


def follow(connection: Connection, name: str, *, timeout_seconds: float) -> dict[str, Any]:
    """Show a launch's progress to its end and return the server object; raises CommandFailed."""
    steps, started, kind = Steps(), time.monotonic(), ""
    for kind, data in connection.events(name, until="ready", within_seconds=timeout_seconds):
        message = str(data.get("message") or "")
        if kind == "log":
            steps.log(str(data.get("text") or message))
        elif message:
            steps.step(message, seconds=time.monotonic() - started)
        if kind in {"failed", "gone"}:
            raise CommandFailed(message or f"{name} is gone.", remedy=str(data.get("remedy") or ""))
    server: dict[str, Any] = connection.ask("GET", f"{SERVERS}/{quote(name)}")
    # A stream that was joined again after its last event says nothing: the session itself knows how it ended.
    phase, error = server["slipway"]["phase"], server["slipway"]["error"] or {}
    if phase == "FAILED":
        raise CommandFailed(str(error.get("message") or f"{name} failed."), remedy=str(error.get("remedy") or ""))
    if kind != "ready" and phase != "RUNNING":
        raise CommandFailed(
            f"{name} was not ready after {timeout_seconds:.0f} s.",
            code=ExitCode.WAITED_TOO_LONG,
            remedy=f"It goes on; follow it with `spawner events {name}`.",
        )
    return server
