"""How a command ends: the exit codes, and what is said when something goes wrong.

Promises: the codes of `docs/reference/commands.md`, in one table; every failure is a sentence on stderr, with its
remedy where there is one, and with `--json` also one document on stdout.
Must not know: any command, HTTP paths.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import click

from spawner.errors import (
    Forbidden,
    NotFound,
    SignInRequired,
    SpawnerError,
    TemporaryError,
)


class ExitCode(IntEnum):
    """What a command's exit code means."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NO_RIGHT = 3  # not signed in, or not allowed
    NOT_FOUND = 4
    WAITED_TOO_LONG = 5
    UNAVAILABLE = 7  # a dependency cannot be reached
    INTERRUPTED = 130


class CommandFailed(click.ClickException):
    """The end of a command that did not do its work."""

    def __init__(self, message: str, *, code: ExitCode = ExitCode.FAILED, remedy: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.remedy = remedy


# The first class that fits decides.
_CODES: tuple[tuple[type[SpawnerError], ExitCode], ...] = (
    (SignInRequired, ExitCode.NO_RIGHT),
    (Forbidden, ExitCode.NO_RIGHT),
    (NotFound, ExitCode.NOT_FOUND),
    (TemporaryError, ExitCode.UNAVAILABLE),
)


def code_of(error: SpawnerError) -> ExitCode:
    """Return the exit code for an error of ours."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.FAILED)


@contextmanager
def explained(*, as_json: bool) -> Iterator[None]:
    """Turn whatever ends a command into its sentence and its exit code."""
    try:
        yield
    except CommandFailed as failure:
        _tell(failure.message, failure.remedy, failure.code, as_json=as_json)
    except SpawnerError as error:
        _tell(error.message, error.remedy, code_of(error), as_json=as_json)
    except click.UsageError as error:
        if error.ctx is not None:
            click.echo(error.ctx.get_usage(), err=True)
        _tell(error.format_message(), "", ExitCode.USAGE, as_json=as_json)
    except click.ClickException as error:
        _tell(error.format_message(), "", error.exit_code, as_json=as_json)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _tell("Interrupted.", "", ExitCode.INTERRUPTED, as_json=as_json)
    except BrokenPipeError:  # whoever read our output has gone, as `| head` does
        sys.stderr.close()
        sys.exit(ExitCode.DONE)


def _tell(message: str, remedy: str, code: int, *, as_json: bool) -> None:
    click.echo(f"spawner: {message}", err=True)
    if remedy:
        click.echo(f"  {remedy}", err=True)
    if as_json:
        click.echo(json.dumps({"error": {"code": int(code), "message": message, "remedy": remedy}}))
    sys.exit(int(code))
