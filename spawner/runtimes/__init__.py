"""Runtimes: where sessions run; each is found by its entry point in the group `spawner.runtimes`.

For: the wiring, which names one; a package of somebody else's may bring another.
Promises: nothing is imported before it is asked for; an unknown name says which there are.
Must not know: any runtime's own options; they are passed through as they come.
"""

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from spawner.errors import Misconfigured
from spawner.ports import Runtime

GROUP = "spawner.runtimes"


def names() -> tuple[str, ...]:
    """Return the names of the runtimes that are installed, sorted."""
    return tuple(sorted({entry.name for entry in entry_points(group=GROUP)}))


def factory(name: str) -> Callable[..., Runtime]:
    """Return the function that makes a runtime; raises Misconfigured when there is none of that name."""
    found = [entry for entry in entry_points(group=GROUP) if entry.name == name]
    if not found:
        there = ", ".join(names()) or "none"
        raise Misconfigured(f"There is no runtime '{name}'.", remedy=f"Install it, or choose one of: {there}.")
    create: Any = found[0].load()
    if not callable(create):
        raise Misconfigured(f"The runtime '{name}' is not callable.", remedy="Its entry point must name a function.")
    made: Callable[..., Runtime] = create
    return made
