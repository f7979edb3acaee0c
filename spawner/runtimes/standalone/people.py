"""User ids for people, and the one person whom an ordinary account can admit.

For: the runtime; as root each person's sessions run under an id of their own, else one person is admitted at a time.
Promises: a person keeps their id for ever; no two people share one; no account of the machine is ever used.
Must not know: sessions, GitLab.
"""

import hashlib
import json
import os
import pwd
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spawner.agent.files import read_json, write_whole
from spawner.agent.plan import Person
from spawner.errors import Misconfigured, RuntimeUnavailable, SecondPerson
from spawner.names import UserId
from spawner.runtimes.standalone import locks

_WIDE = (200_000, 1_000, 1_000)  # first id, ids per data folder, folders: above every account of an ordinary machine
_NARROW = (20_000, 100, 400)  # the same inside a container whose user namespace has 65,536 ids
_LOCK_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """Who has which id, in one file; and who is admitted, in another."""

    folder: Path
    separates: bool

    def person(self, user_id: UserId) -> Person | None:
        """Return the ids that a person's sessions run under; None where all run as the spawner's own account."""
        if not self.separates:
            return None
        with self._alone():
            ids = self._read("people.json")
            if user_id not in ids:
                ids[user_id] = self._next_id({int(uid) for uid in ids.values()})
                self._write("people.json", ids)
        uid = int(ids[user_id])
        return Person(uid=uid, gid=uid)

    def admit(self, user_id: UserId, username: str) -> None:
        """Admit a person, if nobody else is; raises SecondPerson. Does nothing where people are separated."""
        if self.separates:
            return
        with self._alone():
            admitted = self._read("person.json")
            if admitted.get("user_id", user_id) != user_id:
                raise SecondPerson(
                    "Somebody else's sessions run here, and this machine's account cannot keep two people apart.",
                    remedy="Wait until they have stopped, or have the service run as root.",
                )
            self._write("person.json", {"user_id": user_id, "username": username})

    @property
    def admitted(self) -> Sequence[UserId]:
        """Who is admitted; nobody where people are separated."""
        found = None if self.separates else self._read("person.json").get("user_id")
        return () if found is None else (UserId(found),)

    def release(self, user_id: UserId, *, is_needed: Callable[[], bool] = lambda: False) -> None:
        """Forget that a person was admitted; a no-op for anybody else, and where `is_needed`, asked under the lock."""
        if self.separates:
            return
        with self._alone():
            if self._read("person.json").get("user_id") == user_id and not is_needed():
                (self.folder / "person.json").unlink(missing_ok=True)

    def _next_id(self, taken: set[int]) -> int:
        used = taken | {account.pw_uid for account in pwd.getpwall()}
        uid_map = Path("/proc/self/uid_map").read_text(encoding="ascii")
        for uid in id_range(self.folder, uid_map):
            if uid not in used:
                return uid
        raise Misconfigured("No user id is left for another person.", remedy="Use another folder for sessions.")

    def _read(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        if not path.exists():
            return {}
        value = read_json(path)
        if value is None:
            raise Misconfigured(
                f"{path} cannot be read.", remedy="Restore it from a backup: it says whose files are whose."
            )
        return value

    def _write(self, name: str, value: dict[str, Any]) -> None:
        write_whole(self.folder / name, json.dumps(value, sort_keys=True))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        held = locks.take(self.folder / "people.lock", within_seconds=_LOCK_SECONDS)
        if held is None:
            raise RuntimeUnavailable("The list of people is being changed.")
        try:
            yield
        finally:
            os.close(held)


def id_range(folder: Path, uid_map: str) -> range:
    """Return the ids of one data folder: another folder of the machine has others (by hash, so almost certainly).

    `uid_map` is the text of /proc/self/uid_map, see user_namespaces(7).
    """
    spans = [[int(word) for word in line.split()] for line in uid_map.splitlines()]
    most = max((inside + length for inside, _, length in spans), default=0)
    first, each, folders = _WIDE if most >= _WIDE[0] + _WIDE[1] * _WIDE[2] else _NARROW
    place = int.from_bytes(hashlib.sha256(str(folder).encode()).digest()[:8], "big") % folders
    return range(first + place * each, first + (place + 1) * each)
