"""`spawner demo`: the whole job on this machine, in one process tree.

For: a newcomer, and `scripts/demo --check`. Promises: nothing outside the data folder but the package caches is
written; the spawner is started again when it is killed; Ctrl-C ends every process, sessions included, and says so if
one stays; `demo.json` tells others where everything is.
Must not know: how any part works; it starts them as a person would, by their command lines.
"""

import os
import signal
import sys
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, Self

import click

from spawner.cli.demo.parts import Parts, spawner_settings
from spawner.cli.demo.people import seed_people
from spawner.cli.demo.places import DEFAULT_PORT, Places, pick
from spawner.cli.demo.seeding import SeededProject, SeededUser, add_hooks, push_samples
from spawner.cli.demo.tree import PartEnded, ProcessTree
from spawner.cli.exits import CommandFailed
from spawner.cli.printing import document, json_option, prose

BUILD_JOB = "image_build"
_GRACE_SECONDS = 5.0
_LOOK_SECONDS = 0.05
_START_SECONDS = 60.0


@click.command("demo")
@click.option("--host", default="127.0.0.1", show_default=True, help="A loopback address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65533),
    default=DEFAULT_PORT,
    show_default=True,
    help="The spawner's; the stand-in is on the next, its registry on the one after. 0 picks free ones.",
)
@click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), help="A folder to keep; a temporary one otherwise."
)
@click.option("--dispatcher", type=click.Choice(["inprocess", "celery"]), default="inprocess", show_default=True)
@click.option("--no-browser", is_flag=True, help="Do not open a browser.")
@click.option("--check", "checks", is_flag=True, help="Do the job without a person, then end.")
@json_option
def demo_command(  # noqa: PLR0913 - one parameter per option
    *, host: str, port: int, data: Path | None, dispatcher: str, no_browser: bool, checks: bool, as_json: bool
) -> int:
    """Show the whole job on this machine: GitLab stand-in, spawner, sessions. Ctrl-C ends it."""
    places = pick(host=host, port=port, data=data)
    with interruptible(), Demo(places, dispatcher=dispatcher) as demo:
        demo.start()
        if checks:
            return demo.check(as_json=as_json)
        demo.greet(as_json=as_json)
        if not (no_browser or as_json) and not webbrowser.open(demo.spawner_url):
            prose("No browser could be opened; open that address yourself.")
        demo.tend_for_ever()
    return 0


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the demo as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    wanted = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    kept = {number: signal.signal(number, interrupt) for number in wanted}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


class Demo:
    """One demo: its places, its process tree, and what it was seeded with."""

    def __init__(self, places: Places, *, dispatcher: str) -> None:
        self._places = places
        self._dispatcher = dispatcher
        self._tree = ProcessTree()
        self._users: tuple[SeededUser, ...] = ()
        self._projects: tuple[SeededProject, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End everything; whoever is impatient cannot stop that."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        left = self._tree.end(grace_seconds=_GRACE_SECONDS)
        self._places.clear()
        if left:
            raise CommandFailed(f"Could not end {', '.join(left)}.", remedy="End them by hand.")

    @property
    def spawner_url(self) -> str:
        """Where people go."""
        return self._places.url(self._places.ports.spawner)

    @property
    def gitlab_url(self) -> str:
        """Where the stand-in is."""
        return self._places.url(self._places.ports.gitlab)

    def start(self) -> None:
        """Start and seed everything, and tell others once every part answers."""
        places = self._places
        seeded = seed_people(
            places.data / "gitlab",
            gitlab_url=self.gitlab_url,
            registry_url=places.url(places.ports.registry),
            redirect_uris=(f"{self.spawner_url}/login/callback",),
        )
        self._users = seeded.users
        settings = spawner_settings(places, seeded, dispatcher=self._dispatcher, build_job=BUILD_JOB)
        parts = Parts(places, settings, dispatcher=self._dispatcher)
        parts.migrate()
        for part in parts.in_order():
            prose(f"starting the {part.name} …")
            self._tree.start(part, within_seconds=_START_SECONDS)
        self._projects = push_samples(self.gitlab_url, seeded.users[0])
        secret = Path(settings["SPAWNER_GITLAB__WEBHOOK_SECRET_FILE"]).read_text(encoding="ascii").strip()
        hook_url = f"{self.spawner_url}/hooks/gitlab"
        add_hooks(self.gitlab_url, seeded.users[0], self._projects, url=hook_url, secret=secret)
        self._describe()

    def _describe(self) -> None:
        places = self._places
        self._places.describe(
            {
                "spawner_url": self.spawner_url,
                "gitlab_url": self.gitlab_url,
                "registry_url": places.url(places.ports.registry),
                "stand_in_url": self.gitlab_url,
                "build_job": BUILD_JOB,
                "pid": self._tree.pid("spawner"),
                "log": str(places.log("spawner")),
                "logs": str(places.log("spawner").parent),
                "processes": {"demo": os.getpid(), **self._tree.pids()},
                "users": [asdict(user) for user in self._users],
                "projects": [asdict(project) for project in self._projects],
            }
        )

    def greet(self, *, as_json: bool) -> None:
        """Say what to click."""
        if as_json:
            shown: dict[str, Any] = {"demo": str(self._places.description), "spawner_url": self.spawner_url}
            document(shown)
            return
        click.echo(f"\n  Slipway          {self.spawner_url}")
        click.echo(f"  GitLab stand-in  {self.gitlab_url}\n")
        for user in self._users:
            click.echo(f"  Sign in as {user.username}, password {user.password}")
        click.echo()
        for project in self._projects:
            click.echo(f"  Launch {project.name:<12} {self.spawner_url}/launch/{project.path}")
        click.echo("\n  Work in JupyterLab, edit a notebook, `git push`, and launch the new commit: it needs no build.")
        click.echo(f"  Everything is in {self._places.data}. Ctrl-C ends it all.\n")
        if os.geteuid() != 0:
            click.echo("  Sessions run as you: launch only code you trust as yourself. One person at a time.\n")

    def tend_for_ever(self) -> None:
        """Keep the parts alive until somebody ends the demo."""
        while True:
            self._tend()

    def check(self, *, as_json: bool) -> int:
        """Run the check as a process of its own and return its exit code."""
        command = [sys.executable, "-m", "spawner.testing.democheck", str(self._places.description)]
        process = self._tree.helper([*command, *(["--json"] if as_json else [])])
        while (code := process.poll()) is None:
            self._tend()
        if code != 0:
            prose(f"The spawner's log ends:\n{self._tree.tail('spawner')}")
        return code

    def _tend(self) -> None:
        try:
            again = self._tree.tend()
        except PartEnded as ended:
            raise CommandFailed(str(ended)) from ended
        if again:
            self._describe()
        time.sleep(_LOOK_SECONDS)
