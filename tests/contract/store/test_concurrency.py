"""Many at once, on both databases, in threads and in processes.

Covered: one winner of a lease, no wake-up lost, event ids without gaps, no transaction refused, one refresh at a
time, one use of a code, one row per name, migrations at once. Left out: a database that goes away (`test_engine`).
"""

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import Engine

from spawner.names import SessionName, UserId
from spawner.ports import Health, Observation
from spawner.sessions.model import Target
from spawner.store.builds import BuildRows
from spawner.store.engine import open_engine
from spawner.store.migrations import is_current, migrate
from spawner.store.sessions import SessionRows
from spawner.store.users import UserRows
from spawner.users.model import Grant
from tests.contract.store.conftest import KEY
from tests.contract.store.test_workloads import NAME as WORKLOAD
from tests.contract.store.test_workloads import ROW
from tests.contract.store.values import BUILD, PLAIN, FixedClock, at, event, named
from tests.servers import PostgreSQLServer

T = TypeVar("T")
NAME = PLAIN.name
THREADS = 40
TURNS = 14  # of three transactions, in each of five threads of each process
PROCESSES = 4


class RealClock:
    """The present."""

    def now(self) -> datetime:
        """Return it."""
        return datetime.now(UTC)


def at_once(call: Callable[[int], T], count: int = THREADS) -> list[T]:
    """Run a call in many threads that begin together; results in order."""
    barrier = threading.Barrier(count)

    def one(number: int) -> T:
        barrier.wait(30)
        return call(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


class Processes:
    """Several processes that begin each call together."""

    begin: Barrier | None = None  # set within each of them

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        barrier = context.Barrier(PROCESSES)
        self._pool = ProcessPoolExecutor(PROCESSES, context, initializer=_remember, initargs=(barrier,))

    def run(self, call: Callable[[int, Engine], T], url: str) -> list[T]:
        """Run a call in each process, over an engine of its own; results in order."""
        futures = [self._pool.submit(_together, call, number, url) for number in range(PROCESSES)]
        return [each.result(120) for each in futures]

    def stop(self) -> None:
        """End them."""
        self._pool.shutdown()


def _remember(barrier: Barrier) -> None:
    Processes.begin = barrier


def _together(call: Callable[[int, Engine], T], number: int, url: str) -> T:
    assert Processes.begin is not None
    engine = open_engine(url)
    Processes.begin.wait(60)
    try:
        return call(number, engine)
    finally:
        engine.dispose()


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    """Processes for all tests of this module: starting them is what takes time."""
    processes = Processes()
    yield processes
    processes.stop()


def test_one_winner(sessions: SessionRows) -> None:
    """Of 40 claims at once one wins, and the winner learns that 39 others came."""
    sessions.add(PLAIN, [])
    claims = at_once(lambda number: sessions.claim(NAME, holder=f"h{number}", seconds=30))
    winners = [claim for claim in claims if claim is not None]
    assert len(winners) == 1
    refreshed = sessions.refresh(winners[0])
    assert refreshed is not None
    assert refreshed[1].wanted == THREADS - 1


def _claims(number: int, engine: Engine) -> list[SessionName]:
    store = SessionRows(engine, RealClock())
    won: list[SessionName] = []
    for each in range(25):
        claim = store.claim(SessionName(f"s{each}"), holder=f"p{number}", seconds=60)
        won += [claim.name] if claim else []
    return won


def test_one_winner_among_processes(sessions: SessionRows, database_url: str, processes: Processes) -> None:
    """Of four processes claiming the same 25 sessions each session goes to one."""
    names = [f"s{number}" for number in range(25)]
    for name in names:
        sessions.add(named(name), [])
    won = [name for each in processes.run(_claims, database_url) for name in each]
    assert sorted(won) == sorted(names)


def test_one_poller(builds: BuildRows) -> None:
    """Of 40 pollers at once one gets the build."""
    builds.add(BUILD)
    assert at_once(lambda _: builds.claim(BUILD.id, seconds=30)).count(True) == 1


def test_one_row_per_name(sessions: SessionRows) -> None:
    """Of 40 identical launches one makes the row and its event; all get the same session."""
    results = at_once(lambda _: sessions.add(PLAIN, [event("accepted")]))
    assert [is_new for _, is_new in results].count(True) == 1
    assert {session.version for session, _ in results} == {0}
    assert [each.id for each in sessions.events(NAME, after=0)] == [1]


def _hold(sessions: SessionRows, holder: str, look: Callable[[], None]) -> bool:
    """Do what a reconciler does: claim, look until nobody came meanwhile, leave; say whether it held."""
    claim = sessions.claim(NAME, holder=holder, seconds=30)
    if claim is None:
        return False
    while True:
        refreshed = sessions.refresh(claim)
        assert refreshed is not None
        _, claim = refreshed
        look()
        if sessions.release(claim):
            return True


def test_no_wake_up_is_lost(sessions: SessionRows) -> None:
    """What fifteen write after the holder's look, and are refused the lease for, the holder sees before it leaves."""
    sessions.add(PLAIN, [])
    written: set[int] = set()
    seen: set[int] = set()
    refused: list[int] = []
    has_looked, are_refused = threading.Event(), threading.Event()

    def look() -> None:
        seen.update(set(written))
        has_looked.set()
        assert are_refused.wait(30)

    def come(number: int) -> None:
        assert number == 0 or has_looked.wait(30)
        written.add(number)
        if not _hold(sessions, f"h{number}", look):
            refused.append(number)
            if len(refused) == 15:
                are_refused.set()

    at_once(come, 16)
    assert seen == set(range(16))


@pytest.mark.parametrize("kind", ["wish", "want", "observe"])
def test_wake_up_during_a_hold(sessions: SessionRows, clock: FixedClock, kind: str) -> None:
    """A wake-up between a holder's look and its save keeps it from leaving, and outlives its death."""
    sessions.add(replace(PLAIN, due_at=None), [])
    sessions.put_workload(ROW)
    claim = sessions.claim(NAME, holder="one", seconds=30)
    assert claim is not None
    now = clock.pass_seconds(1)
    match kind:
        case "wish":
            sessions.wish(NAME, target=Target.GONE)
        case "want":
            sessions.want([NAME])
        case _:
            sessions.observe(WORKLOAD, Observation(health=Health.EXITED))
    saved = sessions.save(replace(PLAIN, due_at=at(1000)), [], claim)
    assert saved is not None
    assert saved.due_at == now
    assert not sessions.release(claim)
    refreshed = sessions.refresh(claim)
    assert refreshed is not None
    settled = sessions.save(replace(saved, due_at=at(1000)), [], refreshed[1])
    assert settled is not None
    assert (settled.due_at, sessions.release(refreshed[1])) == (at(1000), True)


def test_event_ids_without_gaps(sessions: SessionRows) -> None:
    """Ten writers that race to save one session number its events 1, 2, 3 … in the order of versions."""
    sessions.add(PLAIN, [event("accepted")])
    claim = sessions.claim(NAME, holder="one", seconds=60)
    assert claim is not None

    def write(number: int) -> int:
        saved = 0
        for _ in range(30):
            session = sessions.get(NAME)
            assert session is not None
            after = sessions.save(replace(session, step=f"{number}"), [event("a"), event("b", by=number)], claim)
            saved += after is not None
        return saved

    saved = sum(at_once(write, 10))
    ids = [each.id for each in sessions.events(NAME, after=0, limit=10_000)]
    assert saved > 0
    assert ids == list(range(1, 2 * saved + 2))
    session = sessions.get(NAME)
    assert session is not None
    assert (session.version, session.events) == (saved, 2 * saved + 1)


def _transactions(number: int, engine: Engine) -> int:
    """Read and then write, in one transaction, as plain BEGIN on SQLite would refuse."""
    store = SessionRows(engine, RealClock())

    def go(thread: int) -> int:
        done = 0
        for turn in range(TURNS):
            name = SessionName(f"s{turn % 7}")
            done += store.observe(WORKLOAD, Observation(health=Health.READY, exit_code=turn)) is not None
            done += store.add(named(f"n{number}-{thread}-{turn}"), [event("x")])[1]
            store.want([name, NAME])
        return done

    return sum(at_once(go, 5))


def test_no_transaction_is_refused(sessions: SessionRows, database_url: str, processes: Processes) -> None:
    """Four processes of five threads write 840 transactions at once; none is refused."""
    sessions.add(PLAIN, [])
    sessions.put_workload(ROW)
    for number in range(7):
        sessions.add(named(f"s{number}"), [])
    assert processes.run(_transactions, database_url) == [5 * TURNS * 2] * PROCESSES
    assert sessions.count_running() == 8 + PROCESSES * 5 * TURNS


def test_wishes_and_saves_at_once(sessions: SessionRows) -> None:
    """A hundred wishes during a hold never disturb the holder's saves, and the last one counts."""
    sessions.add(PLAIN, [])
    claim = sessions.claim(NAME, holder="one", seconds=60)
    assert claim is not None

    def turn(number: int) -> bool:
        if number:
            return sessions.wish(NAME, target=Target.GONE)
        session = sessions.get(NAME)
        for _ in range(20):
            assert session is not None
            session = sessions.save(replace(session, step="x", target=Target.RUNNING), [event("x")], claim)
        return session is not None

    assert all(at_once(turn, 20))
    after = sessions.get(NAME)
    assert after is not None
    assert (after.target, after.version, after.events) == (Target.GONE, 20, 20)


def test_one_refresh_at_a_time(users: UserRows) -> None:
    """Twenty refreshes at once run one after the other, each on what the one before left."""
    users.put_grant(Grant(user_id=UserId("a"), forge="default", access_token="0"))
    inside: list[int] = []

    def refresh(grant: Grant) -> Grant:
        inside.append(1)
        assert len(inside) == 1
        newer = replace(grant, access_token=str(int(grant.access_token) + 1))
        inside.pop()
        return newer

    results = at_once(lambda _: users.with_grant_lock(UserId("a"), refresh), 20)
    assert sorted(int(each.access_token) for each in results if each) == list(range(1, 21))


def _refreshes(_: int, engine: Engine) -> None:
    store = UserRows(engine, RealClock(), [KEY])
    for _turn in range(5):
        store.with_grant_lock(UserId("a"), lambda grant: replace(grant, access_token=str(int(grant.access_token) + 1)))


def test_one_refresh_among_processes(users: UserRows, database_url: str, processes: Processes) -> None:
    """Refreshes of several processes do not overlap either."""
    users.put_grant(Grant(user_id=UserId("a"), forge="default", access_token="0"))
    processes.run(_refreshes, database_url)
    grant = users.grant(UserId("a"))
    assert grant is not None
    assert grant.access_token == str(5 * PROCESSES)


def test_one_use_of_a_code(users: UserRows) -> None:
    """Of 40 who bring the same code one gets in."""
    users.put_code("c", NAME, UserId("a"), at(60))
    assert [each for each in at_once(lambda _: users.redeem_code("c", NAME, at(0))) if each] == [UserId("a")]


def test_observations_while_a_workload_ends(sessions: SessionRows) -> None:
    """Observing a workload while it is ended raises nothing, whichever comes first."""
    sessions.add(PLAIN, [])

    def turn(number: int) -> None:
        for code in range(10):
            if number % 4 == 0:
                sessions.end_workload(WORKLOAD)
            elif number % 4 == 1:
                sessions.put_workload(ROW)
            else:
                sessions.observe(WORKLOAD, Observation(health=Health.EXITED, exit_code=code))

    at_once(turn, 16)
    sessions.end_workload(WORKLOAD)
    assert sessions.observation(WORKLOAD) is None


def _migrate(_: int, engine: Engine) -> bool:
    migrate(engine)
    return is_current(engine)


def test_migrations_at_once_sqlite(tmp_path: Path, processes: Processes) -> None:
    """Four processes that start on an empty SQLite file all find it migrated."""
    assert processes.run(_migrate, f"sqlite:///{tmp_path / 'empty.db'}") == [True] * PROCESSES


def test_migrations_at_once_postgresql(postgresql_server: PostgreSQLServer, processes: Processes) -> None:
    """Four processes that start on an empty PostgreSQL database all find it migrated."""
    postgresql_server.execute("CREATE DATABASE empty")
    assert processes.run(_migrate, postgresql_server.url("empty")) == [True] * PROCESSES
    postgresql_server.execute("DROP DATABASE empty WITH (FORCE)")


def test_engine_is_used_by_many_threads(engine: Engine) -> None:
    """Forty threads that read at once all get a connection."""
    store = SessionRows(engine, FixedClock())
    store.add(PLAIN, [])
    assert [each.name for each in at_once(lambda _: store.get(NAME)) if each] == [NAME] * THREADS
