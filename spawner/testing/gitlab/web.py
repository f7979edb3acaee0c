"""What every route shares: the request's target, parameters, caller, errors, rate-limit headers and counts.

Promises: routing sees `%2F` as part of a segment; bodies may be JSON or form, with `a[]=` and `k[x]=`; every error
has the body that GitLab's documentation shows; every answer of the API carries `RateLimit-*`.
Must not know: what the routes do.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import unquote_to_bytes

import flask
from werkzeug.routing import BaseConverter

from spawner.testing.gitlab import disturbing, faults, moving
from spawner.testing.gitlab.access import (
    ANONYMOUS,
    Actor,
    Kind,
    Refusal,
    actor_for_token,
    can_see,
    find_project,
    level,
    parse_basic,
)
from spawner.testing.gitlab.records import Level, Project, User

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from spawner.testing.gitlab.instance import Instance

# Stands for an encoded slash while the router splits segments; no path holds this character.
_SLASH = "\x1f"
_RATE_WINDOW_SECONDS = 3600
_HASH_KEY = re.compile(r"^(\w+)\[(\w*)\](?:\[(\w+)\])?$")
_ROUTE_PART = re.compile(r"<(?:\w+(?:\([^)]*\))?:)?(\w+)>")
_ROUTE_NAMES = {
    **dict.fromkeys(("project", "key", "group"), "id"),
    **{name: f"{name}_id" for name in ("pipeline", "job", "hook", "badge", "user", "repository")},
    "tag": "tag_name",
    "number": "merge_request_iid",
    "path": "path",
}
V = TypeVar("V", bound=Callable[..., Any])
_TRUE = frozenset({"true", "1", "yes", "on", "t"})


class KeyConverter(BaseConverter):
    """One path segment, in which an encoded slash is part of the value."""

    regex = "[^/]+"

    def to_python(self, value: str) -> str:
        """Give the slashes back."""
        return value.replace(_SLASH, "/")


class RawTarget:
    """Routes on the request target as it was sent, as GitLab does: `%2F` does not end a segment."""

    def __init__(self, inner: WSGIApplication) -> None:
        self._inner = inner

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Rewrite `PATH_INFO` and go on."""
        raw = environ.get("RAW_URI") or environ.get("REQUEST_URI") or ""
        if raw.startswith("/"):
            segments = raw.partition("?")[0].split("/")
            decoded = [unquote_to_bytes(segment).replace(b"/", _SLASH.encode()) for segment in segments]
            environ["PATH_INFO"] = b"/".join(decoded).decode("latin-1")
        return self._inner(environ, start_response)


class APIError(Exception):
    """An answer that ends a request early, with GitLab's body for it."""

    def __init__(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        super().__init__(str(body))
        self.status = status
        self.body = body
        self.headers = headers or {}

    def response(self) -> flask.Response:
        """Return the answer."""
        return answer(self.body, self.status, self.headers)


def here() -> Instance:
    """Return the stand-in that this request belongs to."""
    found: Instance = flask.current_app.extensions["stand_in"]
    return found


def answer(body: object, status: int = 200, headers: dict[str, str] | None = None) -> flask.Response:
    """Return a JSON answer."""
    response = flask.Response(json.dumps(body), status=status, mimetype="application/json")
    response.headers.update(
        {"Cache-Control": "max-age=0, private, must-revalidate", "X-Content-Type-Options": "nosniff"}
    )
    response.headers.update(headers or {})
    return response


def not_found(what: str = "") -> NoReturn:
    """End with 404, as for a thing that does not exist or may not be seen."""
    raise APIError(404, {"message": f"404 {what} Not Found" if what else "404 Not Found"})


def forbidden(message: str = "403 Forbidden") -> NoReturn:
    """End with 403."""
    raise APIError(403, {"message": message})


def unauthorized() -> NoReturn:
    """End with 401."""
    raise APIError(401, {"message": "401 Unauthorized"})


def bad_request(message: object) -> NoReturn:
    """End with 400 and a `message`."""
    raise APIError(400, {"message": message})


def invalid(sentence: str) -> NoReturn:
    """End with 400 and an `error`, as for a parameter that is missing or of the wrong kind."""
    raise APIError(400, {"error": sentence})


def parameters() -> dict[str, Any]:
    """Return query and body as one mapping; the body wins."""
    merged: dict[str, Any] = {}
    request = flask.request
    for source in (request.args, request.form):
        for key, values in source.lists():
            _merge(merged, key, values)
    if request.mimetype == "application/json" and request.get_data():
        body = request.get_json(silent=True)
        if not isinstance(body, dict):
            invalid("The body is not a JSON object")
        merged |= body
    return merged


def text(name: str, *, required: bool = False) -> str | None:
    """Return a parameter as text, or None.

    Raises:
        APIError: 400 when it is required and absent.
    """
    value = parameters().get(name)
    if value is None or value == "":
        if required:
            invalid(f"{name} is missing")
        return None
    return str(value)


def needed(name: str) -> str:
    """Return a parameter that must be there.

    Raises:
        APIError: 400 `<name> is missing`.
    """
    return text(name, required=True) or ""


def whole(name: str, default: int | None = None) -> int | None:
    """Return a parameter as a whole number.

    Raises:
        APIError: 400 `<name> is invalid`.
    """
    value = text(name)
    if value is None:
        return default
    if not re.fullmatch(r"-?\d{1,18}", value):
        invalid(f"{name} is invalid")
    return int(value)


def flag(name: str, *, default: bool = False) -> bool:
    """Return a parameter as a truth value."""
    value = text(name)
    return default if value is None else value.lower() in _TRUE


def several(name: str) -> tuple[str, ...]:
    """Return a parameter that may be given once, several times or with commas."""
    value = parameters().get(name)
    if value is None:
        return ()
    rows = value if isinstance(value, list) else str(value).split(",")
    return tuple(str(row).strip() for row in rows if str(row).strip())


def presented_token() -> str | None:
    """Return the token of this request, from any of the places GitLab looks at."""
    headers = flask.request.headers
    bearer = headers.get("Authorization", "")
    if bearer.lower().startswith("bearer "):
        return bearer[7:].strip()
    for header in ("PRIVATE-TOKEN", "JOB-TOKEN"):
        if headers.get(header):
            return headers[header]
    basic = parse_basic(bearer)
    if basic:
        return basic[1]
    for name in ("private_token", "access_token", "job_token"):
        if flask.request.args.get(name):
            return flask.request.args[name]
    return None


def identify() -> Actor:
    """Find the caller of this request.

    Raises:
        APIError: 401 for a token that is unknown, revoked or expired.
    """
    token = presented_token()
    if token is None:
        return ANONYMOUS
    if faults.strikes(here(), faults.Kind.TOKEN_EXPIRED, _named_project()):
        _refuse(Refusal.EXPIRED)
    found = actor_for_token(here(), token)
    if isinstance(found, Refusal):
        _refuse(found)
    return found


def actor() -> Actor:
    """Return the caller."""
    found: Actor = flask.g.actor
    return found


def caller() -> User:
    """Return the person who calls.

    Raises:
        APIError: 401 when nobody signed in.
    """
    user = actor().user
    if user is None:
        unauthorized()
    return user


def administrator() -> User:
    """Return the calling administrator.

    Raises:
        APIError: 401 or 403.
    """
    user = caller()
    if not user.is_admin:
        forbidden()
    return user


def project_for(key: str, *, at_least: Level = Level.NONE) -> Project:
    """Return a project that the caller may see and has a level in.

    Raises:
        APIError: 404 when it may not be seen, 401 or 403 when the level is not enough.
    """
    user = actor().user
    project = find_project(here(), key)
    if project is None:
        _redirect_to_moved(key)
    if project is None or not can_see(here(), project, user):
        not_found("Project")
    if faults.strikes(here(), faults.Kind.ACCESS_LOST, project):
        not_found("Project")
    job = actor().job
    if job and job.project_id != project.id and project.visibility != "public":
        not_found("Project")
    if at_least > Level.NONE:
        if user is None:
            unauthorized()
        if level(here(), project, user) < at_least:
            forbidden()
    return project


def _redirect_to_moved(key: str) -> None:
    """Send who asks for a project by a former path to where it is; nobody changes anything through one."""
    project = moving.moved_from(here(), key)
    if project is None or not can_see(here(), project, actor().user):
        return
    if flask.request.method not in {"GET", "HEAD"}:
        raise APIError(405, {"message": "Non GET methods are not allowed for moved projects"})
    request = flask.request
    raw = request.environ.get("RAW_URI") or request.full_path
    head, _, rest = raw.partition("/projects/")
    tail = rest[len(re.split(r"[/?]", rest, maxsplit=1)[0]) :]
    where = f"{request.scheme}://{request.host}{head}/projects/{project.id}{tail}"
    raise APIError(301, {"message": "301 Moved Permanently"}, {"Location": where})


def install(app: flask.Flask) -> None:
    """Give an application the converter, the caller, the error bodies, the rate-limit headers and the counts."""
    app.url_map.converters["key"] = KeyConverter
    app.url_map.merge_slashes = False
    app.before_request(_before)
    app.after_request(_after)
    app.register_error_handler(APIError, APIError.response)
    app.register_error_handler(404, _unknown_route)
    app.register_error_handler(405, lambda _: answer({"error": "405 Not Allowed"}, 405))


def route_name() -> str:
    """Return the present route as GitLab's documentation writes it: `/api/v4/projects/:id/jobs/:job_id`."""
    rule = flask.request.url_rule
    if rule is None:
        return "unknown"
    return _ROUTE_PART.sub(lambda found: ":" + _ROUTE_NAMES.get(found[1], found[1]), rule.rule)


def _before() -> flask.Response | None:
    flask.g.actor = ANONYMOUS
    raw = flask.request.environ.get("RAW_URI") or flask.request.environ.get("REQUEST_URI") or ""
    here().switches.targets.append(f"{flask.request.method} {raw}")
    here().switches.counts[f"{flask.request.method} {route_name()}"] += 1
    project = _named_project()
    _count_for(project)
    ended = disturbing.anywhere(here(), project)
    if ended is not None or not flask.request.path.startswith("/api/"):
        return ended
    if flask.request.blueprint != "runner_protocol":
        ended = disturbing.on_api(here(), project)
        if ended is not None:
            return ended
        flask.g.actor = identify()
        if _count() > here().limits.calls_per_hour:
            return disturbing.retry_later(here(), _RATE_WINDOW_SECONDS - time.time() % _RATE_WINDOW_SECONDS)
        _check_scope(flask.g.actor)
    return None


def _named_project() -> Project | None:
    found = flask.request.view_args or {}
    key = found.get("project") or (found.get("path") if flask.request.blueprint == "git" else None)
    return find_project(here(), key) if key else None


def _check_scope(found: Actor) -> None:
    if found.kind is Kind.ANONYMOUS or found.may("api"):
        return
    view = flask.current_app.view_functions.get(flask.request.endpoint or "")
    if found.kind is Kind.JOB:
        if view is not None and getattr(view, "open_to_jobs", False):
            return
        unauthorized()
    reading = flask.request.method in {"GET", "HEAD"}
    if reading and found.may("read_api"):
        return
    extra: tuple[str, ...] = getattr(view, "scopes", ())
    if extra and found.may(*extra):
        return
    needs = "api read_api" if reading else "api"
    description = "The request requires higher privileges than provided by the access token."
    raise APIError(403, {"error": "insufficient_scope", "error_description": description, "scope": needs})


def open_to_jobs(view: V) -> V:
    """Let a route be called with a job token."""
    view.open_to_jobs = True  # type: ignore[attr-defined]
    return view


def scoped(*scopes: str) -> Callable[[V], V]:
    """Let a route be called with a narrower scope than `api` and `read_api`."""

    def mark(view: V) -> V:
        view.scopes = scopes  # type: ignore[attr-defined]
        return view

    return mark


def _after(response: flask.Response) -> flask.Response:
    response.headers.setdefault("X-Request-Id", f"{time.time_ns():x}")
    # A proxy's page has none, and of the two kinds of 429 one brings its own and the other has none.
    if flask.request.path.startswith("/api/") and response.status_code not in {429, 502}:
        response.headers.update(_rate_headers())
    return response


def _count_for(project: Project | None) -> None:
    """Count this call under its project, also one that is gone and was asked for by its id, and its client."""
    key = str(project.id) if project else str((flask.request.view_args or {}).get("project", ""))
    client = (flask.request.headers.get("User-Agent") or "").partition("/")[0].partition(" ")[0]
    here().switches.project_counts[key, client, f"{flask.request.method} {route_name()}"] += 1


def _count() -> int:
    """Count this call of the caller's, and return which of the hour it is."""
    user = flask.g.actor.user
    window = int(time.time()) // _RATE_WINDOW_SECONDS
    counts = here().switches.rates
    key = (window, user.username if user else flask.request.remote_addr or "")
    counts[key] += 1
    flask.g.observed = counts[key]
    return counts[key]


def _rate_headers() -> dict[str, str]:
    user, limit = flask.g.actor.user, here().limits.calls_per_hour
    window = int(time.time()) // _RATE_WINDOW_SECONDS
    observed = flask.g.get("observed") or _count()
    return {
        "RateLimit-Limit": str(limit),
        "RateLimit-Name": "throttle_authenticated_api" if user else "throttle_unauthenticated_api",
        "RateLimit-Observed": str(observed),
        "RateLimit-Remaining": str(max(0, limit - observed)),
        "RateLimit-Reset": str((window + 1) * _RATE_WINDOW_SECONDS),
    }


def _refuse(why: Refusal) -> NoReturn:
    match why:
        case Refusal.UNKNOWN:
            unauthorized()
        case Refusal.EXPIRED:
            sentence = "Token is expired. You can either do re-authorization or token refresh."
        case Refusal.REVOKED:
            sentence = "Token was revoked. You have to re-authorize from the user."
    challenge = f'Bearer realm="Protected by OAuth 2.0", error="invalid_token", error_description="{sentence}"'
    raise APIError(
        401, {"error": "invalid_token", "error_description": sentence}, headers={"WWW-Authenticate": challenge}
    )


def _unknown_route(_: Exception) -> flask.Response:
    if flask.request.path.startswith("/api/"):
        return answer({"error": "404 Not Found"}, 404)
    return flask.Response("<!DOCTYPE html><title>404</title><h1>404: Page not found</h1>", 404, mimetype="text/html")


def _merge(target: dict[str, Any], key: str, values: list[str]) -> None:
    found = _HASH_KEY.match(key)
    if not found:
        target[key] = values[-1]
        return
    name, inner, field = found.groups()
    if inner:
        target.setdefault(name, {})[inner] = values[-1]
    elif field:
        rows = target.setdefault(name, [])
        for value in values:
            if not rows or field in rows[-1]:
                rows.append({})
            rows[-1][field] = value
    else:
        target.setdefault(name, []).extend(values)
