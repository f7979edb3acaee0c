"""Notebook histories: the samples that ship, and generated ones that change as such projects do.

For: `reuse`. Promises: a history is the same for the same seed; each commit says which environment it declares
(`declares`), known from how it was made and not from any key, so that a wrong reuse can be told; its files are written
into a real repository.
Must not know: keys.
"""

import json
import os
import random
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from spawner import testing

SAMPLES = Path(testing.__file__).parent / "samples"
# What can declare an environment in these histories; `setup.cfg` can, although here it only sets a linter.
ENVIRONMENT_FILES = frozenset(
    {"requirements.txt", "constraints.txt", "pyproject.toml", "uv.lock", "runtime.txt", "setup.py", "setup.cfg"}
)
_PACKAGES = ("numpy", "pandas", "scipy", "matplotlib", "seaborn", "xarray", "requests", "polars", "networkx", "sympy")
_WEIGHTS = {
    "edit a notebook": 62,
    "edit the readme": 8,
    "edit a comment": 6,
    "raise the version": 6,
    "set the linter": 4,
    "pin another version": 6,
    "add a package": 4,
    "remove a package": 2,
    "take the last change back": 2,
}
_GIT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    **{f"GIT_{who}_{what}": "bench@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One commit of a history: its SHA, what was done, and the environment it declares."""

    sha: str
    what: str
    declares: str


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A repository's commits, oldest first."""

    name: str
    git_dir: Path
    commits: tuple[Made, ...]


def samples(place: Path) -> Iterator[History]:
    """Yield the samples that can be built; what their commits declare stands in `samples/README.md`."""
    environments = {"requirements": ("first",) * 4 + ("second",), "locked": ("only",) * 2}
    for name, declared in environments.items():
        repository = _Repository(place / f"sample-{name}")
        commits = []
        listed = json.loads((SAMPLES / name / "history.json").read_text("utf-8"))["commits"]
        for commit, declares in zip(listed, declared, strict=True):
            folder = SAMPLES / name / str(commit["folder"])
            files = {
                str(path.relative_to(folder)): path.read_text("utf-8") for path in folder.rglob("*") if path.is_file()
            }
            gone = [str(path) for path in commit.get("remove", ())]
            sha = repository.commit(files, commit["message"], remove=gone)
            commits.append(Made(sha=sha, what=commit["message"], declares=declares))
        yield History(name=f"sample {name}", git_dir=repository.git_dir, commits=tuple(commits))


def generated(place: Path, *, commits: int) -> Iterator[History]:
    """Yield one history per way of declaring an environment; what changes, and how often, is a guess at real ones."""
    shapes = {"requirements": _Requirements, "requirements and constraints": _Split, "pyproject and lock": _Locked}
    for seed, (name, shape) in enumerate(shapes.items()):
        project = shape(random=random.Random(seed), name=name)  # noqa: S311 - a history, not a secret
        repository = _Repository(place / f"generated-{seed}")
        made = []
        for number in range(commits):
            what = project.change(is_first=number == 0)
            sha = repository.commit(project.files(), what)
            made.append(Made(sha=sha, what=what, declares=project.declares()))
        yield History(name=f"generated: {project.name}", git_dir=repository.git_dir, commits=tuple(made))


class _Repository:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)
        self._git("init", "--quiet", "--initial-branch=main")

    @property
    def git_dir(self) -> Path:
        return self._folder / ".git"

    def commit(self, files: dict[str, str], message: str, *, remove: Sequence[str] = ()) -> str:
        for name, text in files.items():
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        for name in remove:
            (self._folder / name).unlink()
        self._git("add", "--all")
        self._git("commit", "--quiet", "--allow-empty", "--message", message)
        return self._git("rev-parse", "HEAD").strip()

    def _git(self, *arguments: str) -> str:
        environment = {**os.environ, **_GIT}
        return subprocess.run(
            ["git", *arguments],
            cwd=self._folder,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout


@dataclass(slots=True, kw_only=True)
class _Project:
    """What a generated project holds. Decoration (comments, a version, a linter's settings) declares nothing."""

    random: random.Random
    name: str = ""
    pins: dict[str, str] = field(default_factory=dict)
    comment: str = "what the notebooks need"
    version: int = 1
    line_length: int = 88
    sentence: str = "Notebooks."
    cells: list[str] = field(default_factory=list)
    past: list[dict[str, str]] = field(default_factory=list)

    def change(self, *, is_first: bool) -> str:
        """Change something, as often as such projects do; say what."""
        if is_first:
            self.pins = {package: self._pin() for package in sorted(self.random.sample(_PACKAGES, 3))}
            return "Begin."
        what = self.random.choices(tuple(_WEIGHTS), weights=tuple(_WEIGHTS.values()))[0]
        before = dict(self.pins)
        self._do(what)
        if before != self.pins and what != "take the last change back":
            self.past.append(before)
        return f"{what.capitalize()}."

    def _do(self, what: str) -> None:
        match what:
            case "edit a notebook":
                self.cells.append(f"x = {self.random.randint(0, 10**6)}")
            case "edit the readme":
                self.sentence = f"Sentence {self.random.randint(0, 10**6)}."
            case "edit a comment":
                self.comment = f"what the notebooks need, as of day {self.random.randint(1, 10**6)}"
            case "raise the version":
                self.version += 1
            case "set the linter":
                self.line_length = self.random.choice((79, 88, 100, 120))
            case "pin another version":
                self.pins[self.random.choice(sorted(self.pins))] = self._pin()
            case "add a package":
                self.pins[self.random.choice(_PACKAGES)] = self._pin()
            case "remove a package" if len(self.pins) > 1:
                del self.pins[self.random.choice(sorted(self.pins))]
            case "take the last change back" if self.past:
                self.pins = self.past.pop()

    def _pin(self) -> str:
        return f"{self.random.randint(1, 3)}.{self.random.randint(0, 20)}.{self.random.randint(0, 9)}"

    def declares(self) -> str:
        """Return what is declared, in words of its own."""
        return f"{self.name}: {sorted(self.pins.items())}"

    def files(self) -> dict[str, str]:
        """Return the files that every shape has."""
        cells = [
            {"cell_type": "code", "id": f"c{number}", "metadata": {}, "source": [text], "outputs": []}
            for number, text in enumerate(self.cells)
        ]
        notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        return {"analysis/main.ipynb": json.dumps(notebook, indent=1), "README.md": f"{self.sentence}\n"}


class _Requirements(_Project):
    """`requirements.txt` with comments, a `setup.cfg` for the linter."""

    def files(self) -> dict[str, str]:
        pins = "".join(f"{name}=={pin}\n" for name, pin in sorted(self.pins.items()))
        return {
            **super().files(),
            "requirements.txt": f"# {self.comment}\n{pins}",
            "setup.cfg": f"[flake8]\nmax-line-length = {self.line_length}\n[metadata]\nversion = 0.{self.version}\n",
        }


class _Split(_Project):
    """`requirements.txt` that takes its versions from a constraints file."""

    def files(self) -> dict[str, str]:
        names = "".join(f"{name}  # needed\n" for name in sorted(self.pins))
        pins = "".join(f"{name}=={pin}\n" for name, pin in sorted(self.pins.items()))
        return {
            **super().files(),
            "requirements.txt": f"-c constraints.txt\n\n{names}",
            "constraints.txt": f"# {self.comment}\n{pins}",
            "VERSION": f"{self.version} {self.line_length}\n",
        }


class _Locked(_Project):
    """`pyproject.toml` with its `uv.lock`; both name the project's own version, one the linter's settings."""

    def files(self) -> dict[str, str]:
        listed = ", ".join(f'"{name}=={pin}"' for name, pin in sorted(self.pins.items()))
        locked = "".join(
            f'\n[[package]]\nname = "{name}"\nversion = "{pin}"\nsource = {{ registry = "https://pypi.org/simple" }}\n'
            for name, pin in sorted(self.pins.items())
        )
        named = "".join(f'    {{ name = "{name}" }},\n' for name in sorted(self.pins))
        asked = "".join(
            f'    {{ name = "{name}", specifier = "=={pin}" }},\n' for name, pin in sorted(self.pins.items())
        )
        return {
            **super().files(),
            "pyproject.toml": (
                f'# {self.comment}\n[project]\nname = "analysis"\nversion = "0.{self.version}.0"\n'
                f'requires-python = ">=3.11"\ndependencies = [{listed}]\n\n'
                f"[tool.ruff]\nline-length = {self.line_length}\n"
            ),
            "uv.lock": (
                f'version = 1\nrevision = 3\nrequires-python = ">=3.11"\n\n[[package]]\nname = "analysis"\n'
                f'version = "0.{self.version}.0"\nsource = {{ virtual = "." }}\ndependencies = [\n{named}]\n\n'
                f"[package.metadata]\nrequires-dist = [\n{asked}]\n{locked}"
            ),
        }
