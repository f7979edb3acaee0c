"""Records on disk.

Covered: a second opening sees all, a transaction is whole or not at all, one that fails is undone, ids are used
once, waiting for a change.
Left out: a power cut, which a stand-in need not survive.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from typing import TYPE_CHECKING

from spawner.testing.gitlab import people
from spawner.testing.gitlab.records import Lock, User
from spawner.testing.gitlab.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from spawner.testing.gitlab.instance import Instance
    from spawner.testing.gitlab.records import Project


def test_second_opening_sees_everything(instance: Instance, ada: User, project: Project, tmp_path: Path) -> None:
    """What was put is there for the next process, and dropped things are not."""
    gone = people.add_user(instance, "gone")
    instance.store.drop(gone)
    instance.store.close()
    again = Store(tmp_path / "data" / "gitlab.sqlite3")
    assert again.all(User) == [ada]
    assert again.get(type(project), project.id) == project
    assert again.next_id(User) == gone.id + 1
    again.close()


def test_open_transaction_is_not_seen(instance: Instance, ada: User, tmp_path: Path) -> None:
    """Of a transaction that has not ended, as when the process is killed in it, nothing is on disk."""
    with instance.store as store:
        store.change(ada, name="Changed")
        with sqlite3.connect(tmp_path / "data" / "gitlab.sqlite3") as other:
            ((body,),) = other.execute("SELECT body FROM records WHERE kind = 'User'")
        other.close()
        assert b"Changed" not in body


def test_change_applies_to_the_present_record(instance: Instance, ada: User) -> None:
    """Two changes of different fields from one old record both hold."""
    instance.store.change(ada, name="Countess")
    instance.store.change(ada, email="a@example.com")
    found = instance.store.get(User, ada.id)
    assert found
    assert (found.name, found.email) == ("Countess", "a@example.com")


def test_waiting_ends_with_a_change(instance: Instance, ada: User) -> None:
    """A waiter wakes when something is put."""
    seen = instance.store.changes
    waker = threading.Timer(0.05, lambda: instance.store.change(ada, name="New"))
    waker.start()
    assert instance.store.wait(seen=seen, timeout_seconds=10) > seen
    waker.join()
    assert instance.store.all(Lock) == []


def test_transaction_that_fails_is_undone(instance: Instance, ada: User, bob: User, tmp_path: Path) -> None:
    """Of a transaction that an exception leaves, nothing is kept, in memory as on disk, and nobody is told."""
    told: list[str] = []
    with contextlib.suppress(LookupError), instance.store as store:
        store.change(ada, name="Changed")
        store.change(ada, name="Changed again")
        store.drop(bob)
        people.add_user(instance, "third")
        store.afterwards(lambda: told.append("undone"))
        raise LookupError
    assert instance.store.all(User) == [ada, bob]
    with instance.store as store:
        store.afterwards(lambda: told.append("kept"))
        assert told == []
    assert told == ["kept"]
    instance.store.close()
    again = Store(tmp_path / "data" / "gitlab.sqlite3")
    assert again.all(User) == [ada, bob]
    again.close()
