"""The command line `spawner`: one group, one module per family of commands, loaded when asked for.

Promises: exit codes and `--json` as `docs/reference/commands.md` says, for every command; a failure is one
sentence and one remedy, never a stack; `spawner --help` imports no command.
Must not know: what any command does.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from spawner.cli.exits import ExitCode, explained

# Every command and the module it stands in, in the order of `--help`.
COMMANDS = {
    "demo": "spawner.cli.demo",
    "serve": "spawner.cli.serving",
    "worker": "spawner.cli.serving",
    "beat": "spawner.cli.serving",
    "migrate": "spawner.cli.upkeep",
    "connect": "spawner.cli.connect",
    "disconnect": "spawner.cli.connect",
    "doctor": "spawner.cli.doctor",
    "gc": "spawner.cli.upkeep",
    "reseal": "spawner.cli.upkeep",
    "login": "spawner.cli.account",
    "logout": "spawner.cli.account",
    "token": "spawner.cli.account",
    "launch": "spawner.cli.launch",
    "sessions": "spawner.cli.sessions",
    "logs": "spawner.cli.sessions",
    "events": "spawner.cli.sessions",
    "open": "spawner.cli.sessions",
    "stop": "spawner.cli.sessions",
    "explain": "spawner.cli.sessions",
}
_HELP = {
    "demo": "Show the whole job on this machine: GitLab stand-in, spawner, sessions.",
    "serve": "Serve the API, the pages and the event streams.",
    "worker": "Work on sessions and builds (Celery).",
    "beat": "Wake what is due (Celery beat).",
    "migrate": "Bring the database to this release.",
    "connect": "Set a GitLab up: sign-in, hooks, badges, the build job.",
    "disconnect": "Undo what connect made, and nothing else.",
    "doctor": "Check settings and everything they point to.",
    "gc": "List what the runtime holds and the database does not know.",
    "reseal": "Encrypt stored tokens anew with the first key of the key file.",
    "login": "Keep a token for a spawner.",
    "logout": "Forget the token.",
    "token": "Make, list and revoke your tokens.",
    "launch": "Launch a commit.",
    "sessions": "List your sessions.",
    "logs": "Print a session's logs.",
    "events": "Follow a session's events.",
    "open": "Open a session in the browser.",
    "stop": "Stop sessions.",
    "explain": "Say why a session runs the image it runs.",
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is called, and ends with our exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, or None where there is none of that name."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name]), f"{cmd_name}_command")
        if not isinstance(command, click.Command):
            raise TypeError(f"{COMMANDS[cmd_name]}.{cmd_name}_command is no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, _HELP[name]) for name in COMMANDS])

    def main(self, args: Sequence[str] | None = None, *rest: Any, **more: Any) -> NoReturn:
        """Run a command and leave with its exit code."""
        arguments = list(sys.argv[1:] if args is None else args)
        more["standalone_mode"] = False
        with explained(as_json="--json" in arguments):
            code = super().main(arguments, *rest, **more)
            sys.exit(code if isinstance(code, int) else ExitCode.DONE)
        raise AssertionError  # pragma: no cover - `explained` always leaves


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="slipway-spawner", prog_name="spawner")
def main() -> None:
    """Slipway: a launch button for every commit of every GitLab project."""
