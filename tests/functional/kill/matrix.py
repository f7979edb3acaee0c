"""Which kills there are, living them, and the table that tells what came of them.

For: `test_kill_matrix`. The steps are those that a life without a kill was seen to write, so that a new write is a new
row by itself; every victim is killed at every step at which it can be there.
Promises: a step that did not come in a life is tried again; what never came is told, not left out.
Must not know: how a kill is done, what is wrong with a life.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from spawner.testing.gitlab.client import UserHandle
from tests.functional.kill.house import House
from tests.functional.kill.life import NO_KILL, OF_THE_SESSION, Cell, Life

AT_ONCE = 3
TRIES = 3
DRY_LIVES = 2
COLUMNS = ("web", "worker", "beat", "redis", "agent", "session", "runner", "stand-in")
_AGENT_BEGINS = "workload: process"
_COMMAND = "pytest tests/functional/kill --kill-matrix=full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What a life writes, in order, once each."""

    launch: tuple[str, ...]
    stop: tuple[str, ...]


@dataclass(slots=True)
class Done:
    """What a run has found, of one way or of both."""

    cells: list[Cell] = field(default_factory=list)
    steps: dict[str, Steps] = field(default_factory=dict)  # by way


def discover(house: House, owner: UserHandle) -> Steps:
    """Live without a kill, and return what was written; not by the first, which installs the environment for all."""
    Life(house=house, owner=owner).run()
    lives = [Life(house=house, owner=owner) for _ in range(DRY_LIVES)]
    for life in lives:
        troubles = [cell.trouble for cell in life.run()]
        assert not any(troubles), troubles
    assert all(life.stopping for life in lives), "a life without a kill did not end"
    return Steps(
        launch=tuple(dict.fromkeys(step for life in lives for step in life.launching)),
        stop=tuple(dict.fromkeys(step for life in lives for step in life.stopping)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One life to be lived: whom to kill, and after which steps."""

    victim: str
    launch: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()


def everything(house: House, steps: Steps) -> list[Plan]:
    """Return lives in which each victim is killed after each step, several far apart in one life."""
    by_victim = [_lives(victim, _possible(victim, steps.launch), steps.stop) for victim in house.victims]
    # Side by side live those with different victims.
    return [plan for plans in itertools.zip_longest(*by_victim) for plan in plans if plan is not None]


def again(house: House, steps: Steps, before: Iterable[Cell]) -> list[Plan]:
    """Return lives for the cells of an earlier run that were not held, or whose kill never came."""
    plans: list[Plan] = []
    bad = [cell for cell in before if cell.way == house.way and not (cell.is_good and (cell.came or _is_over(cell)))]
    for victim in house.victims:
        wanted = {(cell.flow, cell.step) for cell in bad if cell.victim == victim}
        launch = [step for step in steps.launch if ("launch", step) in wanted]
        stop = [step for step in steps.stop if ("stop", step) in wanted]
        if wanted and not launch and not stop:  # a stop without a kill, after a launch with some
            launch = [_possible(victim, steps.launch)[0]]
        plans += _lives(victim, launch, stop) if launch or stop else []
    return plans


def _lives(victim: str, launch: Sequence[str], stop: Sequence[str]) -> list[Plan]:
    is_own = victim in OF_THE_SESSION
    count = max(-(-len(launch) // (2 if is_own else 4)), -(-len(stop) // (1 if is_own else 2)))
    return [
        Plan(victim=victim, launch=tuple(launch[number::count]), stop=tuple(stop[number::count]))
        for number in range(count)
    ]


def sample(house: House, steps: Steps) -> list[Plan]:
    """Return one life per victim, each with other steps."""
    plans = []
    for number, victim in enumerate(house.victims):
        launch = _possible(victim, steps.launch)
        place = number / len(house.victims)
        one, other = launch[int(place * len(launch))], steps.stop[int(place * len(steps.stop))]
        plans.append(Plan(victim=victim, launch=(one,), stop=(other,)))
    return plans


def _possible(victim: str, launch: Sequence[str]) -> Sequence[str]:
    """Leave out what is written before there is an agent to kill."""
    if victim not in OF_THE_SESSION or _AGENT_BEGINS not in launch:
        return launch
    return launch[launch.index(_AGENT_BEGINS) :]


def live(house: House, owner: UserHandle, plans: Iterable[Plan]) -> list[Cell]:
    """Live every plan, some at once; a kill that did not come is tried again, alone."""
    waiting = list(plans)
    kept: dict[tuple[str, str, str], Cell] = {}
    for _ in range(TRIES):
        lives = [
            Life(house=house, owner=owner, victim=plan.victim, launch_steps=plan.launch, stop_steps=plan.stop)
            for plan in waiting
        ]
        with ThreadPoolExecutor(max_workers=AT_ONCE, thread_name_prefix="life") as pool:
            for cells in pool.map(Life.run, lives):
                for cell in cells:
                    key = (cell.victim, cell.flow, cell.step)
                    if key not in kept or not kept[key].came:
                        kept[key] = cell
        waiting = [
            Plan(victim=cell.victim, **{cell.flow: (cell.step,)})
            for cell in kept.values()
            if not cell.came and cell.is_good and not _is_over(cell)
        ]
        if not waiting:
            break
    return list(kept.values())


def _is_over(cell: Cell) -> bool:
    """Say whether the victim is gone by its own work at that step, as a server is once its session stops."""
    return cell.victim in OF_THE_SESSION and cell.flow == "stop"


def merged(before: Iterable[Cell], done: Done) -> list[Cell]:
    """Return an earlier run's cells with this run's in their place, in the order of the steps."""
    cells = {_place(cell): cell for cell in before if cell.way not in done.steps or cell.step != NO_KILL}
    cells |= {_place(cell): cell for cell in done.cells}

    def order(cell: Cell) -> tuple[str, str, int]:
        steps = done.steps.get(cell.way)
        known = () if steps is None else steps.launch if cell.flow == "launch" else steps.stop
        return cell.way, cell.flow, known.index(cell.step) if cell.step in known else len(known)

    return sorted(cells.values(), key=order)


def _place(cell: Cell) -> tuple[str, str, str, str]:
    return cell.way, cell.victim, cell.flow, cell.step


# ---------------------------------------------------------------- the table


def totals(cells: Sequence[Cell]) -> Mapping[str, int]:
    """Return how many kills there were, and what they did."""
    return {
        "kills": sum(cell.came for cell in cells),
        "lost": sum(cell.lost for cell in cells),
        "doubled": sum(cell.doubled for cell in cells),
        "orphaned": sum(cell.orphaned for cell in cells),
    }


def as_json(cells: Sequence[Cell]) -> Any:
    """Return the matrix as a document."""
    return {"totals": totals(cells), "cells": [asdict(cell) for cell in cells]}


def as_markdown(cells: Sequence[Cell]) -> str:
    """Return the matrix as a page."""
    total = totals(cells)
    lines = [
        "# The kill matrix",
        "",
        "Each part of the installation is killed (SIGKILL) right after each write of a launch and of a stop, and is",
        "started again as an init system would. The steps are found by a life without a kill; a life with kills has",
        "some, far apart. “held” means that in the end the session answered, or was gone, with nothing lost, doubled",
        "or orphaned; “·” that the victim is not there at that step.",
        f"Made by `{_COMMAND}`; `=again` repeats the cells that were not held, as after a repair.",
        "",
        f"**{total['kills']} kills: lost {total['lost']}, doubled {total['doubled']}, orphaned {total['orphaned']}.**",
    ]
    for way in dict.fromkeys(cell.way for cell in cells):
        for flow in ("launch", "stop"):
            lines += ["", f"## {way}: {flow}", "", *_table([c for c in cells if (c.way, c.flow) == (way, flow)])]
    lines += ["", "## What the person saw when the session itself was killed", "", *_sentences(cells)]
    return "\n".join(lines) + "\n"


def _table(cells: Sequence[Cell]) -> Iterator[str]:
    columns = [victim for victim in COLUMNS if any(cell.victim == victim for cell in cells)]
    yield f"| after | {' | '.join(columns)} |"
    yield f"| --- |{' --- |' * len(columns)}"
    by_place = {(cell.step, cell.victim): cell for cell in cells}
    for step in dict.fromkeys(cell.step for cell in cells):
        shown = [_shown(by_place.get((step, victim))) for victim in columns]
        yield f"| {step} | {' | '.join(shown)} |"


def _shown(cell: Cell | None) -> str:
    if cell is None or (not cell.came and cell.victim in OF_THE_SESSION and cell.is_good):
        return "·"
    if not cell.came and cell.is_good:
        return "never came"
    if cell.is_good:
        return "held"
    return f"lost {cell.lost}, doubled {cell.doubled}, orphaned {cell.orphaned}"


def _sentences(cells: Sequence[Cell]) -> Iterator[str]:
    yield "| way | victim | after | sentence |"
    yield "| --- | --- | --- | --- |"
    for cell in cells:
        if cell.victim in OF_THE_SESSION and cell.came and cell.flow == "launch":
            yield f"| {cell.way} | {cell.victim} | {cell.step} | {cell.sentence or '(none)'} |"
