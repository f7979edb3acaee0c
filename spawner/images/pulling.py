"""With whose token a container runtime fetches an image: the project's own where we may have one, else the person's.

A person's token lives two hours and opens all that they may see; a runtime that keeps what it is given, or fetches
again when a session moves, is better served by a deploy token of the project, which reads its images and nothing else.
Promises: nothing is made unless the operator says for how long; a token is made by a person who may (maintainer, scope
`api`), kept sealed, replaced when a third of its life is left, and given only for images of its own project, to people
whom GitLab lets see the project now; whatever goes wrong with it, the person's own token serves.
Must not know: how a token is kept, GitLab's protocol, runtimes.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from spawner.errors import Forbidden, NotFound, RegistryRefused, SpawnerError, TemporaryError
from spawner.log import get_logger
from spawner.ports import Clock, Credential, CredentialKind, Project, ProjectKey, PullToken, PullTokens, Registry

SCOPE = "api"  # what GitLab asks of who makes a deploy token
OWN = "The image is fetched with your own sign-in."
PROJECTS = "The image is fetched with a token of the project."
_LEFT = 1 / 3  # of its life: a token is then replaced, so that what was given out stays good for a while

_log = get_logger(__name__)


class Projects(PullTokens, Protocol):
    """The forge, as far as it is asked here."""

    def project(self, credential: Credential, project: ProjectKey) -> Project:
        """Return a project as the person sees it; raises ProjectNotFound."""
        ...


class PullTokenStore(Protocol):
    """Where tokens are kept; `put` is refused when another process was faster."""

    def get(self, forge: str, project_id: int) -> PullToken | None:
        """Return the project's token, or None."""
        ...

    def put(self, forge: str, project_id: int, token: PullToken, *, instead_of: int | None) -> bool:
        """Keep a token in the place of another, or of none; False when that is no longer so."""
        ...

    def remove(self, forge: str, project_id: int, token_id: int) -> None:
        """Forget a token."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """The credential to fetch with, and the sentence for the person who launches."""

    credential: Credential
    message: str = ""


class PullService:
    """Chooses the credential of one launch; `life_days` 0 makes no token."""

    def __init__(
        self, *, forge: Projects, registry: Registry, tokens: PullTokenStore, clock: Clock, life_days: int
    ) -> None:
        self._forge = forge
        self._registry = registry
        self._tokens = tokens
        self._clock = clock
        self._life = timedelta(days=life_days)

    def for_image(self, reference: str, project_id: int, person: Credential, scopes: frozenset[str]) -> Pull:
        """Return what fetches a pinned image for a person who launches a project's commit; raises nothing of others."""
        own = Pull(credential=person, message=OWN)
        if not self._life:
            return own
        try:
            project = self._forge.project(person, project_id)
            if not _is_within(reference.partition("@")[0], project.registry_image):
                return own
            token = self._token(project.id, person, may_make=SCOPE in scopes)
            credential = None if token is None else self._tried(reference, project_id, person, token)
        except (TemporaryError, NotFound, Forbidden) as error:
            _log.warning("no_pull_token", project=project_id, error=error.message)
            return own
        return own if credential is None else Pull(credential=credential, message=PROJECTS)

    def _tried(self, reference: str, project_id: int, person: Credential, token: PullToken) -> Credential | None:
        """Return a token as a credential if it opens the image; one that was ended in GitLab is forgotten."""
        credential = Credential(
            forge=person.forge, token=token.token, kind=CredentialKind.DEPLOY, username=token.username
        )
        try:
            return credential if self._registry.find(reference, credential) is not None else None
        except RegistryRefused:
            self._tokens.remove(person.forge, project_id, token.id)
            raise

    def _token(self, project_id: int, person: Credential, *, may_make: bool) -> PullToken | None:
        """Return the project's token, a new one where it is old and the person may make it."""
        now = self._clock.now()
        kept = self._tokens.get(person.forge, project_id)
        if kept is not None and kept.expires_at - now > self._life * _LEFT:
            return kept
        usable = kept if kept is not None and kept.expires_at - now > timedelta(hours=1) else None
        if not may_make:
            return usable
        try:
            made = self._forge.make_pull_token(person, project_id, expires_at=now + self._life)
        except (TemporaryError, Forbidden, NotFound) as error:
            _log.info("pull_token_not_made", project=project_id, error=error.message)
            return usable
        return self._kept(project_id, person, made, before=kept)

    def _kept(
        self, project_id: int, person: Credential, made: PullToken, *, before: PullToken | None
    ) -> PullToken | None:
        """Keep a new token, or end it where another process was faster; the old one ends by itself, soon."""
        if self._tokens.put(person.forge, project_id, made, instead_of=before.id if before else None):
            return made
        try:
            self._forge.revoke_pull_token(person, project_id, made.id)
        except SpawnerError as error:
            _log.warning("pull_token_not_revoked", project=project_id, token=made.id, error=error.message)
        return self._tokens.get(person.forge, project_id)


def _is_within(name: str, registry_image: str | None) -> bool:
    return registry_image is not None and (name == registry_image or name.startswith(f"{registry_image}/"))
