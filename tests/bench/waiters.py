"""The bench `waiters`: what it costs GitLab, and us, that many people wait for one build.

For: `scripts/bench waiters`. Promises: one real launch and N-1 rows of other people, each with a grant of their own,
wait for the same job; every call that the stand-in answers is counted from when all wait until none does; calls of the
bench's own runner are left out by their routes.
Must not know: how the spawner polls.
"""

import itertools
import os
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from spawner.sessions.model import Phase
from spawner.testing.gitlab.standin import StandIn
from tests.bench import memory_runtime, stage
from tests.bench.ci import PIPELINE, HandRunner, push_image
from tests.bench.figures import Report, Row
from tests.installation import Installation, wait_for

NAME = "waiters"
JOB = "many sessions wait for one build job, from when all wait until none does"
WAITERS = (1, 100, 1000)
PENDING_SECONDS = 4.0  # between the polls that are due 2 s and 7 s after the first look
RUNNING_SECONDS = 1.0
RUNNERS_ROUTES = ("POST /api/v4/jobs/request", "/trace", "PUT /api/v4/jobs", "/-/stand-in")


def measure(place: Path, runs: int) -> Report:
    """Measure one, a hundred and a thousand waiters, in turn, `runs` times."""
    calls: dict[int, list[float]] = {count: [] for count in WAITERS}
    drained: dict[int, list[float]] = {count: [] for count in WAITERS}
    cpu: dict[int, list[float]] = {count: [] for count in WAITERS}
    routes: dict[int, Counter[str]] = {}
    with (
        StandIn.start(data=place / "gitlab", runner=False) as stand_in,
        stage.installed(
            place, stand_in, runtime=memory_runtime.NAME, settings={"SESSIONS__OBSERVE_SECONDS": "3600"}
        ) as installation,
    ):
        bench = _Bench(stand_in, installation)
        try:
            bench.once(1)
            for _, count in itertools.product(range(runs), WAITERS):
                seen = bench.once(count)
                calls[count].append(float(sum(seen.routes.values())))
                drained[count].append(seen.drained_seconds)
                cpu[count].append(seen.cpu_seconds)
                routes[count] = seen.routes
        finally:
            bench.close()
    rows = [
        Row(
            name=f"GitLab calls, {count} waiting",
            unit="calls",
            ours=tuple(calls[count]),
            beside=tuple(calls[1]),
            beside_what="1 waiting",
            target="the same number",
            met=None if count == 1 else sorted(calls[count])[runs // 2] == sorted(calls[1])[runs // 2],
        )
        for count in WAITERS
    ]
    rows += [
        Row(name=f"success to the last of {count} asked to start", unit="s", ours=tuple(drained[count]))
        for count in WAITERS
    ]
    rows += [
        Row(name=f"CPU of the spawner, {count} waiting, all phases", unit="s", ours=tuple(cpu[count]))
        for count in WAITERS
    ]
    shown = "; ".join(f"{count} waiting: {_listed(routes[count])}" for count in WAITERS)
    notes = (f"The calls of the last run. {shown}.",)
    return Report(name=NAME, job=JOB, rows=tuple(rows), notes=notes)


def _listed(routes: Counter[str]) -> str:
    return ", ".join(f"{number} {route}" for route, number in sorted(routes.items()))


class _Seen:
    __slots__ = ("cpu_seconds", "drained_seconds", "routes")

    def __init__(self, routes: Counter[str], drained_seconds: float, cpu_seconds: float) -> None:
        self.routes, self.drained_seconds, self.cpu_seconds = routes, drained_seconds, cpu_seconds


class _Bench:
    def __init__(self, stand_in: StandIn, installation: Installation) -> None:
        self._stand_in, self._installation = stand_in, installation
        self._rows = stage.Rows(installation)
        self._runner = HandRunner(stand_in)
        self._numbers = itertools.count(1)
        self._alice = stand_in.add_user("alice")
        self._client = installation.client(self._alice)
        self._project = stand_in.add_project("alice/popular", owner=self._alice)
        self._people = [
            self._rows.person(100_000 + number, f"person{number}", token=self._alice.token)
            for number in range(max(WAITERS) - 1)
        ]

    def close(self) -> None:
        self._runner.close()
        self._rows.close()

    def once(self, count: int) -> _Seen:
        """Let `count` sessions wait for a job that runs and succeeds; return what was seen."""
        number = next(self._numbers)
        sha = self._stand_in.commit(self._project, {".gitlab-ci.yml": PIPELINE, "README.md": f"{number}\n"})
        self._stand_in.wait_for_pipeline(self._project, sha)
        self._seed(sha, count - 1)
        cpu_before = self._cpu_seconds()
        name = self._client.launch(self._project, sha)["name"]
        self._client.reaches(name, "WAITING", seconds=30)
        wait_for(lambda: self._build_status(name) == "pending" or None, seconds=120, what="the job seen pending")
        began = time.monotonic()
        push_image(self._stand_in, self._project, sha)
        before = self._counts()
        time.sleep(max(0.0, began + PENDING_SECONDS - time.monotonic()))
        job = self._runner.take()
        self._runner.say(job, "Building.\n")
        wait_for(lambda: self._build_status(name) == "running" or None, seconds=120, what="the job seen running")
        time.sleep(RUNNING_SECONDS)
        self._runner.succeed(job)
        ended = time.monotonic()
        build = f"default/{self._project.id}/{sha}"
        wait_for(lambda: self._have_left(build, count), seconds=300, what=f"all {count} asked to start")
        drained = time.monotonic() - ended
        seen = _Seen(self._counts() - before, drained, self._cpu_seconds() - cpu_before)
        self._rows.forget(sha)  # so that the next run's sweep does not carry them
        return seen

    def _seed(self, sha: str, count: int) -> None:
        place = stage.place_of(self._project, self._stand_in)
        due_at = datetime.now(UTC) + timedelta(seconds=600)
        waiting = (
            replace(self._rows.session(person, place, sha, phase=Phase.WAITING), due_at=due_at, reason="Waiting.")
            for person in self._people[:count]
        )
        self._rows.add(list(waiting))

    def _have_left(self, build: str, count: int) -> bool | None:
        time.sleep(0.05)
        return self._rows.count(build, Phase.STARTING, Phase.RUNNING) == count or None

    def _build_status(self, name: str) -> str:
        server = self._client.get(name) or {}
        return str((server.get("slipway", {}).get("build") or {}).get("status"))

    def _counts(self) -> Counter[str]:
        counted = self._stand_in.requests()
        return Counter(
            {route: number for route, number in counted.items() if not any(own in route for own in RUNNERS_ROUTES)}
        )

    def _cpu_seconds(self) -> float:
        """Return the user and system seconds of the web process and its children so far."""
        pid = self._installation.processes["web"].pid
        pids = [pid]
        for task in Path(f"/proc/{pid}/task").iterdir():
            pids += [int(child) for child in (task / "children").read_text().split()]
        return sum(_ticks(each) for each in pids) / os.sysconf("SC_CLK_TCK")


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
