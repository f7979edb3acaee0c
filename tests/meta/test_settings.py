"""The settings and the code agree.

Covered: every setting is read outside `spawner.config`, so that none promises what nothing does.
"""

import ast
from pathlib import Path

import pytest

from spawner import config

ROOT = Path(__file__).parents[2]
DECLARED = [
    f"{group_name}.{name}"
    for group_name, group in config.Settings.model_fields.items()
    for name in getattr(group.annotation, "model_fields", ())
]


@pytest.fixture(scope="module")
def read() -> set[str]:
    """Every `group.field` that a function of a module that knows the settings reads."""
    found: set[str] = set()
    for path in (ROOT / "spawner").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.parent.name == "config" or path.stem == "doctor":  # what only the doctor looks at sets nothing
            continue
        if "spawner.config" in text or "spawner import config" in text:
            functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
            found = found.union(*map(_read, functions))
    return found


def _read(function: ast.FunctionDef) -> set[str]:
    """Return `group.field` of each attribute read, also where the group has got a name of its own in the function."""
    groups = {
        target.id: node.value.attr
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found = set()
    for node in ast.walk(function):
        match node:
            case ast.Attribute(value=ast.Attribute(attr=group), attr=name):
                found.add(f"{group}.{name}")
            case ast.Attribute(value=ast.Name(id=variable), attr=name):
                found.add(f"{groups.get(variable, variable)}.{name}")
    return found


@pytest.mark.parametrize("setting", DECLARED)
def test_every_setting_is_read(read: set[str], setting: str) -> None:
    """A setting that nothing reads would be a promise that nobody keeps."""
    assert setting in read
