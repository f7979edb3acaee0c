"""ID tokens of CI jobs: who started a job, proven by GitLab's signature.

For: `spawner.users.callers`, so that a job can launch what it has just built without any secret.
Promises: only RS256 with a key that this GitLab publishes; issuer, audience (our public URL), start and end are
checked, and the claims that we use must be there; keys are kept for an hour, and looked for again at most once a
minute when a token names one that is not among them: whoever invents key names costs GitLab nothing.
Must not know: people, projects, what a job may do.
Source: https://docs.gitlab.com/ci/secrets/id_token_authentication/ (18.x), RFC 7519, RFC 7517.
"""

import threading
from datetime import datetime, timedelta
from typing import Any

import requests
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.jwt import JWTClaimsRegistry

from spawner.errors import ForgeUnavailable, TemporaryError, TokenRejected
from spawner.gitlab.transport import CONNECT_SECONDS, Transport, mapped
from spawner.log import get_logger
from spawner.users.oauth import JobClaims

KEYS_KEPT = timedelta(hours=1)
KEYS_ASKED_AGAIN = timedelta(minutes=1)
_ALGORITHMS = ["RS256"]
_CLOCKS_DIFFER_SECONDS = 30
_log = get_logger(__name__)


class GitLabJobTokens:
    """The tokens that one GitLab signs for us. `audience` is what a job names as `aud`: our public URL."""

    def __init__(self, url: str, *, audience: str, timeout_seconds: float = 20.0, ca_file: str | None = None) -> None:
        self._transport = Transport(url, timeout_seconds=timeout_seconds, ca_file=ca_file)
        self._audience = audience
        self._lock = threading.Lock()
        self._keys: KeySet | None = None
        self._asked_at: datetime | None = None

    @property
    def issuer(self) -> str:
        """This GitLab's URL, as its tokens name it."""
        return self._transport.url

    def read(self, token: str, now: datetime) -> JobClaims:
        """Return what a token proves; raises TokenRejected, or ForgeUnavailable."""
        claims = self._verified(token, now)
        registry = JWTClaimsRegistry(
            now=int(now.timestamp()),
            leeway=_CLOCKS_DIFFER_SECONDS,
            iss={"essential": True, "value": self.issuer},
            aud={"essential": True, "value": self._audience},
            exp={"essential": True},
        )
        try:
            registry.validate(claims)
        except JoseError as error:
            raise _refused(f"its `{getattr(error, 'claim', None) or 'exp'}` does not fit") from error
        return _job_claims(claims)

    def _verified(self, token: str, now: datetime) -> dict[str, Any]:
        keys = self._keys_at(now)
        try:
            return _decoded(token, keys)
        except TokenRejected:
            newer = self._keys_at(now, ask_after=KEYS_ASKED_AGAIN)
            if newer is keys:
                raise
            return _decoded(token, newer)

    def _keys_at(self, now: datetime, *, ask_after: timedelta = KEYS_KEPT) -> KeySet:
        """Return GitLab's keys; those of before while it cannot be asked, and within a minute of a try."""
        with self._lock:
            wait = KEYS_ASKED_AGAIN if self._keys is None else ask_after
            if self._asked_at is None or now - self._asked_at >= wait:
                self._asked_at = now
                try:
                    self._keys = self._ask_for_keys()
                except TemporaryError as error:
                    _log.warning("signing_keys_not_told", reason=error.message)
            if self._keys is None:
                raise ForgeUnavailable("GitLab did not say which keys it signs with.", remedy="Try again in a minute.")
            return self._keys

    def _ask_for_keys(self) -> KeySet:
        timeout = (CONNECT_SECONDS, self._transport.timeout_seconds)
        with self._transport.session() as session, mapped():
            answer = session.get(f"{self._transport.url}/oauth/discovery/keys", timeout=timeout)
        try:
            answer.raise_for_status()
            return KeySet.import_key_set(answer.json())
        except (requests.RequestException, JoseError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ForgeUnavailable(f"GitLab answered {answer.status_code} to /oauth/discovery/keys.") from error


def _decoded(token: str, keys: KeySet) -> dict[str, Any]:
    try:
        return jwt.decode(token, keys, algorithms=_ALGORITHMS).claims
    except (JoseError, ValueError) as error:
        raise _refused("GitLab did not sign it") from error


def _job_claims(claims: dict[str, Any]) -> JobClaims:
    subject, project, job = (str(claims.get(name, "")) for name in ("user_id", "project_id", "job_id"))
    if not all(text.isascii() and text.isdecimal() for text in (subject, project, job)):
        raise _refused("it does not say whose job it is")
    return JobClaims(subject=subject, project_id=int(project), job_id=job)


def _refused(why: str) -> TokenRejected:
    return TokenRejected(
        f"This CI job's token is not accepted: {why}.",
        remedy="Name this service's public URL as `aud` of the job's `id_tokens`, and use the token while it lasts.",
    )
