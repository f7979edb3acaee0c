"""The Flask app: blueprints, the table of errors, headers, and what every request gets.

For: `wsgi`, `wiring` and tests call `create_app`. Promises: every SpawnerError is in ERRORS; every error is a JSON
body for programs, a page for people, a line of text for Git; no page carries inline script or may be framed;
nothing is read or connected at import.
Must not know: what any view does, any adapter.
"""

import re
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Final

import structlog
from flask import Flask, Response, jsonify, make_response, redirect, request, url_for
from werkzeug.exceptions import HTTPException, InternalServerError
from werkzeug.wrappers import Response as BaseResponse

from spawner import api, errors, metrics, web
from spawner.api.rendering import error_body
from spawner.api.schemas import FieldErrors
from spawner.context import EXTENSION, Edge, EdgeOptions
from spawner.errors import InvalidInput, SignInRequired, SpawnerError, TemporaryError
from spawner.log import get_logger
from spawner.services import Services
from spawner.sessions.looks import Looks
from spawner.users.pace import LaunchPace

_log = get_logger(__name__)

# Error class -> (HTTP status, code). Codes as in the compatible contract: 1000s the user's, 2000s ours, 3000s
# intermittent; HTTP's own errors have 1000 + status. A class not named here has its nearest ancestor's row, and the
# meta test asks that none is left to the root.
ERRORS: Final[Mapping[type[SpawnerError], tuple[int, int]]] = {
    errors.SpawnerError: (500, 2500),
    errors.PermanentError: (500, 2500),
    errors.InvalidInput: (422, 1000),
    errors.ImageUnparsable: (422, 1002),
    errors.EnvironmentOverridden: (422, 1004),
    errors.ResourcesUnavailable: (422, 1005),
    errors.NameTooLong: (422, 1000),
    errors.MalformedRequest: (400, 1400),
    errors.SignInRequired: (401, 1401),
    errors.TokenRejected: (401, 1401),
    errors.Forbidden: (403, 1403),
    errors.MissingScope: (403, 1403),
    errors.RequestForged: (403, 1403),
    errors.SecondPerson: (403, 1403),
    errors.NotFound: (404, 1404),
    errors.SessionNotFound: (404, 1404),
    errors.ProjectNotFound: (404, 1404),
    errors.RevisionNotFound: (404, 1404),
    errors.BuildNotFound: (404, 1404),
    errors.Conflict: (409, 3409),
    errors.HibernationUnavailable: (500, 3006),
    errors.ImageUnavailable: (404, 1404),
    errors.LaunchRefused: (500, 3002),
    errors.Misconfigured: (500, 2001),
    errors.TemporaryError: (503, 3503),
    errors.ForgeUnavailable: (503, 3503),
    errors.RateLimited: (429, 1429),
    errors.RegistryUnavailable: (503, 3503),
    errors.RegistryRefused: (503, 3503),
    errors.RuntimeUnavailable: (503, 3503),
    errors.StoreUnavailable: (503, 3503),
    errors.TooManyViewers: (503, 3503),
}
# Werkzeug's own errors that the contract does not number 1000 + status.
_HTTP_CODES: Final = {408: 3408, 409: 3409, 500: 2500, 503: 3503, 504: 3504}
_PROGRAM_PREFIXES: Final = ("/api/", "/notebooks/", "/repos/", "/hooks/", "/build/")
_QUIET: Final = frozenset({"/health", "/healthz", "/readyz", "/metrics"})
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_BEGAN: Final = "slipway.began"
_NOT_PAGES: Final = (*_PROGRAM_PREFIXES, "/git/", *sorted(_QUIET))


def create_app(services: Services, options: EdgeOptions) -> Flask:
    """Return the app over these services."""
    app = Flask(__name__, static_folder=None, template_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = options.max_body_bytes
    app.config["MAX_FORM_MEMORY_SIZE"] = options.max_body_bytes
    app.json.sort_keys = False  # type: ignore[attr-defined] # the default provider's
    app.extensions[EXTENSION] = Edge(
        services=services,
        options=options,
        viewers=threading.BoundedSemaphore(max(1, options.viewer_limit)),
        looks=Looks(),
        pace=LaunchPace(most=options.launches_per_minute),
    )
    api.register(app)
    web.register(app)
    app.before_request(_begin)
    app.before_request(_use_own_host)
    app.before_request(_refuse_control_characters)
    app.after_request(_finish)
    app.register_error_handler(SpawnerError, _spawner_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _defect)
    return app


# ---------------------------------------------------------------- requests


def _begin() -> None:
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=uuid.uuid4().hex[:12])
    request.environ[_BEGAN] = time.monotonic()


def _refuse_control_characters() -> None:
    """Refuse what no address or form of ours holds, and no database; the API's queries and bodies say so themselves."""
    if _CONTROL.search(request.path):
        raise errors.NotFound("This address has characters that no address of ours has.")
    if not request.path.startswith(_NOT_PAGES) and any(_CONTROL.search(value) for value in request.values.values()):
        raise InvalidInput("There are control characters in what was sent.", remedy="Send it without them.")


def _use_own_host() -> BaseResponse | None:
    """Send a browser that came by another name to the public URL, before any sign-in."""
    from spawner.context import options  # noqa: PLC0415 - shadows nothing: the app's own, not create_app's

    if request.path.startswith(_NOT_PAGES) or request.host.lower() == options().host:
        return None
    if request.method not in {"GET", "HEAD"}:
        raise errors.RequestForged("This address is not ours.", remedy=f"Use {options().public_url}.")
    path = request.full_path if request.query_string else request.path
    return redirect(options().public_url + path)


def _finish(response: Response) -> Response:
    _measure(response)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Referrer-Policy", "same-origin")
    if response.mimetype == "text/html":
        response.headers["Content-Security-Policy"] = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
            "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        response.headers.setdefault("Cache-Control", "no-store")
    return response


def _measure(response: Response) -> None:
    """Count the request by its rule, never by its path; a stream's time is its viewer's, not ours."""
    if response.mimetype == "text/event-stream" or request.path in _QUIET:
        return
    route = request.url_rule.rule if request.url_rule is not None else "none"
    seconds = time.monotonic() - request.environ.get(_BEGAN, time.monotonic())
    metrics.REQUEST_SECONDS.labels(method=request.method, route=route, status=str(response.status_code)).observe(
        seconds
    )


# ---------------------------------------------------------------- errors


def status_and_code(error: SpawnerError) -> tuple[int, int]:
    """Return an error's row: its own class's, else its nearest ancestor's."""
    return next(ERRORS[kind] for kind in type(error).__mro__ if kind in ERRORS)


def _spawner_error(error: SpawnerError) -> BaseResponse:
    status, code = status_and_code(error)
    if status >= 500:  # noqa: PLR2004 - HTTP
        _log.warning("request_failed", path=request.path[:256], error=error.message, status=status)
    is_elsewhere = not request.path.startswith("/login")
    if isinstance(error, SignInRequired) and _wants_page() and request.method == "GET" and is_elsewhere:
        return redirect(url_for("web.login", next=_here()))
    detail = error.detail if isinstance(error, InvalidInput) and error.detail else error.remedy or None
    response = _told(status, code, error.message, detail)
    if isinstance(error, TemporaryError):
        response.headers["Retry-After"] = str(max(1, round(error.retry_after_seconds)))
    return response


def _http_error(error: HTTPException) -> BaseResponse:
    if error.response is not None or error.code is None:
        return make_response(error)
    code = _HTTP_CODES.get(error.code, 1000 + error.code)
    detail = error.detail if isinstance(error, FieldErrors) else None
    response = _told(error.code, code, error.description or error.name, detail)
    for name, value in error.get_headers():
        if name.lower() in {"allow", "retry-after"}:
            response.headers[name] = value
    return response


def _defect(error: Exception) -> BaseResponse:
    """Answer for a defect of ours: the log has the stack, the person a sentence."""
    _log.exception("request_broke", path=request.path[:256], error=type(error).__name__)
    description = InternalServerError.description
    return _told(500, 2500, description or "Something went wrong.", None)


def _told(status: int, code: int, message: str, detail: str | None) -> BaseResponse:
    if request.path.startswith("/git/"):
        return _as_text(status, message, detail)
    if not _wants_page():
        return make_response(jsonify(error_body(code, message, detail)), status)
    return make_response(web.error_page(status, code, message, detail), status)


def _as_text(status: int, message: str, detail: str | None) -> BaseResponse:
    """Answer Git: never 401, which would make it ask for a password."""
    known = {401: 403, 422: 403, 429: 503, 500: 503}
    text = " ".join(part for part in (message, detail) if part)
    return Response(f"{text}\n", status=known.get(status, status), content_type="text/plain; charset=utf-8")


def _wants_page() -> bool:
    if request.path.startswith(_NOT_PAGES):
        return False
    return request.accept_mimetypes.best_match(["text/html", "application/json"], "text/html") == "text/html"


def _here() -> str:
    return request.full_path if request.query_string else request.path
