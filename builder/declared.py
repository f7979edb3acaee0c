"""What a file declares, for the kinds of file whose text may change without changing the environment.

Pure. `declared(rule, content)` gives the value that the fingerprint hashes and the canonical text that is staged in
the file's place; None means "not understood", and then the blob itself counts. The value is hashed as canonical JSON,
so no library's formatting decides a key. It promises to be conservative: whatever is dropped here (comments, blank
lines, a project's own version, a lock's own header, a linter's settings) cannot change what a resolver does.

Foreign input: sizes are bounded, YAML aliases are refused (they grow without bound), and deep nesting is "not
understood" rather than an error.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import tomli_w
import yaml
from packaging.utils import canonicalize_name

from builder import dockerfile, ignore, requirements

LARGEST_UNDERSTOOD_BYTES = 4 * 1024 * 1024  # larger files count as they are; a guess, far above real lock files
MOST_TOML_DOTS = 60  # per line; a key of n parts costs Python 3.11's parser n² steps, and a wheel's URL has ten
MOST_YAML_BRACKETS = 200  # the scanner looks at every open bracket for every token
LARGEST_YAML_BYTES = 64 * 1024  # the pure Python parser takes 30 ms for this much
LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # git-lfs/docs/spec.md


class Rule(StrEnum):
    """How a file is read; part of the hash, so that one text under two rules never collides."""

    REQUIREMENTS = "requirements"
    PYPROJECT = "pyproject"
    PIPFILE = "pipfile"
    UV_LOCK = "uv.lock"
    POETRY_LOCK = "poetry.lock"
    PDM_LOCK = "pdm.lock"
    PIPFILE_LOCK = "Pipfile.lock"
    CONDA = "environment.yml"
    DOCKERFILE = "Dockerfile"
    IGNORE = ".dockerignore"


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """A file understood: the hash of what it declares (64 hex), the text staged in its place, local packages named."""

    fingerprint: str
    content: bytes
    local: tuple[str, ...] = ()


def declared(rule: Rule, content: bytes) -> Declaration | None:
    """Read what a file declares; None where it is not understood and must count as it is."""
    if len(content) > LARGEST_UNDERSTOOD_BYTES or content.startswith(LFS_POINTER):
        return None
    try:
        value, text = _READERS[rule](content.decode("utf-8-sig"))
        encoded = canonical_json([str(rule), value])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, yaml.YAMLError):
        return None
    local = tuple(_lock_folders(value)) if rule is Rule.UV_LOCK else ()
    return Declaration(fingerprint=hashlib.sha256(encoded).hexdigest(), content=text.encode("utf-8"), local=local)


def toml(content: bytes, *, largest_bytes: int = LARGEST_UNDERSTOOD_BYTES) -> dict[str, Any]:
    """Parse foreign TOML in bounded time. ValueError or RecursionError if it is none, or too much."""
    if len(content) > largest_bytes:
        raise ValueError(f"larger than {largest_bytes} bytes")
    if any(line.count(b".") > MOST_TOML_DOTS for line in content.splitlines()):
        raise ValueError(f"a line with more than {MOST_TOML_DOTS} dots")
    return tomllib.loads(content.decode("utf-8-sig"))


def canonical_json(value: Any) -> bytes:
    """Encode a value so that equal values give equal bytes: sorted keys, no white space, ASCII; dates as ISO 8601."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False, default=_plain)
    return text.encode("ascii")


def pyproject_tables(document: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the tables of a `pyproject.toml` that decide dependencies, with its own version set to 0."""
    kept: dict[str, Any] = {}
    project = document.get("project")
    if isinstance(project, Mapping):
        kept["project"] = _project_table(project)
    for name in ("dependency-groups", "build-system"):
        if name in document:
            kept[name] = document[name]
    tools = {name: _tool_table(name, table) for name, table in document.get("tool", {}).items() if name in _TOOLS}
    tools = {name: table for name, table in tools.items() if table}
    return kept | ({"tool": tools} if tools else {})


_TOOLS: Mapping[str, frozenset[str]] = {
    "uv": frozenset(),  # empty: every table of it counts
    "pdm": frozenset(),
    "poetry": frozenset({
        "name", "dependencies", "dev-dependencies", "group", "extras", "source", "package-mode",
        "requires-poetry", "requires-plugins", "build",
    }),
    "setuptools": frozenset({"dynamic", "ext-modules"}),
    "hatch": frozenset({"metadata", "build"}),
    "flit": frozenset({"metadata"}),
}  # fmt: skip


def _project_table(project: Mapping[str, Any]) -> dict[str, Any]:
    kept = {
        name: project[name] for name in ("requires-python", "dependencies", "optional-dependencies") if name in project
    }
    if isinstance(project.get("name"), str):  # an extra may refer to its own project by name
        kept["name"] = canonicalize_name(project["name"])
    open_fields = [name for name in project.get("dynamic", []) if name in {"dependencies", "optional-dependencies"}]
    if open_fields:
        kept["dynamic"] = sorted(open_fields)
    return {**kept, "version": "0"}


def _tool_table(name: str, table: Any) -> Any:
    if not isinstance(table, Mapping):
        return table
    wanted = _TOOLS[name]
    if wanted:
        kept = {key: value for key, value in table.items() if key in wanted}
        if name == "setuptools" and isinstance(kept.get("dynamic"), Mapping):
            kept["dynamic"] = {key: value for key, value in kept["dynamic"].items() if key != "version"}
        return kept
    return {key: value for key, value in table.items() if key not in {"version", "scripts"}}


def _requirements(text: str) -> tuple[Any, str]:
    if "coding:" in text[:200] or "coding=" in text[:200]:  # PEP 263 line: another encoding may be meant
        raise ValueError
    found = requirements.parse(text)
    return list(found.lines), found.canonical


def _pyproject(text: str) -> tuple[Any, str]:
    return _toml(pyproject_tables(toml(text.encode())))


def _pipfile(text: str) -> tuple[Any, str]:
    return _toml({key: value for key, value in toml(text.encode()).items() if key != "scripts"})


def _uv_lock(text: str) -> tuple[Any, str]:
    document = {key: value for key, value in toml(text.encode()).items() if key != "revision"}
    document["package"] = [_without_own_version(package) for package in document.get("package", [])]
    return _toml(document)


def _without_own_version(package: Mapping[str, Any]) -> dict[str, Any]:
    source = package.get("source", {})
    is_own = any(source.get(key) == "." for key in ("editable", "virtual", "directory"))
    return {key: value for key, value in package.items() if not (is_own and key == "version")}


def _lock_folders(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the folders and archives of the repository that a `uv.lock` installs, besides the project itself."""
    for package in document["package"]:
        for name in ("editable", "directory", "path", "virtual"):
            target = package.get("source", {}).get(name)
            if isinstance(target, str) and target != ".":
                yield target


def _plain_lock(*hash_names: str) -> Callable[[str], tuple[Any, str]]:
    def read(text: str) -> tuple[Any, str]:
        document = toml(text.encode())
        metadata = document.get("metadata", {})
        document["metadata"] = {key: value for key, value in metadata.items() if key not in hash_names}
        return _toml(document)

    return read


def _pipfile_lock(text: str) -> tuple[Any, str]:
    document = json.loads(text)
    document["_meta"] = {key: value for key, value in document.get("_meta", {}).items() if key != "hash"}
    return document, json.dumps(document, sort_keys=True, indent=1)


def _conda(text: str) -> tuple[Any, str]:
    if len(text) > LARGEST_YAML_BYTES:
        raise ValueError("too large to be read for what it declares")
    if text.count("[") + text.count("{") > MOST_YAML_BRACKETS:
        raise ValueError("too many brackets")
    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, Loader=yaml.SafeLoader)):
        raise ValueError("aliases are not followed")
    document = {key: value for key, value in yaml.safe_load(text).items() if key != "name"}
    return document, yaml.safe_dump(document, sort_keys=True)


def _dockerfile(text: str) -> tuple[Any, str]:
    canonical = dockerfile.declared_instructions(text)
    return canonical, canonical


def _ignore(text: str) -> tuple[Any, str]:
    rules = ignore.declared_rules(text)
    return list(rules), "".join(f"{rule}\n" for rule in rules)


def _toml(document: dict[str, Any]) -> tuple[Any, str]:
    return document, tomli_w.dumps(_in_order(document))


def _in_order(value: Any) -> Any:
    """Sort every table by name, so that the staged text follows from the declared value alone."""
    if isinstance(value, Mapping):
        return {name: _in_order(value[name]) for name in sorted(value)}
    return [_in_order(item) for item in value] if isinstance(value, list) else value


def _plain(value: Any) -> str:
    return str(value.isoformat())  # TOML's and YAML's dates and times; anything else is not understood


_READERS: Mapping[Rule, Callable[[str], tuple[Any, str]]] = {
    Rule.REQUIREMENTS: _requirements,
    Rule.PYPROJECT: _pyproject,
    Rule.PIPFILE: _pipfile,
    Rule.UV_LOCK: _uv_lock,
    Rule.POETRY_LOCK: _plain_lock("content-hash"),
    Rule.PDM_LOCK: _plain_lock("content_hash"),
    Rule.PIPFILE_LOCK: _pipfile_lock,
    Rule.CONDA: _conda,
    Rule.DOCKERFILE: _dockerfile,
    Rule.IGNORE: _ignore,
}
