"""How a commit stands, in one word: what a badge or a commit's status says of its image.

For: `badges` ask as nobody, `statuses` with the operator's token. Promises: nothing is told that GitLab and its
registry do not tell that credential; what may not be known is UNKNOWN, what cannot be asked now is raised (temporary).
Must not know: who shows it, HTTP, builds' rows: what a member's question found out is theirs.
"""

from enum import StrEnum

from spawner.errors import Forbidden, NotFound, RegistryRefused, SignInRequired
from spawner.images.finding import ImageFinder
from spawner.images.resolve import MOVING, best_job
from spawner.names import CommitSha
from spawner.ports import Credential, Forge, ImageKind, Project


class Standing(StrEnum):
    """What a launch of a commit would meet."""

    READY = "ready"  # the commit's own image
    ENVIRONMENT = "environment"  # the image of another commit that declares the same environment
    BUILDING = "building"  # a build that has not ended
    NONE = "none"  # neither: the default image
    UNKNOWN = "unknown"  # not to be told to whoever asks


class Standings:
    """Looks at commits. `accepts` are the kinds of image that a launch could start."""

    def __init__(self, *, forge: Forge, finder: ImageFinder, build_job: str, accepts: frozenset[ImageKind]) -> None:
        self._forge = forge
        self._finder = finder
        self._build_job = build_job
        self._accepts = accepts

    def of(self, project: Project, sha: CommitSha, credential: Credential) -> Standing:
        """Return how a commit stands for whoever holds the credential; raises TemporaryError."""
        try:
            return self._of(project, sha, credential)
        except (Forbidden, NotFound, SignInRequired, RegistryRefused):
            return Standing.UNKNOWN

    def _of(self, project: Project, sha: CommitSha, credential: Credential) -> Standing:
        own = self._finder.own(project, sha, self._accepts, credential)
        if own.exact is not None:
            return Standing.READY
        if own.environment is not None:
            return Standing.ENVIRONMENT
        job = best_job(self._forge.builds(credential, project.id, sha, job_name=self._build_job).jobs)
        return Standing.BUILDING if job is not None and job.status in MOVING else Standing.NONE
