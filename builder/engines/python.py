"""Find an interpreter for a version specifier: this one if it fits, else an installed one, else one `uv` can fetch.

It promises to name a version that is not to be had, and who asked for it, instead of taking another.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from builder.engines.environment import Interpreter, run_uv
from builder.errors import ProjectError

LIST_SECONDS = 60.0
DOWNLOAD_SECONDS = 600.0


def find_python(specifier: str, *, asked_by: str) -> Interpreter:
    """Find an interpreter that fits (empty: any). ProjectError names the version if none is to be had."""
    wanted = SpecifierSet(specifier)
    own = Version(platform.python_version())
    if wanted.contains(own, prereleases=True):
        return Interpreter(path=sys.executable, minor=f"{own.major}.{own.minor}")
    for version, path in _listed("--only-installed"):
        if wanted.contains(version):
            return Interpreter(path=path, minor=f"{version.major}.{version.minor}")
    for version, _ in _listed("--only-downloads"):
        if wanted.contains(version):
            return _fetched(version, specifier, asked_by)
    raise ProjectError(f"Python {specifier}, asked for by {asked_by}, is not to be had: there is no such version here.")


def _fetched(version: Version, specifier: str, asked_by: str) -> Interpreter:
    folder = Path.cwd()
    minor = f"{version.major}.{version.minor}"
    if run_uv(["python", "install", "--quiet", str(version)], folder, DOWNLOAD_SECONDS).returncode == 0:
        found = run_uv(["python", "find", "--managed-python", str(version)], folder, LIST_SECONDS)
        if found.returncode == 0:
            return Interpreter(path=found.stdout.strip().splitlines()[-1], minor=minor)
    raise ProjectError(
        f"Python {specifier}, asked for by {asked_by}, is not to be had: it is not installed here and could not be "
        "downloaded. Install it where the build runs, or ask for another version."
    )


def _listed(which: str) -> list[tuple[Version, str]]:
    """List the CPython releases that uv knows of, newest first, with their paths (empty for downloads)."""
    done = run_uv(["python", "list", which, "--output-format", "json"], Path.cwd(), LIST_SECONDS)
    start = done.stdout.find("[{")
    if done.returncode != 0 or start < 0:
        return []
    try:
        entries, _ = json.JSONDecoder().raw_decode(done.stdout[start:])
    except ValueError:
        return []
    found: list[tuple[Version, str]] = []
    for entry in entries:
        if entry.get("implementation") == "cpython" and entry.get("variant", "default") == "default":
            try:
                version = Version(entry["version"])
            except InvalidVersion:
                continue
            if not version.is_prerelease:
                found.append((version, entry.get("path") or ""))
    return sorted(found, key=lambda one: one[0], reverse=True)
