"""The stage on which the scenarios of the ladder are played: one commit's build, one person who waits for it.

For: `ladder_scenarios` and `test_ladder`. Promises: whatever a scenario does is done as GitLab, a job or a person
would do it; nothing is looked at but the session's own events and its server object.
Must not know: any insides of the spawner.
"""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from spawner.testing.gitlab.client import ProjectHandle
from spawner.testing.gitlab.standin import StandIn
from tests.functional.environment_images import NO_KEY, push_image
from tests.installation import Client, wait_for

EMPTY_LOCK = ""  # an image that is there, and weighs nothing: no session is meant to become ready on it
PLAY_SECONDS = 150.0
TOO_MANY = 429
NOBODY = "tags: [a-runner-that-nobody-has]"
HOOK_SECRET = "a-secret-of-the-hooks-of-this-suite"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """How a launch was decided: the source and reason of the image, or the failure's code and words, and the way.

    `calls` are the spawner's to GitLab about the project, up to then; `seconds` is how long that took.
    """

    source: str
    reason: str
    phases: tuple[str, ...]
    events: tuple[Mapping[str, Any], ...]
    image: Mapping[str, Any] | None
    calls: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def log(self) -> str:
        """The build's log, as far as it came over the stream."""
        return "".join(str(event.get("text", "")) for event in self.events if event["event"] == "log")


@dataclass(slots=True, kw_only=True)
class Stage:
    """One project, empty at first, and its owner's client."""

    stand_in: StandIn
    project: ProjectHandle
    client: Client
    work: Path
    names: list[str] = field(default_factory=list)
    began: float = 0.0

    def commit(self, ci: str = "", message: str = "Change files.", **more: Any) -> str:
        """Push a commit; `ci` is the indented body of a job `image_build` (more may follow), or a whole file."""
        whole = f"image_build:\n{ci}" if ci.startswith(" ") else ci
        files: dict[str, str | None] = {"README.md": f"{time.monotonic_ns()}"}
        if ci:
            files[".gitlab-ci.yml"] = whole
        return self.stand_in.commit(self.project, {**files, **more.pop("files", {})}, message, **more)

    def built(self, ci: str, message: str = "Change files.", **more: Any) -> str:
        """Push a commit and wait until it has a pipeline."""
        sha = self.commit(ci, message, **more)
        self.stand_in.wait_for_pipeline(self.project, sha, timeout_seconds=60)
        return sha

    def commit_two(self, ci: str) -> tuple[str, str]:
        """Push two commits at once; returns their SHAs, the older first."""
        folder = self.work / f"two-{time.monotonic_ns()}"
        folder.mkdir(parents=True)
        self.git(folder, "init", "-q", "-b", "main")
        shas = []
        for number in range(2):
            (folder / ".gitlab-ci.yml").write_text(f"image_build:\n{ci}\n")
            (folder / "README.md").write_text(f"{number}")
            self.git(folder, "add", ".")
            self.git(folder, "commit", "-q", "-m", f"Commit {number}")
            shas.append(self.git(folder, "rev-parse", "HEAD"))
        self.git(folder, "push", "-q", self.project.http_url, "main")
        return shas[0], shas[1]

    def key(self, sha: str) -> str:
        """Return the commit's environment key, as the builder computes it on a checkout."""
        folder = self.work / f"checkout-{time.monotonic_ns()}"
        self.git(self.work, "clone", "-q", self.project.http_url, str(folder))
        command = ["builder", "key", str(folder), "--commit", sha, "--kind", "environment"]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        done = subprocess.run(
            command, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout.strip()

    def git(self, folder: Path, *arguments: str, seconds: float = 60) -> str:
        """Run Git in a folder, as the owner."""
        owner = self.project.owner
        pair = base64.b64encode(f"oauth2:{owner.token}".encode()).decode()
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(folder),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "http.extraHeader",
            "GIT_CONFIG_VALUE_0": f"Authorization: Basic {pair}",
            **{f"GIT_{who}_{what}": f"{owner.username}@example.com" for who in _WHO for what in ("NAME", "EMAIL")},
        }
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=True,
        )
        return done.stdout.strip()

    def push_image(self, sha: str, **more: Any) -> str:
        """Push an image of the commit, as its job would; returns the digest."""
        return push_image(self.stand_in, self.project, sha, **{"lock": EMPTY_LOCK, "key": NO_KEY, **more})

    def jobs(self, sha: str) -> list[dict[str, Any]]:
        """Return the newest jobs of a commit, of every name."""
        found: list[dict[str, Any]] = self.api("GET", f"/repository/commits/{sha}/statuses")
        return found

    def job(self, sha: str, status: str) -> dict[str, Any]:
        """Wait until the commit's build job has a status; returns it."""
        return self.stand_in.wait_for_job(self.project, sha, "image_build", statuses=[status])

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Call GitLab about the project, as its owner."""
        return self.stand_in.api(method, f"/projects/{self.project.id}{path}", user=self.project.owner, body=body)

    def arm(self, fault: str, **more: Any) -> None:
        """Set a fault for this project alone."""
        self.stand_in.arm(fault, project=self.project.path, **more)

    def hook(self) -> None:
        """Have GitLab tell the spawner of every step of jobs and pipelines."""
        url = f"{self.client.url}/hooks/gitlab"
        self.api("POST", "/hooks", {"url": url, "token": HOOK_SECRET, "job_events": True, "pipeline_events": True})

    def open_request(self, branch: str, *, source: ProjectHandle | None = None) -> dict[str, Any]:
        """Open a merge request into the main branch, from here or from a fork; returns its own pipeline."""
        here = source or self.project
        body = {"source_branch": branch, "target_branch": "main", "title": branch, "target_project_id": self.project.id}
        made = self.stand_in.api("POST", f"/projects/{here.id}/merge_requests", user=here.owner, body=body)

        def look() -> dict[str, Any] | None:
            rows = self.api("GET", f"/merge_requests/{made['iid']}/pipelines")
            return next((row for row in rows if row["source"] == "merge_request_event"), None)

        return wait_for(look, seconds=60, what="a merge request's pipeline")

    def struck(self) -> None:
        """Wait until every fault that was set for the project has happened."""

        def look() -> bool | None:
            return all(row["project"] != self.project.path for row in self.stand_in.control("GET", "/faults")) or None

        wait_for(look, seconds=30, what="a fault that happens")

    def moved(self) -> None:
        """Go on with the project where it is now."""
        path = self.api("GET", "")["path_with_namespace"]
        self.project = replace(self.project, path=path)

    def kept_log(self) -> str:
        """Return the build's log as the spawner keeps it for the last launch."""
        text: str = self.client.call("GET", f"/api/notebooks/logs/{self.names[-1]}").json().get("image-build", "")
        return text

    def launch(self, sha: str, **fields: Any) -> str:
        """Launch; without a fallback named, the end is a failure in words, which costs no start."""
        self.began = self.began or time.monotonic()
        namespace, _, project = self.project.path.rpartition("/")
        body = {"namespace": namespace, "project": project, "commit_sha": sha, "branch": "main", "fallback": "fail"}

        def look() -> str | None:
            answer = self.client.call("POST", "/api/notebooks/servers", json={**body, **fields})
            if answer.status_code == TOO_MANY:
                return None  # another play has GitLab ask for a moment's patience
            assert answer.ok, answer.text
            found: str = answer.json()["name"]
            return found

        name = wait_for(look, seconds=10, what="a launch that GitLab has patience for")
        self.names.append(name)
        return name

    def patch(self, name: str, **fields: str) -> None:
        """Change a session; it must be accepted."""
        answer = self.client.call("PATCH", f"/api/notebooks/servers/{name}", json=fields)
        assert answer.status_code == 200, answer.text

    def watch(
        self,
        name: str,
        *,
        until: Collection[str] = ("image", "failed"),
        at: str = "",
        act: Callable[[], object] | None = None,
    ) -> Told:
        """Read the stream until it was decided; `act` is done once, at the first event that holds `at`."""
        events = []
        for event in self._events(name):
            events.append(event)
            if act is not None and at in (event["event"], event["phase"]):
                act()
                act = None
            if event["event"] in until:
                break
        assert act is None, f"no event '{at}': {events}"
        calls = self.stand_in.requests(project_id=self.project.id, client="slipway")
        seconds = time.monotonic() - self.began
        server = self.client.get(name)
        return replace(_told(events, server["slipway"] if server else {}), calls=calls, seconds=seconds)

    def _events(self, name: str) -> Any:
        ends = time.monotonic() + PLAY_SECONDS
        address = f"/api/notebooks/servers/{name}/events"
        with self.client.call("GET", address, stream=True, headers={"Accept": "text/event-stream"}) as answer:
            answer.raise_for_status()
            event: dict[str, Any] = {}
            for line in answer.iter_lines(decode_unicode=True):
                assert time.monotonic() < ends, f"{name} was not decided within {PLAY_SECONDS:g} s"
                field_, _, value = line.partition(": ")
                if field_ == "data":
                    event |= json.loads(value)
                elif field_ == "event":
                    event["event"] = value
                elif not line and "event" in event:
                    yield event
                    event = {}

    def end(self) -> None:
        """Stop every session of this stage."""
        for name in self.names:
            self.client.stop(name)


_WHO = ("AUTHOR", "COMMITTER")


def _told(events: list[dict[str, Any]], slipway: Mapping[str, Any]) -> Told:
    phases = [event["phase"] for event in events if event["event"] == "phase"]
    last = events[-1]
    if last["event"] == "image":
        # The phase that goes with the choice is the next event of the same moment.
        phases.append(last["phase"])
    return Told(
        source=str(last.get("source") or last.get("code") or ""),
        reason=str(last["message"]),
        phases=tuple(phase for n, phase in enumerate(phases) if n == 0 or phases[n - 1] != phase),
        events=tuple(events),
        image=slipway.get("image"),
    )
