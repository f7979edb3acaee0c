"""Having a commit built wants the scope `api`, which a sign-in does without: it is asked for when it is needed.

Covered: what is asked of GitLab and when, the build on the way back, a refusal, somebody else's answer, another
browser. Left out: what GitLab gives (tests/contract/forge_port/test_oauth.py), how it looks (tests/browser).
"""

import html
import re
from urllib.parse import parse_qs, urlsplit

import pytest
from flask.testing import FlaskClient

from spawner.names import SessionName
from spawner.ports import JobStatus
from tests.functional.api.conftest import client_of
from tests.functional.api.test_pages import HTML, ORIGIN, token_of
from tests.functional.api.test_servers import launch
from tests.functional.api.world import World


@pytest.fixture
def narrow(world: World) -> FlaskClient:
    """A browser in which Ada is signed in with no more than a sign-in asks for."""
    client = client_of(world, None)
    begun = client.get("/login/gitlab")
    query = parse_qs(urlsplit(begun.headers["Location"]).query)
    assert query["scope"] == ["read_api"]
    assert client.get(f"/login/callback?code=ada.read_api&state={query['state'][0]}").status_code == 302
    return client


def asked_for_more(world: World, client: FlaskClient, ada: FlaskClient) -> tuple[str, str]:
    """Run a session on the default image and press "Build it now"; returns its page and the state of the sign-in."""
    world.add_job(world.forge.projects[42], JobStatus.MANUAL)
    name = launch(ada)["name"]
    world.be_ready(SessionName(name))
    world.until(lambda: "Build it now" in client.get(f"/sessions/{name}", headers=HTML).text)
    asked = client.post(f"/sessions/{name}/build", data={"csrf_token": token_of(client)}, headers=HTML | ORIGIN)
    assert (asked.status_code, "One permission more" in asked.text) == (200, True)
    url = re.search(r'href="(https://gitlab.test/oauth/authorize[^"]+)"', asked.text)
    assert url is not None
    query = parse_qs(urlsplit(html.unescape(url[1])).query)
    assert query["scope"] == ["read_api api"]
    return f"/sessions/{name}", query["state"][0]


def test_build_asks_for_its_scope_and_is_done_on_the_way_back(
    world: World, narrow: FlaskClient, ada: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who presses "Build it now" allows one scope more at GitLab, and finds the build begun, once."""
    played: list[tuple[str, int]] = []
    monkeypatch.setattr(world.forge, "play", lambda credential, _, job: played.append((credential.token, job)))
    page, state = asked_for_more(world, narrow, ada)
    assert played == []
    back = narrow.get(f"/login/callback?code=ada&state={state}", headers=HTML)
    assert (back.status_code, back.headers["Location"], played) == (302, page, [("oauth-ada", 900)])
    assert narrow.get(f"/login/callback?code=ada&state={state}", headers=HTML).status_code == 401
    assert played == [("oauth-ada", 900)]


@pytest.mark.parametrize(
    "case",
    [
        ("code=bob", 403, "not who asked"),
        ("error=access_denied", 403, "Nothing is built"),
        ("error=invalid_scope", 403, "does not have the scope api"),
        ("code=unknown", 401, "does not know this code"),
    ],
)
def test_nothing_is_built_where_the_scope_is_not_given(
    world: World,
    narrow: FlaskClient,
    ada: FlaskClient,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[str, int, str],
) -> None:
    """Somebody else's consent, a refusal, an application without the scope: nothing is done, nobody signed out."""
    query, status, words = case
    monkeypatch.setattr(world.forge, "play", lambda *_: pytest.fail("built"))
    page, state = asked_for_more(world, narrow, ada)
    answer = narrow.get(f"/login/callback?{query}&state={state}", headers=HTML)
    assert (answer.status_code, words in answer.text) == (status, True)
    assert narrow.get(page, headers=HTML).status_code == 200


def test_another_browser_cannot_finish_what_was_pressed(
    world: World, narrow: FlaskClient, ada: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way back builds in the browser alone where the button was pressed."""
    monkeypatch.setattr(world.forge, "play", lambda *_: pytest.fail("built"))
    _, state = asked_for_more(world, narrow, ada)
    assert client_of(world, None).get(f"/login/callback?code=ada&state={state}", headers=HTML).status_code == 401
