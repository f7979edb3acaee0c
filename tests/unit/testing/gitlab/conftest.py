"""An instance of the stand-in without a server, with two people and a project."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from spawner.testing.gitlab import people
from spawner.testing.gitlab.instance import Instance, Limits, open_instance

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from spawner.testing.gitlab.records import Project, User


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    """An empty instance."""
    found = open_instance(
        data=tmp_path / "data", url="http://gitlab.test", registry_url="http://registry.test", limits=Limits()
    )
    yield found
    found.store.close()


@pytest.fixture
def ada(instance: Instance) -> User:
    """A person."""
    return people.add_user(instance, "ada", password="correct horse")


@pytest.fixture
def bob(instance: Instance) -> User:
    """Another person."""
    return people.add_user(instance, "bob")


@pytest.fixture
def project(instance: Instance, ada: User) -> Project:
    """Ada's private project, without a commit."""
    return people.add_project(instance, "ada/demo", creator=ada)
