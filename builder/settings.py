"""The `[image]` table of a commit's `slipway.toml`: what a project says about how its image is made.

Pure. The whole table but `kinds` counts in the environment key; `kinds` only tells who waits what a build job will
produce. It promises to refuse what it does not know, by name, instead of building something else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from builder.declared import toml
from builder.entries import Kind
from builder.errors import ProjectError, capped

if TYPE_CHECKING:
    from collections.abc import Mapping

SETTINGS_FILE = "slipway.toml"
LARGEST_SETTINGS_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSettings:
    """What `[image]` says; `table` is the table itself, without `kinds`, as the key counts it."""

    kinds: tuple[Kind, ...] = ()
    python: str | None = None
    paths: tuple[str, ...] | None = None
    recipe: str | None = None
    dockerfile: str | None = None
    context: str | None = None
    base: str | None = None
    arguments: Mapping[str, str] = field(default_factory=dict)
    table: Mapping[str, Any] = field(default_factory=dict)


_TEXTS = ("python", "recipe", "dockerfile", "context", "base")
_KNOWN = frozenset({*_TEXTS, "kinds", "paths", "arguments"})


def image_settings(content: bytes | None) -> ImageSettings:
    """Read `[image]` from the bytes of `slipway.toml` (None: no such file). ProjectError names what is wrong."""
    if content is None:
        return ImageSettings()
    try:
        document = toml(content, largest_bytes=LARGEST_SETTINGS_BYTES)
    except (ValueError, RecursionError) as error:
        raise ProjectError(f"{SETTINGS_FILE} does not parse: {capped(str(error))}.") from error
    table = document.get("image", {})
    if not isinstance(table, dict):
        raise ProjectError(f"“image” in {SETTINGS_FILE} must be a table: write [image].")
    for name in sorted(table.keys() - _KNOWN):
        raise ProjectError(
            f"[image] in {SETTINGS_FILE} knows no “{capped(name)}”; it knows {', '.join(sorted(_KNOWN))}."
        )
    texts = {name: _text(table, name) for name in _TEXTS}
    paths = _texts(table, "paths")
    return ImageSettings(
        kinds=tuple(_kind(name) for name in _texts(table, "kinds") or ()),
        paths=None if paths is None else tuple(_path(path, "paths") for path in paths),
        dockerfile=None if texts["dockerfile"] is None else _path(texts["dockerfile"], "dockerfile"),
        context=None if texts["context"] is None else _path(texts["context"], "context", is_root_allowed=True),
        arguments=_arguments(table),
        table={name: value for name, value in table.items() if name != "kinds"},
        **{name: texts[name] for name in ("python", "recipe", "base")},
    )


def _text(table: Mapping[str, Any], name: str) -> str | None:
    value = table.get(name)
    if value is not None and not isinstance(value, str):
        raise ProjectError(f"“{name}” under [image] in {SETTINGS_FILE} must be a text in quotes.")
    return value


def _texts(table: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    value = table.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ProjectError(f"“{name}” under [image] in {SETTINGS_FILE} must be a list of texts.")
    return tuple(value)


def _kind(name: str) -> Kind:
    try:
        return Kind(name)
    except ValueError as error:
        raise ProjectError(f"{SETTINGS_FILE} names the kind “{capped(name)}”; there are {', '.join(Kind)}.") from error


def _arguments(table: Mapping[str, Any]) -> Mapping[str, str]:
    value = table.get("arguments", {})
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ProjectError(f"“arguments” under [image] in {SETTINGS_FILE} must be a table of texts in quotes.")
    return value


def _path(path: str, name: str, *, is_root_allowed: bool = False) -> str:
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if path.startswith("/") or ".." in parts or not (parts or is_root_allowed):
        raise ProjectError(f"“{capped(path)}” under [image] {name} in {SETTINGS_FILE} must lie inside the repository.")
    return "/".join(parts)
