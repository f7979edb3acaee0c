"""What the image service needs of a database."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from spawner.images.model import Build


class BuildStore(Protocol):
    """The builds, one row per (forge, project, commit), and their logs."""

    def get(self, id: str) -> Build | None:  # noqa: A002 - the row's own name for it
        """Return a build, or None."""
        ...

    def some(self, ids: Sequence[str]) -> Sequence[Build]:
        """Return the builds of these ids, in no order, in one query; unknown ones are left out."""
        ...

    def add(self, build: Build) -> Build:
        """Insert the build, or return the row that is already there."""
        ...

    def claim(self, id: str, *, seconds: float) -> bool:  # noqa: A002
        """Take the poller's lease for `seconds` by the database's clock; False while somebody holds it."""
        ...

    def save(self, build: Build) -> Build | None:
        """Write the build where its `version` still stands, raise the version, free the lease; None if it moved."""
        ...

    def hint(self, id: str, now: datetime) -> bool:  # noqa: A002
        """Make the build due now (a hook came); also reopens one that was over. False when unknown."""
        ...

    def order(self, id: str, now: datetime) -> None:  # noqa: A002
        """Note that the commit's build was just begun: forget what was last seen, make the row due, free the lease."""
        ...

    def due(self, now: datetime, *, limit: int) -> Sequence[str]:
        """Return the ids of builds that are due, not over and not claimed, oldest first."""
        ...

    def replace_log(self, id: str, text: str) -> None:  # noqa: A002
        """Keep this cleaned text as the build's whole log."""
        ...

    def log(self, id: str) -> str:  # noqa: A002
        """Return the kept log; empty when there is none."""
        ...
