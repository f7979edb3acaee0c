"""The fault dial: what can be made to go wrong, and whether it should go wrong now.

Promises: a fault with `times` happens exactly that often; one without goes on until it is cleared. `seconds` is how
long a fault lasts from when it was set; for `pipeline_late`, `hook_slow`, `hook_reordered` and `slow` it is how late.
Armed faults survive a restart.
Must not know: what a fault does; the parts that fail ask here.
"""

from __future__ import annotations

import enum
from datetime import timedelta
from typing import TYPE_CHECKING

from spawner.testing.gitlab.instance import now
from spawner.testing.gitlab.records import Fault

if TYPE_CHECKING:
    from spawner.testing.gitlab.instance import Instance
    from spawner.testing.gitlab.records import Project


class Kind(enum.StrEnum):
    """The faults that can be set."""

    PIPELINE_LATE = "pipeline_late"
    JOB_STUCK_PENDING = "job_stuck_pending"
    HOOK_LOST = "hook_lost"
    TOKEN_EXPIRED = "token_expired"  # noqa: S105 - a fault's name
    BAD_GATEWAY_HTML = "bad_gateway_html"
    IMAGE_MISSING_AFTER_SUCCESS = "image_missing_after_success"
    TAG_DELETED = "tag_deleted"
    HOOK_DOUBLED = "hook_doubled"
    HOOK_REORDERED = "hook_reordered"
    HOOK_SLOW = "hook_slow"
    RATE_LIMITED_RACK = "rate_limited_rack"
    RATE_LIMITED_APPLICATION = "rate_limited_application"
    PROJECT_MOVED = "project_moved"
    ACCESS_LOST = "access_lost"
    SLOW = "slow"
    DOWN = "down"


DEFAULT_LATE_SECONDS = 5.0
DEFAULT_SLOW_SECONDS = 3.0
_HOW_LATE = frozenset({Kind.PIPELINE_LATE, Kind.HOOK_SLOW, Kind.HOOK_REORDERED, Kind.SLOW})


class UnknownFaultError(Exception):
    """Asked for a fault that does not exist."""


def arm(
    instance: Instance,
    *,
    fault: str,
    project: str | None = None,
    times: int | None = None,
    seconds: float | None = None,
) -> Fault:
    """Set a fault, for one project (full path) or all.

    Raises:
        UnknownFaultError: the name is not one of `Kind`.
    """
    if fault not in set(Kind):
        known = ", ".join(Kind)
        raise UnknownFaultError(f"There is no fault called {fault!r}. The known ones are: {known}.")
    with instance.store as store:
        record = Fault(
            id=store.next_id(Fault), fault=fault, project=project, times=times, seconds=seconds, created_at=now()
        )
        return store.put(record)


def armed(instance: Instance) -> list[Fault]:
    """Return the faults that can still happen."""
    return instance.store.all(Fault, _alive)


def clear(instance: Instance, *, fault: str | None = None) -> None:
    """Forget all faults, or those of one name; clearing twice is no error."""
    with instance.store as store:
        for record in store.all(Fault):
            if fault in {None, record.fault}:
                store.drop(record)


def peek(instance: Instance, kind: Kind, project: Project | None = None) -> Fault | None:
    """Return the fault that would happen here, without counting it."""
    return instance.store.first(Fault, lambda row: row.fault == kind and _alive(row) and _applies(row, project))


def standing(instance: Instance, kind: Kind) -> bool:
    """Tell whether a fault was set and neither cleared nor over, used up or not."""
    return instance.store.first(Fault, lambda row: row.fault == kind and _lasts(row)) is not None


def strikes(instance: Instance, kind: Kind, project: Project | None = None) -> Fault | None:
    """Return the fault that happens here now, and count it; None when all is well."""
    with instance.store as store:
        found = peek(instance, kind, project)
        return store.change(found, used=found.used + 1) if found else None


def shape(record: Fault) -> dict[str, object]:
    """Return a fault as the control face shows it."""
    return {
        "fault": record.fault,
        "project": record.project,
        "times": record.times,
        "seconds": record.seconds,
        "used": record.used,
    }


def _alive(record: Fault) -> bool:
    if record.times is not None and record.used >= record.times:
        return False
    return _lasts(record)


def _lasts(record: Fault) -> bool:
    if record.fault in _HOW_LATE or record.seconds is None:
        return True
    return now() < record.created_at + timedelta(seconds=record.seconds)


def _applies(record: Fault, project: Project | None) -> bool:
    if record.project is None:
        return True
    return project is not None and record.project in {project.path, str(project.id)}
