"""The client commands' line to a spawner: where it is, who asks, one request, one event stream.

Promises: the token comes from a file or the user's configuration folder (mode 0600), never from an argument; every
request has a timeout; every refusal becomes the API's own sentence with the right exit code; following a session
outlives a restart of the spawner.
Must not know: anything of the server but its HTTP contract.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import click
import requests

from spawner.cli.exits import CommandFailed, ExitCode

F = TypeVar("F", bound=Callable[..., Any])
TIMEOUT_SECONDS = 30.0
STREAM_TIMEOUT_SECONDS = 45.0  # three keep-alive comments, which come every 15 s
AWAY_SECONDS = 60.0  # how long a spawner may be away while a session is followed
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0
_CODES = {401: ExitCode.NO_RIGHT, 403: ExitCode.NO_RIGHT, 404: ExitCode.NOT_FOUND}
_FIRST_SERVER_ERROR = 500


def as_given(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Leave a request's headers alone: without an `auth`, `requests` replaces Authorization by what ~/.netrc holds."""
    return request


def configuration_file() -> Path:
    """Return where the token is kept."""
    return Path(click.get_app_dir("slipway")) / "connection.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A spawner and a token for it."""

    url: str
    token: str = field(repr=False)

    def ask(self, method: str, path: str, *, body: object = None, **query: str) -> Any:
        """Send a request and return the decoded answer, None when it is empty; raises CommandFailed."""
        answer = self._send(method, path, body, query)
        if not answer.content:
            return None
        try:
            return answer.json()
        except ValueError as exc:
            raise CommandFailed(f"{self.url} did not answer JSON; is it a spawner?") from exc

    def get_or_none(self, path: str, **query: str) -> Any:
        """Return the decoded answer to a GET, or None for what does not exist."""
        try:
            return self.ask("GET", path, **query)
        except CommandFailed as failure:
            if failure.code is ExitCode.NOT_FOUND:
                return None
            raise

    def events(
        self, name: str, *, until: str | None = None, within_seconds: float | None = None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (kind, data) of the events since a session's launch, oldest first, joining again where the line broke.

        Ends early, without a last event, when `within_seconds` have passed, or when there is nothing more to come.
        Raises CommandFailed for a refusal, and when the spawner has been away for AWAY_SECONDS.
        """
        path = f"/api/notebooks/servers/{quote(name)}/events"
        query = {"until": until} if until else {}
        deadline = time.monotonic() + (math.inf if within_seconds is None else within_seconds)
        last_id, heard_at, pause_seconds = "", time.monotonic(), _FIRST_PAUSE_SECONDS
        while (left_seconds := deadline - time.monotonic()) > 0:
            try:
                with self._send("GET", path, None, query, last_id=last_id, read_seconds=left_seconds) as answer:
                    if answer.status_code == requests.codes.no_content:
                        return
                    heard_at = time.monotonic()
                    for identifier, kind, data in _events(answer, deadline):
                        last_id, heard_at, pause_seconds = identifier, time.monotonic(), _FIRST_PAUSE_SECONDS
                        yield kind, data
                        if kind == "gone" or (until and kind in {"ready", "failed"}):
                            return
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError, requests.Timeout):
                pass  # the line broke; the next request tells whether the spawner is still there
            except CommandFailed as failure:
                if failure.code is not ExitCode.UNAVAILABLE or time.monotonic() - heard_at > AWAY_SECONDS:
                    raise
            time.sleep(max(0.0, min(pause_seconds, deadline - time.monotonic())))
            pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)

    def _send(
        self,
        method: str,
        path: str,
        body: object,
        query: dict[str, str],
        *,
        last_id: str | None = None,  # of an event stream; empty at its beginning
        read_seconds: float = math.inf,
    ) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "application/json"}
        if last_id is not None:
            headers |= {"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})}
        try:
            answer = requests.request(
                method,
                self.url + path,
                params=query,
                json=body,
                headers=headers,
                auth=as_given,
                stream=last_id is not None,
                timeout=TIMEOUT_SECONDS if last_id is None else min(STREAM_TIMEOUT_SECONDS, max(0.1, read_seconds)),
                allow_redirects=False,
            )
        except requests.RequestException as exc:
            raise CommandFailed(
                f"{self.url} cannot be reached ({type(exc).__name__}).",
                code=ExitCode.UNAVAILABLE,
                remedy="Is the spawner running, and is this its address? `spawner login URL` sets another.",
            ) from exc
        if not answer.ok or answer.is_redirect:
            raise refusal(answer)
        return answer


def _events(answer: requests.Response, deadline: float) -> Iterator[tuple[str, str, dict[str, Any]]]:
    identifier, kind, data = "", "message", ""
    answer.encoding = "utf-8"
    for line in answer.iter_lines(chunk_size=1, decode_unicode=True):
        if time.monotonic() > deadline:
            return
        name, _, value = line.partition(":")
        match name:
            case "id":
                identifier = value.strip()
            case "event":
                kind = value.strip()
            case "data":
                data += value.removeprefix(" ")
        if not line and data:
            yield identifier, kind, json.loads(data)
            kind, data = "message", ""


def refusal(answer: requests.Response) -> CommandFailed:
    """Return the failure that an answer other than 2xx stands for, in the API's own words."""
    try:
        error = answer.json()["error"]
        message, remedy = str(error["message"]), str(error.get("detail") or "")
    except (ValueError, KeyError, TypeError):
        message, remedy = f"{answer.url} answered {answer.status_code}.", ""
    code = _CODES.get(answer.status_code, ExitCode.FAILED)
    if answer.status_code >= _FIRST_SERVER_ERROR:
        code = ExitCode.UNAVAILABLE
    if answer.status_code == requests.codes.unauthorized and not remedy:
        remedy = "Sign in again: `spawner login URL`."
    return CommandFailed(message, code=code, remedy=remedy)


def connect(url: str | None, token_file: Path | None) -> Connection:
    """Return the connection that options, environment and the kept configuration describe; raises CommandFailed."""
    kept = _kept()
    address = (url or kept.get("url") or "").rstrip("/")
    if not address:
        raise CommandFailed(
            "No spawner is known.", code=ExitCode.NO_RIGHT, remedy="`spawner login URL`, or set SLIPWAY_URL."
        )
    if token_file is not None:
        return Connection(url=address, token=read_token(token_file))
    if kept.get("url", "").rstrip("/") != address or not kept.get("token"):
        raise CommandFailed(
            f"Not signed in to {address}.",
            code=ExitCode.NO_RIGHT,
            remedy=f"`spawner login {address}`, or set SLIPWAY_TOKEN_FILE.",
        )
    return Connection(url=address, token=kept["token"])


def read_token(path: Path) -> str:
    """Return the token in a file, `-` for standard input; raises CommandFailed when there is none."""
    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as exc:
        raise CommandFailed(f"The token file {path} cannot be read: {exc.strerror}.", code=ExitCode.USAGE) from exc
    token = content.decode(errors="replace").strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise CommandFailed(
            f"{path} holds no token: one line of printable characters is expected.", code=ExitCode.USAGE
        )
    return token


def keep(connection: Connection) -> Path:
    """Keep a connection for later commands, readable by its owner only; return the file."""
    path = configuration_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600)
    partial.write_text(json.dumps({"url": connection.url, "token": connection.token}), encoding="utf-8")
    partial.rename(path)
    return path


def forget() -> bool:
    """Forget the kept connection; False when there was none."""
    path = configuration_file()
    if not path.exists():
        return False
    path.unlink()
    return True


def _kept() -> dict[str, str]:
    try:
        found = json.loads(configuration_file().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise CommandFailed(
            f"{configuration_file()} cannot be read ({exc}).", remedy="Remove it and sign in again."
        ) from exc
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def connected(command: F) -> F:
    """Give a command the options that say which spawner and which token."""
    command = click.option(
        "--token-file",
        envvar="SLIPWAY_TOKEN_FILE",
        type=click.Path(path_type=Path, allow_dash=True),
        help="A file with the token, - for standard input.  [env: SLIPWAY_TOKEN_FILE]",
    )(command)
    return click.option("--url", envvar="SLIPWAY_URL", help="The spawner's address.  [env: SLIPWAY_URL]")(command)
