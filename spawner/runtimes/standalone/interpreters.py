"""Pythons of this machine, such that every session's user may run them.

For: the environments, which name a minor version (`3.11`).
Promises: what is returned can be reached and read by everyone when that is asked; one that is not to be had is said
by name.
Must not know: environments, sessions.
"""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from spawner.agent.person import started_as
from spawner.agent.plan import Person
from spawner.errors import LaunchRefused

_ASK_SECONDS = 20.0
_FETCH_SECONDS = 300.0
_QUESTION = "import sys; print(sys.base_prefix); print('%d.%d.%d' % sys.version_info[:3])"
_STRANGER = 65534  # nobody: what this user may run, every user may
_KEPT_AWAY = shutil.ignore_patterns("site-packages", "test", "tests", "__pycache__", "*.a", "idlelib", "turtledemo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """A Python: its program, and its whole version (`3.11.2`)."""

    program: Path
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreters:
    """Finds, copies or fetches Pythons; `folder` keeps those that were copied or fetched."""

    folder: Path
    uv: Path
    for_everyone: bool
    variables: Mapping[str, str]

    def find(self, minor: str) -> Interpreter:
        """Return a Python of that minor version; raises LaunchRefused when none is to be had."""
        for program in self._candidates(minor):
            found = self._ask(program, minor)
            if found is not None:
                return Interpreter(program=program, version=found[1])
        copied = self._copied(minor) or self._fetched(minor)
        if copied is not None:
            return copied
        raise LaunchRefused(
            f"This commit needs Python {minor}, which is not to be had on this machine.",
            remedy=f"Install Python {minor} where every user may run it, or ask for another in runtime.txt.",
        )

    def _candidates(self, minor: str) -> Iterator[Path]:
        own = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
        yield from sorted(self.folder.glob(f"*{minor}*/bin/python{minor}"))
        yield own
        for folder in ("/usr/bin", "/usr/local/bin", *self.variables.get("PATH", "").split(":")):
            program = Path(folder) / f"python{minor}"
            if folder and program.is_file():
                yield program.resolve()
        command = [str(self.uv), "python", "find", "--no-project", "--no-python-downloads", "--quiet", minor]
        try:
            done = subprocess.run(
                command, env=dict(self.variables), capture_output=True, text=True, timeout=_ASK_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return
        if done.returncode == 0:
            yield Path(done.stdout.strip()).resolve()

    def _copied(self, minor: str) -> Interpreter | None:
        """Copy a Python that only the spawner's own user may reach to where everyone may."""
        if not self.for_everyone:
            return None
        for program in self._candidates(minor):
            found = self._ask(program, minor, is_for_us=True)
            if found is None or not (found[0] / "lib" / f"python{minor}" / "os.py").is_file():
                continue
            target = self.folder / f"cpython-{minor}-copied"
            draft = target.with_name(f".{target.name}.{os.getpid()}")
            shutil.rmtree(draft, ignore_errors=True)
            shutil.copytree(found[0], draft, symlinks=True, ignore=_KEPT_AWAY)
            (draft / "lib" / f"python{minor}" / "site-packages").mkdir(exist_ok=True)
            _open_to_all(draft)
            if self._ask(draft / "bin" / f"python{minor}", minor) is not None:
                shutil.rmtree(target, ignore_errors=True)
                draft.rename(target)
                return Interpreter(program=target / "bin" / f"python{minor}", version=found[1])
            shutil.rmtree(draft)  # it needs more than its own folder
        return None

    def _fetched(self, minor: str) -> Interpreter | None:
        command = [str(self.uv), "python", "install", "--quiet", "--no-bin", minor]
        variables = {**self.variables, "UV_PYTHON_INSTALL_DIR": str(self.folder)}
        try:
            done = subprocess.run(command, env=variables, capture_output=True, timeout=_FETCH_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return None
        for program in sorted(self.folder.glob(f"*{minor}*/bin/python{minor}")) if done.returncode == 0 else ():
            _open_to_all(program.parents[1])
            found = self._ask(program, minor)
            if found is not None:
                return Interpreter(program=program, version=found[1])
        return None

    def _ask(self, program: Path, minor: str, *, is_for_us: bool = False) -> tuple[Path, str] | None:
        """Return a Python's prefix and version, if it is one of that minor version; asked as a stranger would."""
        is_stranger = self.for_everyone and not is_for_us
        try:
            done = subprocess.run(
                [str(program), "-I", "-S", "-c", _QUESTION],
                capture_output=True,
                text=True,
                timeout=_ASK_SECONDS,
                check=False,
                cwd="/",
                env={},
                **(started_as(Person(uid=_STRANGER, gid=_STRANGER)) if is_stranger else {}),
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        lines = done.stdout.split("\n")
        if done.returncode != 0 or len(lines) < 2 or not lines[1].startswith(f"{minor}."):  # noqa: PLR2004 - two were asked
            return None
        return Path(lines[0]), lines[1]


def _open_to_all(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | stat.S_IRGRP | stat.S_IROTH | ((mode & stat.S_IXUSR) and (stat.S_IXGRP | stat.S_IXOTH)))
