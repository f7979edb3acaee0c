"""The launch link: `/launch/<project path>[/-/<any page of GitLab's>/…][?sha=&ref=&path=&image=]`.

And Binder's links, `/v2/gl/<namespace%2Fproject>/<ref>[?urlpath=|filepath=|labpath=]`, which lead to it.
Promises: a link starts by itself only for a member of the project, only without an image of the link's own
choosing, and only when a person navigates there; otherwise the page shows project, commit, author and image, and one
button. Starting twice is starting once.
Must not know: how a commit is found or an image chosen.
"""

from dataclasses import dataclass
from urllib.parse import urlencode

from flask import Blueprint, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from spawner.context import admit_launch, current_caller, login_required, options, sent_below, services
from spawner.ports import AccessLevel
from spawner.sessions.addresses import Destination, default_url_of, parse_path
from spawner.sessions.binder import file_of, parse_spec
from spawner.sessions.launching import Place
from spawner.sessions.model import LaunchRequest
from spawner.sessions.options import default_class
from spawner.sessions.service import LaunchCommand
from spawner.users.access import may_launch_unasked
from spawner.users.model import Caller


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A launch link, found: the place, the file to open, and the image that the link asks for."""

    place: Place
    path: str
    image: str | None


def show(target: str) -> BaseResponse:
    """Launch at once where the link may, else ask."""
    caller = current_caller()
    link = _link(caller, parse_path(target))
    may_start = may_launch_unasked(link.place.access_level, names_image=link.image is not None)
    if may_start and _is_navigation():
        return _launch(caller, link)
    is_member = link.place.access_level > AccessLevel.NONE
    page = render_template("launch/confirm.html", link=link, target=target, is_member=is_member)
    return make_response(page, 200)


def start(target: str) -> BaseResponse:
    """Launch what the page showed."""
    return _launch(current_caller(), _link(current_caller(), parse_path(target)))


def follow_binder(provider: str, spec: str) -> BaseResponse:
    """Lead a Binder link to the launch page; nothing starts here."""
    forges = [forge.web_url for forge in options().forges]
    destination, path = parse_spec(provider, sent_below(2, spec), forges), file_of(request.args)
    default_url_of(path, otherwise="")  # refused here, where the person still sees the link
    return redirect(destination.launch_path + (f"?{urlencode({'path': path})}" if path else ""))


def _is_navigation() -> bool:
    """Say whether a person follows the link: no HEAD, no prefetch, no picture or frame on somebody's page."""
    headers = request.headers
    is_early = "prefetch" in headers.get("Sec-Purpose", "") or headers.get("Purpose") == "prefetch"
    return request.method == "GET" and not is_early and headers.get("Sec-Fetch-Dest", "document") == "document"


def _link(caller: Caller, destination: Destination) -> Link:
    """Find what a link names; what the button sent wins over what the address says."""
    given = request.values
    found = services().sessions.locate(caller, destination, sha=given.get("sha") or None, ref=given.get("ref") or None)
    image = given.get("image", "").strip() or None
    return Link(place=found.place, path=given.get("path") or found.path, image=image)


def _launch(caller: Caller, link: Link) -> BaseResponse:
    wanted = LaunchRequest(
        image=link.image,
        default_url=default_url_of(link.path, otherwise=options().default_url),
        resource_class_id=default_class(services().sessions.resource_classes()).id,
    )
    place = link.place
    command = LaunchCommand(project=place.project.path, sha=place.commit.sha, branch=place.branch, request=wanted)
    admit_launch(caller)
    session, _is_new = services().sessions.launch(caller, command)
    return redirect(url_for("web.session", name=session.name), code=303)


def register(pages: Blueprint) -> None:
    """Give the pages the routes of this module."""
    pages.get("/launch/<path:target>", endpoint="launch")(login_required(show))
    pages.post("/launch/<path:target>", endpoint="start_launch")(login_required(start))
    pages.get("/v2/<provider>/<path:spec>", endpoint="binder_link")(follow_binder)
