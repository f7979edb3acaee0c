"""Has a commit built because a launch asked for it, once per launch.

For: `ImageService.build_now`. Promises: GitLab is asked what there is right before anything is done, so that whoever
comes after a crash or a lost answer finds what was begun and begins no second; one at a time for each commit, by the
lease of its row; what the row knew before is forgotten, so that nobody decides by it.
Must not know: rungs, sessions, who waits, the database, HTTP.
"""

from datetime import datetime

from spawner.errors import Conflict
from spawner.images.model import Build
from spawner.images.resolve import MOVING, best_job
from spawner.images.store import BuildStore
from spawner.ports import BuildJob, Clock, CommitBuilds, Credential, Forge, JobStatus, Pipeline

ORDER_LEASE_SECONDS = 60.0  # longer than the slowest order: every call of it has its own time limit
_UNDER_WAY = MOVING - {JobStatus.SCHEDULED}


class BuildOrders:
    """Plays, retries, or makes a pipeline."""

    def __init__(self, *, forge: Forge, builds: BuildStore, clock: Clock) -> None:
        self._forge = forge
        self._builds = builds
        self._clock = clock

    def place(self, build: Build, credential: Credential, *, asked_at: datetime) -> bool:
        """Have the commit built, unless a build was begun since `asked_at`; False when that was done already.

        Raises MissingScope, Forbidden, Conflict (nothing can be built), or a TemporaryError; may be called again.
        """
        if _is_ordered(build, asked_at):
            return False
        if not self._builds.claim(build.id, seconds=ORDER_LEASE_SECONDS):
            return True  # somebody looks or orders at this moment: what they find out is there at the next look
        held = self._builds.get(build.id) or build
        if _is_ordered(held, asked_at):
            self._builds.save(held)
            return True
        try:
            seen = self._forge.builds(credential, build.project_id, build.sha, job_name=build.job_name)
            self._begin(held, seen, credential, asked_at)
        except BaseException:
            self._builds.save(held)  # lets go
            raise
        self._builds.order(build.id, self._clock.now())
        return True

    def _begin(self, build: Build, seen: CommitBuilds, credential: Credential, asked_at: datetime) -> None:
        job = best_job(seen.jobs)
        if job is None:
            if not any(_is_made_since(pipeline, asked_at) for pipeline in seen.pipelines):
                self._make_pipeline(build, credential)
        elif job.status in _UNDER_WAY or _was_tried(job, asked_at):
            return
        elif job.status in {JobStatus.MANUAL, JobStatus.SCHEDULED}:
            self._play(build, job, credential)
        elif job.status is JobStatus.SKIPPED:  # GitLab retries what has ended only
            self._make_pipeline(build, credential)
        else:
            self._forge.retry(credential, build.project_id, job.id)

    def _play(self, build: Build, job: BuildJob, credential: Credential) -> None:
        try:
            self._forge.play(credential, build.project_id, job.id)
        except Conflict:
            # Somebody was quicker: the next look shows what became of it.
            return

    def _make_pipeline(self, build: Build, credential: Credential) -> None:
        for ref in self._forge.refs_of(credential, build.project_id, build.sha):
            head = self._forge.ref(credential, build.project_id, ref.name)
            if head is not None and head.sha == build.sha:
                self._forge.create_pipeline(credential, build.project_id, ref.name)
                return
        raise Conflict(
            f"GitLab makes pipelines for the newest commit of a branch or tag only, and {build.sha[:8]} is none.",
            remedy="Tag the commit, or launch a newer one.",
        )


def _is_ordered(build: Build, asked_at: datetime) -> bool:
    return build.ordered_at is not None and build.ordered_at >= asked_at


def _is_made_since(pipeline: Pipeline, asked_at: datetime) -> bool:
    """Say whether a pipeline was made for the launch, or beside it; of what a push skips GitLab keeps an empty one."""
    return pipeline.status != "skipped" and pipeline.created_at is not None and pipeline.created_at >= asked_at


def _was_tried(job: BuildJob, asked_at: datetime) -> bool:
    """Say whether a job is the launch's own try: made, started or ended since it was asked for."""
    return any(at is not None and at >= asked_at for at in (job.created_at, job.started_at, job.finished_at))
