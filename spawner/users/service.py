"""Who is calling, and the forge credential that acts for them.

For: edges turn cookies and bearers into a `Caller` here; services get a person's fresh credential here.
Promises: people are keyed by issuer and subject; a stored grant is refreshed early, once, under the store's lock, and
persisted before it is used; our own tokens are checked for revocation each time; one-time codes and logins are kept as
hashes only; no token is ever printed.
Must not know: HTTP, any OAuth library, the database's tables, sessions beyond their names.
"""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from spawner.errors import (
    Forbidden,
    InvalidInput,
    NotFound,
    SignInRequired,
    TemporaryError,
    TokenRejected,
)
from spawner.names import SessionName, UserId, WorkloadName
from spawner.ports import Clock, Credential, CredentialKind, Forge, ForgeUser
from spawner.users.callers import BearerRules, Callers
from spawner.users.keys import Keyring
from spawner.users.model import Caller, Grant, Login, OwnToken, SignIn, User, user_id
from spawner.users.oauth import JobTokens, OAuthClient, OAuthTokens
from spawner.users.store import UserStore

CODE_SECONDS = 60.0
_USUAL_TOKEN_DAYS = 90
_MAX_NAME_LENGTH = 100
_MAX_RETURN_LENGTH = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRules:
    """The forge whose people these are, and how long things last.

    `other_application_ids`: OAuth applications beside our own whose tokens the operator lets in.
    """

    forge: str
    forge_url: str
    other_application_ids: frozenset[str] = frozenset()
    login_seconds: float = 14 * 86400.0
    token_days: int = 365  # of the longest of our own tokens
    refresh_early_seconds: float = 600.0
    unknown_bearers_per_address: int = 20  # that the forge is asked about, within a minute
    unknown_bearers_in_all: int = 100


class UserService:
    """Signs people in and keeps what acts for them. `keys` come newest first; no `oauth` means bearers only."""

    def __init__(  # noqa: PLR0913 - a service is its ports
        self,
        *,
        store: UserStore,
        forge: Forge,
        oauth: OAuthClient | None,
        jobs: JobTokens | None = None,
        clock: Clock,
        keys: Sequence[bytes],
        rules: UserRules,
    ) -> None:
        self._store = store
        self._forge = forge
        self._oauth = oauth
        self._clock = clock
        self._keys = Keyring(keys)
        self._rules = rules
        own = frozenset({oauth.client_id}) if oauth else frozenset[str]()
        self._callers = Callers(
            store=store,
            forge=forge,
            oauth=oauth,
            jobs=jobs,
            clock=clock,
            keys=self._keys,
            rules=BearerRules(
                forge=rules.forge,
                forge_url=rules.forge_url,
                application_ids=own | rules.other_application_ids,
                unknown_per_address=rules.unknown_bearers_per_address,
                unknown_in_all=rules.unknown_bearers_in_all,
            ),
            keep=self._keep_user,
        )

    # ---------------------------------------------------------------- sign-in

    def begin_sign_in(
        self, *, redirect_uri: str, return_to: str, caller: Caller | None = None, more: frozenset[str] = frozenset()
    ) -> tuple[str, SignIn]:
        """Return where to send the person, and what to keep in their browser's signed cookie until they are back.

        `return_to` is a path of ours; anything else becomes `/`. A `caller` who is signed in asks for
        `more` scopes, and nobody else can finish that.
        """
        oauth = self._application()
        sign_in = SignIn(
            state=secrets.token_urlsafe(32),
            verifier=secrets.token_urlsafe(64),
            redirect_uri=redirect_uri,
            return_to=own_path(return_to),
            person=caller.user.id if caller else None,
        )
        url = oauth.authorization_url(
            redirect_uri=redirect_uri, state=sign_in.state, verifier=sign_in.verifier, more=more
        )
        return url, sign_in

    def finish_sign_in(self, *, code: str, state: str, sign_in: SignIn) -> tuple[User, Login]:
        """Trade the forge's code for a grant, and make a login; its id goes to the browser, its hash to the store.

        Raises SignInRequired for a state that is not this browser's, TokenRejected for a refused code, Forbidden for
        a blocked person, or for another than the one who began.
        """
        if not hmac.compare_digest(sign_in.state.encode(), state.encode()):
            raise SignInRequired("This sign-in was not begun in this browser.", remedy="Begin to sign in again.")
        tokens = self._application().exchange(code=code, redirect_uri=sign_in.redirect_uri, verifier=sign_in.verifier)
        credential = Credential(forge=self._rules.forge, token=tokens.access_token, kind=CredentialKind.OAUTH)
        user = self._keep_user(self._forge.user(credential))
        if sign_in.person not in {None, user.id}:
            raise Forbidden(
                f"GitLab answered for {user.username}, who is not who asked.",
                remedy="Sign in to GitLab as yourself, then try again; nothing was changed.",
            )
        now = self._clock.now()
        self._store.put_grant(_grant(user, tokens, now))
        login = Login(
            id=secrets.token_urlsafe(32),
            user_id=user.id,
            created_at=now,
            expires_at=now + timedelta(seconds=self._rules.login_seconds),
        )
        self._store.put_login(replace(login, id=_hash(login.id)))
        return user, login

    def login(self, login_id: str) -> Caller | None:
        """Return who a browser's login belongs to, or None when it has ended."""
        found = self._store.login(_hash(login_id), self._clock.now())
        user = self._store.get(found.user_id) if found else None
        return Caller(user=user, login_id=login_id) if user else None

    def person(self, person: UserId) -> User:
        """Return a person who has been here before; raises SignInRequired for anybody else."""
        user = self._store.get(person)
        if user is None:
            raise SignInRequired("You have not signed in here yet.", remedy="Sign in with GitLab.")
        return user

    def log_out(self, login_id: str) -> None:
        """End a login, in every tab and process; a no-op when it has ended."""
        self._store.remove_login(_hash(login_id))

    # ---------------------------------------------------------------- bearers

    def bearer(self, token: str, *, address: str) -> Caller:
        """Return who a bearer token belongs to: one of our own, a GitLab token, or one that GitLab signed for a CI job.

        Raises TokenRejected; RateLimited for an address that showed too many unknown ones; Forbidden for a blocked
        person; a TemporaryError when GitLab cannot be asked.
        """
        return self._callers.of(token, address=address)

    # ---------------------------------------------------------------- credentials

    def credential(self, person: UserId, *, session: SessionName | None = None) -> Credential:
        """Return the credential that acts for a person now: their grant, else the bearer kept with `session`.

        Raises SignInRequired when there is none or the forge refused it; a TemporaryError when it has expired and
        cannot be refreshed just now.
        """
        grant = self._store.grant(person)
        if grant is not None:
            grant = self._fresh(grant)
        if grant is None and session is not None:
            grant = self._store.grant(person, session=session)
        if grant is None:
            raise SignInRequired("Your sign-in with GitLab has ended.", remedy="Sign in again.")
        return Credential(forge=grant.forge, token=grant.access_token, kind=CredentialKind.OAUTH)

    def credential_of(self, caller: Caller) -> Credential:
        """Return the credential of a request: its own bearer, else the person's grant; raises as `credential`."""
        return caller.bearer or self.credential(caller.user.id)

    def keep_bearer(self, caller: Caller, session: SessionName) -> bool:
        """Keep a caller's GitLab bearer with their session, when they have no grant; it never becomes a sign-in.

        Returns whether it is a new one; the forge is asked for nothing when it is not.
        """
        if caller.bearer is None or self._store.grant(caller.user.id) is not None:
            return False
        kept = self._store.grant(caller.user.id, session=session)
        if kept is not None and kept.access_token == caller.bearer.token:
            return False
        self._store.put_grant(
            Grant(
                user_id=caller.user.id,
                forge=caller.bearer.forge,
                access_token=caller.bearer.token,
                scopes=self.scopes_of(caller),
                session=session,
            )
        )
        return True

    def drop_bearer(self, person: UserId, session: SessionName) -> None:
        """Delete the bearer kept with a session that has ended; a no-op when there is none, or it lives again."""
        self._store.remove_grant(person, session=session)

    def scopes(self, person: UserId, *, session: SessionName | None = None) -> frozenset[str]:
        """Return the scopes of what `credential` would return; empty when there is nothing."""
        grant = self._store.grant(person)
        if grant is None and session is not None:
            grant = self._store.grant(person, session=session)
        return grant.scopes if grant else frozenset()

    def scopes_of(self, caller: Caller) -> frozenset[str]:
        """Return the scopes of the caller's credential; may ask the forge, once a minute per token."""
        if caller.bearer is None:
            return self.scopes(caller.user.id)
        return self._callers.scopes_of(caller, caller.bearer)

    def _fresh(self, grant: Grant) -> Grant | None:
        if not self._is_due(grant):
            return grant
        return self._store.with_grant_lock(grant.user_id, self._refreshed)

    def _refreshed(self, grant: Grant) -> Grant | None:
        """Refresh the newest grant, unless another process just has; None when the forge refuses it."""
        if self._oauth is None or grant.refresh_token is None or not self._is_due(grant):
            return grant if self._lives(grant) else None
        try:
            tokens = self._oauth.refresh(refresh_token=grant.refresh_token)
        except TokenRejected:
            return None
        except TemporaryError:
            if self._lives(grant):
                return grant
            raise
        return replace(
            grant,
            access_token=tokens.access_token,
            refresh_token=tokens.refresh_token or grant.refresh_token,
            expires_at=_end(tokens, self._clock.now()),
            scopes=tokens.scopes or grant.scopes,
            version=grant.version + 1,
        )

    def _is_due(self, grant: Grant) -> bool:
        early = timedelta(seconds=self._rules.refresh_early_seconds)
        return grant.expires_at is not None and grant.expires_at - early <= self._clock.now()

    def _lives(self, grant: Grant) -> bool:
        return grant.expires_at is None or grant.expires_at > self._clock.now()

    # ---------------------------------------------------------------- our own tokens

    @property
    def longest_token_days(self) -> int:
        """How long a token of ours may live, in days."""
        return self._rules.token_days

    @property
    def usual_token_days(self) -> int:
        """How long a token of ours lives when nobody says, in days."""
        return min(_USUAL_TOKEN_DAYS, self._rules.token_days)

    def issue_token(self, caller: Caller, *, name: str, lifetime_days: int | None) -> tuple[OwnToken, str]:
        """Make a token of ours, of the usual life for None; the text is returned once and kept nowhere.

        Only a signed-in browser, or a bearer with the scope `api`, makes tokens: a token acts with the person's whole
        grant, and nobody gets more than they hold. Raises Forbidden or InvalidInput.
        """
        if caller.login_id is None and (caller.bearer is None or "api" not in self.scopes_of(caller)):
            raise Forbidden("This token may not make tokens.", remedy="Sign in with a browser and make it there.")
        name = " ".join(name.split())
        if not name or len(name) > _MAX_NAME_LENGTH or not name.isprintable():
            raise InvalidInput(f"A token's name has 1 to {_MAX_NAME_LENGTH} characters.", detail="name")
        days = self.usual_token_days if lifetime_days is None else lifetime_days
        if not 1 <= days <= self.longest_token_days:
            raise InvalidInput(f"A token lives 1 to {self.longest_token_days} days.", detail="lifetime_days")
        now = self._clock.now()
        token = OwnToken(
            id=secrets.token_urlsafe(16),
            user_id=caller.user.id,
            name=name,
            created_at=now,
            expires_at=now + timedelta(days=days),
        )
        self._store.put_token(token)
        claims = {"sub": token.user_id, "jti": token.id, "iat": _seconds(now), "exp": _seconds(token.expires_at)}
        return token, self._keys.sign_token(claims)

    def tokens(self, caller: Caller) -> Sequence[OwnToken]:
        """Return the person's own tokens, newest first, the ended ones too."""
        return self._store.tokens(caller.user.id)

    def revoke_token(self, caller: Caller, token_id: str) -> None:
        """Revoke one of the person's tokens, at once and everywhere; raises NotFound."""
        if not self._store.revoke_token(caller.user.id, token_id, self._clock.now()):
            raise NotFound("You have no such token.", remedy="Look at your tokens page.")

    # ---------------------------------------------------------------- one-time codes, session credentials

    def make_code(self, session: SessionName, person: UserId) -> tuple[str, datetime]:
        """Return a code that opens the session once, and when it ends (60 s from now)."""
        code = secrets.token_urlsafe(32)
        expires_at = self._clock.now() + timedelta(seconds=CODE_SECONDS)
        self._store.put_code(_hash(code), session, person, expires_at)
        return code, expires_at

    def redeem_code(self, session: SessionName, code: str) -> UserId | None:
        """Use a code up; None when it is unknown, used, expired or another session's."""
        return self._store.redeem_code(_hash(code), session, self._clock.now())

    def session_credential(self, workload: WorkloadName, generation: int) -> str:
        """Return the credential of one generation of a session; the same text each time, kept nowhere."""
        return self._keys.session_credential(workload, generation)

    def verify_session_credential(self, text: str) -> tuple[WorkloadName, int] | None:
        """Return whose session credential this is, or None; whether that session still lives is not asked here."""
        return self._keys.read_session_credential(text)

    # ---------------------------------------------------------------- parts

    def _application(self) -> OAuthClient:
        if self._oauth is None:
            raise SignInRequired(
                "Signing in with a browser is not set up here.",
                remedy="Ask the operator to set SPAWNER_GITLAB__CLIENT_ID, or use a GitLab token.",
            )
        return self._oauth

    def _keep_user(self, found: ForgeUser) -> User:
        if found.is_blocked:
            raise Forbidden(f"GitLab has blocked {found.username}.", remedy="Ask a GitLab administrator.")
        subject = str(found.id)
        user = User(
            id=user_id(self._rules.forge_url, subject),
            forge=self._rules.forge,
            subject=subject,
            username=found.username,
            name=found.name,
            email=found.email,
            is_admin=found.is_admin,
        )
        return self._store.put(user)


def own_path(return_to: str) -> str:
    """Return a path of this service that a sign-in may end at, `/` for anything that could lead elsewhere."""
    is_own = (
        return_to.startswith("/")
        and not return_to.startswith("//")
        and "\\" not in return_to
        and return_to.isprintable()
        and len(return_to) <= _MAX_RETURN_LENGTH
    )
    return return_to if is_own else "/"


def _grant(user: User, tokens: OAuthTokens, now: datetime) -> Grant:
    return Grant(
        user_id=user.id,
        forge=user.forge,
        access_token=tokens.access_token,
        refresh_token=tokens.refresh_token,
        expires_at=_end(tokens, now),
        scopes=tokens.scopes,
    )


def _end(tokens: OAuthTokens, now: datetime) -> datetime | None:
    return None if tokens.expires_in_seconds is None else now + timedelta(seconds=tokens.expires_in_seconds)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _seconds(at: datetime) -> int:
    return int(at.astimezone(UTC).timestamp())
