"""A launch body as a launch command: units read, classes matched, defaults taken.

For: `servers`, and the pages' own launches stay out of it (they have no legacy options). Pure.
Promises: `resource_class_id` wins over `serverOptions`; the top-level twins win over those inside; an amount that
does not parse raises FieldErrors naming its field.
Must not know: services, Flask.
"""

import re
from collections.abc import Sequence
from typing import Final

from spawner.api.schemas import FieldErrors, LaunchBody, ServerOptionsBody
from spawner.context import EdgeOptions
from spawner.names import ProjectPath
from spawner.sessions.model import LaunchRequest
from spawner.sessions.options import GIGABYTE, ResourceClass, Wanted, default_class, smallest_fitting
from spawner.sessions.service import LaunchCommand

_CORES = re.compile(r"(?P<number>\d{1,9}(?:\.\d{1,9})?)(?P<unit>m?)")
_AMOUNT = re.compile(r"(?P<number>\d{1,15}(?:\.\d{1,9})?)(?P<unit>[kmgtpe]?)(?P<binary>i?)b?", re.IGNORECASE)
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5, "e": 6}


def launch_command(body: LaunchBody, classes: Sequence[ResourceClass], options: EdgeOptions) -> LaunchCommand:
    """Return the command that a body asks for; raises FieldErrors or ResourcesUnavailable."""
    legacy = body.server_options
    request = LaunchRequest(
        image=body.image or None,
        build=body.build,
        fallback=body.fallback,
        runtime=body.runtime,
        resource_class_id=_class_id(body, classes),
        storage_gigabytes=_storage(body),
        default_url=body.default_url or (legacy.default_url if legacy else None) or options.default_url,
        fetches_lfs=_first(body.lfs_auto_fetch, legacy.lfs_auto_fetch if legacy else None),
        environment=dict(body.environment_variables),
        notebook=body.notebook,
    )
    return LaunchCommand(
        project=ProjectPath(f"{body.namespace.strip('/')}/{body.project}".lower()),
        sha=body.commit_sha,
        branch=body.branch,
        request=request,
    )


def _class_id(body: LaunchBody, classes: Sequence[ResourceClass]) -> int:
    if body.resource_class_id is not None:
        return body.resource_class_id
    if body.server_options is not None:
        return smallest_fitting(classes, wanted(body.server_options)).id
    return default_class(classes).id


def wanted(legacy: ServerOptionsBody) -> Wanted:
    """Return what legacy options ask for at the least; raises FieldErrors."""
    return Wanted(
        cpu_cores=cores(legacy.cpu_request, "serverOptions.cpu_request"),
        memory_bytes=amount_bytes(legacy.mem_request, "serverOptions.mem_request"),
        storage_bytes=amount_bytes(legacy.disk_request, "serverOptions.disk_request"),
        gpu_count=legacy.gpu_request or 0,
    )


def _storage(body: LaunchBody) -> float:
    legacy = body.server_options
    if legacy is not None and legacy.disk_request is not None and "storage" not in body.model_fields_set:
        return max(1.0, amount_bytes(legacy.disk_request, "serverOptions.disk_request") / GIGABYTE)
    return 1.0 if body.storage is None else body.storage


def _first(*values: bool | None) -> bool:
    return next((value for value in values if value is not None), False)


def cores(text: float | str | None, field: str) -> float:
    """Read `0.5` or `500m`; None is 0."""
    if not isinstance(text, str):
        return _not_negative(text or 0.0, field)
    found = _CORES.fullmatch(text.strip())
    if found is None:
        raise FieldErrors(f"Field '{field}' has errors: Not a valid number of cores, such as 0.5 or 500m.")
    return float(found["number"]) / (1000 if found["unit"] else 1)


def amount_bytes(text: float | str | None, field: str) -> int:
    """Read bytes, or an amount such as `1G` (decimal) or `512Mi` (binary), in any case; None is 0."""
    if not isinstance(text, str):
        return int(_not_negative(text or 0.0, field))
    found = _AMOUNT.fullmatch(text.strip())
    if found is None:
        raise FieldErrors(f"Field '{field}' has errors: Not a valid amount, such as 1G or 512Mi.")
    step = 1024 if found["binary"] else 1000
    return int(float(found["number"]) * step ** _POWERS[found["unit"].lower()])


def _not_negative(number: float, field: str) -> float:
    if not 0 <= number < 1e18:  # noqa: PLR2004 - an exabyte
        raise FieldErrors(f"Field '{field}' has errors: Must be greater than or equal to 0.")
    return number
