"""Acting as the person whose session it is, where sessions have user ids of their own.

For: whatever the agent, when it is root, does in folders that a session may write.
Promises: inside `acting_as` every file made is the person's, and no link of theirs leads further than they can go.
Must not know: what is done there.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypedDict

from spawner.agent.plan import Person


class StartedAs(TypedDict, total=False):
    """The arguments of `subprocess.Popen` that make a child the person's."""

    user: int
    group: int
    extra_groups: list[int]
    umask: int


@contextmanager
def acting_as(person: Person | None) -> Iterator[None]:
    """Take the person's effective ids for a while; does nothing for None."""
    if person is None:
        yield
        return
    groups, uid, gid = os.getgroups(), os.geteuid(), os.getegid()
    os.setgroups([])
    os.setegid(person.gid)
    os.seteuid(person.uid)
    try:
        yield
    finally:
        os.seteuid(uid)
        os.setegid(gid)
        os.setgroups(groups)


def started_as(person: Person | None) -> StartedAs:
    """Return what makes a child process the person's, for good."""
    if person is None:
        return {"umask": 0o077}
    return {"user": person.uid, "group": person.gid, "extra_groups": [], "umask": 0o077}
