"""Collects what `resolve` decides over, and keeps one build row per commit up to date.

For: sessions ask for the facts of their commit; the `build` task polls; hooks hint.
Promises: one poller per build row, however many sessions wait; a lost, doubled or late hook changes nothing;
a token that GitLab refuses is never the build's fault: the next waiter's is tried.
Must not know: HTTP, the database, sessions (it sees them as `Waiters`), python-gitlab.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from builder.tags import names_commit
from spawner.errors import Forbidden, NotFound, RegistryRefused, SignInRequired, TemporaryError
from spawner.images import log as build_log
from spawner.images.finding import ImageFinder
from spawner.images.model import Build, ChosenImage, Facts, Policy, build_id
from spawner.images.ordering import BuildOrders
from spawner.images.reference import parse
from spawner.images.resolve import MOVING, best_job
from spawner.images.statuses import LaunchStatuses
from spawner.images.store import BuildStore
from spawner.names import CommitSha, SessionName
from spawner.ports import (
    BuildJob,
    Clock,
    Credential,
    Dispatcher,
    Forge,
    ImageKind,
    JobStatus,
    Project,
    Registry,
    TaskKind,
)

_log = structlog.get_logger()

POLL_SECONDS = (2.0, 5.0, 10.0, 20.0)  # after the 1st, 2nd … look without a change; gitlab.md §3.5
LAG_LOOK_SECONDS = 1.0  # while an image may be on its way from a job that has just succeeded
LISTEN_SECONDS = 20.0  # when nobody waits, but somebody runs on a lesser rung
CLOCKS_DIFFER_SECONDS = 0.5  # between two hosts, at most; less than the shortest pause between two looks
POLL_LEASE_SECONDS = 60.0  # longer than the slowest look: every call of it has its own time limit
BUILTIN = "builtin/"  # an image that the runtime carries itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiter:
    """One session that is interested in a build. `is_waiting`: it is held up, and does not merely listen."""

    session: SessionName
    credential: Credential
    project: Project
    accepts: frozenset[ImageKind]
    is_waiting: bool


class Waiters(Protocol):
    """The sessions interested in a build, as the poller sees them."""

    def of(self, build: str) -> Iterator[Waiter]:
        """Yield those whose credential can be had, who wait before those who only listen."""
        ...

    def wake(self, build: str) -> None:
        """Have every interested session look again."""
        ...

    def tell(self, build: str) -> None:
        """Have the viewers of every interested session look again."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSettings:
    """What the settings say about images. `defaults` holds a pinned or tagged reference per kind."""

    build_job: str = "image_build"
    defaults: Mapping[ImageKind, str] = field(default_factory=dict)
    max_age_days: int = 30
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One launch, as far as images go."""

    project: Project
    forge: str
    sha: CommitSha
    requested: str | None
    accepts: frozenset[ImageKind]
    asked_at: datetime


class ImageService:
    """The ladder's eyes and hands."""

    def __init__(  # noqa: PLR0913 - a service is its ports
        self,
        *,
        forge: Forge,
        registry: Registry,
        builds: BuildStore,
        waiters: Waiters,
        dispatcher: Dispatcher,
        clock: Clock,
        settings: ImageSettings,
        statuses: LaunchStatuses | None = None,
    ) -> None:
        self._forge = forge
        self._builds = builds
        self._waiters = waiters
        self._dispatcher = dispatcher
        self._clock = clock
        self.settings = settings
        self._statuses = statuses
        self._orders = BuildOrders(forge=forge, builds=builds, clock=clock)
        self._finder = ImageFinder(
            forge=forge,
            registry=registry,
            clock=clock,
            defaults=settings.defaults,
            max_age_days=settings.max_age_days,
        )

    # ------------------------------------------------------------ facts

    def known(self, subject: Subject) -> Facts:
        """Return what the build's row tells, asking nobody: as cheap for a thousand waiters as for one."""
        build = self._builds.get(build_id(subject.forge, subject.project.id, subject.sha))
        return Facts(
            accepts=subject.accepts,
            asked_at=subject.asked_at,
            requested_reference=self._foreign_reference(subject),
            build=build,
            exact=build.found if build is not None else None,
        )

    def facts(self, subject: Subject, credential: Credential) -> Facts:
        """Look at every rung above waiting; raises nothing for a rung that cannot be asked: that is a fact too."""
        facts = self.known(subject)
        try:
            if facts.requested_reference is not None:
                facts = replace(facts, requested=self._finder.requested(facts.requested_reference, credential))
            else:
                own = self._finder.own(subject.project, subject.sha, subject.accepts, credential)
                facts = replace(facts, exact=own.exact, environment=own.environment, expected_kinds=own.made_kinds)
        except TemporaryError as error:
            _log.warning("rungs_not_asked", project=subject.project.id, sha=subject.sha, error=error.message)
            facts = replace(facts, trouble=error.message)
        return replace(facts, default=self.default(subject.accepts))

    def with_ancestor(self, facts: Facts, subject: Subject, credential: Credential) -> Facts:
        """Add the nearest ancestor that has an image: one commit list and one tag list."""
        try:
            found = self._finder.ancestor(subject.project, subject.sha, subject.accepts, credential)
        except TemporaryError as error:
            _log.warning("ancestors_not_asked", project=subject.project.id, error=error.message)
            return facts
        return replace(facts, ancestor=found)

    def _foreign_reference(self, subject: Subject) -> str | None:
        """Return the requested reference unless it is the commit's own, which is no request (images.md §3)."""
        if not subject.requested:
            return None
        reference = parse(subject.requested)
        # The published client guesses the registry's host; its guess still names this project and this commit.
        is_own = names_commit(str(reference), reference.host, subject.project.path, subject.sha)
        return None if is_own else str(reference)

    def default(self, accepts: frozenset[ImageKind]) -> ChosenImage | None:
        """Return what a launch without an image of its own gets; None when none is set, or it cannot be asked for."""
        return self._finder.default(accepts)

    def would_start(self, reference: str, accepts: frozenset[ImageKind], credential: Credential) -> bool:
        """Say whether a launch that names `reference` would get it, or for a commit's own, rung 2 or 3."""
        return self._finder.would_start(reference, accepts, credential)

    # ------------------------------------------------------------ builds

    def build(self, id: str) -> Build | None:  # noqa: A002 - the row's own name for it
        """Return what is known of a build, or None."""
        return self._builds.get(id)

    def builds(self, ids: Sequence[str]) -> Mapping[str, Build]:
        """Return what is known of many builds, by id."""
        return {build.id: build for build in self._builds.some(ids)}

    def log(self, id: str) -> str:  # noqa: A002
        """Return the copied log of a build; empty when there is none."""
        return self._builds.log(id)

    def id_of(self, forge: str, project_id: int, sha: CommitSha) -> str:
        """Return the id of a commit's build, whether or not anybody asked for it."""
        return build_id(forge, project_id, sha)

    def watch(self, subject: Subject) -> Build:
        """Make sure that somebody looks at the commit's build; returns its row.

        A thousand waiters call this each time the build changes: all but the first only read.
        """
        now = self._clock.now()
        build = self._row(subject, now)
        if build.due_at is None and not _was_just_seen(build, now):
            self._builds.hint(build.id, now)
            self._dispatcher.soon(TaskKind.BUILD, build.id)
        elif build.due_at is not None and build.due_at <= now:
            self._dispatcher.soon(TaskKind.BUILD, build.id)
        return build

    def _row(self, subject: Subject, now: datetime) -> Build:
        id_ = build_id(subject.forge, subject.project.id, subject.sha)
        return self._builds.get(id_) or self._builds.add(
            Build(
                id=id_,
                forge=subject.forge,
                project_id=subject.project.id,
                sha=subject.sha,
                job_name=self.settings.build_job,
                first_asked_at=now,
                due_at=now,
            )
        )

    def hint(self, forge: str, project_id: int, sha: CommitSha) -> None:
        """Look at a commit's build now, because a hook spoke of it; where nobody asked for it, only for its status."""
        id_ = build_id(forge, project_id, sha)
        if self._builds.hint(id_, self._clock.now()) or self._statuses is not None:
            self._dispatcher.soon(TaskKind.BUILD, id_)

    def due(self) -> Sequence[str]:
        """Return the builds to look at now."""
        return self._builds.due(self._clock.now(), limit=100)

    def build_now(self, subject: Subject, credential: Credential) -> bool:
        """Have the commit built, once per launch; False when this launch has had its build. Raises as `BuildOrders`."""
        build = self._row(subject, self._clock.now())
        is_asked = self._orders.place(build, credential, asked_at=subject.asked_at)
        if is_asked:
            self._dispatcher.soon(TaskKind.BUILD, build.id)
        return is_asked

    def poll(self, id: str) -> None:  # noqa: A002
        """Look at one build with any waiter's credential and tell its sessions what changed; idempotent.

        One that is not due is left alone: many may have asked for the look that somebody has just had.
        """
        if self._look_at(id) and self._statuses is not None:
            self._statuses.tell(id)

    def _look_at(self, id: str) -> bool:  # noqa: A002
        """Look, and say whether there may be news of its end: it was just seen, or no row of ours would tell."""
        if not self._is_due(row := self._builds.get(id)) or not self._builds.claim(id, seconds=POLL_LEASE_SECONDS):
            return row is None
        before = self._builds.get(id)
        if before is None:
            return True
        if not self._is_due(before):
            self._builds.save(before)
            return False
        after = self._look(before)
        saved = self._builds.save(after)
        if saved is not None and _differs(before, after):
            _log.info(
                "build_changed",
                build=id,
                status=after.job.status.value if after.job else None,
                trouble=after.trouble or None,
            )
            self._waiters.wake(id)
        return after.is_over and not before.is_over

    def _is_due(self, build: Build | None) -> bool:
        if build is None or build.due_at is None:
            return False
        return build.due_at <= self._clock.now() + timedelta(seconds=CLOCKS_DIFFER_SECONDS)

    def _look(self, build: Build) -> Build:
        now = self._clock.now()
        refusal = ""
        for waiter in self._waiters.of(build.id):
            try:
                seen = self._ask(build, waiter, now)
            except (SignInRequired, Forbidden, NotFound, RegistryRefused) as error:
                _log.warning("waiter_refused", session=waiter.session, build=build.id, error=error.message)
                refusal = error.message if waiter.is_waiting else refusal
                continue
            except TemporaryError as error:
                wait = max(error.retry_after_seconds, POLL_SECONDS[0])
                due_at = now + timedelta(seconds=wait)
                return replace(build, trouble=error.message, due_at=due_at, looks=build.looks + 1)
            return self._scheduled(build, seen, now, is_awaited=waiter.is_waiting)
        if refusal:
            # All who wait were refused: it is theirs to know, and a token that was just renewed works next time.
            again_at = now + timedelta(seconds=POLL_SECONDS[min(build.looks, len(POLL_SECONDS) - 1)])
            return replace(build, trouble=refusal, due_at=again_at, looks=build.looks + 1)
        # Nobody with a working credential is left: the row sleeps until somebody asks or a hook comes.
        return replace(build, due_at=None)

    def _ask(self, build: Build, waiter: Waiter, now: datetime) -> Build:
        credential = waiter.credential
        job = build.job
        pipelines = build.pipelines
        if job is not None and job.status in MOVING:
            job = self._forge.job(credential, build.project_id, job.id)
        if not self._is_settled(build, job, now):
            # Ended badly, or not there: a retry, or a newer pipeline of the same commit, may have a better one.
            seen = self._forge.builds(credential, build.project_id, build.sha, job_name=build.job_name)
            job, pipelines = best_job(seen.jobs), seen.pipelines
        after = replace(build, job=job, pipelines=pipelines, checked_at=now, trouble="")
        after = replace(after, finished_at=_finished_at(build, after, now))
        if after.found is None and job is not None and job.status is JobStatus.SUCCESS:
            place = self._place(waiter, job)
            after = replace(after, found=self._finder.exact(place, build.sha, waiter.accepts, credential))
        return self._copy_log(build, after, credential)

    def _is_settled(self, before: Build, job: BuildJob | None, now: datetime) -> bool:
        """Say whether no other job need be looked for: this one moves, or has just succeeded, and none is better."""
        if job is None or job.status in MOVING:
            return job is not None
        is_new = before.job is not None and before.job.status in MOVING
        return job.status is JobStatus.SUCCESS and (is_new or self._is_lagging(before, now))

    def _place(self, waiter: Waiter, job: BuildJob) -> Project:
        """Return the project as it is now: one that has moved since the launch pushes its images under another name."""
        if not job.web_url or f"/{waiter.project.path}/" in job.web_url:
            return waiter.project
        return self._forge.project(waiter.credential, waiter.project.id)

    def _copy_log(self, before: Build, after: Build, credential: Credential) -> Build:
        job = after.job
        if job is None or job.started_at is None:
            return after
        if _differs(before, after) or job.status in MOVING:
            raw = self._forge.job_log(credential, after.project_id, job.id)
            text = build_log.clean(raw, is_over=job.status not in MOVING)
            size = len(text.encode())
            if size != before.log_bytes or _is_another(before, after):
                self._builds.replace_log(after.id, text)
                self._waiters.tell(after.id)
            return replace(after, log_bytes=size)
        return after

    def _scheduled(self, before: Build, after: Build, now: datetime, *, is_awaited: bool) -> Build:
        looks = 0 if _differs(before, after) else before.looks + 1
        seconds = POLL_SECONDS[min(looks, len(POLL_SECONDS) - 1)] if is_awaited else LISTEN_SECONDS
        seconds *= random.uniform(0.9, 1.1)  # noqa: S311 - spreads load, hides nothing
        if self._is_lagging(after, now):
            seconds = LAG_LOOK_SECONDS
        elif _is_over(after):
            return replace(after, looks=looks, is_over=True, due_at=None)
        return replace(after, looks=looks, is_over=False, due_at=now + timedelta(seconds=seconds))

    def _is_lagging(self, build: Build, now: datetime) -> bool:
        """Say whether a job has succeeded so lately that its image may still be on its way."""
        if build.job is None or build.job.status is not JobStatus.SUCCESS or build.found is not None:
            return False
        lag = timedelta(seconds=self.settings.policy.push_lag_seconds)
        return build.finished_at is not None and now < build.finished_at + lag


def _was_just_seen(build: Build, now: datetime) -> bool:
    """Say whether a build was seen to end a moment ago, by a look that a waiter's own decision may have missed."""
    return build.is_over and build.checked_at is not None and now < build.checked_at + timedelta(seconds=LISTEN_SECONDS)


def _is_over(build: Build) -> bool:
    return build.job is not None and build.job.status not in MOVING and build.job.status is not JobStatus.MANUAL


def _is_another(before: Build, after: Build) -> bool:
    return before.job is not None and after.job is not None and before.job.id != after.job.id


def _differs(before: Build, after: Build) -> bool:
    def face(build: Build) -> tuple[object, ...]:
        job = build.job
        return (
            build.checked_at is None,
            build.trouble,
            tuple((pipeline.id, pipeline.status) for pipeline in build.pipelines),
            None if job is None else (job.id, job.status, job.failure_reason, job.started_at),
            build.found is None,
        )

    return face(before) != face(after)


def _finished_at(before: Build, after: Build, now: datetime) -> datetime | None:
    """Return when the job ended: by our clock when we saw it end, by GitLab's when it had ended before we looked."""
    job = after.job
    if job is None or job.status in (MOVING | {JobStatus.MANUAL}) - {JobStatus.CANCELING}:
        return None
    if before.finished_at is not None and before.job is not None and before.job.id == job.id:
        return before.finished_at
    return now if before.job is not None else (job.finished_at or now)
