"""The session store on both databases.

Covered: round trips of every field, conditional saves, lists and stamps, wishes, wake-ups, what is due, waiting,
events and cursors, retention, counts. Left out: many at once (`test_concurrency`), workloads (`test_workloads`).
"""

from dataclasses import replace
from datetime import timedelta, timezone
from typing import Any

import pytest

from spawner.names import SessionName, UserId
from spawner.ports import RefKind
from spawner.sessions.model import EventKind, Phase, Session, Target
from spawner.sessions.store import Claim, Filter
from spawner.store.builds import BuildRows
from spawner.store.sessions import SessionRows
from tests.contract.store.values import AT, BUILD, FULL, PLAIN, FixedClock, at, event, named

NAME = PLAIN.name


def claimed(sessions: SessionRows, name: SessionName = NAME, holder: str = "one") -> Claim:
    """Return a lease that must be free."""
    claim = sessions.claim(name, holder=holder, seconds=30)
    assert claim is not None
    return claim


@pytest.mark.parametrize("session", [FULL, PLAIN], ids=["full", "plain"])
def test_round_trip(sessions: SessionRows, session: Session) -> None:
    """A session comes back as it went in, with the number of its events."""
    added, is_new = sessions.add(session, [event("accepted"), event("again")])
    assert (replace(session, events=2), True) == (added, is_new)
    assert added == sessions.get(session.name)


def test_every_field_is_saved(sessions: SessionRows) -> None:
    """A save writes every field but the name and the people's columns."""
    sessions.add(PLAIN, [])
    changed = replace(FULL, name=NAME, version=0, events=0, target=Target.GONE)
    saved = sessions.save(changed, [event("one")], claimed(sessions))
    expected = replace(changed, version=1, events=1, target=PLAIN.target, is_start_now=False, wants_built_image=False)
    assert expected == saved
    assert expected == sessions.get(NAME)


def test_name_taken(sessions: SessionRows) -> None:
    """Adding a name twice returns the row that is there and adds no event."""
    first, _ = sessions.add(PLAIN, [event("first")])
    assert (first, False) == sessions.add(named(NAME, branch="other"), [event("second")])
    assert [each.message for each in sessions.events(NAME, after=0)] == ["first"]


def test_unknown(sessions: SessionRows) -> None:
    """What does not exist is None, False or empty, never an error."""
    missing = SessionName("missing")
    sessions.want([missing])
    sessions.want([])
    sessions.forget_workspace(named("missing"))
    sessions.access_checked(missing, at=AT, unknown_since=None)
    claim = Claim(name=missing, holder="one", wanted=0)
    seen = (
        sessions.get(missing),
        sessions.claim(missing, holder="one", seconds=4),
        sessions.refresh(claim),
        sessions.save(named("missing"), [event("x")], claim),
        sessions.relaunch(named("missing"), []),
    )
    assert seen == (None,) * 5
    assert (
        sessions.renew(claim, seconds=4),
        sessions.release(claim),
        sessions.wish(missing, target=Target.GONE),
    ) == (False, False, False)
    assert (
        sessions.events(missing, after=0),
        sessions.events_of({missing: 0}),
        sessions.heads(UserId("nobody"), gone_since=AT),
        sessions.events_of({}),
    ) == ([], [], {}, [])


def test_save_wants_version(sessions: SessionRows) -> None:
    """A save from an older version changes nothing and adds no event."""
    sessions.add(PLAIN, [])
    claim = claimed(sessions)
    first = sessions.save(replace(PLAIN, step="one"), [event("one")], claim)
    assert sessions.save(replace(PLAIN, step="two"), [event("two")], claim) is None
    assert first == sessions.get(NAME)
    assert [each.message for each in sessions.events(NAME, after=0)] == ["one"]


def test_save_wants_lease(sessions: SessionRows) -> None:
    """A save, a refresh and a renewal under a lease that ran out fail."""
    sessions.add(PLAIN, [])
    lost = sessions.claim(NAME, holder="one", seconds=-1)
    assert lost is not None
    assert (
        sessions.save(replace(PLAIN, step="one"), [], lost),
        sessions.refresh(lost),
        sessions.renew(lost, seconds=4),
    ) == (None, None, False)
    taken = claimed(sessions, holder="two")
    assert sessions.save(replace(PLAIN, step="one"), [], lost) is None
    assert sessions.save(replace(PLAIN, step="two"), [], taken) is not None


def test_lease(sessions: SessionRows) -> None:
    """A lease keeps others out until it is given back, and whoever tries raises `wanted`."""
    sessions.add(PLAIN, [])
    first = claimed(sessions)
    assert sessions.claim(NAME, holder="two", seconds=4) is None
    assert not sessions.release(first)
    refreshed = sessions.refresh(first)
    assert refreshed is not None
    assert (sessions.get(NAME), replace(first, wanted=first.wanted + 1)) == refreshed
    assert sessions.renew(first, seconds=4)
    assert sessions.release(refreshed[1])
    assert claimed(sessions, holder="two").wanted == first.wanted + 1


def test_own_lease_again(sessions: SessionRows) -> None:
    """A holder that claims again what it holds gets it, without waking itself."""
    sessions.add(PLAIN, [])
    assert claimed(sessions) == claimed(sessions)


def test_wish_under_lease(sessions: SessionRows) -> None:
    """A wish during a hold is kept by the holder's save, told by it, and keeps the session due and the lease."""
    sessions.add(replace(PLAIN, due_at=None), [])
    claim = claimed(sessions)
    assert sessions.wish(NAME, target=Target.GONE, is_start_now=True)
    saved = sessions.save(replace(PLAIN, step="one", due_at=at(500)), [], claim)
    assert saved is not None
    assert (saved.target, saved.is_start_now, saved.due_at) == (Target.GONE, True, AT)
    assert not sessions.release(claim)


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        ({"target": Target.GONE}, (Target.GONE, False, False)),
        ({"is_start_now": True}, (Target.RUNNING, True, False)),
        ({"wants_built_image": True}, (Target.RUNNING, False, True)),
        ({}, (Target.RUNNING, False, False)),
    ],
)
def test_wishes(
    sessions: SessionRows, clock: FixedClock, wish: dict[str, Any], expected: tuple[Target, bool, bool]
) -> None:
    """Each wish writes its own column alone, and makes the session due now."""
    sessions.add(replace(PLAIN, due_at=None), [])
    now = clock.pass_seconds(3)
    assert sessions.wish(NAME, **wish)
    after = sessions.get(NAME)
    assert after is not None
    assert expected == (after.target, after.is_start_now, after.wants_built_image)
    assert ([NAME], now) == (sessions.due(now, limit=5), after.due_at)


def test_wish_can_be_taken_back(sessions: SessionRows) -> None:
    """A wish of False is a wish."""
    sessions.add(replace(PLAIN, is_start_now=True), [])
    sessions.wish(NAME, is_start_now=False)
    after = sessions.get(NAME)
    assert after is not None
    assert after.is_start_now is False


def test_relaunch(sessions: SessionRows, clock: FixedClock) -> None:
    """A relaunch replaces the whole row, people's columns too; events go on counting; an older version cannot."""
    ended, _ = sessions.add(replace(FULL, phase=Phase.GONE, target=Target.GONE), [event("gone", EventKind.GONE)])
    claim = claimed(sessions, FULL.name)
    clock.pass_seconds(60)
    again = replace(PLAIN, name=FULL.name, generation=4, created_at=at(60), version=ended.version)
    saved = sessions.relaunch(again, [event("again", EventKind.PHASE)])
    assert replace(again, version=1, events=2) == saved
    assert sessions.relaunch(again, []) is None
    assert not sessions.release(claim)
    assert [(1, Phase.GONE, AT), (2, Phase.NEW, at(60))] == [
        (each.id, each.phase, each.at) for each in sessions.events(FULL.name, after=0)
    ]


def test_events(sessions: SessionRows, clock: FixedClock) -> None:
    """Events keep their order, time, phase and data, and are read after a cursor."""
    sessions.add(PLAIN, [event("one", EventKind.PHASE)])
    claim = claimed(sessions)
    clock.pass_seconds(2)
    data = {"deep": [{"a": None}, 1.5, "ü \x00 \ud800"]}
    sessions.save(
        replace(PLAIN, phase=Phase.STARTING), [event("two", EventKind.STEP, **data), event("three\x00\ud800")], claim
    )
    seen = [
        (each.id, each.at, each.phase, each.kind, each.message, each.data) for each in sessions.events(NAME, after=1)
    ]
    assert [
        (2, at(2), Phase.STARTING, EventKind.STEP, "two", data),
        (3, at(2), Phase.STARTING, EventKind.STEP, "three\ufffd\ufffd", {}),
    ] == seen
    assert [each.id for each in sessions.events(NAME, after=1, limit=1)] == [2]


def test_events_of_many(sessions: SessionRows) -> None:
    """One query reads many sessions, each after its own cursor, and no other session."""
    names = [SessionName(f"s{number:04}") for number in range(1500)]
    for name in [*names[:3], SessionName("other")]:
        sessions.add(named(name), [event("one"), event("two")])
    cursors = {**dict.fromkeys(names, 5), names[0]: 0, names[1]: 1, names[2]: 2}
    seen = [(each.session, each.id) for each in sessions.events_of(cursors)]
    assert [(names[0], 1), (names[0], 2), (names[1], 2)] == seen
    assert seen[:1] == [(each.session, each.id) for each in sessions.events_of(cursors, limit=1)]


def test_heads(sessions: SessionRows) -> None:
    """Heads are of one person's sessions, those that ended lately too."""
    sessions.add(named("a", phase_since=at(-9)), [event("one"), event("two")])
    sessions.add(named("b", phase=Phase.GONE, phase_since=at(0)), [])
    sessions.add(named("before", phase=Phase.GONE, phase_since=at(-1)), [event("one")])
    sessions.add(named("failed", phase=Phase.FAILED, phase_since=at(-1)), [event("one")])
    sessions.add(named("c", user_id=UserId("user-eve")), [event("one")])
    assert sessions.heads(PLAIN.user_id, gone_since=at(0)) == {"a": 2, "b": 0, "failed": 1}


def test_due(sessions: SessionRows) -> None:
    """Due are those whose time has come and that nobody holds, longest due first."""
    times = {"late": -5, "now": 0, "held": -9, "later": 1, "lapsed": -1}
    for name, seconds in times.items():
        sessions.add(named(name, due_at=at(seconds)), [])
    sessions.add(named("never", due_at=None), [])
    sessions.claim(SessionName("held"), holder="one", seconds=30)
    sessions.claim(SessionName("lapsed"), holder="one", seconds=-1)
    assert sessions.due(AT, limit=10) == ["late", "lapsed", "now"]
    assert sessions.due(AT, limit=1) == ["late"]


def test_want(sessions: SessionRows, clock: FixedClock) -> None:
    """Wanting makes the named sessions due now and keeps their holders from leaving."""
    names = [SessionName(f"s{number}") for number in range(3)]
    for name in names:
        sessions.add(named(name, due_at=None), [])
    claim = claimed(sessions, names[0])
    now = clock.pass_seconds(1)
    sessions.want([names[1], names[0]])
    assert not sessions.release(claim)
    assert [names[1]] == sessions.due(now, limit=9)


def test_interested_in(sessions: SessionRows) -> None:
    """Interested in a build are those of its commit that wait, oldest first, then those that run meanwhile."""
    sessions.add(named("young", phase=Phase.WAITING, build_id="b", created_at=at(2)), [])
    sessions.add(named("old", phase=Phase.WAITING, build_id="b", created_at=at(1)), [])
    sessions.add(named("starting", phase=Phase.STARTING, build_id="b"), [])
    sessions.add(named("other", phase=Phase.WAITING, build_id="c"), [])
    sessions.add(named("ended", phase=Phase.GONE, build_id="b"), [])
    assert [each.name for each in sessions.interested_in("b")] == ["old", "young", "starting"]
    assert [each.name for each in sessions.interested_in("b", limit=1)] == ["old"]


def test_count_by_phase(sessions: SessionRows) -> None:
    """Each phase is counted, also those of sessions that have ended."""
    for number, phase in enumerate((Phase.WAITING, Phase.WAITING, Phase.GONE)):
        sessions.add(named(f"s{number}", phase=phase), [])
    assert sessions.count_by_phase() == {Phase.WAITING: 2, Phase.GONE: 1}


FILTERS: list[tuple[str, Filter, list[str]]] = [
    ("by default", Filter(), ["eve", "failed", "full", "plain"]),
    ("person", Filter(user_id=UserId("user-eve")), ["eve"]),
    ("project id", Filter(project_id=77), ["full"]),
    ("namespace", Filter(namespace="GROUP/sub"), ["full"]),
    ("project", Filter(project="Weather-näh"), ["full"]),
    ("branch", Filter(branch="main", user_id=PLAIN.user_id), ["failed", "plain"]),
    ("commit", Filter(sha=FULL.sha, project_id=1, user_id=PLAIN.user_id), ["failed", "plain"]),
    ("ended", Filter(has_ended=True), ["gone"]),
    ("all", Filter(has_ended=None), ["eve", "failed", "full", "gone", "plain"]),
    ("nothing", Filter(branch="none"), []),
]


@pytest.mark.parametrize(("wanted", "expected"), [row[1:] for row in FILTERS], ids=[row[0] for row in FILTERS])
def test_list(sessions: SessionRows, wanted: Filter, expected: list[str]) -> None:
    """A list holds what matches every condition; GONE is left out unless asked for, FAILED stays."""
    sessions.add(replace(FULL, name=SessionName("full")), [])
    sessions.add(named("plain"), [])
    sessions.add(named("failed", phase=Phase.FAILED), [])
    sessions.add(named("gone", phase=Phase.GONE), [])
    sessions.add(named("eve", user_id=UserId("user-eve")), [])
    assert expected == sorted(each.name for each in sessions.list(wanted))


def test_list_pages(sessions: SessionRows) -> None:
    """A list is newest first, and pages neither repeat nor leave out."""
    for number in range(5):
        sessions.add(named(f"s{number}", created_at=at(number // 2)), [])
    whole = [each.name for each in sessions.list(Filter())]
    assert whole == ["s4", "s2", "s3", "s0", "s1"]
    pages = [each.name for offset in (0, 2, 4) for each in sessions.list(Filter(), offset=offset, limit=2)]
    assert whole == pages
    assert whole[3:] == [each.name for each in sessions.list(Filter(), offset=3)]


def test_list_after_gone(sessions: SessionRows) -> None:
    """A session that is saved as GONE leaves the list, and comes back with its relaunch."""
    sessions.add(PLAIN, [])
    gone = sessions.save(replace(PLAIN, phase=Phase.GONE), [], claimed(sessions))
    assert gone is not None
    assert sessions.list(Filter()) == []
    again = sessions.relaunch(replace(PLAIN, version=gone.version), [])
    assert [again] == sessions.list(Filter())


def test_stamps(sessions: SessionRows, builds: BuildRows) -> None:
    """The stamps change with every change of the list and of its builds, and with no change outside of it."""
    mine = Filter(user_id=PLAIN.user_id)
    stamps = [sessions.stamps(mine)]
    sessions.add(named("a", build_id=BUILD.id), [])
    stamps.append(sessions.stamps(mine))
    sessions.add(named("b"), [])
    stamps.append(sessions.stamps(mine))
    sessions.wish(SessionName("a"), target=Target.GONE)
    stamps.append(sessions.stamps(mine))
    claim = claimed(sessions, SessionName("b"))
    sessions.save(named("b", step="one"), [], claim)
    stamps.append(sessions.stamps(mine))
    build = builds.add(BUILD)
    stamps.append(sessions.stamps(mine))
    builds.save(build)
    stamps.append(sessions.stamps(mine))
    sessions.save(named("b", phase=Phase.GONE, version=1), [], claim)
    stamps.append(sessions.stamps(mine))
    assert len(stamps) == len({repr(each) for each in stamps})
    sessions.add(named("c", user_id=UserId("user-eve")), [])
    assert stamps[-1] == sessions.stamps(mine)


def test_stamps_are_in_the_lists_order(sessions: SessionRows) -> None:
    """Stamps come as the list does, page by page."""
    for number, name in enumerate("abcd"):
        sessions.add(named(name, created_at=at(number)), [])
    assert [each.name for each in sessions.stamps(Filter())] == list("dcba")
    assert [each.name for each in sessions.stamps(Filter(), offset=1, limit=2)] == list("cb")


def test_some(sessions: SessionRows) -> None:
    """Those that exist are read, each once."""
    sessions.add(named("a"), [])
    sessions.add(named("b"), [])
    wanted = [SessionName(name) for name in ("a", "b", "none")]
    assert sorted(each.name for each in sessions.some(wanted)) == ["a", "b"]
    assert list(sessions.some([])) == []


def test_retention(sessions: SessionRows) -> None:
    """Retained are ended sessions whose time is over, until their workspace is forgotten."""
    over = at(-1)
    ended = {"due_at": None, "retain_until": over}
    sessions.add(named("gone", workspace="g", phase=Phase.GONE, has_workspace=True, **ended), [])
    sessions.add(named("failed", workspace="f", phase=Phase.FAILED, **{**ended, "retain_until": at(-2)}), [])
    sessions.add(named("running", workspace="r", phase=Phase.RUNNING, retain_until=over, has_workspace=True), [])
    sessions.add(named("kept", workspace="k", phase=Phase.GONE, retain_until=at(1)), [])
    assert [each.name for each in sessions.retained(AT, limit=9)] == ["failed", "gone"]
    assert [each.name for each in sessions.retained(AT, limit=1)] == ["failed"]
    for each in sessions.list(Filter(has_ended=None)):
        if each.name != "kept":
            sessions.forget_workspace(each)
    assert sessions.retained(AT, limit=9) == []
    kept = {each.name: each.has_workspace for each in sessions.list(Filter(has_ended=None))}
    assert kept == {"gone": False, "failed": False, "running": True, "kept": False}


@pytest.mark.parametrize(
    ("other", "is_over"),
    [
        ({"phase": Phase.RUNNING}, False),
        ({"phase": Phase.GONE, "retain_until": at(1), "due_at": None}, False),
        ({"phase": Phase.FAILED, "due_at": AT}, False),
        ({"phase": Phase.GONE, "retain_until": None, "due_at": None}, True),
        ({"phase": Phase.RUNNING, "workspace": "another"}, True),
    ],
)
def test_a_shared_workspace_is_kept(sessions: SessionRows, other: dict[str, Any], *, is_over: bool) -> None:
    """A workspace that another session runs on, or keeps, or has not let go yet, is not over."""
    sessions.add(named("ended", workspace="one", phase=Phase.GONE, retain_until=at(-1), due_at=None), [])
    sessions.add(named("other", **{"workspace": "one", **other}), [])
    assert is_over is bool(sessions.retained(AT, limit=9))


def test_relaunch_races_with_forgetting(sessions: SessionRows) -> None:
    """A relaunch decided before the workspace was forgotten does not stand."""
    ended, _ = sessions.add(named("a", phase=Phase.GONE, retain_until=at(-1), has_workspace=True), [])
    sessions.forget_workspace(ended)
    assert sessions.relaunch(replace(ended, phase=Phase.NEW), []) is None


def test_forgetting_races_with_a_relaunch(sessions: SessionRows) -> None:
    """A workspace that a session was relaunched on, and keeps since its next end, is not forgotten."""
    ended, _ = sessions.add(named("a", phase=Phase.GONE, retain_until=at(-1), has_workspace=True), [])
    again = sessions.relaunch(replace(ended, retain_until=at(9)), [])
    sessions.forget_workspace(ended)
    assert again == sessions.get(ended.name)


def test_access_due(sessions: SessionRows) -> None:
    """Asked about next are running sessions, the longest unasked first; a launch asks too, and begins anew."""
    for name, phase in (("a", Phase.RUNNING), ("b", Phase.RUNNING), ("c", Phase.RUNNING), ("d", Phase.WAITING)):
        sessions.add(named(name, phase=phase, image_asked_at=at(-7)), [])
    sessions.add(named("just launched", phase=Phase.RUNNING, image_asked_at=at(1)), [])
    sessions.access_checked(SessionName("a"), at=at(-5), unknown_since=at(-9))
    sessions.access_checked(SessionName("b"), at=at(1), unknown_since=None)
    due = sessions.access_due(AT, limit=9)
    assert [(each.session.name, each.unknown_since) for each in due] == [("c", None), ("a", at(-9))]
    assert [each.session.name for each in sessions.access_due(AT, limit=1)] == ["c"]
    sessions.save(replace(due[1].session, step="x"), [], claimed(sessions, SessionName("a")))
    assert sessions.access_due(AT, limit=9)[1].unknown_since == at(-9)
    saved = sessions.get(SessionName("a"))
    assert saved is not None
    sessions.relaunch(saved, [])
    assert [each.unknown_since for each in sessions.access_due(AT, limit=9)] == [None, None]


@pytest.mark.parametrize(("phase", "counts"), [(phase, phase not in {Phase.GONE, Phase.FAILED}) for phase in Phase])
def test_count_running(sessions: SessionRows, phase: Phase, *, counts: bool) -> None:
    """Every phase but the ended ones counts, for one person and for all."""
    sessions.add(named("a", phase=phase), [])
    sessions.add(named("b", user_id=UserId("user-eve")), [])
    assert (int(counts), int(counts) + 1) == (sessions.count_running(PLAIN.user_id), sessions.count_running())


def test_times_keep_their_zone(sessions: SessionRows) -> None:
    """A time given in another zone is the same instant afterwards, and a naive one is refused."""
    there = AT.astimezone(timezone(timedelta(hours=5, minutes=45)))
    sessions.add(replace(PLAIN, due_at=there), [])
    after = sessions.get(NAME)
    assert after is not None
    assert after.due_at is not None
    assert (AT, timedelta(0)) == (after.due_at, after.due_at.utcoffset())
    with pytest.raises(Exception, match="time zone"):
        sessions.add(named("naive", due_at=AT.replace(tzinfo=None)), [])


def test_ref_kinds(sessions: SessionRows) -> None:
    """Both kinds of ref come back."""
    kinds = []
    for kind in RefKind:
        sessions.add(named(kind.value, ref_kind=kind), [])
        after = sessions.get(SessionName(kind.value))
        assert after is not None
        kinds.append(after.ref_kind)
    assert list(RefKind) == kinds
