"""A running spawner over SQLite, and clients of two people."""

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Response
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from spawner.ports import AccessLevel
from spawner.store.engine import open_engine
from tests.functional.api.world import PUBLIC_URL, World, make_world


@pytest.fixture
def world(sqlite_url: str) -> Iterator[World]:
    """A spawner with its tasks running; Ada is developer of grp/proj, Bob is not, Root administers."""
    engine = open_engine(sqlite_url)
    world = make_world(engine)
    for name in ("ada", "bob"):
        world.add_person(name)
    world.add_person("root", is_admin=True)
    world.add_project(members={"ada": AccessLevel.DEVELOPER})
    world.dispatcher.start(world.services)
    yield world
    world.dispatcher.stop(timeout_seconds=30)
    engine.dispose()


class PublicClient(FlaskClient):
    """A client that comes to the public URL, as people do."""

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:
        """Send a request to the public URL, unless the test names another."""
        kwargs.setdefault("base_url", PUBLIC_URL)
        return super().open(*args, **kwargs)


def client_of(world: World, username: str | None) -> FlaskClient:
    """Return a client that sends a person's GitLab token with every request."""
    client = PublicClient(world.app, Response, use_cookies=True)
    if username is not None:
        client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer token-{username}"
    return client


@pytest.fixture
def ada(world: World) -> FlaskClient:
    """Ada's client."""
    return client_of(world, "ada")


@pytest.fixture
def bob(world: World) -> FlaskClient:
    """Bob's client."""
    return client_of(world, "bob")


@pytest.fixture
def nobody(world: World) -> FlaskClient:
    """A client that is not signed in."""
    return client_of(world, None)
