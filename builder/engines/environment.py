"""The environment engine: from staged files to a lock of wheels, and the wheels that no index has.

`uv` resolves, wheels only at first. What exists only as source, lies in the repository, or comes from an index that a
session could not ask (its address is in the commit, or it wants credentials) is built or fetched here, in the job,
and travels with the image, so that no launch ever runs a stranger's `setup.py`. It promises that the lock names
versions and hashes and nothing else, and that a failure carries the resolver's own words.

It must not know Git, keys or registries: a folder, a plan and an interpreter are all it is given.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from packaging.specifiers import SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from builder.declared import toml
from builder.engines.wheels import Checkout, Download, Local, Origin, make_wheel
from builder.environment import render_lock
from builder.errors import BuildFailedError, UnavailableError
from builder.recipes import OWN_FOLDER, PREFERRED, SESSION_PACKAGES, Plan
from builder.requirements import split_option

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

RESOLVE_SECONDS = 600.0
WHEEL_SECONDS = 3000.0
TAIL_LINES = 40
PUBLIC_FILE_HOSTS = frozenset({"files.pythonhosted.org"})  # where PyPI's index says its files are
_INDEX_OPTIONS = frozenset({"-i", "--index-url", "--extra-index-url", "-f", "--find-links"})
_REPRODUCIBLE = "315532800"  # 1980-01-01, the earliest date that a wheel (a zip file) can hold
_HIDDEN = ("CI_REGISTRY_PASSWORD", "CI_JOB_JWT", "VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "PYTHONPATH", "PYTHONHOME")
_UNREACHABLE = re.compile(
    r"Could not connect|Failed to fetch|error sending request|dns error|timed out|Connection re", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """A Python that is to be had: its executable and minor version (`3.12`)."""

    path: str
    minor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A lock, the wheels that travel with it, and what was added for the session (`name==version`)."""

    lock: str
    wheels: tuple[Path, ...]
    added: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Package:
    """One resolved package: its wheels' hashes where any session can get them, else where its wheel comes from."""

    name: str
    version: str | None
    wheel_hashes: frozenset[str]
    origin: Origin | None


def resolve(stage: Path, plan: Plan, interpreter: Interpreter, *, output: Path) -> Resolved:
    """Lock the plan's environment; `output` is an existing folder that receives the wheels.

    BuildFailedError with the last lines of what failed; UnavailableError if the package index cannot be reached.
    """
    own = stage / OWN_FOLDER
    if own.is_symlink() or own.is_file():
        own.unlink()
    elif own.is_dir():  # a commit's folder of that name is not the plan's
        shutil.rmtree(own)
    own.mkdir()
    for path, text in plan.written.items():
        target = stage / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    if plan.exported:
        _export(stage, plan, interpreter)
    packages = _compile(stage, plan, interpreter, ()) if plan.inputs else {}
    wanted = [name for name in SESSION_PACKAGES if name not in packages]
    added: tuple[str, ...] = ()
    if wanted or plan.build_requires:
        before = packages
        packages = _compile(stage, plan, interpreter, (*wanted, *plan.build_requires), prefer=before)
        needed = {*wanted, *(canonicalize_name(re.split(r"[^\w.-]", line)[0]) for line in plan.build_requires)}
        added = tuple(f"{name}=={packages[name].version}" for name in sorted(needed & set(packages) - set(before)))
    return _finish(stage, plan, interpreter, packages, added, output)


def _finish(
    stage: Path,
    plan: Plan,
    interpreter: Interpreter,
    packages: Mapping[str, _Package],
    added: tuple[str, ...],
    output: Path,
) -> Resolved:
    locked: dict[str, tuple[str, frozenset[str]]] = {}
    own: list[_Package] = []
    for package in packages.values():
        if package.origin is None and package.version is not None:
            locked[package.name] = (package.version, package.wheel_hashes)
        else:
            own.append(package)
    indexes = _indexes(stage, plan)
    for package in own:
        _make(stage, interpreter, package, indexes, output)
    wheels = tuple(sorted(output.glob("*.whl")))
    for wheel in wheels:
        name, version, _, _ = parse_wheel_filename(wheel.name)
        locked[str(name)] = (str(version), frozenset({_sha256(wheel)}))
    missing = sorted(package.name for package in own if package.name not in locked)
    if missing:
        raise BuildFailedError(f"No wheel came of {missing[0]}, although its build did not fail.")
    return Resolved(lock=render_lock(locked), wheels=wheels, added=added)


def _export(stage: Path, plan: Plan, interpreter: Interpreter) -> None:
    command = [
        "export",
        "--frozen",
        "--no-emit-project",
        "--no-header",
        "--no-annotate",
        "--no-hashes",
        "--no-editable",
    ]
    _uv([*command, "--python", interpreter.path, "--output-file", plan.inputs[0]], stage, "read uv.lock")


def _compile(
    stage: Path,
    plan: Plan,
    interpreter: Interpreter,
    added: Sequence[str],
    *,
    prefer: Mapping[str, _Package] | None = None,
) -> dict[str, _Package]:
    """Resolve; by canonical name. Wheels only, or, where that has no solution, with what is built here."""
    inputs = list(plan.inputs)
    if added:
        (stage / OWN_FOLDER / "session.txt").write_text("".join(f"{line}\n" for line in added), encoding="utf-8")
        inputs.append(f"{OWN_FOLDER}/session.txt")
    found = {name: package.version for name, package in (prefer or {}).items() if package.version}
    pins = {name: PREFERRED[name] for name in SESSION_PACKAGES if name in added} | found
    command = ["pip", "compile", *inputs, "--quiet", "--no-header", "--python", interpreter.path]
    # The image names a minor version only: what is locked has to run on its oldest patch release too, unless that
    # was ruled out. A machine that launches it may have another patch release than the one that builds it.
    if SpecifierSet(plan.python).contains(f"{interpreter.minor}.0"):
        command += ["--python-version", interpreter.minor]
    command += [part for path in plan.constraints for part in ("--constraint", path)]
    command += [part for extra in plan.extras for part in ("--extra", extra)]
    what = "resolve the declared dependencies" if not added else "add what a session needs to the declared dependencies"
    try:
        output = _preferences(stage, "wheels", pins)
        _uv([*command, "--only-binary", ":all:", *output], stage, what)
        return _packages(stage, plan, interpreter, output[-1])
    except BuildFailedError:
        output = _preferences(stage, "sources", pins)
        _uv([*command, *output], stage, what)
        return _packages(stage, plan, interpreter, output[-1])


def _preferences(stage: Path, name: str, pins: Mapping[str, str | None]) -> list[str]:
    """Let the resolver prefer versions by finding them in its output file, as it does when it locks anew."""
    path = stage / OWN_FOLDER / f"pylock.{name}.toml"
    lines = ['lock-version = "1.0"', 'created-by = "slipway"']
    for package, version in sorted(pins.items()):
        lines += ["[[packages]]", f'name = "{package}"', f'version = "{version}"']
    if pins:  # an output file without packages does not parse
        path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return ["--format", "pylock.toml", "--output-file", str(path)]


def _packages(stage: Path, plan: Plan, interpreter: Interpreter, path: str) -> dict[str, _Package]:
    """Read a PEP 751 lock."""
    document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    tags = {tag: rank for rank, tag in enumerate(_tags(interpreter))}
    has_other_indexes = bool(_other_indexes(stage, plan))
    packages = [_package(entry, tags, stage, is_open=not has_other_indexes) for entry in document.get("packages", [])]
    return {package.name: package for package in packages}


def _package(entry: Mapping[str, Any], tags: Mapping[Tag, int], stage: Path, *, is_open: bool) -> _Package:
    ranked = [(rank, wheel) for wheel in entry.get("wheels", []) if (rank := _rank(wheel, tags)) is not None]
    wheels = [wheel for _, wheel in sorted(ranked, key=lambda pair: pair[0])]
    can_get = is_open or all(urlsplit(wheel.get("url", "")).hostname in PUBLIC_FILE_HOSTS for wheel in wheels)
    all_hashes = (_sha256_of(wheel) for wheel in entry.get("wheels", []))
    hashes = frozenset(digest for digest in all_hashes if digest is not None)
    is_ready = bool(wheels and hashes and can_get)
    return _Package(
        name=canonicalize_name(entry["name"]), version=entry.get("version"), wheel_hashes=hashes,
        origin=None if is_ready else _origin(entry, wheels, stage),
    )  # fmt: skip


def _origin(entry: Mapping[str, Any], wheels: Sequence[Mapping[str, Any]], stage: Path) -> Origin:
    """Say where a package's wheel, or its source, comes from."""
    if "directory" in entry:
        return Local(path=stage / OWN_FOLDER / entry["directory"]["path"])
    if "vcs" in entry:
        vcs = entry["vcs"]
        folder = vcs.get("subdirectory", "")
        return Checkout(url=vcs.get("url") or vcs["path"], commit=vcs["commit-id"], subdirectory=folder)
    file = entry.get("archive") or (wheels[0] if wheels else entry.get("sdist"))
    if file is None:
        raise BuildFailedError(f"{entry['name']} has neither a wheel for this Python and platform, nor its source.")
    if "url" in file:
        return Download(url=file["url"], sha256=_sha256_of(file))
    return Local(path=stage / OWN_FOLDER / file["path"])


def _sha256_of(file: Mapping[str, Any]) -> str | None:
    digest = file.get("hashes", {}).get("sha256")
    return digest if isinstance(digest, str) else None


def _rank(wheel: Mapping[str, Any], tags: Mapping[Tag, int]) -> int | None:
    """Rank a wheel among those that fit, 0 the best; None if it does not fit."""
    filename = wheel.get("name") or unquote(urlsplit(wheel.get("url", "")).path).rpartition("/")[2]
    try:
        return min((tags[tag] for tag in parse_wheel_filename(filename)[3] if tag in tags), default=None)
    except InvalidWheelFilename:
        return None


def _tags(interpreter: Interpreter) -> Iterator[Tag]:
    major, _, minor = interpreter.minor.partition(".")
    version = (int(major), int(minor))
    yield from cpython_tags(version)
    yield from compatible_tags(version, f"cp{major}{minor}")


def _other_indexes(stage: Path, plan: Plan) -> list[str]:
    """List the indexes that a session would not have: the commit's, and what this job adds or has credentials for."""
    environment = _environment_indexes()
    return _declared_indexes(stage, plan) + [url for url in environment if "@" in url] + environment[1:]


def _indexes(stage: Path, plan: Plan) -> list[str]:
    """List every index that may have been asked, with the credentials that go with it."""
    return _declared_indexes(stage, plan) + _environment_indexes()


def _declared_indexes(stage: Path, plan: Plan) -> list[str]:
    found: list[str] = []
    for path in (*plan.inputs, *plan.written):
        file = stage / path
        if path.endswith(".txt") and file.is_file():
            options = [split_option(line) for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
            found += [option[1] for option in options if option is not None and option[0] in _INDEX_OPTIONS]
    pyproject = stage / "pyproject.toml"
    if pyproject.is_file():
        try:
            table = toml(pyproject.read_bytes()).get("tool", {}).get("uv", {})
            found += [str(index["url"]) for index in table.get("index", []) if "url" in index]
            found += [str(url) for url in table.get("extra-index-url", [])]
            found += [str(table["index-url"])] if "index-url" in table else []
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise BuildFailedError("[tool.uv] in pyproject.toml is not understood.") from error
    return found


def _environment_indexes() -> list[str]:
    """List the indexes that uv was told of by its environment: the default one (or an empty text) first."""
    default = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL") or ""
    words = f"{os.environ.get('UV_INDEX', '')} {os.environ.get('UV_EXTRA_INDEX_URL', '')}".split()
    return [re.sub(r"^[\w-]+=", "", url) for url in (default, *words)]  # an index may be given as name=url


def _make(stage: Path, interpreter: Interpreter, package: _Package, indexes: Sequence[str], output: Path) -> None:
    """Fetch or build one wheel."""
    if package.origin is None:
        return

    def build(source: Path) -> None:
        command = ["build", "--quiet", "--wheel", "--python", interpreter.path, "--out-dir", str(output), str(source)]
        _uv(command, stage, f"build a wheel of {package.name}", limit_seconds=WHEEL_SECONDS)

    make_wheel(package.name, package.origin, build, indexes=indexes, work=stage / OWN_FOLDER, output=output)


def uv_environment() -> dict[str, str]:
    """Build the environment of `uv`: quiet, reproducible, with a private cache unless UV_CACHE_DIR says where."""
    kept = {name: value for name, value in os.environ.items() if name not in _HIDDEN}
    if "UV_CACHE_DIR" not in kept:
        cache = Path(kept.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slipway"
        try:
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            kept["UV_CACHE_DIR"] = str(cache / "uv")
        except OSError:  # a home that cannot be written: then without a cache
            kept["UV_NO_CACHE"] = "1"
    quiet = {"UV_NO_PROGRESS": "1", "NO_COLOR": "1", "SOURCE_DATE_EPOCH": _REPRODUCIBLE}
    return kept | quiet


def uv_program() -> str:
    """Find `uv`: the one installed beside this Python, else the one on PATH. UnavailableError if there is none."""
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if found is None:
        raise UnavailableError("uv is not installed: `pip install uv`, then try again.")
    return found


def run_uv(arguments: Sequence[str], folder: Path, limit_seconds: float) -> subprocess.CompletedProcess[str]:
    """Run `uv` in a folder; BuildFailedError if it takes longer than the limit."""
    command = [uv_program(), *arguments]
    process = subprocess.Popen(
        command, cwd=folder, env=uv_environment(), text=True, errors="replace", stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=limit_seconds)
    except subprocess.TimeoutExpired as error:
        _end(process)
        raise BuildFailedError(f"uv {arguments[0]} took longer than {limit_seconds:.0f} s and was ended.") from error
    except BaseException:  # an interrupt: what a stranger's build started must not outlive us
        _end(process)
        raise
    return subprocess.CompletedProcess(command, process.returncode, output)


def _end(process: subprocess.Popen[str]) -> None:
    """End uv and everything it started: they are a process group of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _uv(arguments: Sequence[str], folder: Path, what: str, *, limit_seconds: float = RESOLVE_SECONDS) -> None:
    done = run_uv(arguments, folder, limit_seconds)
    if done.returncode == 0:
        return
    tail = _without_credentials("\n".join(done.stdout.strip().splitlines()[-TAIL_LINES:]))
    if _UNREACHABLE.search(tail) and "No solution found" not in tail:
        raise UnavailableError(f"Could not {what}: the package index cannot be reached.\n{tail}")
    raise BuildFailedError(f"Could not {what}.", tail=tail)


def _without_credentials(text: str) -> str:
    return re.sub(r"(https?://)[^/@\s]+@", r"\1", text)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
