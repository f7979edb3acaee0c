"""The runner's command line; see the package."""

import argparse
import logging
import sys
from pathlib import Path

from spawner.testing.gitlab.runner.coordinator import Coordinator, CoordinatorError
from spawner.testing.gitlab.runner.execution import Settings
from spawner.testing.gitlab.runner.polling import DataTakenError, Polling, claimed_folder
from spawner.testing.gitlab.runner.workplace import made_builds, surroundings


def main(arguments: list[str] | None = None) -> int:
    """Run the runner and return its exit code: 0 after an orderly end, 1 with a sentence on standard error else."""
    asked = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    try:
        token = asked.token_file.read_text().strip()
        with claimed_folder(asked.data.resolve()) as system_id:
            polling = Polling(
                coordinator=Coordinator(url=asked.url.rstrip("/"), token=token, system_id=system_id),
                settings=Settings(
                    builds=made_builds(asked.data.resolve()),
                    passed_on=surroundings(asked.inherit),
                    keep_alive_seconds=asked.keep_alive_seconds,
                ),
                poll_seconds=asked.poll_seconds,
                concurrency=asked.concurrency,
                once=asked.once,
            )
            refusal = polling.run()
    except (OSError, CoordinatorError, DataTakenError) as exc:
        refusal = str(exc)
    if refusal:
        logging.getLogger(__name__).error("%s", refusal)
    return 1 if refusal else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m spawner.testing.gitlab.runner",
        description="Run GitLab jobs with bash on this machine, as this user. Only for projects that you trust.",
    )
    parser.add_argument("--url", required=True, help="address of GitLab or of the stand-in")
    parser.add_argument("--token-file", required=True, type=Path, help="file that holds the runner's token (glrt-...)")
    parser.add_argument("--data", required=True, type=Path, help="folder of this runner alone, for builds")
    parser.add_argument("--once", action="store_true", help="end after one job")
    parser.add_argument("--poll-seconds", type=float, default=0.3, help="pause between questions (default 0.3)")
    parser.add_argument("--concurrency", type=int, default=2, help="jobs at a time (default 2)")
    parser.add_argument(
        "--keep-alive-seconds", type=float, default=2.0, help="longest silence towards the server (default 2)"
    )
    parser.add_argument(
        "--inherit", action="append", default=[], metavar="NAME",
        help="environment variable that jobs get besides PATH, HOME and LANG; may be repeated",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
