"""What runs against what the database knows.

Covered: a workload that serves its session, one whose session went on, one unknown to the database (young, old,
too many at once, across a restart), a runtime that cannot be asked or does not end one, rows left over.
Left out: a real runtime's inventory (tests/contract/runtime).
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, event

from spawner.errors import RuntimeUnavailable
from spawner.names import CommitSha, ProjectPath, SessionName, UserId, WorkloadName
from spawner.ports import Checkout, Owned, RefKind, Resources, State, Workload
from spawner.sessions.inventory import FEW, Inventory
from spawner.sessions.model import Phase, WorkloadRow
from spawner.store.engine import open_engine
from spawner.store.sessions import SessionRows
from spawner.testing.runtime import FakeRuntime
from tests.contract.store.values import named

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.at = NOW

    def now(self) -> datetime:
        """Return the time that was set."""
        return self.at


def workload(name: str) -> Workload:
    """Return a workload of that name."""
    return Workload(
        name=WorkloadName(name),
        generation=1,
        session=SessionName(f"session-of-{name}"),
        user_id=UserId("u"),
        username="alice",
        workspace=f"workspace-of-{name}",
        image=None,
        checkout=Checkout(
            relay_url="http://spawner/git/s/grp/proj.git",
            replaces=(),
            project=ProjectPath("grp/proj"),
            branch="main",
            ref_kind=RefKind.BRANCH,
            sha=CommitSha("a" * 40),
            author_name="alice",
            author_email="",
        ),
        credential="credential",
        report_url="http://spawner/agent",
        default_url="/lab",
        environment={},
        resources=Resources(cpu_cores=1, memory_bytes=1, storage_bytes=1),
    )


class World:
    """An inventory over a real database and a runtime in memory."""

    def __init__(self, engine: Engine) -> None:
        sessions = SessionRows(engine, Clock())
        self.engine = engine
        self.clock = Clock()
        self.runtime = FakeRuntime(name="standalone")
        self.sessions = sessions
        self.inventory = Inventory(sessions=sessions, runtimes={"standalone": self.runtime}, clock=self.clock)

    def run(self, name: str) -> None:
        """Let a workload run that the database does not know."""
        self.runtime.plant(workload(name))

    def know(self, name: str, *, phase: Phase, current: str | None = None) -> None:
        """Give the database a workload's row and its session, which may have gone on to another."""
        owner = f"session-of-{name}"
        self.sessions.add(named(owner, phase=phase, workload=WorkloadName(current or name), due_at=None), [])
        self.sessions.put_workload(
            WorkloadRow(
                name=WorkloadName(name),
                owner_kind="session",
                owner_name=owner,
                site="standalone",
                image=None,
                state={"workload": name},
                generation=1,
            )
        )

    def swept(self) -> list[str]:
        """Sweep; return the names of those ended."""
        return [stray.owned.workload for stray in self.inventory.sweep(grace_seconds=1)]

    def running(self) -> set[str]:
        """Return the names of all that runs and was not asked to stop."""
        stopped = {str(state["workload"]) for state in self.runtime.stopped}
        return {str(owned.workload) for owned in self.runtime.inventory()} - stopped


@pytest.fixture
def world(sqlite_url: str) -> Iterator[World]:
    """An empty world."""
    engine = open_engine(sqlite_url)
    yield World(engine)
    engine.dispose()


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.RUNNING, Phase.STOPPING])
def test_what_serves_a_session_runs_on(world: World, phase: Phase) -> None:
    """A workload of a living session is no stray."""
    world.run("w")
    world.know("w", phase=phase)

    assert (world.inventory.strays(), world.swept(), world.running()) == ((), [], {"w"})


@pytest.mark.parametrize(
    ("phase", "current"), [(Phase.RUNNING, "its-next-generation"), (Phase.GONE, None), (Phase.FAILED, None)]
)
def test_what_its_session_left_behind_is_ended_at_once(world: World, phase: Phase, current: str | None) -> None:
    """A workload whose session went on, or ended, is ended at the first sweep."""
    world.run("w")
    world.know("w", phase=phase, current=current)

    assert (world.swept(), world.running()) == (["w"], set())


def test_a_sweep_reads_in_bulk(world: World) -> None:
    """However many workloads run, a sweep asks the database as often."""

    def queries() -> int:
        asked: list[str] = []

        def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            asked.append(statement)

        event.listen(world.engine, "before_cursor_execute", note)
        world.swept()
        event.remove(world.engine, "before_cursor_execute", note)
        return len(asked)

    for number in range(2):
        world.run(f"w{number}")
        world.know(f"w{number}", phase=Phase.RUNNING)
    few = queries()
    for number in range(2, 20):
        world.run(f"w{number}")
        world.know(f"w{number}", phase=Phase.RUNNING)

    assert queries() == few


def test_what_the_database_never_knew_is_reported_for_a_day(world: World) -> None:
    """A stranger is only reported for 24 hours since it was first seen, then its compute is ended."""
    world.run("w")

    assert ([stray.is_known for stray in world.inventory.strays()], world.swept()) == ([False], [])
    world.clock.at = NOW + timedelta(hours=23)
    assert world.swept() == []
    world.clock.at = NOW + timedelta(hours=25)
    assert (world.swept(), world.running()) == (["w"], set())


@pytest.mark.parametrize(("strangers", "ends"), [(FEW, True), (FEW + 1, False)])
def test_a_wrong_database_ends_nothing(world: World, strangers: int, *, ends: bool) -> None:
    """More than five strangers that are over a tenth of all that runs are left alone: the database is wrong."""
    names = {f"w{number}" for number in range(strangers)}
    for name in names:
        world.run(name)
    world.swept()
    world.clock.at = NOW + timedelta(hours=25)

    assert (set(world.swept()), world.running()) == ((names, set()) if ends else (set(), names))


def test_the_day_outlives_a_restart(world: World) -> None:
    """The day of a stranger is counted on by the next process."""
    world.run("w")
    world.swept()
    world.inventory = Inventory(sessions=world.sessions, runtimes={"standalone": world.runtime}, clock=world.clock)
    world.clock.at = NOW + timedelta(hours=25)

    assert world.swept() == ["w"]


class Away(FakeRuntime):
    """A runtime that stops nothing of one name, and can be away altogether."""

    stuck = ""
    is_away = False

    def stop(self, state: State, *, grace_seconds: float) -> None:
        """Refuse the one that is stuck."""
        if state["workload"] == self.stuck:
            raise RuntimeUnavailable("It does not answer.")
        super().stop(state, grace_seconds=grace_seconds)

    def inventory(self) -> Iterator[Owned]:
        """Yield what lives, unless it is away."""
        if self.is_away:
            raise RuntimeUnavailable("It does not answer.")
        return super().inventory()


@pytest.fixture
def away(world: World) -> Away:
    """The world's runtime, which fails as a test says."""
    away = Away(name="standalone")
    world.runtime = away
    world.inventory = Inventory(sessions=world.sessions, runtimes={"standalone": away}, clock=world.clock)
    return away


def test_one_that_cannot_be_ended_stops_no_other(world: World, away: Away) -> None:
    """A runtime that refuses to end one stray is asked to end the others all the same."""
    for name in ("a", "b", "c"):
        world.run(name)
        world.know(name, phase=Phase.GONE)
    away.stuck = "b"

    assert (sorted(world.swept()), world.running()) == (["a", "c"], {"b"})


def test_rows_of_earlier_generations_go(world: World, away: Away) -> None:
    """The row of a workload that its session has left goes once its runtime holds nothing of it, never before."""
    world.know("w", phase=Phase.RUNNING, current="its-next-generation")
    world.run("w")
    away.stuck = "w"
    world.swept()
    assert [row.name for row in world.sessions.workloads()] == ["w"], "it runs"
    away.end(WorkloadName("w"))
    away.is_away = True
    world.swept()
    assert [row.name for row in world.sessions.workloads()] == ["w"], "nobody knows"
    away.is_away = False
    world.swept()
    assert world.sessions.workloads() == []


def test_workspaces_are_never_touched(world: World) -> None:
    """Ending a stray keeps its workspace."""
    world.run("w")
    world.know("w", phase=Phase.GONE)
    world.runtime.workspaces.add("workspace-of-w")

    world.swept()

    assert world.runtime.workspaces == {"workspace-of-w"}
