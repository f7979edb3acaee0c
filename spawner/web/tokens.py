"""The person's tokens: make one for a program, see them, revoke them.

Promises: a token's text is shown once, in the answer to the form, and is in no address.
Must not know: how tokens are signed or kept.
"""

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from spawner.context import current_caller, login_required, services
from spawner.errors import InvalidInput
from spawner.users.model import OwnToken


def index() -> str:
    """Show the person's tokens."""
    return _page()


def make() -> str | tuple[str, int]:
    """Make a token and show it, once."""
    days = request.form.get("days", "")
    try:
        token, text = services().users.issue_token(
            current_caller(),
            name=request.form.get("name", ""),
            lifetime_days=int(days) if days.isascii() and days.isdigit() and len(days) < 6 else 0,  # noqa: PLR2004
        )
    except InvalidInput as error:
        return _page(error=error), 422
    return _page(made=token, text=text)


def revoke(token_id: str) -> BaseResponse:
    """Revoke a token."""
    services().users.revoke_token(current_caller(), token_id)
    return redirect(url_for("web.tokens"), code=303)


def _page(*, made: OwnToken | None = None, text: str = "", error: InvalidInput | None = None) -> str:
    users = services().users
    return render_template(
        "tokens/index.html",
        tokens=users.tokens(current_caller()),
        made=made,
        text=text,
        error=error,
        default_days=users.usual_token_days,
        longest_days=users.longest_token_days,
    )


def register(pages: Blueprint) -> None:
    """Give the pages the routes of this module."""
    pages.get("/tokens", endpoint="tokens")(login_required(index))
    pages.post("/tokens", endpoint="make_token")(login_required(make))
    pages.post("/tokens/<token_id>/revoke", endpoint="revoke_token")(login_required(revoke))
