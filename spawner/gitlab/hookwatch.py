"""Whether GitLab still sends our hooks: it switches one off after four failures, and tells nobody.

For: housekeeping (a metric and a line of the log) and `spawner doctor`. Promises: only hooks that lead here are looked
at, with the operator's token and never a person's; a project whose hooks that token may not see is passed over, and so
is what GitLab cannot tell now; looked at every ten minutes at most.
Must not know: who waits for builds; polls find what a hook would have told.
Source: GitLab REST v4, project hooks: `alert_status`, `disabled_until` (17.x-19.x).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from spawner import metrics
from spawner.errors import Forbidden, ForgeUnavailable, NotFound, TemporaryError, TokenRejected
from spawner.gitlab import shapes
from spawner.gitlab.transport import Transport
from spawner.log import get_logger
from spawner.ports import Clock, Credential, CredentialKind

LOOK_EVERY = timedelta(minutes=10)
_OF_LATE = timedelta(days=30)  # projects that nobody launched from since then have no hook worth a call
_PAGE = 100  # GitLab's largest, and its most hooks of a project
_log = get_logger(__name__)


class HookState(StrEnum):
    """What GitLab does with a hook."""

    SENT = "executable"
    PAUSED = "temporarily_disabled"
    OFF = "disabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenHook:
    """A hook of a project that leads here; `until` is when GitLab tries again."""

    project_id: int
    hook_id: int
    state: HookState
    until: datetime | None = None


class HookWatch:
    """Looks at the hooks of the projects that `projects` names: those of which something was launched since a time."""

    def __init__(
        self,
        transport: Transport,
        *,
        token: str,
        receiver_url: str,
        projects: Callable[[datetime], Sequence[int]],
        clock: Clock,
    ) -> None:
        self._transport = transport
        self._credential = Credential(forge="", token=token, kind=CredentialKind.PERSONAL)
        self._receiver_url = receiver_url
        self._projects = projects
        self._clock = clock
        self._looked_at: datetime | None = None

    def watch(self) -> None:
        """Count hooks by state and log each that is not sent; a no-op within ten minutes of the last time."""
        now = self._clock.now()
        if self._looked_at is not None and now - self._looked_at < LOOK_EVERY:
            return
        self._looked_at = now
        seen = self.look()
        counts = Counter(hook.state for hook in seen)
        for state in HookState:
            metrics.HOOK_STATES.labels(state=state.value).set(counts[state])
        for hook in seen:
            if hook.state is not HookState.SENT:
                until = hook.until.isoformat() if hook.until else None
                _log.warning(
                    "hook_not_sent", project=hook.project_id, hook=hook.hook_id, state=hook.state.value, until=until
                )

    def look(self) -> Sequence[SeenHook]:
        """Return our hooks as GitLab has them now; raises TokenRejected when the operator's token has ended."""
        seen: list[SeenHook] = []
        for project_id in self._projects(self._clock.now() - _OF_LATE):
            try:
                seen += self._of(project_id)
            except TokenRejected:
                raise
            except (Forbidden, NotFound) as error:
                _log.info("hooks_not_shown", project=project_id, reason=error.message)
            except TemporaryError as error:
                _log.warning("hooks_not_asked", project=project_id, reason=error.message)
        return seen

    def _of(self, project_id: int) -> list[SeenHook]:
        path = f"/projects/{project_id}/hooks"
        answer = self._transport.request(self._credential, "get", path, query={"per_page": _PAGE})
        try:
            rows: Any = answer.json()
        except ValueError as error:
            raise ForgeUnavailable("GitLab answered with a page instead of data.") from error
        if not isinstance(rows, list):
            raise ForgeUnavailable("GitLab answered what is no list.")
        ours = [row for row in rows if isinstance(row, dict) and row.get("url") == self._receiver_url]
        return [_seen(project_id, row) for row in ours]


def _seen(project_id: int, row: shapes.Body) -> SeenHook:
    word = row.get("alert_status", HookState.SENT.value)  # GitLabs before 15.7 do not tell
    state = HookState(word) if word in set(HookState) else HookState.OFF
    until = shapes.moment(row.get("disabled_until"))
    return SeenHook(project_id=project_id, hook_id=shapes.whole(row, "id"), state=state, until=until)
