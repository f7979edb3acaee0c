"""Our hooks as GitLab has them: sent, switched off for a while after failures, and on again; what others see of it.

Covered: states, other hooks, hidden projects, a GitLab that is away, how often it is asked, metric and log.
Left out: when GitLab switches a hook off (tests/contract/forge/test_hooks.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from spawner import metrics
from spawner.errors import TokenRejected
from spawner.gitlab.hookwatch import HookState, HookWatch
from spawner.gitlab.transport import Transport

if TYPE_CHECKING:
    from spawner.testing.gitlab import ProjectHandle
    from tests.contract.forge_port.conftest import World

OURS = "http://127.0.0.1:9/hooks/gitlab"  # nobody is there: what GitLab sends fails


@dataclass
class TurnedClock:
    """A clock that a test turns."""

    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def now(self) -> datetime:
        return self.at


def watching(
    world: "World", projects: Sequence[int], *, url: str = "", token: str = "", clock: TurnedClock | None = None
) -> HookWatch:
    return HookWatch(
        Transport(url or world.standin.url, timeout_seconds=5.0),
        token=token or world.ada.token,
        receiver_url=OURS,
        projects=lambda _: projects,
        clock=clock or TurnedClock(),
    )


@pytest.fixture
def hooked(world: "World") -> "tuple[ProjectHandle, int]":
    """A project with a hook of ours and one that is none of our business."""
    project = world.standin.add_project(f"lab/hooked-{datetime.now(UTC).timestamp():.0f}", owner=world.ada)
    world.standin.commit(project, {"README.md": "what a test hook tells of"})
    path = f"/projects/{project.id}/hooks"
    world.standin.api("POST", path, user=world.ada, body={"url": "http://127.0.0.1:9/other", "push_events": True})
    made = world.standin.api("POST", path, user=world.ada, body={"url": OURS, "push_events": True})
    return project, made["id"]


def fail(world: "World", project: "ProjectHandle", hook: int) -> None:
    """Have GitLab send the hook until it switches it off."""
    for _ in range(4):
        with pytest.raises(Exception, match="422"):
            world.standin.api("POST", f"/projects/{project.id}/hooks/{hook}/test/push_events", user=world.ada)


def test_a_hook_that_gitlab_switched_off_is_told(world: "World", hooked: "tuple[ProjectHandle, int]") -> None:
    """A hook is sent; after four failures it is paused until a time, counted and logged every ten minutes."""
    project, hook = hooked
    clock = TurnedClock()
    watch = watching(world, [project.id], clock=clock)
    assert [(seen.hook_id, seen.state, seen.until) for seen in watch.look()] == [(hook, HookState.SENT, None)]
    fail(world, project, hook)
    with capture_logs() as logs:
        watch.watch()
        watch.watch()
    assert counted() == {"executable": 0, "temporarily_disabled": 1, "disabled": 0}
    told = [(line["event"], line["project"], line["state"]) for line in logs]
    assert told == [("hook_not_sent", project.id, "temporarily_disabled")]
    assert logs[0]["until"] is not None
    clock.at += timedelta(minutes=10)
    with capture_logs() as logs:
        watch.watch()
    assert len(logs) == 1


def counted() -> dict[str, float | None]:
    return {
        state.value: metrics.REGISTRY.get_sample_value("slipway_hook_states", {"state": state.value})
        for state in HookState
    }


def test_what_cannot_be_seen_is_passed_over(world: "World", hooked: "tuple[ProjectHandle, int]") -> None:
    """A project that is gone, one whose hooks are hidden from the token, a GitLab that is away: no error, no hook."""
    project, hook = hooked
    assert [seen.hook_id for seen in watching(world, [10_000_000, project.id]).look()] == [hook]
    assert watching(world, [project.id], token=world.bob.token).look() == []
    assert watching(world, [project.id], url="http://127.0.0.1:9").look() == []
    with pytest.raises(TokenRejected):
        watching(world, [project.id], token="glpat-ended").look()
