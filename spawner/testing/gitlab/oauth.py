"""OAuth 2 with PKCE and OpenID Connect: codes, access tokens, single-use refresh tokens.

Source: https://docs.gitlab.com/api/oauth2/ (18.x).
Promises: a code is good once; a refresh ends the old access and refresh token at once, so of two refreshes with one
token one fails; only digests are kept.
Must not know: pages (`signin` shows them).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn

import flask

from spawner.testing.gitlab import idtokens, web
from spawner.testing.gitlab.access import Kind, parse_basic
from spawner.testing.gitlab.instance import digest, now
from spawner.testing.gitlab.records import Application, Code, Grant, User
from spawner.testing.gitlab.tokens import mint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spawner.testing.gitlab.instance import Instance

blueprint = flask.Blueprint("oauth", __name__)

_CODE_LIFE = timedelta(minutes=10)
_ID_TOKEN_LIFE_SECONDS = 120
_VERIFIER = re.compile(r"[A-Za-z0-9\-._~]{43,128}")
_BAD_GRANT = (
    "The provided authorization grant is invalid, expired, revoked, does not match the redirection URI used in the "
    "authorization request, or was issued to another client."
)
_BAD_SCOPE = "The requested scope is invalid, unknown, or malformed."
_BAD_CLIENT = (
    "Client authentication failed due to unknown client, no client authentication included, or unsupported "
    "authentication method."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What an application asks a person for."""

    application: Application
    redirect_uri: str
    scopes: tuple[str, ...]
    challenge: str | None
    nonce: str | None


def register(
    instance: Instance,
    *,
    name: str,
    redirect_uris: Sequence[str],
    scopes: Sequence[str],
    confidential: bool = True,
    trusted: bool = False,
) -> tuple[Application, str]:
    """Make an application; return its record and its secret, which is kept nowhere."""
    secret = mint("gloas-")
    with instance.store as store:
        record = Application(
            id=store.next_id(Application),
            uid=secrets.token_hex(32),
            secret_digest=digest(secret),
            name=name,
            redirect_uris=tuple(redirect_uris),
            scopes=tuple(scopes),
            confidential=confidential,
            trusted=trusted,
        )
        return store.put(record), secret


def renewed(instance: Instance, application: Application) -> tuple[Application, str]:
    """Give an application another secret; the old one is good no more."""
    secret = mint("gloas-")
    return instance.store.change(application, secret_digest=digest(secret)), secret


def issue_code(instance: Instance, user: User, wish: Wish) -> str:
    """Make an authorization code for a person who agreed."""
    secret = secrets.token_hex(32)
    with instance.store as store:
        store.put(
            Code(
                id=store.next_id(Code),
                digest=digest(secret),
                application_id=wish.application.id,
                user_id=user.id,
                redirect_uri=wish.redirect_uri,
                scopes=wish.scopes,
                challenge=wish.challenge,
                nonce=wish.nonce,
                expires_at=now() + _CODE_LIFE,
            )
        )
    return secret


def has_agreed(instance: Instance, user: User, wish: Wish) -> bool:
    """Tell whether a person need not be asked: it is trusted, or holds a living grant of the same scopes."""
    if wish.application.trusted:
        return True
    return any(
        set(row.scopes) == set(wish.scopes)
        for row in instance.store.all(
            Grant,
            lambda row: row.user_id == user.id and row.application_id == wish.application.id and not row.revoked,
        )
    )


@blueprint.post("/oauth/token")
def token() -> flask.Response:
    """Exchange a code or a refresh token for tokens."""
    application, proven = _client()
    match web.text("grant_type"):
        case "authorization_code":
            return _from_code(application, proven=proven)
        case "refresh_token":
            return _from_refresh(application, proven=proven)
    raise web.APIError(
        400,
        {
            "error": "unsupported_grant_type",
            "error_description": "The authorization grant type is not supported by the authorization server.",
        },
    )


@blueprint.get("/oauth/token/info")
def info() -> flask.Response:
    """Answer what an access token is."""
    found = web.identify()
    if found.kind is not Kind.OAUTH or found.grant is None:
        raise web.APIError(401, {"error": "invalid_request", "error_description": "The access token is invalid"})
    row = found.grant
    application = web.here().store.get(Application, row.application_id)
    left = int((row.created_at + timedelta(seconds=row.expires_in_seconds) - now()).total_seconds())
    body = {
        "resource_owner_id": row.user_id,
        "scope": list(row.scopes),
        "expires_in": left,
        "application": {"uid": application.uid if application else None},
        "created_at": int(row.created_at.timestamp()),
        "scopes": list(row.scopes),
        "expires_in_seconds": left,
    }
    return web.answer(body)


@blueprint.post("/oauth/revoke")
def revoke() -> flask.Response:
    """End an access or refresh token; unknown ones are no error."""
    application, proven = _client()
    if application.confidential and not proven:
        raise web.APIError(
            403, {"error": "unauthorized_client", "error_description": "You are not authorized to revoke this token"}
        )
    wanted = digest(web.text("token") or "")
    with web.here().store as store:
        for row in store.all(Grant, lambda row: row.application_id == application.id):
            if wanted in {row.access_digest, row.refresh_digest}:
                store.change(row, revoked=True)
    return web.answer({})


@blueprint.post("/oauth/introspect")
def introspect() -> flask.Response:
    """Answer whether a token lives (RFC 7662)."""
    application, proven = _client()
    if not proven:
        _client_error()
    wanted = digest(web.text("token") or "")
    row = web.here().store.first(Grant, lambda row: row.access_digest == wanted)
    if row is None or row.revoked or row.application_id != application.id:
        return web.answer({"active": False})
    ends = row.created_at + timedelta(seconds=row.expires_in_seconds)
    body = {
        "active": ends > now(),
        "scope": " ".join(row.scopes),
        "client_id": application.uid,
        "token_type": "Bearer",
        "exp": int(ends.timestamp()),
        "iat": int(row.created_at.timestamp()),
    }
    return web.answer(body)


@blueprint.route("/oauth/userinfo", methods=["GET", "POST"])
def userinfo() -> flask.Response:
    """Answer who the token is for."""
    found = web.identify()
    if found.user is None or not found.may("openid", "api", "read_user"):
        web.unauthorized()
    return web.answer(_claims(web.here(), found.user, found.scopes))


@blueprint.get("/.well-known/openid-configuration")
def configuration() -> flask.Response:
    """Answer where everything is."""
    url = web.here().url
    return web.answer(
        {
            "issuer": url,
            "authorization_endpoint": f"{url}/oauth/authorize",
            "token_endpoint": f"{url}/oauth/token",
            "revocation_endpoint": f"{url}/oauth/revoke",
            "introspection_endpoint": f"{url}/oauth/introspect",
            "userinfo_endpoint": f"{url}/oauth/userinfo",
            "jwks_uri": f"{url}/oauth/discovery/keys",
            "scopes_supported": ["api", "read_api", "read_user", "read_repository", "openid", "profile", "email"],
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "claim_types_supported": ["normal"],
            "claims_supported": ["iss", "sub", "aud", "exp", "iat", "sub_legacy", "name", "nickname", "email"],
            "code_challenge_methods_supported": ["plain", "S256"],
        }
    )


@blueprint.get("/oauth/discovery/keys")
def keys() -> flask.Response:
    """Answer the keys that verify ID tokens."""
    return web.answer(idtokens.public_keys(web.here()))


def _client() -> tuple[Application, bool]:
    """Return the calling application, and whether it proved itself with its secret."""
    basic = parse_basic(flask.request.headers.get("Authorization", ""))
    uid, secret = basic or (web.text("client_id") or "", web.text("client_secret") or "")
    found = web.here().store.first(Application, lambda row: row.uid == uid)
    if found is None:
        _client_error()
    proven = hmac.compare_digest(found.secret_digest, digest(secret))
    if secret and not proven:
        _client_error()
    return found, proven


def _from_code(application: Application, *, proven: bool) -> flask.Response:
    wanted = digest(web.text("code") or "")
    with web.here().store as store:
        code = store.first(Code, lambda row: row.digest == wanted)
        if code is None or code.used or code.application_id != application.id or code.expires_at <= now():
            _grant_error()
        if code.redirect_uri != web.text("redirect_uri") or not _verified(code.challenge):
            _grant_error()
        if not proven and (application.confidential or code.challenge is None):
            _client_error()
        store.change(code, used=True)
        user = store.get(User, code.user_id)
        if user is None or user.state != "active":
            _grant_error()
        return _issued(application, user, code)


def _from_refresh(application: Application, *, proven: bool) -> flask.Response:
    wanted = digest(web.text("refresh_token") or "")
    with web.here().store as store:
        old = store.first(Grant, lambda row: row.refresh_digest == wanted)
        if old is None or old.revoked or old.application_id != application.id:
            _grant_error()
        if web.text("redirect_uri") not in {None, old.redirect_uri}:
            _grant_error()
        if application.confidential and not proven:
            _client_error()
        scopes = tuple((web.text("scope") or "").split()) or old.scopes
        if not set(scopes) <= set(old.scopes):
            raise web.APIError(400, {"error": "invalid_scope", "error_description": _BAD_SCOPE})
        store.change(old, revoked=True)
        user = store.get(User, old.user_id)
        if user is None or user.state != "active":
            _grant_error()
        return _issued(application, user, replace(old, scopes=scopes))


def _issued(application: Application, user: User, source: Code | Grant) -> flask.Response:
    instance = web.here()
    access, refresh = secrets.token_hex(32), secrets.token_hex(32)
    moment = now()
    with instance.store as store:
        store.put(
            Grant(
                id=store.next_id(Grant),
                access_digest=digest(access),
                refresh_digest=digest(refresh),
                application_id=application.id,
                user_id=user.id,
                redirect_uri=source.redirect_uri,
                scopes=source.scopes,
                challenge=source.challenge,
                created_at=moment,
                expires_in_seconds=instance.limits.token_life_seconds,
            )
        )
    body: dict[str, object] = {
        "access_token": access,
        "token_type": "Bearer",
        "expires_in": instance.limits.token_life_seconds,
        "refresh_token": refresh,
        "scope": " ".join(source.scopes),
        "created_at": int(moment.timestamp()),
    }
    if "openid" in source.scopes and isinstance(source, Code):
        body["id_token"] = _id_token(instance, application, user, source)
    return web.answer(body, headers={"Cache-Control": "no-store"})


def _id_token(instance: Instance, application: Application, user: User, code: Code) -> str:
    moment = int(time.time())
    claims = _claims(instance, user, frozenset(code.scopes))
    own = {
        "iss": instance.url,
        "aud": application.uid,
        "iat": moment,
        "exp": moment + _ID_TOKEN_LIFE_SECONDS,
        "auth_time": moment,
    }
    return idtokens.sign(instance, claims | own | ({"nonce": code.nonce} if code.nonce else {}))


def _claims(instance: Instance, user: User, scopes: frozenset[str]) -> dict[str, object]:
    claims: dict[str, object] = {
        "sub": str(user.id),
        "sub_legacy": hashlib.sha256(f"{user.id}-{instance.url}".encode()).hexdigest(),
    }
    if scopes & {"profile", "openid", "api", "read_user"}:
        claims |= {
            "name": user.name,
            "nickname": user.username,
            "preferred_username": user.username,
            "website": "",
            "profile": f"{instance.url}/{user.username}",
            "picture": None,
            "groups": [],
        }
    if "email" in scopes:
        claims |= {"email": user.email, "email_verified": True}
    return claims


def _verified(challenge: str | None) -> bool:
    """Check the PKCE verifier against a challenge (RFC 7636)."""
    verifier = web.text("code_verifier")
    if challenge is None:
        return True
    if verifier is None or not _VERIFIER.fullmatch(verifier):
        return False
    mark = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    return hmac.compare_digest(mark, challenge)


def _grant_error() -> NoReturn:
    raise web.APIError(400, {"error": "invalid_grant", "error_description": _BAD_GRANT})


def _client_error() -> NoReturn:
    raise web.APIError(401, {"error": "invalid_client", "error_description": _BAD_CLIENT})
