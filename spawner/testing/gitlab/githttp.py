"""Git's smart HTTP protocol, through `git http-backend`, with tokens.

Promises: clone, fetch and push work with any Git; a person without the right is refused as GitLab refuses (404 in
words for what they may not see, 403 for what they may not do); the consequences of a push are kept before Git hears
that it was taken.
Must not know: pipelines and hooks; it records pushes.
"""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import threading
from typing import IO, TYPE_CHECKING, NoReturn

import flask

from spawner.testing.gitlab import moving, protection, pushes
from spawner.testing.gitlab.access import (
    ANONYMOUS,
    Actor,
    Kind,
    Refusal,
    actor_for_basic,
    actor_for_token,
    can_read_code,
    can_see,
    find_project,
    level,
    parse_basic,
)
from spawner.testing.gitlab.records import Level, Project, Visibility
from spawner.testing.gitlab.repository import environment, push_environment, taken_changes
from spawner.testing.gitlab.web import here

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from spawner.testing.gitlab.repository import Repository

blueprint = flask.Blueprint("git", __name__)

_CHUNK_BYTES = 65536
_BACKEND_SECONDS = 600
_SERVICES = frozenset({"git-upload-pack", "git-receive-pack"})
_MISSING = "The project you were looking for could not be found or you don't have permission to view it."
_DENIED = "HTTP Basic: Access denied. If a password was provided for Git authentication, the password was incorrect or you're required to use a token instead of a password."  # noqa: E501 - GitLab's sentence


@blueprint.get("/<path:path>.git/info/refs")
def advertise(path: str) -> flask.Response:
    """Answer what refs there are."""
    service = flask.request.args.get("service", "")
    if service not in _SERVICES:
        return _words("Git's dumb HTTP protocol is not offered; use Git 1.6.6 or newer.", 403)
    project, _ = _admit(path, writing=service == "git-receive-pack")
    return _backend(here().repository(project), "/info/refs", b"", {})


@blueprint.post("/<path:path>.git/git-upload-pack")
def upload_pack(path: str) -> flask.Response:
    """Answer a fetch."""
    project, _ = _admit(path, writing=False)
    return _backend(here().repository(project), "/git-upload-pack", b"", {})


@blueprint.post("/<path:path>.git/git-receive-pack")
def receive_pack(path: str) -> flask.Response:
    """Take a push."""
    project, actor = _admit(path, writing=True)
    user = actor.user
    if user is None:
        _deny()
    head, refs, options = _read_commands()
    refused = [ref for ref in refs if not protection.may_push(here(), project, user, ref)]
    guarded = [ref for ref in refs if protection.is_guarded(here(), project, ref)]
    repository = here().repository(project)
    repository.put_hooks()  # a repository of an earlier version has fewer
    taken = repository.path / f"taken-{secrets.token_hex(8)}"
    extra = dict(push_environment(refused=refused, protected=guarded, taken=taken))
    instance = here()

    def finished() -> None:
        pushes.record(instance, project, user, taken_changes(taken), options)

    return _backend(repository, "/git-receive-pack", head, extra, finished)


def admit(project: Project | None, actor: Actor, *, writing: bool) -> Project:
    """Let a caller at a project's code, or end the request as GitLab does.

    Raises:
        HTTPException: 401 when signing in may help, 404 for what may not be seen, 403 for what may not be done.
    """
    instance = here()
    if project is None or not can_see(instance, project, actor.user) or _is_closed_to_job(actor, project):
        if actor.kind is Kind.ANONYMOUS:
            _deny()
        flask.abort(_words(_MISSING, 404))
    if actor.kind is Kind.ANONYMOUS and (writing or not can_read_code(instance, project, None)):
        _deny()
    if writing:
        if not actor.may("api", "write_repository") or level(instance, project, actor.user) < Level.DEVELOPER:
            flask.abort(_words("You are not allowed to push code to this project.", 403))
        if project.archived:
            flask.abort(_words("The repository is read-only because the project is archived.", 403))
    elif actor.kind is not Kind.ANONYMOUS:
        if not can_read_code(instance, project, actor.user):
            flask.abort(_words("You are not allowed to download code from this project.", 403))
        if not actor.may("api", "read_repository", "write_repository"):
            flask.abort(_words("The token needs the scope read_repository.", 403))
    return project


def actor_of_request() -> Actor:
    """Find who calls, by Basic or Bearer.

    Raises:
        HTTPException: 401 for credentials that are wrong.
    """
    header = authorization()
    if not header:
        return ANONYMOUS
    basic = parse_basic(header)
    if basic:
        found = actor_for_basic(here(), *basic)
    elif header.lower().startswith("bearer "):
        found = actor_for_token(here(), header[7:].strip())
    else:
        found = Refusal.UNKNOWN
    if isinstance(found, Refusal):
        _deny()
    return found


def authorization() -> str:
    """Return the first Authorization header: git-lfs sends two where one is configured and one came from a batch."""
    return flask.request.headers.get("Authorization", "").split(",", 1)[0]


def _is_closed_to_job(actor: Actor, project: Project) -> bool:
    """Tell whether a job's token is held back: of private projects it opens its own only."""
    if actor.job is None or actor.job.project_id == project.id:
        return False
    return project.visibility is Visibility.PRIVATE


def _admit(path: str, *, writing: bool) -> tuple[Project, Actor]:
    actor = actor_of_request()
    return admit(find_project(here(), path) or moving.moved_from(here(), path), actor, writing=writing), actor


def _deny() -> NoReturn:
    response = _words(_DENIED, 401)
    response.headers["WWW-Authenticate"] = 'Basic realm="GitLab"'
    flask.abort(response)


def _words(sentence: str, status: int) -> flask.Response:
    return flask.Response(sentence + "\n", status=status, mimetype="text/plain")


def _read_commands() -> tuple[bytes, list[str], tuple[str, ...]]:
    """Read a push's refs and options off the body; return the bytes read too."""
    if flask.request.headers.get("Content-Encoding"):
        return b"", [], ()
    read = bytearray()
    refs: list[str] = []
    wants_options = False
    while (line := _packet(read)) is not None:
        words, _, capabilities = line.partition(b"\0")
        wants_options = wants_options or b"push-options" in capabilities.split()
        parts = words.decode(errors="replace").strip().split(" ", 2)
        if len(parts) == 3:  # noqa: PLR2004 - old, new and ref
            refs.append(parts[2])
    options: list[str] = []
    while wants_options and refs and (line := _packet(read)) is not None:
        options.append(line.decode(errors="replace").strip())
    return bytes(read), refs, tuple(options)


def _packet(read: bytearray) -> bytes | None:
    """Read one pkt-line; a flush packet, or the end, is None."""
    size = flask.request.stream.read(4)
    read += size
    if len(size) < 4 or size == b"0000":  # noqa: PLR2004 - four hex digits
        return None
    line: bytes = flask.request.stream.read(int(size, 16) - 4)
    read += line
    return line


def _backend(
    repository: Repository, suffix: str, head: bytes, extra: dict[str, str], finished: Callable[[], None] | None = None
) -> flask.Response:
    process = subprocess.Popen(
        ["git", "http-backend"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment() | _variables(repository, suffix) | extra,
    )
    feeder = threading.Thread(target=_feed, args=(process, head, flask.request.stream), daemon=True)
    feeder.start()
    status, headers = _headers(process)
    body = _body(process, feeder, finished)
    return flask.Response(body, status=status, headers=headers, direct_passthrough=True)


def _variables(repository: Repository, suffix: str) -> dict[str, str]:
    request = flask.request
    variables = {
        "GIT_PROJECT_ROOT": str(repository.path),
        "GIT_HTTP_EXPORT_ALL": "1",
        "PATH_INFO": suffix,
        "REQUEST_METHOD": request.method,
        "QUERY_STRING": request.query_string.decode(),
        "CONTENT_TYPE": request.headers.get("Content-Type", ""),
        "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
        "REMOTE_ADDR": request.remote_addr or "",
        "REMOTE_USER": "git",
    }
    if request.headers.get("Git-Protocol"):
        variables["GIT_PROTOCOL"] = request.headers["Git-Protocol"]
    return variables


def _feed(process: subprocess.Popen[bytes], head: bytes, stream: IO[bytes]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(head)
        while chunk := stream.read(_CHUNK_BYTES):
            process.stdin.write(chunk)
    except (BrokenPipeError, OSError):
        process.kill()  # Either side went away: what Git has not accepted by now is no push.
    finally:
        with contextlib.suppress(OSError):
            process.stdin.close()


def _headers(process: subprocess.Popen[bytes]) -> tuple[int, list[tuple[str, str]]]:
    assert process.stdout is not None
    status, headers = 200, []
    while line := process.stdout.readline().decode().strip():
        name, _, value = line.partition(": ")
        if name == "Status":
            status = int(value.split()[0])
        else:
            headers.append((name, value))
    return status, headers


def _body(
    process: subprocess.Popen[bytes], feeder: threading.Thread, finished: Callable[[], None] | None
) -> Iterator[bytes]:
    assert process.stdout is not None
    last = b""
    try:
        # One chunk is held back until the push is recorded: a client that has seen the end may rely on it.
        while chunk := process.stdout.read1(_CHUNK_BYTES):  # type: ignore[attr-defined]
            if last:
                yield last
            last = chunk
        process.wait(_BACKEND_SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        feeder.join(1)
        process.stdout.close()
        if finished:
            finished()
    yield last
