"""Input that no client sends, on both databases: refused in words, never a defect.

Covered: control characters, lone surrogates, long and strange names, in every place that reaches a database.
Left out: bodies (tests/unit/api), generated requests (test_openapi).
"""

from collections.abc import Iterator

import pytest

from spawner.ports import AccessLevel
from spawner.store.engine import open_engine
from tests.functional.api.conftest import client_of
from tests.functional.api.test_servers import BODY
from tests.functional.api.world import World, make_world


@pytest.fixture(params=["sqlite_url", "postgresql_url"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A spawner on each database."""
    engine = open_engine(request.getfixturevalue(request.param))
    world = make_world(engine)
    world.add_person("ada")
    world.add_project(members={"ada": AccessLevel.DEVELOPER})
    yield world
    engine.dispose()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/notebooks/servers/%00", 404),
        ("/notebooks/servers/%ff", 404),
        ("/notebooks/servers/%F0%9F%98%80", 404),
        (f"/notebooks/servers/{'x' * 5000}", 404),
        ("/notebooks/servers/a%00b/events", 404),
        ("/notebooks/servers/x%0a", 404),
        ("/notebooks/logs/a%00b", 404),
        ("/notebooks/servers?branch=%00", 422),
        ("/notebooks/servers?branch=%F0%9F%98%80", 200),
        (f"/notebooks/servers?commit_sha={'x' * 2000}", 422),
        ("/notebooks/images?image_url=%00", 422),
        ("/repos/api/v4/projects/%00", 404),
        ("/sessions/%00", 404),
        ("/sessions/%ff", 404),
        ("/launch/grp/proj%00", 404),
        ("/launch/grp/proj?ref=%00", 422),
        ("/launch/grp/proj?sha=%00", 422),
        ("/launch/grp/proj?path=%0d%0aX:y", 422),
        ("/launch/grp/proj?ref=%F0%9F%98%80", 404),
        ("/go?url=%00", 422),
    ],
)
def test_address(world: World, path: str, status: int) -> None:
    """A strange address is told as such."""
    assert client_of(world, "ada").get(path).status_code == status


def test_browser(world: World) -> None:
    """A strange way back from GitLab, and strange cookies, are told as such."""
    client = client_of(world, None)
    assert client.get("/login/callback?code=%00&state=%00").status_code == 422
    assert client.get("/login/gitlab?next=/%0d%0aX:%20y").status_code == 422
    client.set_cookie("slipway-login-x", "\x7f", domain="slipway.test")
    assert client.get("/").status_code == 200


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"notebook": "😀"}, 201),
        ({"environment_variables": {"A": "two\nlines"}}, 201),
        ({"environment_variables": {"A": "\ud800"}}, 422),
        ({"environment_variables": {"A": "\x00"}}, 422),
        ({"branch": "\x7f"}, 422),
        ({"default_url": "x" * 2000}, 422),
        ({"namespace": "grp/../../etc"}, 404),
        ({"namespace": "-oProxyCommand=x"}, 404),
    ],
)
def test_launch(world: World, change: dict[str, object], status: int) -> None:
    """A strange launch is refused, or kept whole."""
    answer = client_of(world, "ada").post("/notebooks/servers", json={**BODY, **change})
    assert answer.status_code == status, answer.text


def test_variables_of_the_session(world: World) -> None:
    """A variable that the session sets itself is refused with the contract's code, others are kept."""
    ada = client_of(world, "ada")
    refused = ada.post("/notebooks/servers", json={**BODY, "environment_variables": {"HOME": "/x", "A": "b"}})
    accepted = ada.post("/notebooks/servers", json={**BODY, "environment_variables": {"home": "/x", "LANG": "C"}})
    assert refused.json is not None
    assert (refused.status_code, refused.json["error"]["code"]) == (422, 1004)
    assert "HOME" in refused.json["error"]["message"]
    assert accepted.status_code == 201


def test_tokens(world: World) -> None:
    """A strange token id is one that is not there."""
    assert client_of(world, "ada").delete("/api/slipway/v1/tokens/%00").status_code == 404
