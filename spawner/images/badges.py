"""What a badge shows: how a public commit stands, asked as nobody and remembered.

For: badges are pictures in READMEs, loaded by anybody, thousands at a time. Promises: a viewer learns what an anonymous
visitor of GitLab could, and nothing else: a private project, one that does not exist and one that cannot be asked about
are the same UNKNOWN; one badge costs GitLab one look in FRESH_SECONDS per process, however many view it; looks are
counted in all, so that no flood of addresses becomes a flood of questions; an old answer beats none.
Must not know: HTTP, pictures, any person's credential.
"""

import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from spawner.errors import PermanentError, TemporaryError
from spawner.images.standing import Standing, Standings
from spawner.names import ProjectPath
from spawner.ports import Clock, Forge, nobody

_log = structlog.get_logger()

FRESH_SECONDS = 30.0
PATIENCE_SECONDS = 5.0  # for a look that another viewer's request is at; then the old answer
LOOKS_AT_ONCE = 4  # a look may be slow, and holds a thread that requests need
_MOST_KEPT = 4096
_MINUTE = timedelta(seconds=60)

_Subject = tuple[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """A badge's answer, and until when nobody need look again."""

    standing: Standing
    fresh_until: datetime


class Badges:
    """One process's memory of badges. `looks_per_minute` is of all badges together; 0 shows no state at all."""

    def __init__(
        self, *, forge: Forge, standings: Standings, clock: Clock, forge_name: str, looks_per_minute: int
    ) -> None:
        self._forge = forge
        self._standings = standings
        self._clock = clock
        self._nobody = nobody(forge_name)
        self._looks_per_minute = looks_per_minute
        self._lock = threading.Lock()
        self._kept: OrderedDict[_Subject, _Kept] = OrderedDict()
        self._asking: dict[_Subject, Future[Standing]] = {}
        self._window_began = datetime.min.replace(tzinfo=clock.now().tzinfo)
        self._looks = 0
        self._quiet_until = self._window_began

    def standing(self, project: ProjectPath, revision: str | None) -> Standing:
        """Return how a branch, tag or commit (None: the default branch) stands; never raises."""
        subject = (project.lower(), revision)
        with self._lock:
            kept = self._kept.get(subject)
            old = Standing.UNKNOWN if kept is None else kept.standing
            if kept is not None and self._clock.now() < kept.fresh_until:
                return old
            others = self._asking.get(subject)
            if others is None and not self._may_look():
                return old
            asked = others or self._asking.setdefault(subject, Future())
        if others is None:
            self._look(subject, asked, old)
        try:
            return asked.result(timeout=PATIENCE_SECONDS)
        except TimeoutError:
            return old

    def _may_look(self) -> bool:
        """Count one look, where one more may be had now."""
        now = self._clock.now()
        if now < self._quiet_until or len(self._asking) >= LOOKS_AT_ONCE:
            return False
        if now - self._window_began >= _MINUTE:
            self._window_began, self._looks = now, 0
        self._looks += 1
        return self._looks <= self._looks_per_minute

    def _look(self, subject: _Subject, asked: "Future[Standing]", old: Standing) -> None:
        standing = old
        try:
            standing = self._ask(subject)
        except TemporaryError as error:
            _log.warning("badge_not_asked", error=error.message)
            with self._lock:
                self._quiet_until = self._clock.now() + timedelta(seconds=error.retry_after_seconds)
        finally:
            with self._lock:
                fresh_until = self._clock.now() + timedelta(seconds=FRESH_SECONDS)
                self._kept[subject] = _Kept(standing=standing, fresh_until=fresh_until)
                self._kept.move_to_end(subject)
                while len(self._kept) > _MOST_KEPT:
                    self._kept.popitem(last=False)
                self._asking.pop(subject, None)
            asked.set_result(standing)

    def _ask(self, subject: _Subject) -> Standing:
        path, revision = subject
        try:
            project = self._forge.project(self._nobody, ProjectPath(path))
            wanted = revision or project.default_branch
            commit = self._forge.commit(self._nobody, project.id, wanted) if wanted else None
        except PermanentError:  # hidden, absent, or not for nobody
            return Standing.UNKNOWN
        return Standing.UNKNOWN if commit is None else self._standings.of(project, commit.sha, self._nobody)
