"""Resource classes and server options: what a person may choose, validated.

Promises: a choice is either one of the settings' classes or an error that names what there is.
Must not know: HTTP field names beyond those of `serverOptions`, any runtime.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from spawner.errors import ResourcesUnavailable
from spawner.ports import Resources

GIGABYTE = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceClass:
    """One choice of resources. Memory and storage in bytes; a zero is "not limited by us"."""

    id: int
    name: str
    cpu_cores: float
    memory_bytes: int
    gpu_count: int = 0
    default_storage_bytes: int = GIGABYTE
    max_storage_bytes: int = 20 * GIGABYTE
    is_default: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Legacy `serverOptions`: the least a session must have."""

    cpu_cores: float = 0.0
    memory_bytes: int = 0
    storage_bytes: int = 0
    gpu_count: int = 0


def by_id(classes: Sequence[ResourceClass], id_: int) -> ResourceClass:
    """Return the class of that id; raises ResourcesUnavailable naming those there are."""
    for each in classes:
        if each.id == id_:
            return each
    there = ", ".join(str(each.id) for each in classes)
    raise ResourcesUnavailable(
        f"There is no resource class {id_}.", remedy=f"Choose one of: {there}.", detail=f"resource_class_id: {id_}"
    )


def default_class(classes: Sequence[ResourceClass]) -> ResourceClass:
    """Return the class marked as default, else the first."""
    return next((each for each in classes if each.is_default), classes[0])


def smallest_fitting(classes: Sequence[ResourceClass], wanted: Wanted) -> ResourceClass:
    """Return the smallest class that has at least what is wanted; raises ResourcesUnavailable."""
    fitting = [each for each in classes if _fits(each, wanted)]
    if not fitting:
        raise ResourcesUnavailable(
            "No resource class has as much as the server options ask for.",
            remedy="Ask for less, or name a resource_class_id.",
        )
    return min(fitting, key=lambda each: (each.gpu_count, each.cpu_cores, each.memory_bytes, each.id))


def resources(chosen: ResourceClass, *, storage_bytes: int) -> Resources:
    """Return what a workload gets; raises ResourcesUnavailable for storage outside 1 GB … the class's maximum."""
    if not GIGABYTE <= storage_bytes <= chosen.max_storage_bytes:
        most = chosen.max_storage_bytes // GIGABYTE
        raise ResourcesUnavailable(
            f"Storage of {storage_bytes / GIGABYTE:g} GB is outside of what class '{chosen.name}' offers.",
            remedy=f"Ask for 1 to {most} GB.",
        )
    return Resources(
        cpu_cores=chosen.cpu_cores,
        memory_bytes=chosen.memory_bytes,
        storage_bytes=storage_bytes,
        gpu_count=chosen.gpu_count,
    )


def _fits(each: ResourceClass, wanted: Wanted) -> bool:
    return (
        (each.cpu_cores == 0 or each.cpu_cores >= wanted.cpu_cores)
        and (each.memory_bytes == 0 or each.memory_bytes >= wanted.memory_bytes)
        and each.gpu_count >= wanted.gpu_count
        and each.max_storage_bytes >= wanted.storage_bytes
    )
