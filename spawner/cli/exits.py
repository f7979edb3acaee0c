"""How a command ends: the exit codes, and what is said when something goes wrong.

Promises: the codes of `docs/reference/commands.md`, in one table; every failure is a sentence on stderr, with its
remedy where there is one, and with `--json` also one document on stdout.
Must not know: any command, HTTP paths.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import PurePath
from urllib.parse import urlsplit

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
    except (OSError, subprocess.SubprocessError) as error:
        message, code = _of_program(error) if isinstance(error, subprocess.SubprocessError) else _of_system(error)
        _tell(message, "", code, as_json=as_json)


def _of_system(error: OSError) -> tuple[str, ExitCode]:
    """Return what the system, or a server that it leads to, refused; never more of an address than its server."""
    from requests import RequestException  # noqa: PLC0415 - heavy, and loaded already where there is one

    if isinstance(error, RequestException):
        parts = urlsplit((error.request.url if error.request is not None else None) or "")
        server = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}" if parts.hostname else ""
        return f"{server or 'A server'} cannot be reached ({type(error).__name__}).", ExitCode.UNAVAILABLE
    said = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {said}." if error.filename is not None else f"The system says: {said}.", ExitCode.FAILED


def _of_program(error: subprocess.SubprocessError) -> tuple[str, ExitCode]:
    """Return which program did not do its work, without its arguments."""
    if not isinstance(error, subprocess.TimeoutExpired | subprocess.CalledProcessError):
        return f"A program failed: {error}.", ExitCode.FAILED
    program = PurePath(error.cmd if isinstance(error.cmd, str) else str(error.cmd[0])).name
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{program} did not end within {error.timeout:.0f} s.", ExitCode.FAILED
    said = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else str(error.stderr or "")
    return f"{program} ended with code {error.returncode}. {said.strip()[-300:]}".rstrip(), ExitCode.FAILED


def _tell(message: str, remedy: str, code: int, *, as_json: bool) -> None:
    click.echo(f"spawner: {message}", err=True)
    if remedy:
        click.echo(f"  {remedy}", err=True)
    if as_json:
        click.echo(json.dumps({"error": {"code": int(code), "message": message, "remedy": remedy}}))
    sys.exit(int(code))
