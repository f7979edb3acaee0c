"""What a reconciler does where nobody foresaw what happens.

Covered: a launch that a defect keeps from getting on, a session that got on, a start that is put off again and again,
the lease after it, what an event of a build tells, what fetches a container image.
Left out: every foreseen way (the machine's table, the ladder's scenarios, the kill matrix).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import pytest

from spawner.errors import ForgeUnavailable, RuntimeUnavailable
from spawner.images.model import Build, ChosenImage, ImageSource
from spawner.images.model import Facts as ImageFacts
from spawner.images.pulling import PROJECTS, Pull
from spawner.images.service import ImageSettings
from spawner.names import SessionName
from spawner.ports import (
    AccessLevel,
    Credential,
    CredentialKind,
    Health,
    ImageKind,
    JobStatus,
    Observation,
    Progress,
    State,
    TaskKind,
    Workload,
)
from spawner.sessions.checkout import CheckoutPlan
from spawner.sessions.model import EventKind, Phase, Session
from spawner.sessions.options import ResourceClass
from spawner.sessions.reconcile import DEFECTS_LIMIT, Reconciler, SessionSettings
from spawner.store.engine import open_engine
from spawner.store.sessions import SessionRows
from tests.unit.images.test_ordering import job
from tests.unit.sessions.test_machine import session

if TYPE_CHECKING:
    from spawner.images.pulling import PullService
    from spawner.images.service import ImageService
    from spawner.ports import Dispatcher, Runtime
    from spawner.sessions.access import Access
    from spawner.users.service import UserService

NAME = SessionName("alice-proj-12345678")
PROJECTS_OWN = Credential(forge="default", token="gldt-x", kind=CredentialKind.DEPLOY, username="gitlab+deploy-token-1")
SMALL = ResourceClass(id=1, name="small", cpu_cores=1, memory_bytes=0)


class UnforeseenError(Exception):
    """What no code knows of."""


@dataclass
class World:
    """Everything a reconciler asks; `is_broken` makes the question for a credential end in what nobody foresaw."""

    at: datetime = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
    is_broken: bool = True
    announced: list[str] = field(default_factory=list)
    build: Build | None = None
    level: int | None = None
    meanwhile: Callable[[], None] = lambda: None  # what happens while a start is under way
    asked_for: list[tuple[TaskKind, str]] = field(default_factory=list)
    asked: list[tuple[object, ...]] = field(default_factory=list)
    started: list[Workload] = field(default_factory=list)

    def now(self) -> datetime:
        return self.at

    def scopes(self, *_: object, **__: object) -> frozenset[str]:
        return frozenset({"api"})

    def for_image(self, *asked: object) -> Pull:
        self.asked.append(asked)
        return Pull(credential=PROJECTS_OWN, message=PROJECTS)

    def start(self, workload: Workload) -> Iterator[Progress]:
        self.started.append(workload)
        yield Progress(message="Preparing.", state={"step": 1})
        self.meanwhile()
        raise RuntimeUnavailable("The machine is full.")

    def observe(self, states: Sequence[State]) -> Sequence[Observation]:
        return [Observation(health=Health.STARTING) for _ in states]

    def session_credential(self, *_: object) -> str:
        return "s"

    def credential(self, *_: object, **__: object) -> Any:
        if self.is_broken:
            raise UnforeseenError
        return None

    @property
    def settings(self) -> ImageSettings:
        return ImageSettings()

    @property
    def image_kinds(self) -> frozenset[ImageKind]:
        return frozenset(ImageKind)

    def facts(self, *_: object) -> ImageFacts:
        return ImageFacts(accepts=self.image_kinds, asked_at=self.at, build=self.build)

    known = facts

    def watch(self, *_: object) -> None:
        """Somebody looks at the build already."""

    def owner_level(self, *_: object) -> int:
        if self.level is None:
            raise ForgeUnavailable("502")
        return self.level

    def soon(self, kind: TaskKind, subject: str) -> None:
        self.asked_for.append((kind, subject))

    def announce(self, name: SessionName) -> None:
        self.announced.append(name)


@pytest.fixture
def world() -> World:
    """A world with a defect."""
    return World()


@pytest.fixture
def rows(sqlite_url: str, world: World) -> Iterator[SessionRows]:
    """The sessions of a database."""
    engine = open_engine(sqlite_url)
    yield SessionRows(engine, world)
    engine.dispose()


@pytest.fixture
def reconciler(rows: SessionRows, world: World) -> Reconciler:
    """A reconciler over that world."""
    return Reconciler(
        sessions=rows,
        images=cast("ImageService", world),
        users=cast("UserService", world),
        runtimes=cast("dict[str, Runtime]", {"standalone": world}),
        dispatcher=cast("Dispatcher", world),
        clock=world,
        settings=SessionSettings(
            instance="i", default_runtime="standalone", report_url="", relay_url="", classes=(SMALL,)
        ),
        checkouts=CheckoutPlan(relay_url=""),
        access=cast("Access", world),
        pulls=cast("PullService", world),
    )


def looked_at(reconciler: Reconciler, rows: SessionRows, *, times: int) -> Session:
    """Return the session after so many looks, each of which must end in the defect."""
    for _ in range(times):
        with pytest.raises(UnforeseenError):
            reconciler.reconcile(NAME)
    found = rows.get(NAME)
    assert found is not None
    return found


@pytest.mark.parametrize("phase", [Phase.NEW, Phase.WAITING])
def test_a_launch_that_never_gets_on_fails_in_words(reconciler: Reconciler, rows: SessionRows, phase: Phase) -> None:
    """After a few looks that end in a defect a launch fails, with its own code and with what to do."""
    rows.add(session(phase, due_at=datetime(2026, 1, 1, tzinfo=UTC)), [])

    before = looked_at(reconciler, rows, times=DEFECTS_LIMIT - 1)
    after = looked_at(reconciler, rows, times=1)

    assert (before.phase, after.phase) == (phase, Phase.FAILED)
    assert after.failure is not None
    assert (after.failure.code, bool(after.failure.remedy)) == ("defect", True)
    assert [event.kind for event in rows.events(NAME, after=0)] == [EventKind.PHASE, EventKind.FAILED]


def test_another_phase_counts_anew(reconciler: Reconciler, rows: SessionRows) -> None:
    """Defects of an earlier phase are not held against a session that got on."""
    rows.add(session(Phase.NEW), [])
    looked_at(reconciler, rows, times=DEFECTS_LIMIT - 1)
    claim = rows.claim(NAME, holder="other", seconds=4)
    assert claim is not None
    refreshed = rows.refresh(claim)
    assert refreshed is not None
    rows.save(replace(refreshed[0], phase=Phase.WAITING), [], refreshed[1])
    rows.release(refreshed[1])

    after = looked_at(reconciler, rows, times=DEFECTS_LIMIT - 1)

    assert after.phase is Phase.WAITING


def test_a_start_that_is_put_off_says_why_once(reconciler: Reconciler, rows: SessionRows) -> None:
    """However often a start is tried again, its trouble is one warning, and its step is what is wrong."""
    rows.add(session(Phase.STARTING, workload=None, launched_at=None), [])

    for _ in range(3):
        reconciler.reconcile(NAME)

    warnings = [event.message for event in rows.events(NAME, after=0) if event.kind is EventKind.WARNING]
    after = rows.get(NAME)
    assert after is not None
    assert (warnings, after.step) == (["The machine is full."], "The machine is full.")


def test_a_start_that_is_put_off_is_let_go(reconciler: Reconciler, rows: SessionRows) -> None:
    """Whoever comes after a start was put off can look at once."""
    rows.add(session(Phase.STARTING, workload=None, launched_at=None), [])

    reconciler.reconcile(NAME)

    assert rows.claim(NAME, holder="other", seconds=4) is not None


def test_a_session_changed_under_its_holder_is_let_go(reconciler: Reconciler, rows: SessionRows, world: World) -> None:
    """A holder whose session another process changes lets go of it at once, and asks for another look."""
    rows.add(session(Phase.STARTING, workload=None, launched_at=None), [])

    def change() -> None:
        found = rows.get(NAME)
        assert found is not None
        rows.ask(found, found.request)

    world.meanwhile = change

    reconciler.reconcile(NAME)

    assert rows.claim(NAME, holder="other", seconds=4) is not None
    assert world.asked_for == [(TaskKind.SESSION, NAME)]


@pytest.mark.parametrize("kind", ImageKind)
def test_a_container_image_is_fetched_as_was_chosen_and_that_is_said(
    reconciler: Reconciler, rows: SessionRows, world: World, kind: ImageKind
) -> None:
    """The runtime is given the credential that was chosen, the person told once; the spawner fetches others itself."""
    world.is_broken = False
    image = ChosenImage(
        reference="r/p@sha256:1", digest="sha256:1", kind=kind, source=ImageSource.EXACT, reason="It is the commit's."
    )
    rows.add(session(Phase.STARTING, workload=None, launched_at=None, image=image), [])

    for _ in range(2):
        reconciler.reconcile(NAME)

    steps = [event.message for event in rows.events(NAME, after=0) if event.kind is EventKind.STEP]
    is_container = kind is ImageKind.CONTAINER
    assert (steps.count(PROJECTS), len(world.asked)) == ((1, 2) if is_container else (0, 0))
    given = [workload.image.pull_credential for workload in world.started if workload.image is not None]
    assert given == [PROJECTS_OWN if is_container else None] * 2


NO_PIPELINE = Build(
    id="b", forge="default", project_id=1, sha=session(Phase.NEW).sha, job_name="image_build",
    first_asked_at=World().at, checked_at=World().at,
)  # fmt: skip
OFFERS: dict[str, tuple[Build, int | None, str | None, bool]] = {
    "a developer": (NO_PIPELINE, AccessLevel.DEVELOPER, None, True),
    "a reporter": (NO_PIPELINE, AccessLevel.REPORTER, None, False),
    "nobody knows": (NO_PIPELINE, None, None, False),
    "a job that runs": (replace(NO_PIPELINE, job=job(JobStatus.RUNNING)), AccessLevel.OWNER, "running", False),
    "a job set for later": (replace(NO_PIPELINE, job=job(JobStatus.SCHEDULED)), AccessLevel.OWNER, "scheduled", True),
}


@pytest.mark.parametrize("case", OFFERS)
def test_a_wait_says_what_the_build_does_and_what_may_be_done(
    reconciler: Reconciler, rows: SessionRows, world: World, case: str
) -> None:
    """An event of a build has its job's status, and an offer to build only for whom GitLab would let."""
    world.is_broken = False
    world.build, world.level, status, is_offered = OFFERS[case]
    rows.add(session(Phase.WAITING, reason="Asking."), [])

    reconciler.reconcile(NAME)

    events = [event for event in rows.events(NAME, after=0) if event.kind is EventKind.BUILD]
    assert [dict(event.data) for event in events] == [{"status": status, "can_build_now": is_offered}]
