"""Signing in with GitLab, and out.

Promises: what is kept while the person is away at GitLab is a signed cookie of this browser, one per sign-in, ten
minutes; a login is a row on the server, so that signing out ends it in every tab; one goes on to a path of ours only;
what somebody pressed that needed one scope more is done when the same person is back, and for nobody else.
Must not know: OAuth beyond a code and a state.
"""

from dataclasses import asdict

from flask import Blueprint, Response, make_response, redirect, render_template, request, url_for
from itsdangerous import BadData, URLSafeTimedSerializer
from werkzeug.wrappers import Response as BaseResponse

from spawner.context import (
    cookie_name,
    drop_cookie,
    login_cookie_name,
    now,
    optional_caller,
    options,
    refuse_forgery,
    services,
    set_cookie,
)
from spawner.errors import Forbidden, SignInRequired, SpawnerError
from spawner.names import UserId
from spawner.users.model import Caller, SignIn
from spawner.users.service import own_path
from spawner.web.pressed import BUILD_SCOPE, Pressed, do

CALLBACK_PATH = "/login/callback"
SIGN_IN_SECONDS = 600
_STATE_LETTERS = 8  # of a state, in the cookie's name: several tabs may sign in at once


def page() -> BaseResponse:
    """Show the way in; someone who is in goes on."""
    target = own_path(request.args.get("next", "/"))
    if optional_caller() is not None:
        return redirect(target)
    return make_response(render_template("login/login.html", target=target), 200)


def begin() -> BaseResponse:
    """Send the person to GitLab, and keep in this browser what to expect back."""
    url, sign_in = services().users.begin_sign_in(redirect_uri=_callback(), return_to=request.args.get("next", "/"))
    return _keep(redirect(url, Response=Response), sign_in, None)


def ask_for_scope(caller: Caller, pressed: Pressed) -> BaseResponse:
    """Say what one scope more is for, with the way to GitLab; a page, because a form may not be redirected there."""
    page = url_for("web.session", name=pressed.session)
    url, sign_in = services().users.begin_sign_in(
        redirect_uri=_callback(), return_to=page, caller=caller, more=frozenset({BUILD_SCOPE})
    )
    shown = render_template("login/more.html", url=url, page=page, scope=BUILD_SCOPE)
    return _keep(make_response(shown, 200), sign_in, pressed)


def finish() -> BaseResponse:
    """Take the person back from GitLab, and do what they had pressed."""
    state = request.args.get("state", "")
    sign_in, pressed = _kept(state)
    if "error" in request.args or not request.args.get("code"):
        raise _not_allowed(pressed)
    before = request.cookies.get(login_cookie_name())
    user, login = services().users.finish_sign_in(code=request.args["code"], state=state, sign_in=sign_in)
    response = redirect(own_path(sign_in.return_to), Response=Response)
    if before:
        services().users.log_out(before)  # one browser, one login: the old one is no way in any more
    drop_cookie(response, _sign_in_cookie(state))
    lasts_seconds = int((login.expires_at - now()).total_seconds())
    set_cookie(response, login_cookie_name(), login.id, max_age_seconds=lasts_seconds)
    if pressed is not None:
        name = do(Caller(user=user, login_id=login.id), pressed)
        response.headers["Location"] = url_for("web.session", name=name)
    return response


def _not_allowed(pressed: Pressed | None) -> SpawnerError:
    if pressed is None:
        return SignInRequired("GitLab did not sign you in.", remedy="Sign in again, and allow it there.")
    if request.args.get("error") == "invalid_scope":
        return Forbidden(
            f"Nothing is built: the application of this service at GitLab does not have the scope {BUILD_SCOPE}.",
            remedy="Start the job in GitLab itself, or ask the operator to give the application that scope.",
        )
    return Forbidden("Nothing is built: it was not allowed at GitLab.", remedy="Press the button again, and allow it.")


def log_out() -> BaseResponse:
    """End the login everywhere."""
    refuse_forgery()
    caller = optional_caller()
    if caller is not None and caller.login_id is not None:
        services().users.log_out(caller.login_id)
    response = redirect(url_for("web.home"), Response=Response)
    drop_cookie(response, login_cookie_name())
    return response


def _callback() -> str:
    return options().public_url + CALLBACK_PATH


def _keep(response: BaseResponse, sign_in: SignIn, pressed: Pressed | None) -> BaseResponse:
    """Have this browser keep what to expect back from GitLab."""
    kept = [sign_in.state, sign_in.verifier, sign_in.return_to, sign_in.person, pressed and asdict(pressed)]
    cookie = _sign_in_cookie(sign_in.state)
    set_cookie(response, cookie, _signer().dumps(kept), max_age_seconds=SIGN_IN_SECONDS)
    return response


def _kept(state: str) -> tuple[SignIn, Pressed | None]:
    cookie = request.cookies.get(_sign_in_cookie(state), "")
    try:
        kept_state, verifier, return_to, person, pressed = _signer().loads(cookie, max_age=SIGN_IN_SECONDS)
        wanted = None if pressed is None else Pressed(**pressed)
    except (BadData, ValueError, TypeError) as exc:
        raise SignInRequired(
            "This sign-in was not begun in this browser, or more than ten minutes ago.", remedy="Sign in again."
        ) from exc
    sign_in = SignIn(
        state=str(kept_state),
        verifier=str(verifier),
        redirect_uri=_callback(),
        return_to=str(return_to),
        person=None if person is None else UserId(person),
    )
    return sign_in, wanted


def _sign_in_cookie(state: str) -> str:
    letters = "".join(letter for letter in state[:_STATE_LETTERS] if letter.isascii() and letter.isalnum())
    return cookie_name(f"signin-{letters}")


def _signer() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(list(reversed(options().cookie_keys)), salt="slipway-sign-in")


def register(pages: Blueprint) -> None:
    """Give the pages the routes of this module."""
    pages.get("/login", endpoint="login")(page)
    pages.get("/login/gitlab", endpoint="begin_login")(begin)
    pages.get(CALLBACK_PATH, endpoint="finish_login")(finish)
    pages.post("/logout", endpoint="log_out")(log_out)
