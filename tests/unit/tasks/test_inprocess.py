"""The in-process dispatcher and the task functions.

Covered: what runs, what is not queued twice, the sweep, failures and patience, the net, announcements, ending. Left
out: processes and Redis (`tests/contract/tasks`).
"""

import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from spawner import log, metrics
from spawner.errors import ForgeUnavailable
from spawner.names import SessionName
from spawner.ports import Dispatcher, TaskKind
from spawner.tasks import reconcile
from spawner.tasks.announcements import LocalAnnouncements
from spawner.tasks.inprocess import InProcessDispatcher, Pace

QUICK = Pace(threads=2, sweep_seconds=0.01, housekeeping_seconds=0.05)
SLOW = Pace(threads=1, sweep_seconds=3600, housekeeping_seconds=3600)


@dataclass
class Sessions:
    """Does what a test tells it."""

    work: Callable[[str], None] = lambda _: None
    waiting: list[SessionName] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    cleaned: int = 0

    def reconcile(self, name: SessionName) -> None:
        """Note the name and work."""
        self.seen.append(name)
        self.work(name)

    def due(self) -> Sequence[SessionName]:
        """Return what is waiting."""
        return list(self.waiting)

    def housekeeping(self) -> None:
        """Count."""
        self.cleaned += 1

    def prepare(self) -> None:
        """Nothing to have at hand."""


@dataclass
class Images:
    """Has builds that are due once."""

    waiting: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    def poll(self, id: str) -> None:  # noqa: A002 - the port's name for it
        """Note the build."""
        self.seen.append(id)
        if id in self.waiting:
            self.waiting.remove(id)

    def due(self) -> Sequence[str]:
        """Return what is waiting."""
        return list(self.waiting)


@dataclass
class Services:
    """What a task may call."""

    sessions: Sessions = field(default_factory=Sessions)
    images: Images = field(default_factory=Images)
    dispatcher: Dispatcher = field(default_factory=InProcessDispatcher)


@pytest.fixture
def services() -> Services:
    """Services that do nothing."""
    return Services()


@pytest.fixture
def dispatcher(request: pytest.FixtureRequest) -> Iterator[InProcessDispatcher]:
    """A dispatcher, quick unless asked otherwise, that must end in time."""
    dispatcher = InProcessDispatcher(getattr(request, "param", QUICK))
    yield dispatcher
    assert dispatcher.stop(timeout_seconds=30)


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, object]]]]:
    """The log so far, as parsed lines."""
    stream = io.StringIO()
    log.configure(form="json", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    log.configure(form="json", stream=io.StringIO())


def until(look: Callable[[], object]) -> None:
    """Wait until something is so, at most 30 s."""
    end = time.monotonic() + 30
    while not look():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_each_kind_has_its_call(services: Services) -> None:
    """Every kind of task calls its one service method, and none raises."""
    ended = [reconcile.run(services, kind, "x") for kind in TaskKind]
    assert (services.sessions.seen, services.images.seen, services.sessions.cleaned) == (["x"], ["x"], 1)
    assert ended == [True] * len(TaskKind)


@pytest.mark.parametrize(
    ("error", "event", "outcome"),
    [(ForgeUnavailable("GitLab is away."), "task_postponed", "postponed"), (KeyError("x"), "task_failed", "failed")],
)
def test_errors_are_logged(
    services: Services,
    lines: Callable[[], list[dict[str, object]]],
    error: Exception,
    event: str,
    outcome: str,
) -> None:
    """An error ends a task with a line that names it, and is counted; nothing is raised."""

    def fail(_: str) -> None:
        raise error

    services.sessions.work = fail
    labels = {"kind": "session", "outcome": outcome}
    before = metrics.REGISTRY.get_sample_value("slipway_task_seconds_count", labels) or 0
    assert not reconcile.run(services, TaskKind.SESSION, "a")
    assert [(line["event"], line["task"], line["subject"]) for line in lines()] == [(event, "session", "a")]
    assert metrics.REGISTRY.get_sample_value("slipway_task_seconds_count", labels) == before + 1


def test_soon(dispatcher: InProcessDispatcher, services: Services) -> None:
    """What was asked before the start runs after it, and what is asked later too."""
    dispatcher.soon(TaskKind.SESSION, "a")
    dispatcher.start(services)
    dispatcher.soon(TaskKind.BUILD, "b")
    until(lambda: (services.sessions.seen, services.images.seen) == (["a"], ["b"]))


@pytest.mark.parametrize("dispatcher", [SLOW], indirect=True)
def test_queued_once(dispatcher: InProcessDispatcher, services: Services) -> None:
    """A subject is queued once while it waits, and again while it runs."""
    go, is_running = threading.Event(), threading.Event()

    def work(_: str) -> None:
        is_running.set()
        assert go.wait(30)

    services.sessions.work = work
    dispatcher.start(services)
    dispatcher.soon(TaskKind.SESSION, "a")
    assert is_running.wait(30)
    for _ in range(5):
        dispatcher.soon(TaskKind.SESSION, "a")
        dispatcher.soon(TaskKind.SESSION, "b")
    go.set()
    until(lambda: len(services.sessions.seen) >= 3)
    assert dispatcher.stop(timeout_seconds=30)
    assert services.sessions.seen == ["a", "a", "b"]


@pytest.mark.parametrize("dispatcher", [SLOW], indirect=True)
def test_builds_come_first(dispatcher: InProcessDispatcher, services: Services) -> None:
    """A build that is asked for behind many sessions is looked at before them; they keep their order."""
    names = [f"s{number}" for number in range(20)]
    seen_before_build: list[int] = []
    services.images.seen = seen = _Noting(lambda: seen_before_build.append(len(services.sessions.seen)))
    for name in names:
        dispatcher.soon(TaskKind.SESSION, name)
    dispatcher.soon(TaskKind.BUILD, "b")
    dispatcher.start(services)
    until(lambda: len(services.sessions.seen) == len(names))
    assert (seen, seen_before_build, services.sessions.seen) == (["b"], [0], names)


class _Noting(list[str]):
    """A list that tells when something is appended."""

    def __init__(self, tell: Callable[[], None]) -> None:
        super().__init__()
        self._tell = tell

    def append(self, item: str) -> None:
        self._tell()
        super().append(item)


def test_sweep(dispatcher: InProcessDispatcher, services: Services) -> None:
    """What is due runs although nobody asked, again and again while it stays due; housekeeping comes by itself."""
    services.sessions.waiting = [SessionName("a")]
    services.images.waiting = ["b"]
    dispatcher.start(services)
    until(lambda: services.sessions.seen[:2] == ["a", "a"] and services.images.seen == ["b"])
    until(lambda: services.sessions.cleaned >= 2)


def test_sweep_survives(
    dispatcher: InProcessDispatcher, services: Services, lines: Callable[[], list[dict[str, object]]]
) -> None:
    """A sweep that fails is logged, and the next one goes on."""
    failures = [OSError("x"), OSError("x")]

    class Failing(Sessions):
        def due(self) -> Sequence[SessionName]:
            if failures:
                raise failures.pop()
            return [SessionName("a")]

    services.sessions = Failing()
    dispatcher.start(services)
    until(lambda: services.sessions.seen)
    assert [line["event"] for line in lines()] == ["sweep_failed"] * 2


def test_patience(
    dispatcher: InProcessDispatcher, services: Services, lines: Callable[[], list[dict[str, object]]]
) -> None:
    """A subject that fails is swept less and less often, but run at once when somebody asks."""
    del lines
    times: list[float] = []

    def fail(_: str) -> None:
        times.append(time.monotonic())
        raise LookupError

    services.sessions.work = fail
    services.sessions.waiting = [SessionName("a")]
    dispatcher.start(services)
    until(lambda: len(times) >= 6)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    # A pause counts from the end of a run, which a busy machine may note late: the next sweep is then as much sooner.
    assert sum(gaps[:5]) >= sum(0.01 * 2 ** (number + 1) for number in range(5)) / 2
    assert max(gaps[3:5]) > min(gaps[:2])
    services.sessions.work = lambda _: times.append(-1.0)
    dispatcher.soon(TaskKind.SESSION, "a")
    until(lambda: -1.0 in times)


@pytest.mark.parametrize(
    "dispatcher", [Pace(threads=1, sweep_seconds=0.05, housekeeping_seconds=60, is_net=True)], indirect=True
)
def test_net(dispatcher: InProcessDispatcher, services: Services) -> None:
    """A net runs what it found due twice in a row, and not what somebody else took in between."""
    looks: list[int] = []

    class Watched(Sessions):
        def due(self) -> Sequence[SessionName]:
            looks.append(1)
            names = {1: ["taken", "stays"], 2: ["stays"], 3: ["late"]}.get(len(looks), [])
            return [SessionName(name) for name in names]

    services.sessions = Watched()
    dispatcher.start(services)
    until(lambda: services.sessions.seen)
    until(lambda: len(looks) >= 5)
    assert services.sessions.seen == ["stays"]


def test_start_twice(dispatcher: InProcessDispatcher, services: Services) -> None:
    """A dispatcher starts once."""
    dispatcher.start(services)
    with pytest.raises(RuntimeError):
        dispatcher.start(services)


def test_stop_is_bounded(services: Services) -> None:
    """A task that does not end does not keep the process: stop says so at its timeout."""
    go = threading.Event()

    def work(_: str) -> None:
        go.wait(20)

    services.sessions.work = work
    dispatcher = InProcessDispatcher(SLOW)
    dispatcher.start(services)
    dispatcher.soon(TaskKind.SESSION, "a")
    until(lambda: services.sessions.seen)
    assert not dispatcher.stop(timeout_seconds=0.05)
    go.set()
    assert dispatcher.stop(timeout_seconds=30)


NAMES = {SessionName("a"), SessionName("b")}


def test_announcement_between_waits() -> None:
    """What is announced while nobody waits ends the next wait at once; others' sessions do not."""
    announcements = LocalAnnouncements()
    assert not announcements.wait(NAMES, 0.01)
    announcements.announce(SessionName("other"))
    assert not announcements.wait(NAMES, 0.01)
    announcements.announce(SessionName("b"))
    assert announcements.wait(NAMES, 10)
    assert not announcements.wait(NAMES, 0.01)


def test_announcement_wakes_every_viewer() -> None:
    """Every thread that waits for a session wakes by one announcement."""
    announcements = LocalAnnouncements()
    heard: list[bool] = []
    begun = threading.Barrier(9)

    def view() -> None:
        begun.wait(30)
        heard.append(announcements.wait(NAMES, 10))

    threads = [threading.Thread(target=view) for _ in range(8)]
    for thread in threads:
        thread.start()
    begun.wait(30)
    announcements.announce(SessionName("a"))
    for thread in threads:
        thread.join(30)
    assert heard == [True] * 8


def test_announcements_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many sessions the longest silent are forgotten, the newest are not."""
    monkeypatch.setattr("spawner.tasks.announcements.REMEMBERED", 3)
    announcements = LocalAnnouncements()
    for name in ("a", "b", "c", "a", "d"):
        announcements.announce(SessionName(name))
    assert announcements.wait({SessionName("a")}, 0.01)
    other = LocalAnnouncements()
    for name in ("b", "c", "a", "d"):
        other.announce(SessionName(name))
    assert not other.wait({SessionName("b")}, 0.01)
