"""What a request may know: the services, the edges' options, and who is asking.

For: the only module that touches `flask.g`; views of `api` and `web` call these functions and nothing of Flask's state.
Promises: the caller is found once per request; a cookie is believed only for a login kept on the server; a
state-changing request by cookie needs the page's token and must come from our own origin.
Must not know: any adapter, any setting (`EdgeOptions` is filled in by `spawner.wiring`), any page or route.
"""

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import wraps
from threading import BoundedSemaphore, Lock
from typing import ParamSpec, Protocol, TypeVar
from urllib.parse import quote, urlsplit

from flask import current_app, g, request
from werkzeug.wrappers import Response

from spawner.errors import Forbidden, RequestForged, SignInRequired
from spawner.names import SessionName
from spawner.services import Services
from spawner.sessions.looks import Looks
from spawner.users.model import Caller
from spawner.users.pace import LaunchPace
from spawner.users.renku import GIT_CREDENTIALS, gitlab_token

P = ParamSpec("P")
T = TypeVar("T")

EXTENSION = "slipway"
CSRF_FIELD = "csrf_token"
CSRF_HEADER = "X-CSRF-Token"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Announcements(Protocol):
    """Tells viewers that a session has a new event; losing one costs one look at the log, two seconds later."""

    def wait(self, names: Collection[SessionName], timeout_seconds: float) -> bool:
        """Return True when one of the sessions was announced since this thread last returned, False at the timeout."""
        ...


class Deliveries(Protocol):
    """Tells a hook's first delivery from its repeats."""

    def is_new(self, id: str) -> bool:  # noqa: A002 - GitLab's own name for it
        """Say whether this is the first time, and remember it."""
        ...


class RecentDeliveries:
    """The newest deliveries that this process saw; for threads."""

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._lock = Lock()
        self._seen: OrderedDict[str, None] = OrderedDict()

    def is_new(self, id: str) -> bool:  # noqa: A002 - as above
        """Say whether this is the first time, and remember it; the oldest goes when there are too many."""
        with self._lock:
            is_new = id not in self._seen
            self._seen[id] = None
            self._seen.move_to_end(id)
            if len(self._seen) > self._limit:
                self._seen.popitem(last=False)
        return is_new


class NoAnnouncements:
    """Announces nothing: viewers then look at the log at their own pace."""

    def __init__(self, pause: Callable[[float], object]) -> None:
        self._pause = pause

    def wait(self, names: Collection[SessionName], timeout_seconds: float) -> bool:
        """Let the whole time pass."""
        del names
        self._pause(timeout_seconds)
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgeAddress:
    """A forge as people know it: its name in the settings and the URL of its pages, without a slash at the end."""

    name: str
    web_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeOptions:
    """What the edges need beside the services. `public_url` has no slash at the end."""

    public_url: str
    cookie_keys: tuple[str, ...] = field(repr=False)  # the first signs, all verify
    forges: tuple[ForgeAddress, ...]  # the first is the one called `default`
    announcements: Announcements
    version: str = "0.1.0"
    patch_status: int = 200  # or 204, as Renku's own command line wants it
    viewer_limit: int = 24  # threads of this process less eight
    hook_secrets: tuple[str, ...] = field(default=(), repr=False)  # GitLab's hooks prove one: a token, or `whsec_…`
    deliveries: Deliveries = field(default_factory=RecentDeliveries)
    notices: tuple[str, ...] = ()  # sentences shown on every page, such as who this machine can separate
    default_url: str = "/lab"
    default_urls: tuple[str, ...] = ("/lab", "/tree")
    metrics: Callable[[], tuple[bytes, str]] | None = None  # body and content type of /metrics
    readiness: Mapping[str, Callable[[], None]] = field(default_factory=dict)  # each raises SpawnerError when not ready
    max_body_bytes: int = 1 << 20  # of every request but the Git relay's
    takes_renku_headers: bool = False  # of Renku's gateway; see `spawner.users.renku`
    launches_per_minute: int = 0  # of one person, counted by this process; 0 for no limit

    @property
    def is_https(self) -> bool:
        """Say whether people reach us over https."""
        return self.public_url.startswith("https://")

    @property
    def origin(self) -> str:
        """The scheme, host and port of the public URL, as a browser writes an Origin."""
        parts = urlsplit(self.public_url)
        return f"{parts.scheme}://{parts.netloc}".lower()

    @property
    def host(self) -> str:
        """The host and port that control pages answer on."""
        return urlsplit(self.public_url).netloc.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """What an app carries: the services and the options."""

    services: Services
    options: EdgeOptions
    viewers: BoundedSemaphore  # one place per open event stream
    looks: Looks  # what their streams ask together
    pace: LaunchPace


def edge() -> Edge:
    """Return what the running app carries."""
    found = current_app.extensions[EXTENSION]
    if not isinstance(found, Edge):  # pragma: no cover - only an app made by hand
        message = "this app was not made by spawner.http.create_app"
        raise TypeError(message)
    return found


def services() -> Services:
    """Return the services."""
    return edge().services


def options() -> EdgeOptions:
    """Return the edges' options."""
    return edge().options


def admit_launch(caller: Caller) -> None:
    """Count one launch of a person; raises RateLimited for one too many."""
    edge().pace.admit(caller.user.id, now())


def now() -> datetime:
    """Return the present, by the services' clock."""
    return services().clock.now()


def sent_below(segments: int, decoded: str) -> str:
    """Return what follows the path's first segments as it was sent, percent-encoded.

    WSGI hands us the path decoded, in which a slash within a segment looks like any other; web servers give the
    path as sent besides. Where one does not, it is `decoded`.
    """
    sent = str(request.environ.get("RAW_URI") or request.environ.get("REQUEST_URI") or "").partition("?")[0]
    path = sent.partition("://")[2].partition("/")[2] if "://" in sent else sent.removeprefix("/")
    return path.split("/", segments)[segments] if path.count("/") >= segments else quote(decoded)


# ---------------------------------------------------------------- who asks


def _bearer() -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def _gateway_token() -> str | None:
    """Return the GitLab token that Renku's gateway sent, where its headers are taken."""
    header = request.headers.get(GIT_CREDENTIALS)
    if header is None or not options().takes_renku_headers:
        return None
    return gitlab_token(header, [forge.web_url for forge in options().forges])


def bearer_text() -> str:
    """Return the bearer token of the request as sent; raises SignInRequired when there is none."""
    token = _bearer()
    if token is None:
        raise SignInRequired("This address wants a token.", remedy="Send `Authorization: Bearer` with one.")
    return token


def optional_caller() -> Caller | None:
    """Return who asks, or None; raises TokenRejected for a bearer that is no good."""
    if "caller" not in g:
        token = _gateway_token() or _bearer()
        if token is not None:
            g.caller = services().users.bearer(token, address=request.remote_addr or "")
        else:
            login_id = request.cookies.get(login_cookie_name())
            g.caller = services().users.login(login_id) if login_id else None
        if g.caller is not None and g.caller.project_id is not None:
            _refuse_jobs_elsewhere()
    caller: Caller | None = g.caller
    return caller


def _refuse_jobs_elsewhere() -> None:
    view = current_app.view_functions.get(request.endpoint or "")
    if not getattr(view, "admits_jobs", False):
        g.caller = None
        raise Forbidden(
            "A CI job's token launches sessions of its project and looks at them, nothing else.",
            remedy="Use a token of your own for this.",
        )


def jobs_too(view: Callable[P, T]) -> Callable[P, T]:
    """Let CI jobs reach a view, whose code is not their person's; the services keep them within their project."""
    view.admits_jobs = True  # type: ignore[attr-defined] # `optional_caller` reads it
    return view


def current_caller() -> Caller:
    """Return who asks; raises SignInRequired when nobody is signed in."""
    caller = optional_caller()
    if caller is None:
        raise SignInRequired("Nobody is signed in.", remedy="Sign in with GitLab, or send a token.")
    return caller


def login_required(view: Callable[P, T]) -> Callable[P, T]:
    """Let only signed-in people reach a view, and refuse a state-changing request that no page of ours sent."""

    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        current_caller()
        refuse_forgery()
        return view(*args, **kwargs)

    guarded.needs_caller = True  # type: ignore[attr-defined] # the OpenAPI document reads it
    return guarded


def refuse_forgery() -> None:
    """Raise RequestForged for a state-changing request by cookie that is not provably from a page of ours.

    A request that carries a bearer is no browser's doing and needs no proof. One by Renku's gateway is, and its pages
    are not ours: there the browser's word has to do that it comes from the same site.
    """
    if request.method in _SAFE_METHODS:
        return
    if _gateway_token() is not None:
        if request.headers.get("Sec-Fetch-Site") == "cross-site":
            raise _from_elsewhere()
        return
    if _bearer() is not None:
        return
    refuse_foreign_origin()
    sent = request.headers.get(CSRF_HEADER) or request.form.get(CSRF_FIELD, "")
    if not any(hmac.compare_digest(sent.encode(), good.encode()) for good in _csrf_tokens()):
        raise RequestForged("This form is stale.", remedy="Load the page again and repeat what you did.")


def refuse_foreign_origin() -> None:
    """Raise RequestForged when the browser says that another site sent the request."""
    origin = request.headers.get("Origin")
    site = request.headers.get("Sec-Fetch-Site")
    if (origin is not None and origin.lower() != options().origin) or site not in {None, "same-origin", "none"}:
        raise _from_elsewhere()


def _from_elsewhere() -> RequestForged:
    return RequestForged("This request came from another site.", remedy=f"Open {options().public_url} and go on there.")


def csrf_token() -> str:
    """Return the token that this browser's forms must carry; empty when nobody is signed in by cookie."""
    tokens = _csrf_tokens()
    return tokens[0] if tokens else ""


def _csrf_tokens() -> list[str]:
    caller = optional_caller()
    if caller is None or caller.login_id is None:
        return []
    return [
        hmac.new(key.encode(), b"csrf:" + caller.login_id.encode(), hashlib.sha256).hexdigest()
        for key in options().cookie_keys
    ]


# ---------------------------------------------------------------- cookies


def cookie_name(purpose: str) -> str:
    """Return this service's name for a cookie; ports do not separate cookies, so the name must."""
    digest = hashlib.sha256(options().public_url.encode()).hexdigest()[:8]
    name = f"slipway-{purpose}-{digest}"
    return f"__Host-{name}" if options().is_https else name


def login_cookie_name() -> str:
    """Return the name of the cookie that carries a login."""
    return cookie_name("login")


def set_cookie(response: Response, name: str, value: str, *, max_age_seconds: int) -> None:
    """Set one of our cookies: HttpOnly, SameSite=Lax, whole site, Secure wherever the public URL is https."""
    response.set_cookie(
        name, value, max_age=max_age_seconds, path="/", secure=options().is_https, httponly=True, samesite="Lax"
    )


def drop_cookie(response: Response, name: str) -> None:
    """Delete one of our cookies."""
    response.delete_cookie(name, path="/", secure=options().is_https, httponly=True, samesite="Lax")
