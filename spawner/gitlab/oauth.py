"""Our OAuth application at GitLab: authorization code with PKCE, refresh, and what a token is.

For: `spawner.users.service`, through `spawner.users.oauth.OAuthClient`.
Promises: PKCE (S256) always, also beside a client secret; the refresh names the redirect URI of the sign-in, as GitLab
asks, and no scopes, so that a grant keeps its own; every call has a timeout and can reach this GitLab only; the client
secret travels in the body, never in a URL.
Must not know: people, the database, when to refresh.
Source: https://docs.gitlab.com/api/oauth2/ (17.x).
"""

from collections.abc import Callable
from typing import Any

from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from requests.adapters import HTTPAdapter

from spawner.errors import ForgeUnavailable, RateLimited, TokenRejected, foreign
from spawner.gitlab.shapes import part
from spawner.gitlab.transport import CONNECT_SECONDS, Transport, mapped
from spawner.ports import Credential, CredentialKind
from spawner.users.oauth import OAuthTokens, TokenInfo

_PERSONAL_PREFIX = "glpat-"  # GitLab's default prefix of personal, project and group tokens, 14.5 and newer


class GitLabOAuth:
    """One application. `client_secret` None: a public application, PKCE alone. `redirect_uri`: that of the sign-in.

    `scopes` are what a sign-in asks for; GitLab refuses one that the application does not have.
    """

    def __init__(  # noqa: PLR0913 - keyword-only; each is one setting
        self,
        url: str,
        *,
        client_id: str,
        client_secret: str | None,
        redirect_uri: str,
        scopes: tuple[str, ...],
        timeout_seconds: float = 20.0,
        ca_file: str | None = None,
    ) -> None:
        self._transport = Transport(url, timeout_seconds=timeout_seconds, ca_file=ca_file)
        self._client_id = client_id
        self._client_secret = client_secret
        self._redirect_uri = redirect_uri
        self._scopes = scopes
        self._verify: bool | str = ca_file or True

    @property
    def client_id(self) -> str:
        """Our application's id at GitLab."""
        return self._client_id

    def authorization_url(
        self, *, redirect_uri: str, state: str, verifier: str, more: frozenset[str] = frozenset()
    ) -> str:
        """Return where to send a person to sign in, `more` scopes besides the usual; pure, asks nobody."""
        scopes = [*self._scopes, *sorted(more - set(self._scopes))]
        with self._session(redirect_uri) as session:
            url, _ = session.create_authorization_url(
                f"{self._transport.url}/oauth/authorize", state=state, code_verifier=verifier, scope=" ".join(scopes)
            )
        return str(url)

    def exchange(self, *, code: str, redirect_uri: str, verifier: str) -> OAuthTokens:
        """Trade a code for tokens; raises TokenRejected, ForgeUnavailable or RateLimited."""
        return self._asked(redirect_uri, lambda session, url: session.fetch_token(
            url, code=code, code_verifier=verifier, timeout=self._timeout
        ))  # fmt: skip

    def refresh(self, *, refresh_token: str) -> OAuthTokens:
        """Trade a refresh token, good once, for new tokens; raises as `exchange`."""
        return self._asked(self._redirect_uri, lambda session, url: session.refresh_token(
            url, refresh_token=refresh_token, redirect_uri=self._redirect_uri, timeout=self._timeout
        ))  # fmt: skip

    def inspect(self, token: str) -> TokenInfo | None:
        """Return what an OAuth access token is, or None when it is none; raises ForgeUnavailable or RateLimited."""
        if token.startswith(_PERSONAL_PREFIX):
            return None  # saves a call; GitLabs with another prefix, or none, are asked
        credential = Credential(forge="", token=token, kind=CredentialKind.OAUTH)
        try:
            answer = self._transport.request(credential, "get", f"{self._transport.url}/oauth/token/info")
            found = answer.json()
        except TokenRejected:
            return None
        except ValueError as error:
            raise ForgeUnavailable("GitLab answered with a page instead of data.") from error
        scopes = found.get("scope") if isinstance(found, dict) else None
        application = part(found, "application").get("uid") if isinstance(found, dict) else None
        if not isinstance(scopes, list) or not isinstance(application, str):
            raise ForgeUnavailable("GitLab did not say what application a token is of.")
        life = found.get("expires_in")
        return TokenInfo(
            application_id=application,
            subject=str(found.get("resource_owner_id")),
            scopes=frozenset(str(scope) for scope in scopes),
            expires_in_seconds=life if isinstance(life, int) else None,
        )

    @property
    def _timeout(self) -> tuple[float, float]:
        return (CONNECT_SECONDS, self._transport.timeout_seconds)

    def _session(self, redirect_uri: str) -> OAuth2Session:
        session = OAuth2Session(
            client_id=self._client_id,
            client_secret=self._client_secret,
            token_endpoint_auth_method="client_secret_post" if self._client_secret else "none",
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
        )
        session.trust_env = False
        session.verify = self._verify
        session.adapters.clear()
        session.mount(f"{self._transport.origin}/", HTTPAdapter(pool_connections=1, pool_maxsize=1))
        return session

    def _asked(self, redirect_uri: str, ask: Callable[[OAuth2Session, str], Any]) -> OAuthTokens:
        """Ask the token endpoint: a refusal it words is TokenRejected, anything else is "cannot be asked"."""
        with self._session(redirect_uri) as session:
            session.register_compliance_hook("access_token_response", _refuse_failures)
            session.register_compliance_hook("refresh_token_response", _refuse_failures)
            try:
                with mapped():
                    found = ask(session, f"{self._transport.url}/oauth/token")
            except OAuthError as error:
                said = foreign(error.description or error.error)
                if error.error == "invalid_grant":
                    raise TokenRejected(f"GitLab refused the sign-in: {said}", remedy="Sign in again.") from error
                # The application is at fault, not the person: their grant is worth keeping.
                raise ForgeUnavailable(
                    f"GitLab does not accept this service as an application: {said}",
                    remedy="Ask the operator to check SPAWNER_GITLAB__CLIENT_ID and its secret.",
                ) from error
        return _tokens(found)


def _refuse_failures(response: Any) -> Any:
    """Keep what is no OAuth answer from being read as one."""
    if response.status_code == 429:  # noqa: PLR2004 - HTTP
        raise RateLimited("GitLab asks for patience: too many sign-ins.", retry_after_seconds=30.0)
    try:
        document = response.json()
    except ValueError:
        document = None
    if response.status_code >= 500 or not isinstance(document, dict):  # noqa: PLR2004 - HTTP
        raise ForgeUnavailable("GitLab cannot sign anybody in just now.", remedy="Try again in a moment.")
    return response


def _tokens(found: Any) -> OAuthTokens:
    access = found.get("access_token")
    if not isinstance(access, str) or not access:
        raise ForgeUnavailable("GitLab answered without a token.", remedy="Sign in again.")
    refresh, life, scope = found.get("refresh_token"), found.get("expires_in"), found.get("scope")
    return OAuthTokens(
        access_token=access,
        refresh_token=refresh if isinstance(refresh, str) else None,
        expires_in_seconds=life if isinstance(life, int) else None,
        scopes=frozenset(scope.split()) if isinstance(scope, str) else frozenset(),
    )
