"""The instance, people and their tokens.

Routes: `/version`, `/user`, `/users`, `/personal_access_tokens`, `/applications`.
"""

from __future__ import annotations

from datetime import date

import flask

from spawner.testing.gitlab import oauth, people, tokens, web
from spawner.testing.gitlab.access import user_by_name
from spawner.testing.gitlab.instance import REVISION, VERSION
from spawner.testing.gitlab.records import Application, Token, User
from spawner.testing.gitlab.rest import paging, shapes

blueprint = flask.Blueprint("users", __name__)


@blueprint.get("/version")
@web.scoped("read_user")
def version() -> flask.Response:
    """Answer what GitLab this is."""
    return metadata()


@blueprint.get("/metadata")
@web.scoped("read_user")
def metadata() -> flask.Response:
    """Answer what GitLab this is."""
    web.caller()
    kas = {"enabled": False, "externalUrl": None, "externalK8sProxyUrl": None, "version": None}
    return web.answer({"version": VERSION, "revision": REVISION, "kas": kas, "enterprise": False})


@blueprint.get("/user")
@web.scoped("read_user")
def own() -> flask.Response:
    """Answer who calls."""
    return web.answer(shapes.user_own(web.here(), web.caller()))


@blueprint.get("/users")
@web.scoped("read_user")
def listing() -> flask.Response:
    """Find people."""
    web.caller()
    username, search = web.text("username"), (web.text("search") or "").lower()
    rows = web.here().store.all(
        User,
        lambda row: (
            (username is None or row.username.lower() == username.lower())
            and (search in row.username.lower() or search in row.name.lower())
        ),
    )
    return paging.listed(rows, lambda row: shapes.user_basic(web.here(), row))


@blueprint.get("/users/<int:user>")
@web.scoped("read_user")
def one(user: int) -> flask.Response:
    """Answer a person."""
    web.caller()
    return web.answer(shapes.user_public(web.here(), _user(user)))


@blueprint.post("/users")
def create() -> flask.Response:
    """Make a person (administrators)."""
    web.administrator()
    username = web.needed("username")
    try:
        user = people.add_user(
            web.here(), username, is_admin=web.flag("admin"), password=web.text("password"), name=web.text("name")
        )
    except people.TakenError as exc:
        raise web.APIError(409, {"message": f"{exc.field.capitalize()} {exc.message}"}) from exc
    if web.text("email"):
        user = web.here().store.change(user, email=web.needed("email"))
    return web.answer(shapes.user_own(web.here(), user), 201)


@blueprint.post("/users/<int:user>/block")
def block(user: int) -> flask.Response:
    """Block a person (administrators)."""
    web.administrator()
    web.here().store.change(_user(user), state="blocked")
    return web.answer(True, 201)  # noqa: FBT003 - the API's answer


@blueprint.post("/users/<int:user>/unblock")
def unblock(user: int) -> flask.Response:
    """Let a person in again (administrators)."""
    web.administrator()
    web.here().store.change(_user(user), state="active")
    return web.answer(True, 201)  # noqa: FBT003 - the API's answer


@blueprint.post("/users/<int:user>/personal_access_tokens")
def create_token(user: int) -> flask.Response:
    """Make a token for a person (administrators)."""
    web.administrator()
    return _made_token(_user(user))


@blueprint.get("/personal_access_tokens")
def list_tokens() -> flask.Response:
    """Answer the caller's tokens."""
    caller = web.caller()
    rows = web.here().store.all(Token, lambda row: caller.is_admin or row.user_id == caller.id)
    return paging.listed(rows, _token)


@blueprint.get("/personal_access_tokens/self")
@web.scoped("read_user", "read_repository", "write_repository", "read_registry", "write_registry", "self_rotate")
def own_token() -> flask.Response:
    """Answer the token of this request."""
    found = web.actor().token
    if found is None:
        web.unauthorized()
    return web.answer(_token(found))


@blueprint.delete("/personal_access_tokens/<key:token>")
def revoke_token(token: str) -> flask.Response:
    """Revoke a token."""
    caller = web.caller()
    own_id = web.actor().token.id if web.actor().token else 0  # type: ignore[union-attr]
    found = web.here().store.get(Token, own_id if token == "self" else int(token) if token.isdigit() else 0)  # noqa: S105
    if found is None or (found.user_id != caller.id and not caller.is_admin):
        web.not_found()
    web.here().store.change(found, revoked=True)
    return flask.Response(status=204)


@blueprint.get("/applications")
def list_applications() -> flask.Response:
    """Answer the OAuth applications (administrators)."""
    web.administrator()
    return paging.listed(web.here().store.all(Application), _application)


@blueprint.post("/applications")
def create_application() -> flask.Response:
    """Make an OAuth application (administrators); its secret is shown this once."""
    web.administrator()
    made, secret = oauth.register(
        web.here(),
        name=web.needed("name"),
        redirect_uris=web.needed("redirect_uri").split(),
        scopes=web.needed("scopes").replace(",", " ").split(),
        confidential=web.flag("confidential", default=True),
        trusted=web.flag("trusted"),
    )
    return web.answer(_application(made) | {"secret": secret}, 201)


@blueprint.post("/applications/<int:application>/renew-secret")
def renew_secret(application: int) -> flask.Response:
    """Give an OAuth application a new secret (administrators), shown this once; the old one ends."""
    web.administrator()
    found = web.here().store.get(Application, application)
    if found is None:
        web.not_found()
    changed, secret = oauth.renewed(web.here(), found)
    return web.answer(_application(changed) | {"secret": secret}, 201)


@blueprint.delete("/applications/<int:application>")
def delete_application(application: int) -> flask.Response:
    """Remove an OAuth application (administrators)."""
    web.administrator()
    found = web.here().store.get(Application, application)
    if found is None:
        web.not_found()
    web.here().store.drop(found)
    return flask.Response(status=204)


def find_user(key: str) -> User:
    """Return a person by id or name.

    Raises:
        APIError: 404.
    """
    found = web.here().store.get(User, int(key)) if key.isdigit() else user_by_name(web.here(), key)
    if found is None:
        web.not_found("User")
    return found


def parse_date(name: str) -> date | None:
    """Return a date parameter.

    Raises:
        APIError: 400 when it is no date.
    """
    value = web.text(name)
    if value is None:
        return None
    try:
        return date.fromisoformat(value[:10])
    except ValueError:
        web.invalid(f"{name} is invalid")


def _user(identifier: int) -> User:
    return find_user(str(identifier))


def _made_token(user: User) -> flask.Response:
    wanted = web.several("scopes")
    unknown = sorted(set(wanted) - set(tokens.SCOPES))
    if unknown or not wanted:
        web.invalid("scopes does not have a valid value" if wanted else "scopes is missing")
    record, secret = tokens.personal(
        web.here(), user, name=web.needed("name"), scopes=wanted, expires_at=parse_date("expires_at")
    )
    return web.answer(_token(record) | {"token": secret}, 201)


def _token(row: Token) -> shapes.Shape:
    return {
        "id": row.id,
        "name": row.name,
        "revoked": row.revoked,
        "created_at": shapes.moment(row.created_at),
        "description": None,
        "scopes": list(row.scopes),
        "user_id": row.user_id,
        "last_used_at": shapes.moment(row.last_used_at),
        "active": not row.revoked and (row.expires_at is None or row.expires_at > date.today()),  # noqa: DTZ011 - a day
        "expires_at": row.expires_at.isoformat() if row.expires_at else None,
    }


def _application(row: Application) -> shapes.Shape:
    return {
        "id": row.id,
        "application_id": row.uid,
        "application_name": row.name,
        "callback_url": "\n".join(row.redirect_uris),
        "confidential": row.confidential,
    }
