"""What `spawner connect` has made, so that `spawner disconnect` undoes that and nothing else.

For: the steps of both commands. Promises: an entry is written before its thing is made in GitLab and completed with
its id afterwards, so that a crash in between leaves nothing that nobody owns; the file holds no secret, is readable by
its owner alone, and is replaced whole.
Must not know: GitLab, what the things are for.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Self

from spawner.cli.exits import CommandFailed

FILE = "connected.json"


class ThingKind(StrEnum):
    """What connect makes."""

    APPLICATION = "application"
    HOOK = "hook"
    BADGE = "badge"
    MERGE_REQUEST = "merge_request"
    PROJECT = "project"


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One thing of ours in GitLab. `address` is where it hangs (`/projects/7`), `mark` what it is known again by.

    `id` is None from the moment it is begun until GitLab has answered.
    """

    kind: ThingKind
    address: str
    mark: str
    id: int | None = None

    def is_same(self, other: "Thing") -> bool:
        """Say whether both speak of one thing, whatever is known of its id."""
        return (self.kind, self.address, self.mark) == (other.kind, other.address, other.mark)


class Ledger:
    """The record of one folder's connection to one GitLab."""

    def __init__(self, path: Path, gitlab_url: str, things: list[Thing], *, is_kept: bool = True) -> None:
        self._path = path
        self._things = things
        self._is_kept = is_kept
        self.gitlab_url = gitlab_url

    @classmethod
    def open(cls, folder: Path, gitlab_url: str, *, is_kept: bool = True) -> Self:
        """Read a folder's ledger, empty where there is none; CommandFailed for one of another GitLab or unreadable."""
        path = folder / FILE
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            things = [Thing(**{**row, "kind": ThingKind(row["kind"])}) for row in document["things"]]
            known_url = str(document["gitlab_url"])
        except FileNotFoundError:
            return cls(path, gitlab_url, [], is_kept=is_kept)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CommandFailed(
                f"{path} cannot be read ({type(error).__name__}).", remedy="Restore it, or name another --folder."
            ) from error
        if known_url != gitlab_url:
            raise CommandFailed(
                f"{path} is of {known_url}, not of {gitlab_url}.",
                remedy="Name another --folder for another GitLab, or disconnect the first.",
            )
        return cls(path, known_url, things, is_kept=is_kept)

    def of(self, kind: ThingKind) -> Iterator[Thing]:
        """Yield what is of one kind, oldest first."""
        yield from [thing for thing in self._things if thing.kind is kind]

    def is_ours(self, thing: Thing) -> bool:
        """Say whether a thing that was found is one that we began."""
        return any(each.is_same(thing) for each in self._things)

    def begin(self, thing: Thing) -> None:
        """Write down that a thing is about to be made."""
        if not self.is_ours(thing):
            self._things.append(thing)
            self._save()

    def complete(self, thing: Thing, id: int) -> None:  # noqa: A002 - GitLab's own name for it
        """Write down what GitLab calls a thing that was begun."""
        self._things = [replace(each, id=id) if each.is_same(thing) else each for each in self._things]
        self._save()

    def forget(self, thing: Thing) -> None:
        """Strike a thing that is no more."""
        self._things = [each for each in self._things if not each.is_same(thing)]
        self._save()

    def _save(self) -> None:
        if not self._is_kept:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = self._path.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        partial.touch(mode=0o600)
        document = {"gitlab_url": self.gitlab_url, "things": [asdict(thing) for thing in self._things]}
        partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        partial.replace(self._path)
