"""Badges: `/badge/<project path>[/-/tree|commit|tags/…].svg`, a launch button with the commit's state.

Promises: the same picture for everybody: no cookie or token is looked at, so that any cache on the way may keep it;
`launch` alone wherever the state is not public, whether the project is private, absent or cannot be asked about; every
state has words besides its colour, and is legible on light and dark pages.
Must not know: how a state is found.
"""

from dataclasses import dataclass
from typing import Final

from flask import Blueprint, Response, render_template, request

from spawner.context import services
from spawner.errors import InvalidInput
from spawner.images.badges import FRESH_SECONDS
from spawner.images.standing import Standing
from spawner.sessions.addresses import Destination, parse_path

SUFFIX = ".svg"
_LEFT_PIXELS = 67  # the mark and the word `launch`
_MARGIN_PIXELS = 14  # around the state's words


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """How a state looks: its words, how wide they are in Verdana at 11 pixels, and the colour behind them."""

    words: str = ""
    words_width: int = 0
    colour: str = ""


# Each colour has a contrast of 4.5 or more with the white words on it (WCAG 2.2, 1.4.3).
FACES: Final = {
    Standing.READY: Face(words="ready", words_width=33, colour="#1a7f37"),
    Standing.ENVIRONMENT: Face(words="same environment", words_width=105, colour="#1a7f37"),
    Standing.BUILDING: Face(words="building", words_width=47, colour="#8a5a00"),
    Standing.NONE: Face(words="default image", words_width=79, colour="#57606a"),
    Standing.UNKNOWN: Face(),
}


def show(target: str) -> Response:
    """Show how the commit stands that an address names, where that is public."""
    return _picture(_standing(target))


def show_plain() -> Response:
    """Show the badge that Binder's own stand for: a button without a state."""
    return _picture(Standing.UNKNOWN)


def _standing(target: str) -> Standing:
    """Return what the badge of an address shows; what names nothing looks like what is private."""
    try:
        destination = parse_path(target)
    except InvalidInput:
        return Standing.UNKNOWN
    revision = request.args.get("sha") or request.args.get("ref") or _revision(destination)
    if destination.numbered is not None:  # a merge request's head is not told to everybody
        return Standing.UNKNOWN
    return services().badges.standing(destination.project, revision)


def _revision(destination: Destination) -> str | None:
    return destination.readings[-1].revision if destination.readings else None


def _picture(standing: Standing) -> Response:
    face = FACES[standing]
    shown = {
        "title": f"Launch: {face.words}" if face.words else "Launch",
        "left": _LEFT_PIXELS,
        "width": _LEFT_PIXELS + (face.words_width + _MARGIN_PIXELS if face.words else 0),
        "words": face.words,
        "words_width": face.words_width,
        "colour": face.colour,
    }
    response = Response(render_template("badges/badge.svg", **shown), content_type="image/svg+xml; charset=utf-8")
    response.cache_control.public = True
    response.cache_control.max_age = int(FRESH_SECONDS)
    response.headers["Content-Security-Policy"] = "default-src 'none'"
    response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"  # it stands on other sites' pages
    response.add_etag()
    response.make_conditional(request)
    return response


def register(pages: Blueprint) -> None:
    """Give the pages the routes of this module."""
    pages.get(f"/badge/<path:target>{SUFFIX}", endpoint="badge")(show)
    pages.get("/badge_logo.svg", endpoint="plain_badge")(show_plain)
