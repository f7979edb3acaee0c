"""How the Python recipe is carried out: from staged files to what the resolver is asked.

Pure over `read` (the bytes of a staged file, None if it is not there). The plan is a function of the staged files
alone, and those follow from the key. It promises to say aloud what it leaves out (`notes`), and to name a version of
Python that cannot be understood. It must not run anything.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from builder import requirements
from builder.detect import Source, is_requirements_name, requirement_name
from builder.errors import ProjectError, capped
from builder.requirements import Role
from builder.snapshot import normal

ReadStaged = Callable[[str], bytes | None]

# What a session needs, and the versions that recipe `python-1` prefers where the commit does not say. Preferences,
# not pins: a commit that asks for an older jupyter-server gets the newest JupyterLab that goes with it.
SESSION_PACKAGES = ("jupyterlab", "jupyter-server", "ipykernel")
PREFERRED = {"jupyterlab": "4.6.6", "jupyter-server": "2.21.1", "ipykernel": "7.4.0"}
OWN_FOLDER = ".slipway-build"  # files that the plan adds to the staged ones
NOT_APPLIED = {
    "apt.txt": "apt.txt is not applied: an environment of Python wheels installs no system packages",
    "postBuild": "postBuild is not run: no code of the commit runs while an environment is installed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to resolve, and for which Python.

    Paths are relative to the staging folder. `written` are files to write there first (over staged ones of the same
    name); `inputs` and `constraints` go to the resolver in this order; `exported` says that `uv export` must write
    the first input from `uv.lock`. `python` is a version specifier, empty where anything goes; `asked_by` names who
    asked for it. `project` is the folder of a project to install when a session starts.
    """

    inputs: tuple[str, ...]
    constraints: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    exported: bool = False
    written: Mapping[str, str] = field(default_factory=dict)
    python: str = ""
    asked_by: str = "the recipe"
    project: str | None = None
    build_requires: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def plan(read: ReadStaged, names: AbstractSet[str], *, folder: str, source: Source, image: Mapping[str, Any]) -> Plan:
    """Decide what to resolve; `names` are the files staged in `folder`. ProjectError if that is not understood."""
    document = _toml(read, _within(folder, "pyproject.toml"))
    specifier, asked_by = _python(read, folder, document, image)
    notes = tuple(note for name, note in NOT_APPLIED.items() if read(_within(folder, name)) is not None)
    made = _sources(read, names, folder, source)
    return Plan(
        inputs=made.inputs, constraints=made.constraints, extras=made.extras, exported=made.exported,
        written=made.written, python=specifier, asked_by=asked_by, project=made.project,
        build_requires=_build_requires(_toml(read, _within(made.project, "pyproject.toml")))
        if made.project is not None else (),
        notes=notes,
    )  # fmt: skip


def _sources(  # noqa: PLR0911 - one return per source
    read: ReadStaged, names: AbstractSet[str], folder: str, source: Source
) -> Plan:
    document = _toml(read, _within(folder, "pyproject.toml"))
    project = folder if _is_installed(document) else None
    match source:
        case Source.NOTHING:
            return Plan(inputs=())
        case Source.REQUIREMENTS:
            return _from_requirements(read, names, folder)
        case Source.PROJECT:
            written = _poetry_written(read, document)
            inputs = tuple(written) if written else (_within(folder, "pyproject.toml"),)
            return Plan(inputs=inputs, written=written, project=project)
        case Source.SETUP:
            name = "setup.py" if read(_within(folder, "setup.py")) is not None else "setup.cfg"
            return Plan(inputs=(_within(folder, name),), project=folder)
        case Source.UV_LOCK:
            return Plan(inputs=(f"{OWN_FOLDER}/exported.txt",), exported=True, project=project)
        case Source.POETRY_LOCK | Source.PDM_LOCK:
            pins = f"{OWN_FOLDER}/locked.txt"
            written = _poetry_written(read, document)
            inputs = tuple(written) if written else (_within(folder, "pyproject.toml"),)
            locked = _toml(read, _within(folder, source)).get("package", [])
            return Plan(inputs=inputs, constraints=(pins,), written={**written, pins: _pins(locked)}, project=project)
        case Source.PIPFILE | Source.PIPFILE_LOCK:
            return _from_pipfile(read, folder, source)


def _from_requirements(read: ReadStaged, names: AbstractSet[str], folder: str) -> Plan:
    """Take `requirements.txt`, or every `requirements*.txt` the folder has if there is none of that name."""
    present = sorted(name for name in names if is_requirements_name(name))
    chosen = ["requirements.txt"] if "requirements.txt" in present else present
    written: dict[str, str] = {}
    projects: list[requirements.Reference] = []
    seen: set[str] = set()
    for name in chosen:
        _rewrite(read, _within(folder, name), written, projects, seen)
    inputs = [_within(folder, name) for name in chosen]
    extras = tuple(sorted({extra for project in projects for extra in project.extras}))
    if projects:
        inputs.append(next((name for name in ("pyproject.toml", "setup.py", "setup.cfg") if read(name)), "setup.py"))
    return Plan(inputs=tuple(inputs), extras=extras, written=written, project="" if projects else None)


def _rewrite(
    read: ReadStaged, path: str, written: dict[str, str], projects: list[requirements.Reference], seen: set[str]
) -> None:
    """Take the commit's own project out of a requirements file and what it includes: only its dependencies count."""
    content = read(path)
    if content is None or path in seen:
        return
    seen.add(path)
    try:
        found = requirements.parse(content.decode("utf-8-sig"))
    except ValueError:
        return  # left as it is: the resolver says what is wrong with it
    own = {reference for reference in found.references if _is_own(reference, path)}
    projects += sorted(own, key=lambda reference: reference.target)
    if own:
        kept = [
            line for line in found.lines if not any(_is_own(one, path) for one in requirements.parse(line).references)
        ]
        written[path] = "".join(f"{line}\n" for line in kept)
    for reference in found.references:
        target = normal(reference.target, start=path.rpartition("/")[0])
        if reference.role in {Role.REQUIREMENTS, Role.CONSTRAINTS} and target is not None:
            _rewrite(read, target, written, projects, seen)


def _is_own(reference: requirements.Reference, path: str) -> bool:
    if reference.role not in {Role.LOCAL, Role.EDITABLE}:
        return False
    starts = {"", path.rpartition("/")[0]} if reference.role is Role.EDITABLE else {""}
    return any(normal(reference.target, start=start) == "" for start in starts)


def _from_pipfile(read: ReadStaged, folder: str, source: Source) -> Plan:
    wanted = f"{OWN_FOLDER}/pipfile.txt"
    if source is Source.PIPFILE_LOCK:
        try:
            packages = json.loads(read(_within(folder, "Pipfile.lock")) or b"{}").get("default", {})
        except (ValueError, AttributeError) as error:
            raise ProjectError("Pipfile.lock does not parse: make it anew with `pipenv lock`.") from error
    else:
        packages = _toml(read, _within(folder, "Pipfile")).get("packages", {})
    lines = [_pipfile_line(str(name), entry) for name, entry in sorted(packages.items())]
    return Plan(inputs=(wanted,), written={wanted: "".join(f"{line}\n" for line in lines)})


def _pipfile_line(name: str, entry: Any) -> str:
    table = {"version": entry} if isinstance(entry, str) else dict(entry)
    extras = f"[{','.join(table['extras'])}]" if table.get("extras") else ""
    marker = f" ; {table['markers']}" if table.get("markers") else ""
    if "git" in table:
        return f"{name}{extras} @ git+{table['git']}@{table.get('ref', 'HEAD')}{marker}"
    if "path" in table:
        return f"{table['path']}{extras}"
    version = "" if table.get("version", "*") == "*" else table["version"]
    return f"{name}{extras}{version}{marker}"


def _pins(packages: Any) -> str:
    """Turn a lock's packages into constraints; a name locked at several versions is left to the resolver."""
    versions: dict[str, set[str]] = {}
    for package in packages if isinstance(packages, list) else []:
        if isinstance(package, Mapping) and "version" in package and not _is_direct(package):
            versions.setdefault(str(package.get("name")), set()).add(str(package["version"]))
    lines = [f"{name}=={next(iter(found))}" for name, found in sorted(versions.items()) if len(found) == 1]
    return "".join(f"{line}\n" for line in lines)


def _is_direct(package: Mapping[str, Any]) -> bool:
    source = package.get("source")
    kind = source.get("type") if isinstance(source, Mapping) else None
    return kind in {"git", "url", "file", "directory"} or "path" in package or "git" in package


def _poetry_written(read: ReadStaged, document: Mapping[str, Any]) -> dict[str, str]:
    """Write a Poetry project's own dependency table as requirements; empty where `[project]` declares them."""
    del read
    poetry = document.get("tool", {}).get("poetry", {})
    table = poetry.get("dependencies") if isinstance(poetry, Mapping) else None
    if not isinstance(table, Mapping) or "dependencies" in document.get("project", {}):
        return {}
    lines = [line for name, entry in table.items() if name != "python" for line in _poetry_lines(name, entry)]
    return {f"{OWN_FOLDER}/poetry.txt": "".join(f"{line}\n" for line in lines)}


def _poetry_lines(name: str, entry: Any) -> Iterator[str]:
    for one in entry if isinstance(entry, list) else [entry]:
        table = {"version": one} if isinstance(one, str) else dict(one)
        if table.get("optional"):
            continue
        extras = f"[{','.join(table['extras'])}]" if table.get("extras") else ""
        marker = f" ; {table['markers']}" if table.get("markers") else ""
        if "git" in table:
            ref = table.get("rev") or table.get("tag") or table.get("branch") or "HEAD"
            yield f"{name}{extras} @ git+{table['git']}@{ref}{marker}"
        elif "path" in table:
            yield f"./{table['path']}{extras}"
        else:
            yield f"{name}{extras}{poetry_version(str(table.get('version', '*')))}{marker}"


def poetry_version(text: str) -> str:
    """Translate Poetry's `^1.2`, `~1.2`, `1.2` and `*` to a standard specifier.

    Source: https://python-poetry.org/docs/dependency-specification/ (Poetry 2).
    """
    return ",".join(part for part in (_poetry_clause(clause.strip()) for clause in text.split(",")) if part)


def _poetry_clause(clause: str) -> str:
    if clause in {"", "*"}:
        return ""
    if clause[0] in "^~" and not clause.startswith("~="):
        version = clause[1:].strip()
        numbers = [int(number) for number in re.findall(r"\d+", version)[:3]]
        if clause[0] == "~":
            index = 1 if len(numbers) > 1 else 0
        else:
            index = next((place for place, number in enumerate(numbers) if number), len(numbers) - 1)
        upper = [*numbers[:index], numbers[index] + 1]
        return f">={version},<{'.'.join(str(number) for number in upper)}"
    return f"=={clause}" if clause[0].isdigit() else clause


def _python(read: ReadStaged, folder: str, document: Mapping[str, Any], image: Mapping[str, Any]) -> tuple[str, str]:
    """Put together what the commit says about Python: the specifier, and who asked."""
    asked: list[tuple[str, str]] = []
    runtime = read(_within(folder, "runtime.txt"))
    if runtime is not None:
        asked.append((_minor(runtime.decode("utf-8", "replace").strip(), "runtime.txt"), "runtime.txt"))
    required = document.get("project", {}).get("requires-python")
    poetry = document.get("tool", {}).get("poetry", {}).get("dependencies", {}).get("python")
    if isinstance(required, str):
        asked.append((required, "requires-python"))
    elif isinstance(poetry, str):
        asked.append((poetry_version(poetry), "[tool.poetry.dependencies] python"))
    if isinstance(image.get("python"), str):
        asked.append((_minor(image["python"], "[image] python"), "[image] python"))
    text = ",".join(specifier for specifier, _ in asked if specifier)
    try:
        SpecifierSet(text)
    except InvalidSpecifier as error:
        names = " and ".join(name for _, name in asked)
        raise ProjectError(f"“{capped(text)}” ({names}) is no version of Python.") from error
    return text, " and ".join(name for _, name in asked) or "the recipe"


def _minor(text: str, origin: str) -> str:
    found = re.fullmatch(r"(?:python-)?(3\.\d{1,2})(\.\d+)?", text)
    if found is None:
        raise ProjectError(f"{origin} asks for “{capped(text)}”; a version such as python-3.12 is understood.")
    return f"=={found.group(1)}.*"  # the patch release is the interpreter's; wheels know only the minor one


def _is_installed(document: Mapping[str, Any]) -> bool:
    tools = document.get("tool", {})
    if tools.get("uv", {}).get("package") is False or tools.get("poetry", {}).get("package-mode") is False:
        return False
    return "build-system" in document


def _build_requires(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Name what an editable install without build isolation will need to be there."""
    build = document.get("build-system", {})
    listed = tuple(str(line) for line in build.get("requires", ["setuptools"]))
    names = {requirement_name(line) for line in listed}
    return (*listed, *(("editables",) if "hatchling" in names else ()))


def _toml(read: ReadStaged, path: str) -> Mapping[str, Any]:
    content = read(path)
    if content is None:
        return {}
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ProjectError(f"{path} does not parse: {capped(str(error))}.") from error


def _within(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
