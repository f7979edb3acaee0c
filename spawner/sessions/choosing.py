"""Which image a launch gets, from what a session asks for and may ask, and what fetches it.

For: the reconciler, while a session has no workload. Promises: GitLab and registries are asked with the person's own
rights; what cannot be asked is waited for within a budget, then said; a build is ordered only where no rung above it
has an image.
Must not know: leases, workloads, the database.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import structlog

from spawner.errors import (
    Conflict,
    Forbidden,
    MissingScope,
    PermanentError,
    SignInRequired,
    SpawnerError,
    TemporaryError,
)
from spawner.images.model import Build, BuildPolicy, Fallback, FallbackPolicy, Policy, Ready, Unavailable, Waiting
from spawner.images.pulling import Pull, PullService
from spawner.images.resolve import BUILDABLE, LOOK_AGAIN_SECONDS, fall, resolve
from spawner.images.service import BUILTIN, ImageService, Subject
from spawner.ports import Clock, Credential, ImageKind, Runtime
from spawner.sessions.access import Access
from spawner.sessions.machine import Facts
from spawner.sessions.model import Phase, Session, failure_of
from spawner.users.access import may_build
from spawner.users.service import UserService

_log = structlog.get_logger()

SIGN_IN_AGAIN_SECONDS = 30.0


class ImageChoice:
    """Decides for one session at a time; keeps nothing."""

    def __init__(
        self, *, images: ImageService, users: UserService, access: Access, runtimes: Mapping[str, Runtime], clock: Clock
    ) -> None:
        self._images = images
        self._users = users
        self._access = access
        self._runtimes = runtimes
        self._clock = clock

    def facts(self, session: Session) -> Facts:
        """Return the decision on a session's image, or the failure that keeps it from one."""
        try:
            credential = self._users.credential(session.user_id, session=session.name)
            decision, build = self._decide(session, credential)
            if isinstance(decision, Waiting) and decision.can_build_now and not self._may_build(session, credential):
                decision = replace(decision, can_build_now=False)
            job = None if build is None else build.job
            return Facts(decision=decision, build_status=None if job is None else job.status.value)
        except SignInRequired as error:
            policy = self._images.settings.policy
            return self._troubled(session, error, SIGN_IN_AGAIN_SECONDS, policy.build_budget_seconds)
        except TemporaryError as error:
            policy = self._images.settings.policy
            return self._troubled(session, error, error.retry_after_seconds, policy.queue_budget_seconds)
        except PermanentError as error:
            return Facts(failure=failure_of(error))

    def _troubled(self, session: Session, error: SpawnerError, again_seconds: float, budget_seconds: float) -> Facts:
        """Keep the wait while something cannot be asked; fail in its words when the budget is spent."""
        now = self._clock.now()
        if now >= (session.trouble_since or now) + timedelta(seconds=budget_seconds):
            return Facts(failure=failure_of(error))
        reason = f"{error.message} {error.remedy}".strip()
        again_at = now + timedelta(seconds=again_seconds)
        return Facts(decision=Waiting(reason=reason, due_at=again_at, is_trouble=True))

    def _may_build(self, session: Session, credential: Credential) -> bool:
        try:
            return may_build(self._access.owner_level(session, credential))
        except SpawnerError as error:  # who cannot be asked about is offered nothing
            _log.info("right_to_build_unknown", session=session.name, error=error.message)
            return False

    def _decide(self, session: Session, credential: Credential) -> tuple[Ready | Waiting | Unavailable, Build | None]:
        """Return the decision, and the build that it was made by."""
        now = self._clock.now()
        subject = self.subject(session)
        policy = self.policy(session)
        if session.phase is Phase.WAITING and not session.trouble:
            # While the build is awaited its row tells all; every rung is looked at again before falling.
            known = self._images.known(subject)
            decision = resolve(known, policy, now)
            if not isinstance(decision, Fallback):
                return decision, known.build
        facts = replace(self._images.facts(subject, credential), trouble_since=session.trouble_since)
        decision = resolve(facts, policy, now)
        if not isinstance(decision, Fallback):
            return decision, facts.build
        if policy.build is BuildPolicy.NOW and decision.code in BUILDABLE:
            ordered = self._ordered(subject, credential, decision)
            if isinstance(ordered, Waiting):
                return ordered, facts.build
            decision = ordered
        if policy.fallback is FallbackPolicy.ANCESTOR:
            facts = self._images.with_ancestor(facts, subject, credential)
        _log.info("image_fallback", session=session.name, code=decision.code)
        return fall(facts, policy, decision), facts.build

    def _ordered(self, subject: Subject, credential: Credential, decision: Fallback) -> Waiting | Fallback:
        """Begin the build that the launch asks for; falls on where it has had one, or GitLab will not make one."""
        try:
            if not self._images.build_now(subject, credential):
                return decision
        except MissingScope:
            raise  # the person's to mend: said with its remedy, never passed over
        except (Forbidden, Conflict) as error:
            reason = f"{decision.reason} A new build was refused: {error.message}"
            return Fallback(code="build_refused", reason=reason)
        due_at = self._clock.now() + timedelta(seconds=LOOK_AGAIN_SECONDS)
        return Waiting(reason="GitLab is being asked to build this commit.", due_at=due_at)

    def subject(self, session: Session) -> Subject:
        """Return what the image service must know of a session."""
        runtime = self._runtimes[session.runtime]
        return Subject(
            project=session.project,
            forge=session.forge,
            sha=session.sha,
            requested=session.request.image,
            accepts=runtime.image_kinds,
            asked_at=session.image_asked_at or session.created_at,
        )

    def policy(self, session: Session) -> Policy:
        """Return the rules of this launch: the settings', changed by the request."""
        settings = self._images.settings.policy
        return replace(
            settings,
            build=session.request.build,
            fallback=session.request.fallback or settings.fallback,
            is_start_now=session.is_start_now,
        )


def pull_of(session: Session, users: UserService, pulls: PullService | None) -> Pull | None:
    """Choose what fetches a session's image; None where nobody has to. Raises as `UserService.credential`."""
    image = session.image
    if image is None or image.reference.startswith(BUILTIN):
        return None
    own = users.credential(session.user_id, session=session.name)
    if pulls is None or image.kind != ImageKind.CONTAINER:  # others are fetched by ourselves, at once
        return Pull(credential=own)
    scopes = users.scopes(session.user_id, session=session.name)
    return pulls.for_image(image.reference, session.project_id, own, scopes)
