"""Who a bearer token belongs to: one of our own, one of the forge's, or one that the forge signed for a CI job.

For: `spawner.users.service`. Promises: our own tokens are never shown to the forge, and are checked for revocation each
time; the forge is asked about a token once a minute, and about no more unknown ones than `AttemptLimit` lets; an OAuth
token of a stranger's application proves nothing; a forge that cannot be asked refuses nobody for long.
Must not know: HTTP, cookies, sessions.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from spawner.errors import Forbidden, PermanentError, SignInRequired, TokenRejected
from spawner.ports import Clock, Credential, CredentialKind, Forge, ForgeUser
from spawner.users.bearers import AttemptLimit, BearerMemory, Known
from spawner.users.keys import Keyring, claimed_issuer, looks_like_ours
from spawner.users.model import Caller, OwnToken, User, user_id
from spawner.users.oauth import JobClaims, JobTokens, OAuthClient
from spawner.users.store import UserStore

USE_NOTED_SECONDS = 60.0  # a program that asks every second does not write every second
_MAX_BEARER_LENGTH = 4096  # GitLab's longest, a job's JWT, stays below
_MAKE_ANOTHER = "Make a new one on your tokens page."


@dataclass(frozen=True, slots=True, kw_only=True)
class BearerRules:
    """Whose tokens count. `application_ids`: the OAuth applications whose tokens do."""

    forge: str
    forge_url: str
    application_ids: frozenset[str] = frozenset()
    unknown_per_address: int = 20  # that the forge is asked about, within a minute
    unknown_in_all: int = 100


class Callers:
    """Reads bearer tokens. `keep` stores a person as the forge just told, and raises Forbidden for a blocked one."""

    def __init__(  # noqa: PLR0913 - keyword-only; its parts
        self,
        *,
        store: UserStore,
        forge: Forge,
        oauth: OAuthClient | None,
        jobs: JobTokens | None,
        clock: Clock,
        keys: Keyring,
        rules: BearerRules,
        keep: Callable[[ForgeUser], User],
    ) -> None:
        self._store = store
        self._forge = forge
        self._oauth = oauth
        self._jobs = jobs
        self._clock = clock
        self._keys = keys
        self._rules = rules
        self._keep = keep
        self._memory = BearerMemory()
        self._attempts = AttemptLimit(most=rules.unknown_per_address, most_in_all=rules.unknown_in_all)

    def of(self, token: str, *, address: str) -> Caller:
        """Return who a token belongs to; raises TokenRejected, RateLimited, Forbidden or a TemporaryError."""
        if looks_like_ours(token):
            return self._of_our_own(token)
        if self._jobs is not None and claimed_issuer(token) == self._jobs.issuer:
            return self._of_a_job(self._jobs.read(token, self._clock.now()))
        now = self._clock.now()
        known = self._memory.recall(token, now)
        if known is None:
            known = self._ask_about(token) if self._memory.was_good(token) else self._tried(token, address)
            self._memory.keep(token, known, now)
        if known.caller is None:
            raise _again(known.refusal or _not_known())
        return known.caller

    def scopes_of(self, caller: Caller, bearer: Credential) -> frozenset[str]:
        """Return the scopes of a caller's own bearer; may ask the forge, once a minute per token."""
        now = self._clock.now()
        known = self._memory.recall(bearer.token, now)
        if known and known.scopes is not None:
            return known.scopes
        scopes = self._forge.scopes(bearer)
        self._memory.keep(bearer.token, Known(caller=caller, scopes=scopes), now)
        return scopes

    # ---------------------------------------------------------------- our own

    def _of_our_own(self, token: str) -> Caller:
        claims = self._keys.read_token(token)
        record = self._store.token(str(claims.get("jti"))) if claims else None
        if not claims or record is None or claims.get("sub") != record.user_id:
            raise TokenRejected("This token is unknown.", remedy=_MAKE_ANOTHER)
        if record.revoked_at is not None or record.expires_at <= self._clock.now():
            ended = "revoked" if record.revoked_at else "past its end"
            raise TokenRejected(f"The token “{record.name}” is {ended}.", remedy=_MAKE_ANOTHER)
        user = self._store.get(record.user_id)
        if user is None:
            raise TokenRejected("This token's person is unknown.", remedy="Sign in with GitLab.")
        self._note_use(record)
        return Caller(user=user)

    def _note_use(self, record: OwnToken) -> None:
        """Keep when a token was used, to the minute: its person tells by it which one to revoke."""
        now = self._clock.now()
        if record.last_used_at is None or (now - record.last_used_at).total_seconds() >= USE_NOTED_SECONDS:
            self._store.put_token(replace(record, last_used_at=now))

    # ---------------------------------------------------------------- a CI job's

    def _of_a_job(self, claims: JobClaims) -> Caller:
        """Return the person who started a job, within its project; their stored grant acts, so they have signed in."""
        user = self._store.get(user_id(self._rules.forge_url, claims.subject))
        if user is None:
            raise SignInRequired(
                "Whoever started this job has never signed in here.",
                remedy="Sign in here once with a browser, as that person; then run the job again.",
            )
        return Caller(user=user, project_id=claims.project_id)

    # ---------------------------------------------------------------- the forge's

    def _tried(self, token: str, address: str) -> Known:
        """Ask about a token that nobody has shown before, unless there are too many of them."""
        self._attempts.admit(address, self._clock.now())
        is_unknown = False
        try:
            known = self._ask_about(token)
            is_unknown = isinstance(known.refusal, TokenRejected)
        finally:
            if not is_unknown:
                self._attempts.forgive(address)
        return known

    def _ask_about(self, token: str) -> Known:
        if not token or len(token) > _MAX_BEARER_LENGTH or not token.isascii() or not token.isprintable():
            return Known(caller=None, refusal=_not_known("This is not a token."))
        info = self._oauth.inspect(token) if self._oauth else None
        if info is not None and info.application_id not in self._rules.application_ids:
            return Known(caller=None, refusal=_not_known("This token was issued to another application."))
        kind = CredentialKind.PERSONAL if info is None else CredentialKind.OAUTH
        credential = Credential(forge=self._rules.forge, token=token, kind=kind)
        try:
            user = self._keep(self._forge.user(credential))
        except TokenRejected:
            return Known(caller=None, refusal=_not_known())
        except Forbidden as error:  # blocked, or without the scope that tells who it is: remembered like the others
            return Known(caller=None, refusal=error)
        return Known(caller=Caller(user=user, bearer=credential), scopes=info.scopes if info else None)


def _not_known(why: str = "GitLab does not know this token, or it has expired or been revoked.") -> TokenRejected:
    return TokenRejected(why, remedy="Use a valid token, or sign in with GitLab.")


def _again(refusal: PermanentError) -> PermanentError:
    """Return a refusal to raise: the remembered one is shared by threads, and each would add its traceback to it."""
    return type(refusal)(refusal.message, remedy=refusal.remedy)
