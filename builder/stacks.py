"""The stacks besides Python that a container may be built from: conda, R, Julia, as repo2docker reads them.

Pure. Which commits are such, and where their build runs or installs code of the repository, so that everything counts
(https://repo2docker.readthedocs.io/en/latest/configuration/development.html, repo2docker 2025). It must not know keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from builder import requirements
from builder.declared import Rule
from builder.requirements import Reference, Role

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from builder.settings import ImageSettings
    from builder.snapshot import Inputs, Snapshot

RECIPE = "repo2docker"
RECIPE_VERSION = 1
_NAMES = frozenset({"environment.yml", "install.R", "DESCRIPTION", "renv.lock", "Project.toml", "Manifest.toml"})
_LOCAL = frozenset({Role.LOCAL, Role.EDITABLE})


def is_other(snapshot: Snapshot, folder: str, names: AbstractSet[str], settings: ImageSettings) -> bool:
    """Tell whether a container needs repo2docker: asked for, or because more than Python is declared."""
    if settings.recipe is not None:
        return settings.recipe == RECIPE
    runtime = snapshot.content(_within(folder, "runtime.txt")) if "runtime.txt" in names else None
    return bool(names & _NAMES) or (runtime or b"").startswith(b"r-")


def count_built_code(inputs: Inputs, folder: str, names: AbstractSet[str]) -> None:
    """Count everything where repo2docker's Dockerfile installs the repository itself, and not only dependencies."""
    snapshot = inputs.snapshot
    if "DESCRIPTION" in names and "install.R" not in names:
        inputs.count_everything("DESCRIPTION makes the repository an R package, which the build installs")
    julia = snapshot.content(_within(folder, "Project.toml"))
    manifest = snapshot.content(_within(folder, "Manifest.toml")) or b""
    if (julia is not None and b"uuid" in julia.split(b"[", 1)[0]) or b"\npath" in manifest:
        inputs.count_everything("the repository holds a Julia package, which the build compiles")
    conda = snapshot.resolved(_within(folder, "environment.yml"))
    if conda is not None and any(reference.role in _LOCAL for reference in conda_references(inputs, conda[0])):
        inputs.count_everything("environment.yml installs code of the repository")


def conda_references(inputs: Inputs, path: str) -> tuple[Reference, ...]:
    """Read what the pip sections of an `environment.yml` refer to; everything counts where they are not understood."""
    declaration = inputs.declaration(path, Rule.CONDA)
    if declaration is None:
        inputs.count_everything(f"{path} is not understood")
        return ()
    try:
        return requirements.parse("\n".join(_pip_lines(declaration.content))).references
    except (ValueError, TypeError, AttributeError):
        inputs.count_everything(f"the pip section of {path} is not understood")
        return ()


def _pip_lines(content: bytes) -> list[str]:
    document = yaml.safe_load(content)
    dependencies = document.get("dependencies") or []
    pips = [item["pip"] for item in dependencies if isinstance(item, dict) and isinstance(item.get("pip"), list)]
    return [str(line) for section in pips for line in section]


def _within(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
