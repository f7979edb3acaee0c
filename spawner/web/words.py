"""Words and times as the pages show them.

For: templates, by filters and globals. Pure but for the app's context it is given.
Promises: every state has a text, so that nothing rests on colour; times are shown as time passed, and exactly in
their `datetime` attribute.
Must not know: services beyond the clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from flask import Blueprint, request

from spawner.context import csrf_token, now, optional_caller, options
from spawner.errors import SpawnerError
from spawner.images.model import ImageSource
from spawner.sessions.model import Phase, Session

STATUS_WORDS: Final[Mapping[Phase, str]] = {
    Phase.NEW: "Accepted",
    Phase.QUEUED: "Queued",
    Phase.WAITING: "Waiting for its image",
    Phase.STARTING: "Starting",
    Phase.RUNNING: "Running",
    Phase.HIBERNATING: "Going to sleep",
    Phase.HIBERNATED: "Asleep",
    Phase.STOPPING: "Stopping",
    Phase.GONE: "Ended",
    Phase.FAILED: "Failed",
}
SOURCE_WORDS: Final[Mapping[ImageSource, str]] = {
    ImageSource.REQUESTED: "the image you asked for",
    ImageSource.EXACT: "this commit's own image",
    ImageSource.ENVIRONMENT: "the image of the same environment, built before",
    ImageSource.BUILT: "this commit's own image, just built",
    ImageSource.ANCESTOR: "the nearest ancestor's image",
    ImageSource.DEFAULT: "the default image, not this commit's",
}
_TONES: Final[Mapping[Phase, str]] = {
    Phase.RUNNING: "good",
    Phase.FAILED: "bad",
    Phase.GONE: "quiet",
    Phase.STOPPING: "quiet",
    Phase.HIBERNATED: "quiet",
    Phase.HIBERNATING: "quiet",
}
STARTING_PHASES: Final = frozenset({Phase.NEW, Phase.QUEUED, Phase.WAITING, Phase.STARTING})


def status_words(phase: Phase) -> str:
    """Return a phase as people read it."""
    return STATUS_WORDS[phase]


def tone(phase: Phase) -> str:
    """Return the tone a phase is shown in: `good`, `bad`, `quiet` or `busy`."""
    return _TONES.get(phase, "busy")


def source_words(source: ImageSource) -> str:
    """Return what kind of image a session runs in."""
    return SOURCE_WORDS[source]


def passed(since: datetime, until: datetime) -> str:
    """Return the time passed between two moments: `12 s`, `3 min 5 s`, `2 h 10 min`, `4 d`."""
    seconds = max(0, int((until - since).total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds} s"
    if minutes < 60:  # noqa: PLR2004 - an hour
        return f"{minutes} min {seconds % 60} s"
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{days} d"  # noqa: PLR2004 - two days


def moment(at: datetime) -> str:
    """Return a moment in words, in UTC: `20 Nov 2026, 13:37:05 UTC`."""
    return at.strftime("%-d %b %Y, %H:%M:%S UTC")


def clock_time(at: datetime) -> str:
    """Return a moment of today, in UTC: `13:37:05`."""
    return at.strftime("%H:%M:%S")


def waited_for(session: Session) -> str:
    """Return what a session is waiting for just now, as a sentence; empty when for nothing."""
    match session.phase:
        case Phase.NEW:
            return "Looking for the commit's image."
        case Phase.QUEUED | Phase.WAITING:
            return session.trouble or session.reason or "Waiting for the commit's image."
        case Phase.STARTING:
            return session.step or "The session is being started."
        case Phase.STOPPING | Phase.HIBERNATING:
            return "The session is being taken down."
        case _:
            return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One of the stages from a launch to a session that answers."""

    name: str
    is_done: bool
    is_current: bool


def stages(phase: Phase) -> Sequence[Stage]:
    """Return the stages of a launch, in order, as far as the session has come."""
    at = {Phase.NEW: 0, Phase.QUEUED: 0, Phase.WAITING: 1, Phase.STARTING: 2}.get(phase, 3)
    names = ("Accepted", "Image", "Start", "Ready")
    return [Stage(name=name, is_done=n < at, is_current=n == at) for n, name in enumerate(names)]


def register_words(pages: Blueprint) -> None:
    """Give every page the words, the caller and the form token."""
    for word in (status_words, tone, source_words, moment, clock_time):
        pages.add_app_template_filter(word)
    pages.app_context_processor(_around)


def _around() -> dict[str, Any]:
    try:
        caller = optional_caller()
        token = csrf_token()
    except SpawnerError:  # an error page is shown whatever became of the sign-in
        caller, token = None, ""
    return {
        "caller": caller,
        "csrf_token": token,
        "now": now(),
        "passed": passed,
        "waited_for": waited_for,
        "notices": options().notices,
        "version": options().version,
        "forges": options().forges,
        "public_url": options().public_url,
        "path": request.path,
    }
