"""The pages: sign in, launch, sessions, tokens, and what is said when something goes wrong.

For: people with a browser. Promises: every page works without JavaScript except its live parts; no state changes
by GET but a launch that `launch` allows; every form carries the page's token.
Must not know: adapters; the API's insides (pages call the same services, and read the same event stream).
"""

from flask import Blueprint, Flask, render_template

from spawner.web import badges, launch, login, projects, sessions, tokens
from spawner.web.words import register_words


def register(app: Flask) -> None:
    """Give the app every page."""
    pages = Blueprint("web", __name__, template_folder="templates", static_folder="static", static_url_path="/static")
    for part in (projects, login, launch, sessions, tokens, badges):
        part.register(pages)
    register_words(pages)
    app.register_blueprint(pages)


def error_page(status: int, code: int, message: str, detail: str | None) -> str:
    """Return the page of an error: what happened, and what to do."""
    return render_template("error.html", status=status, code=code, message=message, detail=detail)
