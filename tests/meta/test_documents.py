"""The documents and the code agree.

Covered: generated pages, OpenAPI routes, errors, decisions, change fragments, README.
"""

import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

from spawner import errors
from spawner.api import openapi
from spawner.http import ERRORS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """The program that writes the generated pages."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def error_classes() -> list[type[errors.SpawnerError]]:
    """Every class of the error tree."""
    found = [each for _, each in inspect.getmembers(errors, inspect.isclass)]
    return [each for each in found if issubclass(each, errors.SpawnerError)]


def test_generated_pages_are_current(reference: ModuleType) -> None:
    """What is committed below docs/reference is what the code says; `scripts/docs` writes it."""
    stale = [
        name
        for name, text in reference.pages().items()
        if not (path := ROOT / "docs" / "reference" / name).exists() or path.read_text(encoding="utf-8") != text
    ]
    assert stale == []


@pytest.mark.parametrize(
    "command", ["spawner serve", "spawner launch", "spawner doctor", "builder build", "builder init"]
)
def test_both_command_lines_are_described(reference: ModuleType, command: str) -> None:
    """The page of commands has those of the spawner and those of the builder."""
    assert f"## `{command}`" in reference.commands_page()


def test_nobody_is_told_to_install_somebody_elses_package() -> None:
    """Where a page installs this project by name it is by the name in pyproject.toml; `slipway` is somebody else's."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "gitlab-ci-templates").glob("*.md")]
    named = {
        name for page in pages for name in re.findall(r"pip install (?:-\S+ )*(slipway[\w-]*)", page.read_text("utf-8"))
    }
    assert named <= {"slipway_spawner-", "slipway-spawner"}


def test_every_route_for_programs_is_in_the_document(reference: ModuleType) -> None:
    """No address of the API is undocumented; pages for people, Git and probes are not part of it."""
    documented = {re.sub(r"\{[^}]+\}", "*", path) for path in reference.api_document()["paths"]}
    app = reference.empty_app()
    undocumented = []
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<[^>]+>", "*", rule.rule)
        is_api = path.startswith(("/notebooks", "/api/slipway", "/api/data", "/repos", "/hooks"))
        if is_api and path not in documented:
            undocumented.append(path)
    assert sorted(set(undocumented)) == []
    assert openapi.ATTRIBUTE


@pytest.mark.parametrize("error", error_classes(), ids=lambda error: error.__name__)
def test_every_error_has_a_row(error: type[errors.SpawnerError]) -> None:
    """Every error class has its own status and code."""
    assert error in ERRORS


def test_the_drawn_tree_is_the_tree() -> None:
    """The docstring of `spawner.errors` draws every class."""
    drawn = set(re.findall(r"\b[A-Z][A-Za-z]+\b", inspect.getdoc(errors) or ""))
    assert set() == {each.__name__ for each in error_classes()} - drawn


def test_every_decision_is_listed() -> None:
    """A decision is one page of context, choice and consequences, and the index and the navigation name it."""
    index = (ROOT / "docs" / "decisions" / "index.md").read_text(encoding="utf-8")
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in sorted((ROOT / "docs" / "decisions").glob("0*.md")):
        text = page.read_text(encoding="utf-8")
        assert page.name in index
        assert page.name in navigation
        assert re.findall(r"^\*\*([A-Z]\w+)\.\*\*", text, re.MULTILINE) == ["Context", "Choice", "Consequences"]


def test_change_fragments_are_named_by_type() -> None:
    """A fragment is `<number>.<type>.md` of a known type and not empty."""
    fragments = [path for path in (ROOT / "docs" / "changes").glob("*.md") if path.name != "index.md"]
    assert fragments
    for path in fragments:
        assert re.fullmatch(r"\d+\.(added|changed|fixed|removed|security)\.md", path.name)
        assert path.read_text(encoding="utf-8").strip()


def test_readme_names_the_two_commands() -> None:
    """A newcomer needs two commands, and the README names both."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "scripts/demo" in text
    assert "scripts/test" in text
