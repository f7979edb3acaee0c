"""What a session uses, measured on real processes.

Covered: memory and time of what is below a process, at any depth, and not its own. Left out: when it is looked at.
"""

import os
import signal
import subprocess
import sys
import time

from spawner.agent.usage import Usage

_MEBIBYTE = 1 << 20
_TREE = """
import subprocess, sys
large = bytearray(b"x" * (256 << 20))
burning = "held = bytearray(b'x' * (64 << 20))\\nwhile True: pass"
between = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
subprocess.run([sys.executable, "-c", between, burning])
"""


def test_what_is_below_counts_and_the_process_itself_does_not() -> None:
    """A grandchild's memory and processor time are seen; the ancestor, which holds more, is not counted."""
    tree = subprocess.Popen([sys.executable, "-c", _TREE], start_new_session=True)
    try:
        usage = Usage(tree.pid)
        ends = time.monotonic() + 20
        seen = usage.look()
        while seen["memory_bytes"] < 64 * _MEBIBYTE or seen["cpu_cores"] == 0:
            assert time.monotonic() < ends, seen
            time.sleep(0.1)
            seen = usage.look()
        assert seen["memory_bytes"] < 192 * _MEBIBYTE
    finally:
        os.killpg(tree.pid, signal.SIGKILL)
        tree.wait(30)


def test_what_has_ended_uses_nothing() -> None:
    """Of a process that is gone nothing is counted, and nothing is raised."""
    with subprocess.Popen(["true"]) as gone:
        gone.wait(30)
    assert Usage(gone.pid).look() == {"memory_bytes": 0, "cpu_cores": 0.0}
