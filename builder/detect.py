"""Which files decide a commit's environment, by recipe: names, versions and input rules.

Pure. A recipe here is a name, a version and the rule that finds its input files; how it is carried out is
`builder.recipes`' business. It promises to err on one side only: what is not understood counts as everything.
Old recipe versions stay here as data when a new one comes, so that images built before an upgrade are found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from builder import requirements, stacks
from builder.declared import Rule, toml
from builder.entries import LINK_MODE, Entry, EntryType, Kind
from builder.errors import NoRecipeError
from builder.requirements import Role
from builder.snapshot import Inputs, Snapshot, normal

if TYPE_CHECKING:
    from builder.settings import ImageSettings

PYTHON_RECIPE = "python"
PYTHON_RECIPE_VERSIONS = (1,)  # newest first

CONFIG_FOLDERS = ("binder", ".binder", "")  # the first that holds an input file, as repo2docker looks

_RULES: Mapping[str, Rule] = {
    "pyproject.toml": Rule.PYPROJECT,
    "uv.lock": Rule.UV_LOCK,
    "poetry.lock": Rule.POETRY_LOCK,
    "pdm.lock": Rule.PDM_LOCK,
    "Pipfile": Rule.PIPFILE,
    "Pipfile.lock": Rule.PIPFILE_LOCK,
    "environment.yml": Rule.CONDA,
}
_AS_THEY_ARE = frozenset({
    "runtime.txt", "setup.py", "setup.cfg", "apt.txt", "install.R", "DESCRIPTION", "renv.lock", "Project.toml",
    "Manifest.toml", "start", "postBuild",
})  # fmt: skip
_MARK = "\0requirements"
_REQUIREMENTS_NAME = re.compile(r"(?<=\0)(requirements[^\0]*\.txt)(?=\0)")
_INPUT_NAMES = _AS_THEY_ARE | _RULES.keys()
_CONTAINER_ONLY = (
    "environment.yml",
    "install.R",
    "DESCRIPTION",
    "renv.lock",
    "Project.toml",
    "Manifest.toml",
    "apt.txt",
)
_CONTAINER_FIRST = ("environment.yml",)
_PURE_BACKENDS = ("hatchling", "flit_core", "poetry.core", "uv_build", "pdm.backend", "setuptools")
_COMPILING = frozenset(
    {"cython", "cffi", "pybind11", "nanobind", "numpy", "setuptools-rust", "meson", "cmake", "ninja"}
)
_COMPILING_WORDS = (b"ext_modules", b"Extension", b"cffi_modules", b"rust_extensions", b"cythonize")


class Source(StrEnum):
    """Where a commit declares its Python dependencies; the first that is there counts."""

    UV_LOCK = "uv.lock"
    POETRY_LOCK = "poetry.lock"
    PDM_LOCK = "pdm.lock"
    PIPFILE_LOCK = "Pipfile.lock"
    PIPFILE = "Pipfile"
    REQUIREMENTS = "requirements.txt"
    PROJECT = "pyproject.toml"
    SETUP = "setup.py"
    NOTHING = "runtime.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Detected:
    """The folder that configures the build (`""` is the root), where dependencies are declared, what may move.

    `recipe` is the name of the recipe that carries it out.
    """

    folder: str
    source: Source
    mutable: tuple[str, ...]
    recipe: str = PYTHON_RECIPE


def input_names(entries: Mapping[str, Entry]) -> AbstractSet[str]:
    """Pick the names that are inputs where they lie in a configuration folder; cheap in a folder of 20,000."""
    listing = "\0".join(["", *entries, ""])  # one search in one text is three times faster than a test per name
    found = {match.group(1) for match in _REQUIREMENTS_NAME.finditer(listing)} if _MARK in listing else set()
    names = (entries.keys() & _INPUT_NAMES) | found
    return {name for name in names if entries[name].type is not EntryType.TREE}


def is_input_name(name: str) -> bool:
    """Tell whether a file of this name is an input where it lies in a configuration folder."""
    return name in _INPUT_NAMES or is_requirements_name(name)


def is_requirements_name(name: str) -> bool:
    """Tell whether a file is named `requirements*.txt`."""
    return name.startswith("requirements") and name.endswith(".txt")


def control_paths(snapshot: Snapshot) -> tuple[str, ...]:
    """Name the files that computing a key will want to read: what a blobless cache fetches beforehand in one go."""
    folder, names = config_folder(snapshot)
    wanted = [_within(folder, name) for name in sorted(names)]
    root = snapshot.entries("")
    links = [name for name in CONFIG_FOLDERS if name in root and root[name].mode == LINK_MODE]
    return tuple(path for path in ["slipway.toml", *links, *wanted] if snapshot.entry(path) is not None)


def config_folder(snapshot: Snapshot) -> tuple[str, AbstractSet[str]]:
    """Find the folder whose files configure the build, and the names of the input files in it."""
    for folder in CONFIG_FOLDERS:
        found = snapshot.resolved(folder) if folder else ("", None)
        if found is None:
            continue
        names = input_names(snapshot.entries(found[0]))
        if names:
            return folder, names
    return "", frozenset()


def source_of(names: AbstractSet[str], *, has_project: bool) -> Source | None:
    """Choose where dependencies are declared, from the names in the folder; None if nowhere."""
    locked = next((source for source in (Source.UV_LOCK, Source.POETRY_LOCK, Source.PDM_LOCK) if source in names), None)
    if locked is not None and "pyproject.toml" in names:
        return locked
    for source in (Source.PIPFILE_LOCK, Source.PIPFILE):
        if source in names:
            return source
    if any(is_requirements_name(name) for name in names):
        return Source.REQUIREMENTS
    if has_project:
        return Source.PROJECT
    if names & {"setup.py", "setup.cfg"}:
        return Source.SETUP
    return Source.NOTHING if "runtime.txt" in names else None


def detect(inputs: Inputs, settings: ImageSettings, kind: Kind) -> Detected:
    """Collect the input files of a commit without a Dockerfile. NoRecipeError if nothing here can be built."""
    snapshot = inputs.snapshot
    folder, names = config_folder(snapshot)
    document = _document(snapshot, _within(folder, "pyproject.toml"))
    source = source_of(names, has_project="project" in document or "poetry" in _table(document, "tool"))
    _refuse_unfit(names, source, settings, kind)
    chosen = source or Source.NOTHING
    mutable = list(_collect(inputs, folder, names, chosen))
    is_other = kind is Kind.CONTAINER and stacks.is_other(snapshot, folder, names, settings)
    if not is_other and chosen not in {Source.REQUIREMENTS, Source.PIPFILE, Source.PIPFILE_LOCK, Source.NOTHING}:
        _count_project(inputs, folder)
    if kind is Kind.CONTAINER and "postBuild" in names and settings.paths is None:  # an environment never runs it
        inputs.count_everything("postBuild may read any file ([image] paths can say which it reads)")
    for path in settings.paths or ():
        inputs.add(path)
    if is_other:
        if settings.paths is None:
            stacks.count_built_code(inputs, folder, names)
        return Detected(folder=folder, source=chosen, mutable=tuple(mutable), recipe=stacks.RECIPE)
    is_declared = "runtime.txt" in names or bool(_table(document, "project").get("requires-python"))
    if settings.python is None and not is_declared:
        mutable.append("Python: no version is declared, so the recipe takes the one the job has")
    return Detected(folder=folder, source=chosen, mutable=tuple(mutable))


def _refuse_unfit(names: AbstractSet[str], source: Source | None, settings: ImageSettings, kind: Kind) -> None:
    known = [PYTHON_RECIPE, *([stacks.RECIPE] if kind is Kind.CONTAINER else [])]
    if settings.recipe is not None and settings.recipe not in known:
        there_is = " and ".join(f"“{name}”" for name in known)
        raise NoRecipeError(f"[image] recipe in slipway.toml names “{settings.recipe}”; there is {there_is}.")
    if kind is Kind.CONTAINER:
        if not names:
            raise NoRecipeError("This commit has neither a Dockerfile nor a file that declares an environment.")
        return
    first = [name for name in _CONTAINER_FIRST if name in names and settings.recipe is None]
    if first or source is None:
        other = first or [name for name in _CONTAINER_ONLY if name in names]
        if other:
            raise NoRecipeError(
                f"{other[0]} cannot be followed by an environment of Python wheels: it needs a container image. "
                'Say recipe = "python" under [image] in slipway.toml to use only the Python files.'
            )
        raise NoRecipeError(
            "This commit declares no Python environment: add a requirements.txt (`builder init` writes one), "
            "a pyproject.toml or a runtime.txt."
        )


def _collect(inputs: Inputs, folder: str, names: AbstractSet[str], source: Source) -> Iterator[str]:
    """Count the folder's own input files and whatever they refer to; yield what may move under a fixed commit."""
    for name in sorted(names):
        path = _within(folder, name)
        if is_requirements_name(name):
            is_read = source is Source.REQUIREMENTS
            yield from (note for note in _count_requirements(inputs, path, set()) if is_read)
        else:
            inputs.add(path, _RULES.get(name))
    if "environment.yml" in names:
        _count_conda_references(inputs, _within(folder, "environment.yml"))
    if "uv.lock" in names:
        _count_lock_folders(inputs, folder)


def _count_requirements(inputs: Inputs, path: str, seen: set[str]) -> Iterator[str]:
    """Count a requirements or constraints file and everything it refers to, each once."""
    real = inputs.add(path, Rule.REQUIREMENTS)
    if real is None or real in seen:
        return
    seen.add(real)
    declaration = inputs.declaration(real, Rule.REQUIREMENTS)
    if declaration is None:
        inputs.count_everything(f"{path} is not understood")
        return
    found = requirements.parse(declaration.content.decode("utf-8"))
    yield from (f"{path}: {line} is not pinned" for line in found.unpinned)
    directory = path.rpartition("/")[0]
    for reference in found.references:
        match reference.role:
            case Role.REQUIREMENTS | Role.CONSTRAINTS:
                target = normal(reference.target, start=directory)
                if target is not None:
                    yield from _count_requirements(inputs, target, seen)
            case Role.REMOTE:
                if not requirements.is_fixed_address(reference.target):
                    shown = re.sub(r"//[^/@]*@", "//", reference.target)  # without a user name or token
                    yield f"{path}: {shown} is fetched anew by each build"
            case Role.LOCAL | Role.EDITABLE:
                _count_local(inputs, directory, reference.target, reference.extras)


def _count_local(inputs: Inputs, directory: str, target: str, extras: tuple[str, ...]) -> None:
    """Count a local project, archive or folder: looked for from the root, as the installers do, and beside the file."""
    del extras  # they are part of the line, which counts already
    for start in {"", directory}:
        path = normal(target, start=start)
        if path == "":
            _count_project(inputs, "")
        elif path is not None:
            inputs.add(path)


def _count_project(inputs: Inputs, folder: str) -> None:
    """Count a Python project whose dependencies are installed first, and which is itself installed at session start."""
    snapshot = inputs.snapshot
    path = _within(folder, "pyproject.toml")
    inputs.add(path, Rule.PYPROJECT)
    for name in ("setup.py", "setup.cfg"):
        inputs.add(_within(folder, name))
    for lock in (Source.UV_LOCK, Source.POETRY_LOCK, Source.PDM_LOCK):
        inputs.add(_within(folder, lock), _RULES[lock])
    setup = snapshot.content(_within(folder, "setup.py"))
    has_setup_cfg = snapshot.content(_within(folder, "setup.cfg")) is not None
    real = snapshot.resolved(path)
    if real is not None and inputs.declaration(real[0], Rule.PYPROJECT) is None:
        inputs.count_everything(f"{path} is not understood")
        return
    document = _document(snapshot, path)
    try:
        reason = _why_everything(document, setup, has_setup_cfg=has_setup_cfg)
        targets = [normal(target, start=folder) for target in _project_folders(document)]
    except (TypeError, AttributeError):  # a number where a list belongs, and the like
        reason, targets = f"{path} is not understood", []
    if reason is not None:
        inputs.count_everything(reason)
    for target in targets:
        if target:
            inputs.add(target)


def _why_everything(document: Mapping[str, Any], setup: bytes | None, *, has_setup_cfg: bool) -> str | None:
    project, tools = _table(document, "project"), _table(document, "tool")
    build = _table(document, "build-system")
    if not project and "poetry" not in tools:
        known = setup is not None or has_setup_cfg or "build-system" in document
        return "the project's dependencies are computed by code" if known else None
    if set(project.get("dynamic", ())) & {"dependencies", "optional-dependencies"}:
        return "the project's dependencies are dynamic"
    if "workspace" in _table(tools, "uv"):
        return "the project is a workspace of several"
    if setup is not None and any(word in setup for word in _COMPILING_WORDS):
        return "the project compiles"
    backend = str(build.get("build-backend", "setuptools"))
    names = {requirement_name(line) for line in build.get("requires", ()) if isinstance(line, str)}
    hooks = set(_table(_table(_table(tools, "hatch"), "build"), "hooks")) - {"vcs", "version"}
    custom = (
        "build" in _table(tools, "poetry") or "ext-modules" in _table(tools, "setuptools") or "backend-path" in build
    )
    if not backend.startswith(_PURE_BACKENDS) or names & _COMPILING or hooks or custom:
        return "the project compiles, or is built by code of its own"
    return None


def requirement_name(line: str) -> str:
    """Return the lower-case name at the start of a requirement."""
    end = next((index for index, letter in enumerate(line) if not (letter.isalnum() or letter in "-_.")), len(line))
    return line[:end].lower().replace("_", "-").replace(".", "-")


def _project_folders(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the local paths that a project's tables name as dependencies."""
    tools = _table(document, "tool")
    for source in _table(_table(tools, "uv"), "sources").values():
        for one in source if isinstance(source, list) else [source]:
            if isinstance(one, Mapping) and isinstance(one.get("path"), str):
                yield one["path"]
    poetry = _table(tools, "poetry")
    groups = [_table(group, "dependencies") for group in _table(poetry, "group").values()]
    for table in [_table(poetry, "dependencies"), _table(poetry, "dev-dependencies"), *groups]:
        for one in table.values():
            if isinstance(one, Mapping) and isinstance(one.get("path"), str):
                yield one["path"]
    for line in _table(document, "project").get("dependencies", ()):
        _, separator, target = str(line).partition("@")
        if separator and target.strip().startswith("file:"):
            yield requirements.local_path(target.strip())


def _count_lock_folders(inputs: Inputs, folder: str) -> None:
    """Count the local packages that `uv.lock` names."""
    found = inputs.snapshot.resolved(_within(folder, "uv.lock"))
    declaration = inputs.declaration(found[0], Rule.UV_LOCK) if found is not None else None
    if declaration is None:
        inputs.count_everything("uv.lock is not understood")
        return
    for target in declaration.local:
        _count_local(inputs, folder, target, ())


def _count_conda_references(inputs: Inputs, path: str) -> None:
    found = stacks.conda_references(inputs, path)
    directory = path.rpartition("/")[0]
    for reference in found:
        target = normal(reference.target, start=directory)
        if reference.role in {Role.REQUIREMENTS, Role.CONSTRAINTS} and target is not None:
            list(_count_requirements(inputs, target, set()))
        elif reference.role in {Role.LOCAL, Role.EDITABLE}:
            _count_local(inputs, directory, reference.target, reference.extras)


def _document(snapshot: Snapshot, path: str) -> Mapping[str, Any]:
    content = snapshot.content(path)
    if content is None:
        return {}
    return _parsed(content)


@lru_cache(maxsize=64)
def _parsed(content: bytes) -> Mapping[str, Any]:
    try:
        return toml(content)
    except (ValueError, RecursionError):
        return {}


def _table(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = document.get(name)
    return value if isinstance(value, Mapping) else {}


def _within(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
