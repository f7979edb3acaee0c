"""The entry points of the distributed tasks: `spawner worker` and `spawner beat`.

For: the command line, after it has read the settings and set up the log.
Must not know: Celery (`spawner.tasks` does), any adapter (`spawner.wiring` does).
"""

from spawner.config import Settings
from spawner.tasks import running
from spawner.wiring import wire


def run_worker(settings: Settings) -> int:
    """Run a worker until it is told to end; return its exit code. Raises Misconfigured."""
    return running.run_worker(settings, wire)


def run_beat(settings: Settings) -> int:
    """Run the beat until it is told to end; return its exit code. A second one is harmless."""
    return running.run_beat(settings)
