"""The names of the settings, and the reference page made of them.

Must not know: the environment, values that are set.
"""

from collections.abc import Iterator
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from spawner.config.groups import Group, ResourceClass
from spawner.config.settings import PREFIX, Settings


def fields() -> Iterator[tuple[str, str, str, str]]:
    """Yield (name, default, description, type) of every setting."""
    for group_name, group_field in Settings.model_fields.items():
        prefix = f"{PREFIX}{group_name.upper()}__"
        for name, field in _group(group_field.annotation).model_fields.items():
            yield f"{prefix}{name.upper()}", _shown(field.default), field.description or "", _type(field.annotation)


def _group(annotation: Any) -> type[Group]:
    """Return the group that a field of `Settings` is annotated with."""
    group: type[Group] = annotation
    return group


def _shown(default: object) -> str:
    if default is None or default in ((), "") or default is PydanticUndefined:
        return "-"
    match default:
        case StrEnum() | IntEnum():
            text = str(default.value)
        case bool():
            text = str(default).lower()
        case float():
            text = f"{default:g}"
        case tuple():
            text = ",".join(
                each.model_dump_json(exclude_defaults=True) if isinstance(each, BaseModel) else str(each)
                for each in default
            )
        case _:
            text = str(default)
    return f"`{text}`"


def _type(annotation: Any) -> str:
    if isinstance(annotation, type) and issubclass(annotation, StrEnum | IntEnum):
        return ", ".join(f"`{each.value}`" for each in annotation)
    names = {str: "text", int: "whole number", float: "number", bool: "`true`, `false`", Path: "file or folder"}
    members = [each for each in (get_args(annotation) or (annotation,)) if each is not type(None)]
    if get_origin(annotation) is tuple:
        return "list" if members[0] is str else "JSON list"
    return names.get(members[0], "text")


def reference() -> str:
    """Return the reference page of every setting, as Markdown."""
    lines = [
        "# Configuration",
        "",
        "Generated from `spawner/config`. Every setting is a variable of the environment.",
        "An unknown name is refused.",
        "A secret is never a value: the settings ending in `_FILE` name the file that holds it.",
    ]
    every = list(fields())
    for group_name, group_field in Settings.model_fields.items():
        group = _group(group_field.annotation)
        lines += ["", f"## {group_name}", "", " ".join((group.__doc__ or "").split()), "", *_HEAD]
        prefix = f"{PREFIX}{group_name.upper()}__"
        lines += [_line(name, *rest) for name, *rest in every if name.startswith(prefix)]
    lines += ["", "### Fields of a resource class", "", *_HEAD]
    for name, field in ResourceClass.model_fields.items():
        lines.append(_line(name, _shown(field.default), field.description or "", _type(field.annotation)))
    return "\n".join(lines) + "\n"


_HEAD = ("| setting | default | type | meaning |", "| --- | --- | --- | --- |")


def _line(name: str, default: str, description: str, kind: str) -> str:
    return f"| `{name}` | {default} | {kind} | {' '.join(description.split())} |"
