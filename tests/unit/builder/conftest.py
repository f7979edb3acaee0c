"""Real repositories and a real registry for the builder's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.containers.registry import Guarded, guarded_registry, open_registry
from tests.unit.builder.commits import Repository

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Guarded"]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """An empty repository on `main`."""
    path = tmp_path / "repository"
    path.mkdir()
    made = Repository(path=path)
    made.git("init", "--quiet", "--initial-branch=main")
    made.git("config", "uploadpack.allowFilter", "true")
    made.git("config", "uploadpack.allowAnySHA1InWant", "true")
    return made


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real registry on loopback, without accounts; its `host:port`."""
    with open_registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A real registry that checks real tokens: ada may push, eve may only pull."""
    with guarded_registry(tmp_path_factory.mktemp("guarded")) as found:
        yield found
