"""The page of one session: what it waits for and since when, its build's log, its image, and what one may do.

Promises: shows the same facts as the event stream, and reads the stream for its live parts; every button is a POST
with the page's token; opening needs no script.
Must not know: phases' rules; it shows what the session says.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

from flask import Blueprint, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from spawner.context import current_caller, login_required, services
from spawner.errors import SessionNotFound, SpawnerError, foreign
from spawner.images.log import failing_lines
from spawner.names import SessionName
from spawner.sessions.model import Event, EventKind, Phase, Session, since_launch
from spawner.users.model import Caller
from spawner.web.login import ask_for_scope
from spawner.web.pressed import Pressed, do, lacks_scope
from spawner.web.words import STARTING_PHASES, stages

LOG_LINES = 60
T = TypeVar("T")


def named(view: Callable[[str], T]) -> Callable[..., T]:
    """Let a view speak of a session that is not there as pages do: the contract's word is "server"."""

    @wraps(view)
    def spoken(name: str) -> T:
        try:
            return view(name)
        except SessionNotFound as exc:
            raise SessionNotFound(
                f"There is no session {foreign(name, limit=64)}.", remedy="Your sessions are on the first page."
            ) from exc

    return spoken


def show(name: str) -> str:
    """Show a session."""
    caller = current_caller()
    sessions = services().sessions
    session = sessions.get(caller, SessionName(name))
    events = since_launch(sessions.events(caller, session.name, after=0))
    log = _build_log(caller, session)
    return render_template(
        "sessions/show.html",
        session=session,
        events=_told(events),
        stages=stages(session.phase),
        build=sessions.build_of(session),
        build_log=log,
        failing=failing_lines(log) if session.phase is Phase.FAILED else (),
        session_log=_session_log(caller, session) if session.phase is Phase.FAILED else {},
        is_starting=session.phase in STARTING_PHASES,
        is_owner=session.user_id == caller.user.id,
        can_build=sessions.can_build(session),
        has_built_image=session.phase is Phase.RUNNING and sessions.has_built_image(session),
        cursor=f"{events[-1].id if events else 0}-{len(log.encode())}",
    )


def _told(events: Sequence[Event]) -> Sequence[Event]:
    """Return the events worth a line: no log, and of a phase and its own end only the end."""
    shown = [event for event in events if event.kind is not EventKind.LOG]
    after = [*(event.kind for event in shown[1:]), None]
    ends = {EventKind.READY, EventKind.FAILED, EventKind.GONE}
    return [
        event
        for event, following in zip(shown, after, strict=True)
        if not (event.kind is EventKind.PHASE and following in ends)
    ]


def _build_log(caller: Caller, session: Session) -> str:
    try:
        return services().sessions.build_log(caller, session)
    except SpawnerError:  # the page is worth showing without the build's log
        return ""


def _session_log(caller: Caller, session: Session) -> dict[str, str]:
    try:
        found = services().sessions.logs(caller, session.name, max_lines=LOG_LINES)
    except SpawnerError:  # as above
        return {}
    return {container: text for container, text in found.items() if container != "image-build"}


def stop(name: str) -> BaseResponse:
    """Stop a session."""
    services().sessions.stop(current_caller(), SessionName(name))
    return _back(name)


def start_now(name: str) -> BaseResponse:
    """Stop waiting: start with the best image there is."""
    services().sessions.start_now(current_caller(), SessionName(name))
    return _back(name)


def build(name: str) -> BaseResponse:
    """Have the commit's own image built while the session runs on a lesser one."""
    return _pressed(Pressed(session=name, build="running"))


def use_built_image(name: str) -> BaseResponse:
    """Start again on the commit's own image, which has arrived."""
    services().sessions.use_built_image(current_caller(), SessionName(name))
    return _back(name)


def retry(name: str) -> BaseResponse:
    """Launch the same again; with another fallback, or a build of its own, where the page offered one."""
    form = request.form
    return _pressed(Pressed(session=name, build=form.get("build", ""), fallback=form.get("fallback", "")))


def _pressed(wanted: Pressed) -> BaseResponse:
    """Do it, or ask the person for the scope that it wants; coming back from GitLab does it then."""
    caller = current_caller()
    services().sessions.own(caller, SessionName(wanted.session))  # who may not do it is not sent to GitLab for it
    if lacks_scope(caller, wanted):
        return ask_for_scope(caller, wanted)
    return _back(do(caller, wanted))


def open_(name: str) -> BaseResponse:
    """Show the way into the session; the page goes there by itself, and its link works without script too."""
    opened = services().sessions.open(current_caller(), SessionName(name))
    response = make_response(render_template("sessions/open.html", name=name, url=opened.url), 200)
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


def index() -> BaseResponse:
    """The list is on the first page."""
    return redirect(url_for("web.home"))


def below(name: str, path: str = "") -> BaseResponse:
    """Take the address that a Binder client in a browser makes of a session's to its page, from where it opens."""
    del path
    return redirect(url_for("web.session", name=name))


def from_renku(project: str, name: str) -> BaseResponse:
    """Take the address that Renku's command line opens in a browser to the session's page."""
    del project
    return redirect(url_for("web.session", name=name))


def _back(name: str) -> BaseResponse:
    return redirect(url_for("web.session", name=name), code=303)


def register(pages: Blueprint) -> None:
    """Give the pages the routes of this module."""
    pages.get("/sessions", endpoint="sessions")(index)
    pages.get("/sessions/<name>", endpoint="session")(login_required(named(show)))
    pages.get("/sessions/<name>/", endpoint="session_below")(below)
    pages.get("/sessions/<name>/<path:path>", endpoint="session_below_path")(below)
    pages.get("/projects/<path:project>/sessions/show/<name>", endpoint="renku_session")(from_renku)
    actions: dict[str, Any] = {
        "stop": stop,
        "start-now": start_now,
        "build": build,
        "use-built-image": use_built_image,
        "retry": retry,
        "open": open_,
    }
    for action, view in actions.items():
        endpoint = f"session_{action.replace('-', '_')}"
        pages.post(f"/sessions/<name>/{action}", endpoint=endpoint)(login_required(named(view)))
