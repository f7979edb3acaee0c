"""The launch link on a commit's pipeline, and so on its merge request: one commit status, posted when it is true.

For: `ImageService` calls `tell` when a build has ended, or when a hook speaks of a commit that nobody waits for; there
is none of this unless the operator gave a token. Promises: a status is `success` and says what a launch would start in,
and is posted only where that is the commit's own environment; never `pending` or `failed`, which would hold a merge
request up; always on the build job's own pipeline, so that none is made for it; the same one is not posted twice.
Must not know: HTTP, builds' rows, anybody's credential but the operator's.
Source: commit statuses are in every tier (external status checks are not): https://docs.gitlab.com/api/commits/ (18).
"""

import re
import threading
from urllib.parse import quote

import structlog

from spawner.errors import PermanentError
from spawner.images.resolve import MOVING, best_job
from spawner.images.standing import Standing, Standings
from spawner.names import CommitSha
from spawner.ports import (
    BuildJob,
    CommitStatus,
    CommitStatuses,
    Credential,
    Forge,
    NumberedPage,
    PageKind,
    Project,
)

_log = structlog.get_logger()

NAME = "launch"
_WORDS = {
    Standing.READY: "Opens in this commit's own image.",
    Standing.ENVIRONMENT: "Opens in the image of the same environment.",
}
_MERGED = re.compile(r"refs/merge-requests/(?P<number>\d+)/(?:merge|train)")


class LaunchStatuses:
    """Posts launch links. `credential` is the operator's: Developer where it shall post, with the scope `api`."""

    def __init__(
        self,
        *,
        forge: Forge,
        statuses: CommitStatuses,
        standings: Standings,
        credential: Credential,
        build_job: str,
        public_url: str,
    ) -> None:
        self._forge = forge
        self._statuses = statuses
        self._standings = standings
        self._credential = credential
        self._build_job = build_job
        self._public_url = public_url
        self._lock = threading.Lock()  # of this process's threads; a second process's is retired by GitLab

    def tell(self, build_id: str) -> None:
        """Post the launch link of a build that has ended, where it is not there yet; raises TemporaryError."""
        _forge, project_id, sha = build_id.split("/")
        with self._lock:
            try:
                self._tell(int(project_id), CommitSha(sha))
            except PermanentError as error:  # not a project of ours to post on
                _log.info("status_not_posted", build=build_id, error=error.message)

    def _tell(self, project_id: int, sha: CommitSha) -> None:
        job = best_job(self._forge.builds(self._credential, project_id, sha, job_name=self._build_job).jobs)
        if job is None or job.status in MOVING:
            return
        project = self._forge.project(self._credential, project_id)
        launched, page = self._launched(project, job, sha)
        words = _WORDS.get(self._standings.of(project, launched, self._credential))
        if words is None:
            return
        url = f"{self._public_url}/launch/{quote(project.path)}/-/{page}"
        wanted = CommitStatus(state="success", description=words, target_url=url)
        found = self._statuses.newest(self._credential, project_id, sha, name=NAME, pipeline_id=job.pipeline_id)
        if found == wanted:
            return
        self._statuses.post(self._credential, project_id, sha, wanted, name=NAME, pipeline_id=job.pipeline_id)
        _log.info("status_posted", project=project_id, sha=sha, pipeline=job.pipeline_id)

    def _launched(self, project: Project, job: BuildJob, sha: CommitSha) -> tuple[CommitSha, str]:
        """Return the commit that the link launches, and its page: of a merged result, the merge request's head."""
        merged = _MERGED.fullmatch(job.ref)
        if merged is None:
            return sha, f"commit/{sha}"
        page = NumberedPage(kind=PageKind.MERGE_REQUEST, number=int(merged["number"]))
        shown = self._forge.shown(self._credential, project.id, page)
        return (sha, f"commit/{sha}") if shown is None else (shown.sha, f"commit/{shown.sha}")
