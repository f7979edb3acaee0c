"""Undoing what connecting made, and nothing else.

For: the command `disconnect`. Promises: only what the ledger names is touched, newest first; a thing that is gone is
struck off; one that this token may not remove stays in the ledger, is said, and does not keep the others.
Must not know: how a step is shown, what was wished for.
"""

from collections.abc import Iterator

from spawner.cli.connect.ledger import Ledger, Thing, ThingKind
from spawner.cli.connect.steps import Outcome, Step
from spawner.errors import NotFound, PermanentError
from spawner.gitlab.administration import Administration, PlaceKind

_ORDER = (
    ThingKind.MERGE_REQUEST, ThingKind.BADGE, ThingKind.HOOK, ThingKind.PROJECT, ThingKind.APPLICATION,
)  # fmt: skip


def disconnect(site: Administration, ledger: Ledger, *, is_dry: bool) -> Iterator[Step]:
    """Remove what connecting made; yields each thing as it is done."""
    for kind in _ORDER:
        for thing in reversed(list(ledger.of(kind))):
            if is_dry:
                yield Step(thing=thing.kind, outcome=Outcome.WOULD, message=f"be removed: {_name(thing)}")
                continue
            try:
                is_removed = _remove(site, thing)
            except PermanentError as error:
                message = f"{_name(thing)} stays: {error.message}"
                yield Step(thing=thing.kind, outcome=Outcome.LACKS, message=message, remedy=error.remedy)
                continue
            ledger.forget(thing)
            outcome = Outcome.REMOVED if is_removed else Outcome.KEPT
            says = _name(thing) if is_removed else f"{_name(thing)} was gone, or is no longer ours to remove"
            yield Step(thing=thing.kind, outcome=outcome, message=says)


def _name(thing: Thing) -> str:
    where = thing.address.strip("/").replace("/", " ")
    return f"{thing.mark} ({where})"


def _remove(site: Administration, thing: Thing) -> bool:
    id_ = thing.id if thing.id is not None else _found(site, thing)
    if id_ is None:
        return False
    match thing.kind:
        case ThingKind.APPLICATION:
            return site.remove_application(id_)
        case ThingKind.PROJECT:
            return site.remove_project(id_)
        case ThingKind.MERGE_REQUEST:
            return site.withdraw(thing.address, id_, thing.mark)
        case ThingKind.HOOK | ThingKind.BADGE:
            return site.remove(thing.address, f"{thing.kind}s", id_)


def _found(site: Administration, thing: Thing) -> int | None:
    """Look for a thing that was begun when something ended the command: it may have been made."""
    try:
        match thing.kind:
            case ThingKind.APPLICATION:
                return next((one.id for one in site.applications() if one.callback_url == thing.mark), None)
            case ThingKind.PROJECT:
                return site.place(PlaceKind.PROJECT, thing.mark).id
            case ThingKind.HOOK | ThingKind.BADGE | ThingKind.MERGE_REQUEST:
                return site.find(thing.address, f"{thing.kind}s", thing.mark)
    except NotFound:
        return None
