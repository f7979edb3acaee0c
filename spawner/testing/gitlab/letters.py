"""What waits to be told to a hook.

Promises: a letter holds the records as they were when the thing happened.
Must not know: how it is told.
"""

from __future__ import annotations

from dataclasses import dataclass

from spawner.testing.gitlab.records import Job, Pipeline, Project, Push, User

Subject = Job | Pipeline | Project | Push | User


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One event for one hook; `is_held` once later ones were let by."""

    hook_id: int
    event: str
    event_uuid: str
    about: tuple[Subject, ...]
    is_held: bool = False
