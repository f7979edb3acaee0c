"""A stand-in as a test or a demo holds it: starts it as a process, and turns its dials.

Promises: `start` returns when it answers; leaving the block ends every process; `kill` and `restart` keep ports and
data. Everything is done over HTTP or Git, as anybody would, with the administrator's token.
Must not know: the server's insides.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import requests

from spawner.testing.gitlab.client import Forge, StandInError, UserHandle

if TYPE_CHECKING:
    from collections.abc import Sequence

_START_SECONDS = 60.0
_POLL_SECONDS = 0.1


@dataclass(slots=True, kw_only=True)
class StandIn(Forge):
    """A running stand-in."""

    data: Path
    registry_url: str
    process: subprocess.Popen[bytes]
    arguments: tuple[str, ...]

    @classmethod
    def start(
        cls,
        *,
        data: Path,
        port: int = 0,
        registry_port: int | None = None,
        host: str = "127.0.0.1",
        runner: bool = True,
        options: Sequence[str] = (),
    ) -> Self:
        """Start a stand-in and wait until it answers; `options` are further command-line options.

        Raises:
            StandInError: it did not answer within 30 s.
        """
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        (data / "stand-in.json").unlink(missing_ok=True)
        second = registry_port if registry_port is not None else (port + 1 if port else 0)
        arguments = (
            *("--host", host, "--data", str(data), "--runner" if runner else "--no-runner"),
            *options,
        )
        process = _launched(data, [*arguments, "--port", str(port), "--registry-port", str(second)])
        try:
            facts = _answering(data, process)
        except StandInError:
            process.kill()
            raise
        token = Path(facts["admin_token_file"]).read_text().strip()
        admin = UserHandle(username="root", id=1, token=token, is_admin=True)
        return cls(
            data=data,
            url=facts["url"],
            registry_url=facts["registry_url"],
            process=process,
            arguments=arguments,
            admin=admin,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it and its runner; stopping twice is no error."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_START_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """Kill it with everything it started, as a crash would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(_START_SECONDS)

    def restart(self) -> None:
        """Start it again on the same ports and data.

        Raises:
            StandInError: it did not answer within 30 s.
        """
        self.stop()
        (self.data / "stand-in.json").unlink(missing_ok=True)
        ports = [address.rsplit(":", 1)[-1] for address in (self.url, self.registry_url)]
        self.process = _launched(self.data, [*self.arguments, "--port", ports[0], "--registry-port", ports[1]])
        _answering(self.data, self.process)

    def control(self, method: str, path: str, body: object = None) -> Any:
        """Call the stand-in's own face (`/requests`, `/runner`, `/faults`); return the JSON answer.

        Raises:
            StandInError: the answer was no success.
        """
        return self._call(method, f"/-/stand-in{path}", headers={}, body=body)

    def requests(self, *, project_id: int | None = None, client: str = "") -> dict[str, int]:
        """Return how often each route was called since the start; about one project, and by one client, if named.

        A client is the first word of a `User-Agent`: the spawner's is `slipway`.
        """
        query = "" if project_id is None else f"?project={project_id}" + (f"&client={client}" if client else "")
        counts: dict[str, int] = self.control("GET", f"/requests{query}")
        return counts

    def targets(self) -> list[str]:
        """Return the last requests, method and target as they were sent: what an access log of GitLab holds."""
        found: list[str] = self.control("GET", "/targets")
        return found

    def pause_runner(self, *, paused: bool = True) -> None:
        """Keep jobs from the runner, or give them again."""
        self.control("POST", "/runner", {"paused": paused})

    def hold_job(self, job_id: int, status: str) -> None:
        """Keep a job `preparing` or `waiting_for_callback`, which only GitLab itself does; `pending` lets it go on."""
        self.control("POST", f"/jobs/{job_id}", {"status": status})

    def arm(
        self, fault: str, *, project: str | None = None, times: int | None = None, seconds: float | None = None
    ) -> None:
        """Set a fault."""
        given = {"fault": fault, "project": project, "times": times, "seconds": seconds}
        self.control("POST", "/faults", {key: value for key, value in given.items() if value is not None})

    def clear_faults(self) -> None:
        """Forget all faults."""
        self.control("DELETE", "/faults")


def _launched(data: Path, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "spawner.testing.gitlab", *arguments]
    root = str(Path(__file__).parents[3])
    paths = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    with (data / "stand-in.log").open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": paths},
        )


def _answering(data: Path, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    ends = time.monotonic() + _START_SECONDS
    while time.monotonic() < ends and process.poll() is None:
        with contextlib.suppress(OSError, requests.RequestException, ValueError):
            facts: dict[str, Any] = json.loads((data / "stand-in.json").read_text())
            with requests.Session() as session:
                session.trust_env = False
                if session.get(facts["url"] + "/-/readiness", timeout=1).ok:
                    return facts
        time.sleep(_POLL_SECONDS / 2)
    end = (data / "stand-in.log").read_text(errors="replace")[-1024:] if (data / "stand-in.log").exists() else ""
    raise StandInError(f"The stand-in in {data} did not answer within {_START_SECONDS:.0f} s. Its log ends: {end}")
