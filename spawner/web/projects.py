"""The first page: paste an address, and see what runs.

Must not know: how sessions are found or launched.
"""

from flask import Blueprint, redirect, render_template, request
from werkzeug.wrappers import Response as BaseResponse

from spawner.context import optional_caller, options, services
from spawner.errors import InvalidInput
from spawner.sessions.addresses import parse_pasted
from spawner.sessions.store import Filter

SESSIONS_LIMIT = 50


def home() -> str:
    """Show the field to paste into, and the person's sessions."""
    return _home()


def go() -> BaseResponse | tuple[str, int]:
    """Go from a pasted address to its launch page; nothing starts here."""
    pasted = request.args.get("url", "")
    try:
        found = parse_pasted(pasted, [forge.web_url for forge in options().forges])
        return redirect(found.launch_path)
    except InvalidInput as error:
        return _home(pasted=pasted, error=error), 422


def _home(*, pasted: str = "", error: InvalidInput | None = None) -> str:
    caller = optional_caller()
    found = services().sessions.list(caller, Filter(user_id=caller.user.id), limit=SESSIONS_LIMIT) if caller else ()
    return render_template("projects/home.html", sessions=found, pasted=pasted[:2048], error=error)


def register(pages: Blueprint) -> None:
    """Give the pages the routes of this module."""
    pages.get("/", endpoint="home")(home)
    pages.get("/go", endpoint="go")(go)
