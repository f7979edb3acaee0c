"""Workloads and observations on both databases.

Covered: round trips, idempotence, what an observation overwrites and whom it wakes. Left out: races with a holder
(`test_concurrency`).
"""

from dataclasses import replace

import pytest

from spawner.names import SessionName, WorkloadName
from spawner.ports import Health, Observation
from spawner.sessions.model import WorkloadRow
from spawner.store.sessions import SessionRows
from spawner.store.workloads import is_news, newest
from tests.contract.store.values import PLAIN, FixedClock, at

NAME = WorkloadName("weather-0123456-abc")
ROW = WorkloadRow(
    name=NAME,
    owner_kind="session",
    owner_name=PLAIN.name,
    site="standalone",
    image="registry.example.org/a@sha256:1",
    state={"pid": 5, "nested": {"list": [1, None, "ü"]}},
    generation=2,
)
READY = Observation(health=Health.READY, memory_bytes=5_000_000_000, cpu_cores=0.25)
EXITED = Observation(health=Health.EXITED, message="It ran out of memory.", exit_code=137, is_out_of_memory=True)
GONE = Observation(health=Health.GONE)


def test_workload_round_trip(sessions: SessionRows) -> None:
    """A workload comes back as it went in, is replaced by its next version, and ends once."""
    sessions.put_workload(ROW)
    assert (sessions.workload(NAME), sessions.workloads()) == (ROW, [ROW])
    bare = replace(ROW, image=None, state={}, site="other", generation=3)
    sessions.put_workload(bare)
    assert [bare] == sessions.workloads()
    sessions.end_workload(NAME)
    sessions.end_workload(NAME)
    assert (sessions.workload(NAME), sessions.workloads()) == (None, [])


def test_outlived(sessions: SessionRows) -> None:
    """Outlived are the workloads that a session has left, not its own, not another owner's; they go together."""
    sessions.add(replace(PLAIN, workload=WorkloadName("now")), [])
    sessions.add(replace(PLAIN, name=SessionName("between"), workload=None), [])
    for name, owner in (("now", PLAIN.name), ("before", PLAIN.name), ("last", "between")):
        sessions.put_workload(replace(ROW, name=WorkloadName(name), owner_name=owner))
    sessions.put_workload(replace(ROW, name=WorkloadName("pooled"), owner_kind="pool"))
    sessions.observe(WorkloadName("before"), READY)
    found = [row.name for row in sessions.outlived(limit=9)]
    assert (found, [row.name for row in sessions.outlived(limit=1)]) == (["before", "last"], ["before"])
    sessions.end_workloads(found)
    sessions.end_workloads([])
    assert [row.name for row in sessions.workloads()] == ["now", "pooled"]
    assert sessions.observation(WorkloadName("before")) is None


def test_owners(sessions: SessionRows) -> None:
    """Each known workload comes with its session, one of a session that is not there or of another owner without."""
    sessions.add(PLAIN, [])
    owners = {"now": ("session", PLAIN.name), "lost": ("session", "nobody"), "pooled": ("pool", PLAIN.name)}
    for name, (kind, owner) in owners.items():
        sessions.put_workload(replace(ROW, name=WorkloadName(name), owner_kind=kind, owner_name=owner))
    sessions.put_workload(replace(ROW, name=WorkloadName("not asked for")))

    found = sessions.owners([WorkloadName(name) for name in (*owners, "unknown")])

    assert found == {"now": PLAIN, "lost": None, "pooled": None}
    assert sessions.owners([]) == {}


def test_strays(sessions: SessionRows) -> None:
    """A stray keeps the time it was first seen, each site its own, until it is not there any more."""
    one, two = WorkloadName("one"), WorkloadName("two")
    assert sessions.strays_seen("a", [one], at(0)) == {one: at(0)}
    assert sessions.strays_seen("b", [one], at(1)) == {one: at(1)}
    assert sessions.strays_seen("a", [two, one], at(2)) == {one: at(0), two: at(2)}
    assert sessions.strays_seen("a", [], at(3)) == {}
    assert (sessions.strays_seen("a", [one], at(4)), sessions.strays_seen("b", [one], at(4))) == (
        {one: at(4)},
        {one: at(1)},
    )


def test_state(sessions: SessionRows) -> None:
    """A state replaces the one before; for a workload that has ended it is nothing."""
    sessions.put_workload(ROW)
    sessions.set_state(NAME, {"step": 2})
    assert replace(ROW, state={"step": 2}) == sessions.workload(NAME)
    sessions.end_workload(NAME)
    sessions.set_state(NAME, {"step": 3})
    assert sessions.workload(NAME) is None


@pytest.mark.parametrize("observation", [READY, EXITED, GONE], ids=["ready", "exited", "gone"])
def test_observation_round_trip(sessions: SessionRows, observation: Observation) -> None:
    """An observation comes back as it went in, and goes with its workload."""
    sessions.add(PLAIN, [])
    sessions.put_workload(ROW)
    assert sessions.observation(NAME) is None
    assert sessions.observe(NAME, observation) == PLAIN.name
    assert observation == sessions.observation(NAME)
    sessions.end_workload(NAME)
    assert sessions.observation(NAME) is None


def test_unknown_workload(sessions: SessionRows) -> None:
    """What is observed of an unknown workload, or of one that is no session's, is not kept."""
    assert sessions.observe(NAME, READY) is None
    sessions.put_workload(replace(ROW, owner_kind="pool"))
    assert sessions.observe(NAME, READY) is None
    assert sessions.observation(NAME) is None


def test_news_wakes(sessions: SessionRows, clock: FixedClock) -> None:
    """News makes the session due and keeps its holder from leaving; the same health again does neither."""
    sessions.add(replace(PLAIN, due_at=None), [])
    sessions.put_workload(ROW)
    claim = sessions.claim(PLAIN.name, holder="one", seconds=30)
    assert claim is not None
    now = clock.pass_seconds(5)
    sessions.observe(NAME, READY)
    assert not sessions.release(claim)
    refreshed = sessions.refresh(claim)
    assert refreshed is not None
    assert now == refreshed[0].due_at
    sessions.observe(NAME, replace(READY, memory_bytes=6))
    assert sessions.release(refreshed[1])
    after = sessions.observation(NAME)
    assert after is not None
    assert after.memory_bytes == 6


STARTING = Observation(health=Health.STARTING)
UNKNOWN = Observation(health=Health.UNKNOWN, message="The runtime did not answer.")
OVERWRITES: list[tuple[str, Observation | None, Observation, Observation, bool]] = [
    ("first", None, READY, READY, True),
    ("life goes on", STARTING, READY, READY, True),
    ("nothing new", READY, READY, READY, False),
    ("new figures", READY, replace(READY, memory_bytes=1), replace(READY, memory_bytes=1), False),
    ("not known now", READY, UNKNOWN, UNKNOWN, True),
    ("an end", READY, EXITED, EXITED, True),
    ("late ready", EXITED, READY, EXITED, False),
    ("late starting", GONE, STARTING, GONE, False),
    ("unknown after the end", GONE, UNKNOWN, GONE, False),
    ("gone after exited", EXITED, GONE, replace(EXITED, health=Health.GONE), True),
    ("last word after gone", GONE, EXITED, EXITED, True),
]


@pytest.mark.parametrize(
    ("kept", "seen", "expected", "news"), [row[1:] for row in OVERWRITES], ids=[row[0] for row in OVERWRITES]
)
def test_what_is_kept(kept: Observation | None, seen: Observation, expected: Observation, *, news: bool) -> None:
    """An end stays an end and keeps what was learned of it."""
    newer = newest(kept, seen)
    assert (expected, news) == (newer, is_news(kept, newer))


def test_late_ready_is_refused(sessions: SessionRows) -> None:
    """A READY that arrives after an EXITED changes nothing in the database either."""
    sessions.add(PLAIN, [])
    sessions.put_workload(ROW)
    sessions.observe(NAME, EXITED)
    assert sessions.observe(NAME, READY) == SessionName(PLAIN.name)
    assert sessions.observation(NAME) == EXITED
