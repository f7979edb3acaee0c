"""The bench `api`: what a request costs, on one kept connection to gunicorn with one SQLite database.

For: `scripts/bench api`. Promises: other people's sessions lie in the same database; each run is many requests, its
p50 and p99 are one figure; the slowest of GitLab's answers to a launch is measured between the launches.
Must not know: how the spawner answers.
"""

import hashlib
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from spawner.gitlab.client import GitLabForge
from spawner.names import CommitSha, ProjectPath, SessionName
from spawner.ports import Credential, CredentialKind
from spawner.testing.gitlab.client import ProjectHandle, UserHandle
from spawner.testing.gitlab.standin import StandIn
from tests.bench import memory_runtime, stage
from tests.bench.connection import Connection
from tests.bench.figures import Report, Row, quantile
from tests.installation import Installation, wait_for

NAME = "api"
JOB = "one request, on one connection to gunicorn"
REQUESTS = 200  # of one run
LAUNCHES = 5  # new ones, of one run
P50_MILLISECONDS, P99_MILLISECONDS = 5.0, 20.0
MORE_THAN_GITLAB_MILLISECONDS = 10.0
FLAT = 1.3  # "flat" allows this factor of noise between the least and the most of other people's sessions
OTHERS = (0, 495, 4995)
PEER = "Renku's service needs 38 ms for 100 sessions with all its I/O mocked (figure of its own bench, not of this run)"
PROJECT = "seasonal-notebooks"
_SERVERS = "/api/notebooks/servers"


def measure(place: Path, runs: int) -> Report:
    """Measure reads, repeated launches and new launches."""
    with (
        StandIn.start(data=place / "gitlab", runner=False) as stand_in,
        stage.installed(
            place, stand_in, runtime=memory_runtime.NAME, settings={"SESSIONS__OBSERVE_SECONDS": "600"}
        ) as installation,
    ):
        bench = _Bench(stand_in, installation, runs)
        try:
            rows = (*bench.reads(), *bench.launches())
        finally:
            bench.close()
    notes = (
        f"A run is {REQUESTS} requests (new launches: {LAUNCHES}); p50 and p99 of each run, then the median of {runs}.",
        "“Changed”: so many sessions got a new version before each request, so that nothing kept fits them.",
        f"{PEER}.",
    )
    return Report(name=NAME, job=JOB, rows=rows, notes=notes)


class _Bench:
    def __init__(self, stand_in: StandIn, installation: Installation, runs: int) -> None:
        self._stand_in, self._installation, self._runs = stand_in, installation, runs
        self._rows = stage.Rows(installation)
        self._numbers = itertools.count(1)
        self.alice = stand_in.add_user("alice")
        self.carol = stand_in.add_user("carol")
        self.project = stand_in.add_project(f"alice/{PROJECT}", owner=self.alice)

    def close(self) -> None:
        self._rows.close()

    # ------------------------------------------------------------ reads

    def reads(self) -> Iterator[Row]:
        """Yield the rows of GET: 100 sessions of one person, then 5 among more and more of other people's."""
        names = self._seed(self.alice, 100)
        yield from self._both("GET /servers, 100 sessions", self.alice, names)
        yield from self._both("the same, one of them changed", self.alice, names, changed=1)
        for row in self._both("the same, all of them changed", self.alice, names, changed=100):
            yield replace(row, target="", met=None)  # a first time; the target is for who polls
        names = self._seed(self.carol, 5)
        p50s: dict[int, float] = {}
        there = 0
        for others in OTHERS:
            self._seed_others(others - there)
            there = others
            name = f"GET /servers, 5 of {others + 5} sessions, all 5 changed"
            for row in self._both(name, self.carol, names, changed=5):
                p50s.setdefault(others, statistics.median(row.ours))
                yield row
        growth = p50s[OTHERS[-1]] / p50s[OTHERS[0]]
        yield Row(
            name=f"growth of p50 from {OTHERS[0] + 5} to {OTHERS[-1] + 5} sessions in all",
            unit="fold",
            ours=(growth,),
            target=f"flat (< {FLAT})",
            met=growth < FLAT,
        )

    def _both(self, name: str, user: UserHandle, sessions: Sequence[SessionName], *, changed: int = 0) -> Iterator[Row]:
        """Yield a p50 and a p99 row, beside the cheapest route there is, asked in turn; `changed` since the last."""
        ours: list[list[float]] = []
        floor: list[list[float]] = []
        with Connection(self._installation.url, user) as connection:
            for _ in range(20):
                connection.asked("GET", _SERVERS, 200)
            for _ in range(self._runs):
                mine, theirs = [], []
                for _ in range(REQUESTS):
                    self._rows.touch(sessions[:changed])
                    took, body = connection.asked("GET", _SERVERS, 200)
                    assert len(body["servers"]) == len(sessions), len(body["servers"])
                    mine.append(took)
                    theirs.append(connection.asked("GET", "/api/notebooks/version", 200)[0])
                ours.append(mine)
                floor.append(theirs)
        yield from _pair(name, ours, floor, "GET /version")

    # ------------------------------------------------------------ launches

    def launches(self) -> Iterator[Row]:
        """Yield the rows of POST: one that finds its session, and one that makes it."""
        with Connection(self._installation.url, self.alice) as connection:
            sha = self._stand_in.commit(self.project, {"README.md": "again"})
            body = _body(self.project, sha)
            self._until_running(connection, connection.asked("POST", _SERVERS, 201, body=body)[1]["name"])
            ours, floor = [], []
            for _ in range(self._runs):
                mine, theirs = [], []
                for _ in range(REQUESTS):
                    mine.append(connection.asked("POST", _SERVERS, 200, body=body)[0])
                    theirs.append(connection.asked("GET", "/api/notebooks/version", 200)[0])
                ours.append(mine)
                floor.append(theirs)
            yield from _pair("POST again, the session is there", ours, floor, "GET /version")
            yield self._new_launches(connection)

    def _new_launches(self, connection: Connection) -> Row:
        forge = GitLabForge(self._stand_in.url, key_cache=Path("unused"))
        credential = Credential(forge="default", token=self.alice.token, kind=CredentialKind.PERSONAL)
        posts, slowest = [], []
        with ThreadPoolExecutor(max_workers=5) as pool:
            for number in range(self._runs * LAUNCHES + 2):
                sha = self._stand_in.commit(self.project, {"README.md": f"new {number}"})
                took, made = connection.asked("POST", _SERVERS, 201, body=_body(self.project, sha))
                self._until_running(connection, made["name"])
                asked = _side_by_side(pool, forge, credential, self.project, sha, self.alice.id)
                connection.asked("DELETE", f"{_SERVERS}/{made['name']}", 204)
                if number >= 2:
                    posts.append(took)
                    slowest.append(asked)
        limit = statistics.median(slowest) + MORE_THAN_GITLAB_MILLISECONDS
        return Row(
            name="POST, a new session",
            unit="ms",
            ours=tuple(posts),
            beside=tuple(slowest),
            beside_what="the slowest of the 5 GitLab calls, side by side",
            target=f"≤ {limit:.0f} ms (that + {MORE_THAN_GITLAB_MILLISECONDS:.0f})",
            met=statistics.median(posts) <= limit,
        )

    @staticmethod
    def _until_running(connection: Connection, name: str) -> None:
        def look() -> bool | None:
            return connection.asked("GET", f"{_SERVERS}/{name}", 200)[1]["slipway"]["phase"] == "RUNNING" or None

        wait_for(look, seconds=30, what=f"{name} running")

    # ------------------------------------------------------------ rows

    def _seed(self, handle: UserHandle, count: int) -> Sequence[SessionName]:
        user = self._rows.person(handle.id, handle.username)
        place = stage.place_of(self.project, self._stand_in)
        return self._rows.add([self._rows.session(user, place, self._sha(), age=number) for number in range(count)])

    def _seed_others(self, count: int) -> None:
        place = stage.place_of(self.project, self._stand_in)
        for number in range(count):
            if number % 5 == 0:
                subject = 100_000 + next(self._numbers)
                user = self._rows.person(subject, f"person{subject}")
            self._rows.add([self._rows.session(user, place, self._sha(), age=number)])

    def _sha(self) -> str:
        return hashlib.sha1(str(next(self._numbers)).encode(), usedforsecurity=False).hexdigest()


def _pair(name: str, ours: list[list[float]], floor: list[list[float]], floor_name: str) -> Iterator[Row]:
    for label, share, limit in (("p50", 0.5, P50_MILLISECONDS), ("p99", 0.99, P99_MILLISECONDS)):
        mine = tuple(quantile(run, share) for run in ours)
        theirs = tuple(quantile(run, share) for run in floor)
        yield Row(
            name=f"{name}, {label}",
            unit="ms",
            ours=mine,
            beside=theirs,
            beside_what=f"{floor_name}, {label}",
            target=f"{label} < {limit:.0f} ms",
            met=statistics.median(mine) < limit,
        )


def _body(project: ProjectHandle, sha: str) -> dict[str, str]:
    namespace, _, name = project.path.rpartition("/")
    return {"namespace": namespace, "project": name, "branch": "main", "commit_sha": sha, "build": "never"}


def _side_by_side(
    pool: ThreadPoolExecutor, forge: GitLabForge, credential: Credential, project: ProjectHandle, sha: str, user: int
) -> float:
    """Make a launch's own calls to GitLab at once; return how many milliseconds the slowest took."""
    path, commit = ProjectPath(project.path), CommitSha(sha)
    calls: list[Callable[[], object]] = [
        lambda: forge.project(credential, path),
        lambda: forge.access_level(credential, path, user),
        lambda: forge.commit(credential, path, sha),
        lambda: forge.refs_of(credential, path, commit),
        lambda: forge.ref(credential, path, "main"),
    ]

    def timed(call: Callable[[], object]) -> float:
        began = time.perf_counter()
        call()
        return (time.perf_counter() - began) * 1000

    return max(pool.map(timed, calls))
