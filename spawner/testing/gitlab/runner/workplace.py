"""The folders of one job, and the environment that its scripts get.

Promises: everything is below one folder that is removed at the end, whatever modes the job has set; of the runner's own
environment a job gets PATH, HOME, LANG and what was named, nothing else.
Must not know: the protocol, how scripts are run.
"""

import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spawner.testing.gitlab.runner.coordinator import VERSION
from spawner.testing.gitlab.runner.job import RunnerJob, expanded

_PASSED_ON = ("PATH", "HOME", "LANG")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """The folders of one job: `project` is where it works, `temporary` its TMPDIR, `private` is the runner's own."""

    root: Path
    project: Path
    temporary: Path
    private: Path

    def remove(self) -> None:
        """Remove all of it; idempotent."""
        _removed(self.root)


def made_builds(data: Path) -> Path:
    """Return the folder for all builds, empty: what a crash left in it is removed."""
    builds = data / "builds"
    _removed(builds)
    builds.mkdir(mode=0o700, parents=True)
    return builds


def made_workplace(builds: Path, job: RunnerJob) -> Workplace:
    """Make the folders of a job, empty and readable by this user only."""
    root = builds / str(job.id)
    label = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in job.project_name).lstrip(".")
    made = Workplace(root=root, project=root / (label or "project"), temporary=root / "tmp", private=root / ".private")
    made.remove()
    for folder in (root, made.project, made.temporary, made.private):
        folder.mkdir(mode=0o700, parents=True)
    return made


def surroundings(inherit: Sequence[str]) -> dict[str, str]:
    """Return the part of the runner's environment that jobs may have."""
    names = (*_PASSED_ON, *inherit)
    found = {name: os.environ[name] for name in names if name in os.environ}
    return {"PATH": os.defpath, "LANG": "C.UTF-8", **found}


def job_values(job: RunnerJob, place: Workplace) -> dict[str, str]:
    """Return the job's variables, references filled in and file variables written into files."""
    extra = {
        "CI_PROJECT_DIR": str(place.project),
        "CI_BUILDS_DIR": str(place.root),
        "CI_SERVER": "yes",
        "CI_RUNNER_VERSION": VERSION,
        "CI_RUNNER_EXECUTABLE_ARCH": f"{platform.system().lower()}/{platform.machine()}",
        "TMPDIR": str(place.temporary),
    }
    values = expanded(job.variables, extra=extra)
    folder = place.root / f"{place.project.name}.tmp"
    for variable in job.variables:
        if variable.file and variable.key not in extra:
            folder.mkdir(mode=0o700, exist_ok=True)
            path = folder / Path(variable.key).name
            path.write_text(values[variable.key])
            path.chmod(0o600)
            values[variable.key] = str(path)
    return values


def job_environment(values: Mapping[str, str], *, passed_on: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a job's scripts; names and values that no environment can hold are left out."""
    fitting = {
        name: value for name, value in values.items() if name and "=" not in name and "\0" not in f"{name}{value}"
    }
    return {**passed_on, **fitting}


def _removed(root: Path) -> None:
    for folder, names, _ in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if not path.is_symlink() and not os.access(path, os.R_OK | os.W_OK | os.X_OK):
                path.chmod(0o700)
    shutil.rmtree(root, ignore_errors=True)
