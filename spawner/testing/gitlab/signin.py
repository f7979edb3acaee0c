"""The pages a person sees: sign in, agree to an application, a plain page per project.

Promises: forms carry a token against forgery; nobody is sent to an address that the application has not registered;
the way back is always on this server. Where the stand-in was started for a demo, a person without a password is
picked from a list.
Must not know: what a code becomes (`oauth`).
"""

from __future__ import annotations

import hmac
import secrets
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

import flask
from markupsafe import Markup, escape

from spawner.testing.gitlab import oauth
from spawner.testing.gitlab.access import can_see, find_project, password_matches, user_by_name
from spawner.testing.gitlab.records import Application, User
from spawner.testing.gitlab.web import here

if TYPE_CHECKING:
    from collections.abc import Callable

blueprint = flask.Blueprint("signin", __name__)

_WORDS = {
    "api": "Access the API on your behalf",
    "read_api": "Read Api: read access to the API",
    "read_user": "Read your personal information",
    "openid": "Authenticate using OpenID Connect",
    "profile": "Read your profile",
    "email": "Read your email address",
    "read_repository": "Read repositories",
    "write_repository": "Read and write repositories",
    "read_registry": "Read container images",
    "write_registry": "Read and write container images",
}
_UNKNOWN_CLIENT = (
    "Client authentication failed due to unknown client, no client authentication included, or unsupported "
    "authentication method."
)
_STYLE = """
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:3rem auto;padding:0 1rem}
h1{font-size:1.4rem}form{display:grid;gap:.75rem}label{display:grid;gap:.25rem}
input,button{font:inherit;padding:.5rem .75rem}button{cursor:pointer}.row{display:flex;gap:.75rem;flex-wrap:wrap}
.note{opacity:.75}[role=alert]{border-left:.25rem solid #c33;padding-left:.75rem}
"""


@blueprint.get("/users/sign_in")
def show_sign_in() -> flask.Response:
    """Show the sign-in form."""
    return _sign_in_page("")


@blueprint.post("/users/sign_in")
def sign_in() -> flask.typing.ResponseReturnValue:
    """Sign a person in by name and password, or by picking them."""
    _check_form()
    picked = flask.request.form.get("pick")
    user = user_by_name(here(), picked or flask.request.form.get("user[login]", ""))
    may = user is not None and user.state == "active"
    if picked:
        may = may and here().switches.may_pick_user and user is not None and user.password_digest is None
    else:
        may = may and user is not None and password_matches(user, flask.request.form.get("user[password]", ""))
    if user is None or not may:
        return _sign_in_page("Invalid login or password.")
    way_back = flask.session.get("return_to", "/")
    flask.session.clear()
    flask.session["user_id"] = user.id
    return flask.redirect(way_back)


@blueprint.route("/users/sign_out", methods=["GET", "POST"])
def sign_out() -> flask.typing.ResponseReturnValue:
    """Sign the person out."""
    flask.session.clear()
    return flask.redirect("/users/sign_in")


@blueprint.get("/oauth/authorize")
def authorize() -> flask.typing.ResponseReturnValue:
    """Ask the person whether an application may act for them."""
    wish = _wish(flask.request.args.get)
    if isinstance(wish, str):
        return _page("An error has occurred", Markup('<p role="alert">{}</p>').format(wish), 400)
    user = present_user()
    if user is None:
        flask.session["return_to"] = flask.request.full_path
        return flask.redirect("/users/sign_in")
    if oauth.has_agreed(here(), user, wish):
        return _go_back(wish, code=oauth.issue_code(here(), user, wish))
    return _consent_page(user, wish)


@blueprint.post("/oauth/authorize")
def decide() -> flask.typing.ResponseReturnValue:
    """Take the person's decision."""
    _check_form()
    wish = _wish(flask.request.form.get)
    user = present_user()
    if isinstance(wish, str) or user is None:
        return _page("An error has occurred", Markup('<p role="alert">{}</p>').format(wish or "Sign in first."), 400)
    if flask.request.form.get("decision") != "allow":
        sentence = "The resource owner or authorization server denied the request."
        return _go_back(wish, error="access_denied", error_description=sentence)
    return _go_back(wish, code=oauth.issue_code(here(), user, wish))


@blueprint.get("/")
def front() -> flask.typing.ResponseReturnValue:
    """Show who is signed in."""
    user = present_user()
    if user is None:
        return flask.redirect("/users/sign_in")
    return _page(
        "GitLab stand-in",
        Markup('<p>Signed in as <b>{}</b>. <a href="/users/sign_out">Sign out</a></p>').format(user.name),
    )


@blueprint.get("/<path:path>")
def project(path: str) -> flask.typing.ResponseReturnValue:
    """Show a plain page for the addresses that `web_url` gives."""
    if path.startswith("api/"):
        flask.abort(404)  # an API route that does not exist answers as the API does
    name, _, rest = path.partition("/-/")
    found = find_project(here(), name) if "/" in name else None
    if found is None or not can_see(here(), found, present_user()):
        return _page("404", Markup("<p>Page not found. Sign in, if you are not.</p>"), 404)
    what = Markup("<p>{}</p>").format(rest) if rest else ""
    clone = Markup("<p>Clone: <code>{}/{}.git</code></p>").format(here().url, found.path)
    return _page(found.path, clone + what)


def present_user() -> User | None:
    """Return who is signed in with this browser."""
    found = here().store.get(User, flask.session.get("user_id", 0))
    return found if found and found.state == "active" else None


def _wish(given: Callable[[str], str | None]) -> oauth.Wish | str:
    """Return what is asked for, or a sentence that says what is wrong with it."""
    application = here().store.first(Application, lambda row: row.uid == given("client_id"))
    if application is None:
        return _UNKNOWN_CLIENT
    wish = oauth.Wish(
        application=application,
        redirect_uri=given("redirect_uri") or "",
        scopes=tuple((given("scope") or " ".join(application.scopes)).split()),
        challenge=given("code_challenge") or None,
        nonce=given("nonce") or None,
    )
    problems = (
        (wish.redirect_uri not in application.redirect_uris, "The redirect URI included is not valid."),
        (given("response_type") != "code", "The authorization server does not support this response type."),
        (
            not set(wish.scopes) <= set(application.scopes),
            "The requested scope is invalid, unknown, or malformed.",
        ),
        (
            wish.challenge is not None and given("code_challenge_method") != "S256",
            "The code challenge method must be S256.",
        ),
        (wish.challenge is None and not application.confidential, "Code challenge is required."),
    )
    return next((sentence for is_wrong, sentence in problems if is_wrong), wish)


def _go_back(wish: oauth.Wish, **result: str) -> flask.typing.ResponseReturnValue:
    state = flask.request.values.get("state")
    query = urlencode(result | ({"state": state} if state else {}))
    return flask.redirect(wish.redirect_uri + ("&" if urlsplit(wish.redirect_uri).query else "?") + query)


def _form_token() -> str:
    token: str = flask.session.setdefault("form_token", secrets.token_urlsafe(24))
    return token


def _check_form() -> None:
    given = flask.request.form.get("authenticity_token", "")
    if not hmac.compare_digest(given, flask.session.get("form_token", "")) or not given:
        flask.abort(_page("422", Markup('<p role="alert">This form is too old. Go back and try again.</p>'), 422))


def _hidden(**values: str) -> Markup:
    row = Markup('<input type="hidden" name="{}" value="{}">')
    return Markup("").join(row.format(name, value) for name, value in values.items())


def _sign_in_page(problem: str) -> flask.Response:
    alert = Markup('<p role="alert">{}</p>').format(problem) if problem else Markup("")
    token = _hidden(authenticity_token=_form_token())
    form = Markup(
        '<form method="post" action="/users/sign_in">{}'
        '<label>Username<input name="user[login]" id="user_login" autocomplete="username" required></label>'
        '<label>Password<input name="user[password]" id="user_password" type="password" '
        'autocomplete="current-password" required></label><button>Sign in</button></form>'
    ).format(token)
    picks = Markup("")
    if here().switches.may_pick_user:
        people = here().store.all(User, lambda row: row.state == "active" and row.password_digest is None)
        button = Markup('<button name="pick" value="{0}">{0}</button>')
        buttons = Markup("").join(button.format(row.username) for row in people)
        picks = Markup(
            '<h2>Or continue as</h2><form method="post" action="/users/sign_in">{}<div class="row">{}</div></form>'
            '<p class="note">This is a stand-in for GitLab on this machine; these accounts have no password.</p>'
        ).format(token, buttons)
    return _page("Sign in to GitLab", alert + form + picks)


def _consent_page(user: User, wish: oauth.Wish) -> flask.Response:
    kept = (
        "client_id",
        "redirect_uri",
        "response_type",
        "scope",
        "state",
        "nonce",
        "code_challenge",
        "code_challenge_method",
    )
    values = {name: flask.request.args[name] for name in kept if name in flask.request.args}
    scopes = Markup("").join(Markup("<li>{}</li>").format(_WORDS.get(scope, scope)) for scope in wish.scopes)
    body = Markup(
        "<p>An application called <b>{}</b> is requesting access to your account, <b>{}</b>. It will be able to:</p>"
        '<ul>{}</ul><form method="post" action="/oauth/authorize">{}<div class="row">'
        '<button name="decision" value="allow">Authorize</button>'
        '<button name="decision" value="deny">Deny</button></div></form>'
    ).format(wish.application.name, user.username, scopes, _hidden(authenticity_token=_form_token(), **values))
    return _page(f"Authorize {wish.application.name}", body)


def _page(title: str, body: Markup | str, status: int = 200) -> flask.Response:
    page = Markup(
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{0}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><style>{1}</style></head>'
        "<body><main><h1>{0}</h1>{2}</main></body></html>"
    ).format(title, Markup(_STYLE), escape(body))  # noqa: S704 - our own style sheet
    response = flask.Response(page, status=status, mimetype="text/html")
    response.headers["Content-Security-Policy"] = (
        "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
    )
    return response
