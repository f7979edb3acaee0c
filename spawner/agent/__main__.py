"""`python -m spawner.agent <plan.json>`: the entry, and what a process does once for all.

For: the standalone runtime, which starts it detached; the docker runtime, whose containers it is the first process of.
Promises: leads a session of its own, adopts orphans, sees (as root, where allowed) no process list but shows the
session only its own; the plan is gone from the disk before anything of the session runs.
Must not know: more than the plan.
"""

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

from spawner.agent import plan as plans
from spawner.agent import processes
from spawner.agent.files import write_json
from spawner.agent.supervisor import Supervisor, write_identity

_CLONE_NEWNS = 0x00020000  # linux/sched.h
_MS_REC, _MS_SLAVE = 0x4000, 0x80000  # linux/mount.h
_MS_SAFE = 0x2 | 0x4 | 0x8  # nosuid, nodev, noexec


def main() -> None:
    """Run one session."""
    path = Path(sys.argv[1])
    plan = plans.load(path.read_text(encoding="utf-8"))
    path.unlink()
    with suppress(PermissionError):  # already a leader
        os.setsid()
    os.umask(0o077)
    os.chdir("/")
    write_identity(plan.record)
    for descriptor in plan.lock_descriptors:
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - positional only; held by this process alone
    processes.adopt_orphans()
    if plan.person is not None:
        _hide_foreign_processes()
    try:
        exit_code = Supervisor(plan).run()
    except Exception as failure:
        last = {"message": f"The session's agent failed: {type(failure).__name__}.", "exit_code": 1}
        write_json(plan.record / "last.json", {**last, "is_out_of_memory": False})
        processes.end_all(os.getpid(), within_seconds=5.0)
        raise
    if plan.image is not None:  # a container's exit code is its session's
        sys.exit(exit_code)


def _hide_foreign_processes() -> None:
    """Give this process and its children a `/proc` that shows each user their own processes only.

    Best effort: it needs CAP_SYS_ADMIN, which some containers withhold. Source: proc(5), `hidepid`.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(_CLONE_NEWNS) != 0:
        return
    if library.mount(b"none", b"/", None, _MS_REC | _MS_SLAVE, None) != 0:
        return
    library.mount(b"proc", b"/proc", b"proc", _MS_SAFE, b"hidepid=2")


if __name__ == "__main__":
    main()
