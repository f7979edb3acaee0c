"""The faults of the dial that came later: hooks, limits, moves, lost access, slowness, silence.

Covered: each of them once, and that it ends. Left out: the first seven (`test_stand_in`).
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import requests

from tests.contract.forge.test_hooks import receiver  # noqa: F401 - a fixture
from tests.installation import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spawner.testing.gitlab import ProjectHandle, StandIn, UserHandle
    from tests.contract.forge.test_hooks import Receiver


@pytest.fixture
def owner(stand_in: StandIn) -> UserHandle:
    """A new person."""
    return stand_in.add_user(f"gil-{time.time_ns():x}")


@pytest.fixture
def project(stand_in: StandIn, owner: UserHandle) -> Iterator[ProjectHandle]:
    """A new project, and no fault afterwards."""
    yield stand_in.add_project(f"{owner.username}/disturbed", owner=owner)
    stand_in.clear_faults()


def _get(stand_in: StandIn, project: ProjectHandle | str) -> requests.Response:
    path = project if isinstance(project, str) else f"projects/{project.id}"
    token = "" if isinstance(project, str) else project.owner.token
    return requests.get(f"{stand_in.url}/api/v4/{path}", headers={"PRIVATE-TOKEN": token}, timeout=20)


def test_the_two_limits_look_different(stand_in: StandIn, project: ProjectHandle) -> None:
    """Rack::Attack answers text with headers that say when; an application limit answers JSON and nothing of that."""
    stand_in.arm("rate_limited_rack", project=project.path, times=1)
    rack = _get(stand_in, project)
    assert (rack.status_code, rack.text, rack.headers["Retry-After"]) == (429, "Retry later\n", "2")
    assert rack.headers["RateLimit-Remaining"] == "0"
    assert {"RateLimit-Reset", "RateLimit-ResetTime", "RateLimit-Name"} <= set(rack.headers)
    stand_in.arm("rate_limited_application", project=project.path, times=1)
    limited = _get(stand_in, project)
    assert (limited.status_code, limited.json()["message"]["error"][:13]) == (429, "This endpoint")
    assert {name for name in limited.headers if name.lower().startswith(("ratelimit", "retry"))} == set()
    assert _get(stand_in, project).status_code == 200


def test_a_limit_says_how_long_it_lasts(stand_in: StandIn, project: ProjectHandle) -> None:
    """With `seconds`, a limit lasts so long and says what is left."""
    stand_in.arm("rate_limited_rack", project=project.path, seconds=30)
    answer = _get(stand_in, project)
    assert 25 <= int(answer.headers["Retry-After"]) <= 30
    assert abs(int(answer.headers["RateLimit-Reset"]) - time.time() - int(answer.headers["Retry-After"])) < 3


def test_down_hangs_up_and_slow_takes_its_time(stand_in: StandIn, project: ProjectHandle) -> None:
    """A GitLab that is down closes the connection; a slow one answers late; its own face stays as it is."""
    stand_in.arm("down", times=1)
    with pytest.raises(requests.ConnectionError):
        _get(stand_in, project)
    stand_in.arm("slow", times=1, seconds=1)
    began = time.monotonic()
    assert _get(stand_in, project).status_code == 200
    assert time.monotonic() - began >= 1


def test_a_project_moves(stand_in: StandIn, project: ProjectHandle) -> None:
    """The fault renames the project: its id goes on, its old path redirects."""
    stand_in.arm("project_moved", project=project.path, times=1)
    moved = _get(stand_in, project).json()
    assert moved["path_with_namespace"] == f"{project.path}-moved"


def test_access_is_lost(stand_in: StandIn, project: ProjectHandle) -> None:
    """A project that was there is 404, as one that never was."""
    stand_in.arm("access_lost", project=project.path, times=1)
    assert _get(stand_in, project).json() == {"message": "404 Project Not Found"}
    assert _get(stand_in, project).status_code == 200


def _hooked(stand_in: StandIn, project: ProjectHandle, receiver: Receiver) -> None:  # noqa: F811 - the fixture
    stand_in.api("POST", f"/projects/{project.id}/hooks", user=project.owner, body={"url": receiver.url})


def test_a_hook_comes_twice(stand_in: StandIn, project: ProjectHandle, receiver: Receiver) -> None:  # noqa: F811
    """One event is sent twice, with one idempotency key."""
    _hooked(stand_in, project, receiver)
    stand_in.arm("hook_doubled", project=project.path, times=1)
    sha = stand_in.commit(project, {"a": "a"})
    keys = Counter(receiver.next("Push Hook", after=sha).headers["Idempotency-Key"] for _ in range(2))
    assert list(keys.values()) == [2]


def test_hooks_come_late_and_out_of_order(
    stand_in: StandIn,
    project: ProjectHandle,
    receiver: Receiver,  # noqa: F811
) -> None:
    """A held event arrives after the one that followed it; a slow one arrives late."""
    _hooked(stand_in, project, receiver)
    stand_in.arm("hook_reordered", project=project.path, times=1, seconds=3)
    first = stand_in.commit(project, {"a": "a"})
    wait_for(lambda: stand_in.control("GET", "/faults") == [] or None, seconds=20, what="a held hook")
    second = stand_in.commit(project, {"a": "b"})
    assert [receiver.events.get(timeout=30).body["after"] for _ in range(2)] == [second, first]
    stand_in.arm("hook_slow", project=project.path, times=1, seconds=1)
    third = stand_in.commit(project, {"a": "c"})
    pushed = time.monotonic()
    receiver.next("Push Hook", after=third)
    assert time.monotonic() - pushed > 0.5
