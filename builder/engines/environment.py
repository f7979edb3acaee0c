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
from urllib.parse import urlsplit

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

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
    name: str
    version: str | None
    wheel_hashes: frozenset[str]
    source_hashes: frozenset[str]
    direct: str | None  # what pip is given instead of a name and version


def resolve(stage: Path, plan: Plan, interpreter: Interpreter, *, output: Path) -> Resolved:
    """Lock the plan's environment; `output` is an existing folder that receives the wheels.

    BuildFailedError with the last lines of what failed; UnavailableError if the package index cannot be reached.
    """
    own = stage / OWN_FOLDER
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
        if package.direct is None and package.version is not None and package.wheel_hashes:
            locked[package.name] = (package.version, package.wheel_hashes)
        else:
            own.append(package)
    if own:
        _make_wheels(stage, plan, interpreter, own, output)
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
    found = {
        name: package.version for name, package in (prefer or {}).items() if package.version and not package.direct
    }
    pins = {name: PREFERRED[name] for name in SESSION_PACKAGES if name in added} | found
    command = ["pip", "compile", *inputs, "--quiet", "--no-header", "--python", interpreter.path]
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
    """Read a PEP 751 lock. What no session could get by itself has `direct` set, or no wheel hashes."""
    document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    tags = frozenset(_tags(interpreter))
    is_public_only = not _other_indexes(stage, plan)
    packages = [_package(entry, tags, is_public_only=is_public_only) for entry in document.get("packages", [])]
    return {package.name: package for package in packages}


def _package(entry: Mapping[str, Any], tags: frozenset[Tag], *, is_public_only: bool) -> _Package:
    name, version = canonicalize_name(entry["name"]), entry.get("version")
    wheels = [wheel for wheel in entry.get("wheels", []) if _fits(wheel, tags)]
    direct = None
    if "directory" in entry:
        direct = f"./{OWN_FOLDER}/{entry['directory']['path']}"
    elif "vcs" in entry:
        vcs = entry["vcs"]
        subdirectory = f"#subdirectory={vcs['subdirectory']}" if "subdirectory" in vcs else ""
        direct = f"{name} @ {vcs['type']}+{vcs.get('url', '')}@{vcs['commit-id']}{subdirectory}"
    elif "archive" in entry:
        archive = entry["archive"]
        direct = f"{name} @ {archive['url']}" if "url" in archive else f"./{OWN_FOLDER}/{archive['path']}"
    is_reachable = is_public_only or all(
        urlsplit(wheel.get("url", "")).hostname in PUBLIC_FILE_HOSTS for wheel in wheels
    )
    hashes = frozenset(wheel["hashes"]["sha256"] for wheel in entry.get("wheels", []) if "sha256" in wheel["hashes"])
    source = entry.get("sdist", {}).get("hashes", {}).get("sha256")
    return _Package(
        name=name, version=version, direct=direct,
        wheel_hashes=hashes if wheels and is_reachable else frozenset(),
        source_hashes=frozenset({source} if source else ()) | (hashes if wheels else frozenset()),
    )  # fmt: skip


def _fits(wheel: Mapping[str, Any], tags: frozenset[Tag]) -> bool:
    filename = wheel.get("name") or urlsplit(wheel.get("url", "")).path.rpartition("/")[2]
    try:
        return not tags.isdisjoint(parse_wheel_filename(filename)[3])
    except InvalidWheelFilename:
        return False


def _tags(interpreter: Interpreter) -> Iterator[Tag]:
    major, _, minor = interpreter.minor.partition(".")
    version = (int(major), int(minor))
    yield from cpython_tags(version)
    yield from compatible_tags(version, f"cp{major}{minor}")


def _other_indexes(stage: Path, plan: Plan) -> list[str]:
    """List the index options that a session would not have: the commit's, and those of this job's environment."""
    found = [f"{name}={value}" for name, value in _pip_environment().items() if "@" in value or "EXTRA" in name]
    for path in (*plan.inputs, *plan.written):
        file = stage / path
        if path.endswith(".txt") and file.is_file():
            options = [split_option(line) for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
            names = {"-i", "--index-url", "--extra-index-url", "-f", "--find-links"}
            found += [f"{option[0]} {option[1]}" for option in options if option is not None and option[0] in names]
    pyproject = stage / "pyproject.toml"
    if pyproject.is_file():
        tables = tomllib.loads(pyproject.read_text(encoding="utf-8")).get("tool", {}).get("uv", {})
        found += [f"--extra-index-url {index['url']}" for index in tables.get("index", []) if "url" in index]
        found += [f"--extra-index-url {url}" for url in tables.get("extra-index-url", [])]
    return found


def _make_wheels(stage: Path, plan: Plan, interpreter: Interpreter, packages: Sequence[_Package], output: Path) -> None:
    """Build or fetch wheels with pip (uv has no `wheel` command), those of an index by their hashes."""
    options = [option for option in _other_indexes(stage, plan) if option.startswith("-")]
    named = [package for package in packages if package.direct is None]
    direct = [package.direct for package in packages if package.direct is not None]
    lines = [
        f"{one.name}=={one.version}" + "".join(f" --hash=sha256:{h}" for h in sorted(one.source_hashes))
        for one in named
    ]
    for name, wanted, more in (("named", lines, ["--require-hashes"]), ("direct", direct, [])):
        if not wanted:
            continue
        file = stage / OWN_FOLDER / f"{name}.txt"
        file.write_text("\n".join([*options, *wanted, ""]), encoding="utf-8")
        command = ["run", "--quiet", "--no-project", "--isolated", "--python", interpreter.path, "--with", "pip", "--"]
        command += ["python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--disable-pip-version-check", *more]
        names = ", ".join(sorted(package.name for package in packages))
        what = f"build wheels of {names}"
        _uv([*command, "--wheel-dir", str(output), "-r", str(file)], stage, what, limit_seconds=WHEEL_SECONDS)


def _pip_environment() -> dict[str, str]:
    """Say to pip, where it builds what uv resolved, which indexes uv was told of."""
    default = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL")
    extra = [os.environ.get("UV_INDEX", ""), os.environ.get("UV_EXTRA_INDEX_URL", "")]
    urls = [word.partition("=")[2] if re.match(r"[\w-]+=", word) else word for text in extra for word in text.split()]
    named = {"PIP_INDEX_URL": default, "PIP_EXTRA_INDEX_URL": " ".join(urls)}
    return {name: value for name, value in named.items() if value}


def uv_environment() -> dict[str, str]:
    """Build the environment of `uv`: quiet, reproducible, with a private cache unless UV_CACHE_DIR says where."""
    kept = {name: value for name, value in os.environ.items() if name not in _HIDDEN}
    if "UV_CACHE_DIR" not in kept:
        cache = Path(kept.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slipway"
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept["UV_CACHE_DIR"] = str(cache / "uv")
    quiet = {"UV_NO_PROGRESS": "1", "NO_COLOR": "1", "SOURCE_DATE_EPOCH": _REPRODUCIBLE, "PIP_NO_INPUT": "1"}
    return kept | quiet | _pip_environment()


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
