"""One session's life with kills in its launch and in its stop, and what came of it.

For: the kill matrix. A person's client launches, waits, works and stops; it repeats a request that was cut off, as
browsers and programs do, and launches again what failed in words. Nothing else helps.
Promises: every wait has an end; what was seen is a `Cell` per kill, good or bad.
Must not know: which cells there are.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import requests

from spawner.sessions.model import Event, EventKind, Phase, Session
from spawner.testing.gitlab.client import ProjectHandle, StandInError, UserHandle
from tests.functional.kill.house import House
from tests.installation import Client, NotYetError, wait_for

T = TypeVar("T")
REACH_SECONDS = 150.0
GONE_SECONDS = 90.0
FIRE_SECONDS = 20.0
LEFT_SECONDS = 15.0
OF_THE_SESSION = frozenset({"agent", "session"})
BUILD_SECONDS = 4  # so that a look finds it at work
CI = f"""image_build:
  script:
    - sleep {BUILD_SECONDS}
    - exit 1
"""
NO_KILL = "(no kill)"
_numbers = itertools.count(1)
_AGAIN = frozenset({500, 502, 503, 504, 429})


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One kill and its outcome. `came` is False where the step never came or the victim was not there."""

    way: str
    flow: str
    step: str
    victim: str
    came: bool = True
    lost: int = 0
    doubled: int = 0
    orphaned: int = 0
    seconds: float = 0.0
    sentence: str = ""
    trouble: str = ""

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost, doubled or orphaned."""
        return not (self.lost or self.doubled or self.orphaned or self.trouble)


@dataclass(slots=True, kw_only=True)
class Life:
    """One session from its commit to its end."""

    house: House
    owner: UserHandle
    victim: str = ""
    launch_steps: tuple[str, ...] = ()  # after each of these the victim is killed
    stop_steps: tuple[str, ...] = ()
    client: Client = field(init=False)
    project: ProjectHandle = field(init=False)
    sha: str = ""
    name: str = ""
    launching: list[str] = field(default_factory=list)  # the steps that came
    stopping: list[str] = field(default_factory=list)

    def run(self) -> list[Cell]:
        """Live it; return a cell per kill."""
        self.client = self.house.installation.client(self.owner)
        self.project = _persists(self._made)
        files = {"README.md": self.project.path, ".gitlab-ci.yml": CI}
        self.sha = _persists(lambda: self.house.stand_in.commit(self.project, files))
        cells, is_good = self._launched()
        self.launching = self.house.steps(self.sha)
        if not is_good:
            self._ends()
            return cells
        came = len(self.launching)
        cells += self._stopped()
        self.stopping = self.house.steps(self.sha)[came:]
        return cells

    def _made(self) -> ProjectHandle:
        return self.house.stand_in.add_project(f"{self.owner.username}/kill-{next(_numbers)}", owner=self.owner)

    # ------------------------------------------------------------ launch

    def _launched(self) -> tuple[list[Cell], bool]:
        self._arm("launch", self.launch_steps)
        began = time.monotonic()
        trouble = ""
        try:
            self._launch()
            self._works()
            self._await_kills("launch", self.launch_steps)
            if self.victim in OF_THE_SESSION:
                self._is_told()
            if self.launch_steps:
                self._works()
        except (NotYetError, AssertionError) as problem:
            trouble = f"{problem}; {self._seen()}"
        cells = self._judged("launch", self.launch_steps, began, trouble)
        return cells, not trouble

    def _is_told(self) -> None:
        """Wait until the person was told of each kill of the session itself."""
        identities = [self._identity("launch", number) for number in range(len(self.launch_steps))]
        count = sum(self.house.fired(each) == "killed" for each in identities)
        wait_for(
            lambda: _paused(len(_sentences(self.house.events(self.name))) >= count or None),
            seconds=REACH_SECONDS,
            what=f"a sentence for each of {count} kills",
        )

    def _launch(self) -> None:
        def ask() -> str | None:
            try:
                namespace, _, name = self.project.path.rpartition("/")
                body = {"namespace": namespace, "project": name, "commit_sha": self.sha, "branch": "main"}
                answer = self.client.call("POST", "/api/notebooks/servers", json=body)
            except requests.RequestException:
                return None
            if answer.status_code in _AGAIN:
                return None
            assert answer.status_code in {200, 201}, answer.text
            return str(answer.json()["name"])

        self.name = wait_for(ask, seconds=REACH_SECONDS, what="an answer to the launch")

    def _works(self) -> None:
        """Wait until the session runs and its server answers; launch again what failed in words."""

        def look() -> bool | None:
            time.sleep(0.1)
            try:
                server = self.client.get(self.name)
                phase = "GONE" if server is None else server["slipway"]["phase"]
                if server is not None and phase == "FAILED":
                    assert self.victim in OF_THE_SESSION, server["status"]["message"]
                    self._launch()
                    return None
                if phase != "RUNNING":
                    return None
                base_url, headers = self.client.enter(self.name)
                return requests.get(f"{base_url}api/contents/README.md", headers=headers, timeout=30).ok or None
            except requests.RequestException:
                return None
            except AssertionError:
                if self._phase() is Phase.FAILED and self.victim not in OF_THE_SESSION:
                    raise
                return None  # not to be entered just now

        wait_for(look, seconds=REACH_SECONDS, what=f"{self.name} at work")

    # ------------------------------------------------------------ stop

    def _stopped(self) -> list[Cell]:
        self._arm("stop", self.stop_steps)
        began = time.monotonic()
        trouble = ""
        try:
            self._stop()
            wait_for(self._is_gone, seconds=GONE_SECONDS, what=f"{self.name} gone")
            self._await_kills("stop", self.stop_steps)
            wait_for(self._is_gone, seconds=GONE_SECONDS, what=f"{self.name} still gone")
        except (NotYetError, AssertionError) as problem:
            trouble = f"{problem}; {self._seen()}"
        return self._judged("stop", self.stop_steps, began, trouble)

    def _is_gone(self) -> bool | None:
        """Say whether nothing is left to do: what an ended session held is released."""
        row = self.house.row(self.name)
        return _paused((row is not None and row.phase is Phase.GONE and row.due_at is None) or None)

    def _stop(self) -> None:
        def ask() -> bool | None:
            try:
                status = self.client.stop(self.name)
            except requests.RequestException:
                return None
            assert status in {204, 404, *_AGAIN}, status
            return True if status in {204, 404} else None

        wait_for(ask, seconds=GONE_SECONDS, what="an answer to the stop")

    def _ends(self) -> None:
        """End what a bad cell left, so that the next ones are not disturbed."""
        if self.name:
            try:
                self._stop()
            except (NotYetError, AssertionError):
                return

    # ------------------------------------------------------------ judging

    def _arm(self, flow: str, steps: Sequence[str]) -> None:
        if steps:
            kills = {step: self._identity(flow, number) for number, step in enumerate(steps)}
            self.house.arm(self.sha, victim=self.victim, kills=kills)

    def _identity(self, flow: str, number: int) -> str:
        return f"{self.sha}-{flow}-{number}"

    def _await_kills(self, flow: str, steps: Sequence[str]) -> None:
        """Wait a while for kills whose step may come late; one that never comes is told in its cell."""
        ends = time.monotonic() + FIRE_SECONDS
        while time.monotonic() < ends:
            if all(self.house.fired(self._identity(flow, number)) for number in range(len(steps))):
                return
            time.sleep(0.05)

    def _judged(self, flow: str, steps: Sequence[str], began: float, trouble: str) -> list[Cell]:
        seconds = round(time.monotonic() - began, 1)
        is_end = flow == "stop"
        row = self.house.row(self.name) if self.name else None
        events = self.house.events(self.name) if self.name else []
        workspace = row.workspace if row is not None else ""
        orphaned = self.house.left_over(self.sha, workspace, within_seconds=LEFT_SECONDS) if is_end and row else 0
        problems = [trouble] if trouble else []
        problems += _defects(row, events, is_end=is_end)
        if is_end and self.house.holds_credential(self.name):
            problems.append("a stored credential outlived its session")
        sentences = _sentences(events) if self.victim in OF_THE_SESSION and not is_end else []
        doubled = max(0, self.house.watch.most[workspace] - 1)
        if not steps and (problems or orphaned or doubled):  # what a launch's kills left for a stop without any
            steps = (NO_KILL,)
        return [
            Cell(
                way=self.house.way,
                flow=flow,
                step=step,
                victim=self.victim,
                came=self.house.fired(self._identity(flow, number)) == "killed",
                lost=int(bool(problems)),
                doubled=doubled,
                orphaned=orphaned,
                seconds=seconds,
                sentence=sentences[min(number, len(sentences) - 1)] if sentences else "",
                trouble="; ".join(problems),
            )
            for number, step in enumerate(steps)
        ]

    def _phase(self) -> Phase | None:
        row = self.house.row(self.name)
        return None if row is None else row.phase

    def _seen(self) -> str:
        if not self.name:
            return "no row"
        return " | ".join(f"{event.phase}: {event.message}" for event in self.house.events(self.name)[-6:])


def _defects(row: Session | None, events: Sequence[Event], *, is_end: bool) -> list[str]:
    """Return what is wrong with a row and its log, in words."""
    if row is None:
        return ["there is no row"]
    found = []
    ids = [event.id for event in events]
    if ids != list(range(1, len(ids) + 1)):
        found.append(f"the log has gaps: {ids}")
    ready = 0
    for event in events:
        if event.kind is EventKind.PHASE:
            ready = 0
        ready += event.kind is EventKind.READY
        if ready > 1:
            found.append("the log says ready twice")
    if is_end and (row.phase is not Phase.GONE or row.due_at is not None):
        found.append(f"the row stands at {row.phase}, due at {row.due_at}")
    return found


def _sentences(events: Sequence[Event]) -> list[str]:
    """Return what a person was told to be wrong, in order."""
    return [event.message for event in events if event.kind in {EventKind.WARNING, EventKind.FAILED}]


def _paused(found: T | None) -> T | None:
    """Return what was found; rest a moment when it was nothing."""
    if found is None:
        time.sleep(0.05)
    return found


def _persists(ask: Callable[[], T]) -> T:
    """Repeat what the stand-in could not do while it was down."""

    def attempt() -> T | None:
        try:
            return ask()
        except (StandInError, requests.RequestException):
            time.sleep(0.2)
            return None

    return wait_for(attempt, seconds=60, what="the stand-in")
