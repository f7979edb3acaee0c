"""The pages over HTTP: sign-in, launch links, sessions, tokens, and everything a hostile page may try.

Covered: the whole sign-in, who may start by a link, every button, forgery, foreign hosts, redirects, headers.
Left out: how it looks and what scripts do (tests/browser).
"""

import re
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest
from flask.testing import FlaskClient

from spawner.api import stream
from spawner.http import create_app
from spawner.names import SessionName
from spawner.ports import AccessLevel, Credential, JobStatus, Visibility
from tests.functional.api.conftest import PublicClient, client_of
from tests.functional.api.test_servers import BODY, launch, run
from tests.functional.api.world import FORGE_URL, SHA, World

HTML = {"Accept": "text/html"}
ORIGIN = {"Origin": "http://slipway.test", "Sec-Fetch-Site": "same-origin"}


def sign_in(client: FlaskClient, username: str, *, next_: str = "/") -> str:
    """Sign a browser in through GitLab's pages; returns where it ends up."""
    begun = client.get(f"/login/gitlab?next={next_}")
    query = parse_qs(urlsplit(begun.headers["Location"]).query)
    done = client.get(f"/login/callback?code={username}&state={query['state'][0]}")
    assert done.status_code == 302, done.text
    return done.headers["Location"]


@pytest.fixture
def browser(world: World) -> FlaskClient:
    """A browser in which Ada is signed in."""
    client = client_of(world, None)
    sign_in(client, "ada")
    return client


def token_of(client: FlaskClient, path: str = "/") -> str:
    """Return the form token of a page."""
    found = re.search(r'name="csrf_token" value="([0-9a-f]{64})"', client.get(path, headers=HTML).text)
    assert found is not None
    return found[1]


# ---------------------------------------------------------------- sign-in


def test_sign_in(world: World) -> None:
    """A person signs in through GitLab, goes on to where they were going, and signs out everywhere."""
    client = client_of(world, None)
    first = client.get("/launch/grp/proj", headers=HTML)
    assert (first.status_code, first.headers["Location"]) == (302, "/login?next=/launch/grp/proj")
    begun = client.get("/login/gitlab?next=/launch/grp/proj")
    assert begun.headers["Location"].startswith(
        f"{FORGE_URL}/oauth/authorize?redirect_uri=http://slipway.test/login/callback"
    )
    assert sign_in(client, "ada", next_="/launch/grp/proj") == "/launch/grp/proj"
    assert "Ada" in client.get("/", headers=HTML).text
    copied = client_of(world, None)
    for cookie in (client._cookies or {}).values():  # a second tab, or a thief
        copied.set_cookie(cookie.key, cookie.value, domain="slipway.test")
    assert "Sign out" in copied.get("/", headers=HTML).text
    client.post("/logout", data={"csrf_token": token_of(client)}, headers=ORIGIN)
    assert "Sign out" not in client.get("/", headers=HTML).text
    assert "Sign out" not in copied.get("/", headers=HTML).text


def test_sign_out_ends_streams(world: World, browser: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signing out ends a person's open streams too."""
    monkeypatch.setattr(stream, "LOGIN_SECONDS", 0.0)
    monkeypatch.setattr(world.app.extensions["slipway"].looks, "_period_seconds", 0.05)
    opened = browser.get("/api/slipway/v1/events")
    frames = opened.iter_encoded()
    assert next(iter(frames)).startswith(b"retry")
    second = client_of(world, None)
    for cookie in (browser._cookies or {}).values():
        second.set_cookie(cookie.key, cookie.value, domain="slipway.test")
    second.post("/logout", data={"csrf_token": token_of(second)}, headers=ORIGIN)
    assert list(frames) == []
    opened.close()


def test_cookies(world: World) -> None:
    """Cookies are HttpOnly and Lax, and `__Host-` and Secure where the public URL is https."""
    plain = client_of(world, None)
    begun = plain.get("/login/gitlab")
    assert re.fullmatch(
        r"slipway-signin-\w+-[0-9a-f]{8}=[^;]+; Expires=[^;]+; Max-Age=600; HttpOnly; Path=/; SameSite=Lax",
        begun.headers["Set-Cookie"],
    )
    options = replace(world.app.extensions["slipway"].options, public_url="https://slipway.test")
    secure = create_app(world.services, options).test_client().get("/login/gitlab", base_url="https://slipway.test")
    assert secure.headers["Set-Cookie"].startswith("__Host-slipway-signin-")
    assert "Secure" in secure.headers["Set-Cookie"]


def test_state_of_another_browser(world: World) -> None:
    """A sign-in begun elsewhere cannot be finished here."""
    begun = client_of(world, None).get("/login/gitlab")
    state = parse_qs(urlsplit(begun.headers["Location"]).query)["state"][0]
    answer = client_of(world, None).get(f"/login/callback?code=ada&state={state}", headers=HTML)
    assert answer.status_code == 401
    assert "not begun in this browser" in answer.text
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("query", ["", "?state=x", "?code=ada", "?error=access_denied&state=x", "?code=x&state=%ff"])
def test_broken_callback(nobody: FlaskClient, query: str) -> None:
    """A broken way back is told in words."""
    assert nobody.get(f"/login/callback{query}", headers=HTML).status_code == 401


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.test/",
        "//evil.test",
        "/\\evil.test",
        "\\\\evil.test",
        "javascript:alert(1)",
        "/\tx",
        "%2F%2Fevil.test",
    ],
)
def test_open_redirect(world: World, target: str) -> None:
    """A sign-in ends on a path of ours, whatever was asked."""
    client = client_of(world, None)
    location = sign_in(client, "ada", next_=target)
    assert urlsplit(location).netloc == ""
    assert location.startswith("/")
    assert not location.startswith(("//", "/\\"))
    assert urlsplit(client.get(f"/login?next={target}", headers=HTML).headers["Location"]).netloc == ""


def test_foreign_host(world: World) -> None:
    """A browser that came by another name is sent to the public URL before any sign-in; a form is refused."""
    client = client_of(world, None)
    moved = client.get("/login?next=/x", base_url="http://evil.test")
    assert (moved.status_code, moved.headers["Location"]) == (302, "http://slipway.test/login?next=/x")
    assert client.post("/logout", base_url="http://evil.test").status_code == 403
    assert client.get("/healthz", base_url="http://10.0.0.1").status_code == 200


# ---------------------------------------------------------------- launch links


def _sessions(world: World, username: str = "ada") -> list[str]:
    body = client_of(world, username).get("/notebooks/servers").json
    assert body is not None
    return list(body["servers"])


@pytest.mark.parametrize(
    "path",
    [
        "/launch/grp/proj",
        "/launch/grp/proj/-/tree/main",
        "/launch/grp/proj/-/tree/feature/x",
        f"/launch/grp/proj/-/commit/{SHA}",
        f"/launch/grp/proj?sha={SHA}&ref=main",
        "/launch/grp/proj/-/blob/feature/x/notebooks/a.ipynb",
        "/launch/GRP/proj?path=notebooks/a.ipynb",
    ],
)
def test_member_starts(world: World, browser: FlaskClient, path: str) -> None:
    """A member's link starts by itself, once, on the branch and file it names."""
    first = browser.get(path, headers=HTML)
    again = browser.get(path, headers=HTML)
    assert (first.status_code, again.status_code) == (303, 303)
    assert first.headers["Location"] == again.headers["Location"]
    (name,) = _sessions(world)
    session = world.services.sessions.get(world.services.users.bearer("token-ada", address=""), SessionName(name))
    assert session.branch == ("feature/x" if "feature" in path else "main")
    assert session.request.default_url == ("/lab/tree/notebooks/a.ipynb" if "a.ipynb" in path else "/lab")


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Purpose": "prefetch;prerender"},
        {"Purpose": "prefetch"},
        {"Sec-Fetch-Dest": "image"},
        {"Sec-Fetch-Dest": "iframe"},
    ],
)
def test_not_a_navigation(world: World, browser: FlaskClient, headers: dict[str, str]) -> None:
    """A picture, a frame or a prefetch on somebody's page starts nothing."""
    assert browser.get("/launch/grp/proj", headers={**HTML, **headers}).status_code == 200
    assert browser.head("/launch/grp/proj").status_code == 200
    assert _sessions(world) == []


def test_guest_is_asked(world: World, browser: FlaskClient) -> None:
    """Less than a reporter is asked first."""
    world.forge.projects[42].members[world.forge.people["token-ada"].id] = AccessLevel.GUEST
    assert browser.get("/launch/grp/proj", headers=HTML).status_code == 200
    assert _sessions(world) == []


@pytest.mark.parametrize("is_member", [True, False])
def test_asked_first(world: World, browser: FlaskClient, is_member: bool) -> None:  # noqa: FBT001 - a parameter
    """A stranger's project, or an image of the link's choosing, is shown first; one button starts it."""
    members = {"ada": AccessLevel.DEVELOPER} if is_member else {}
    world.add_project("open/proj", members=members, visibility=Visibility.PUBLIC)
    path = "/launch/open/proj" + ("?image=registry.test/other/image:1" if is_member else "")
    page = browser.get(path, headers=HTML)
    assert page.status_code == 200
    assert "Plot the weather" in page.text
    assert "Ada Lovelace" in page.text
    assert ("no member" in page.text) is not is_member
    assert ("registry.test/other/image:1" in page.text) is is_member
    assert _sessions(world) == []
    form = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page.text))
    started = browser.post(path, data=form, headers=ORIGIN)
    assert started.status_code == 303
    assert len(_sessions(world)) == 1


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/launch/grp/nothing", 404),
        ("/launch/grp/proj/-/tree/nothing", 404),
        (f"/launch/grp/proj?sha={'b' * 40}", 404),
        ("/launch/grp/proj?sha=abc", 422),
        ("/launch/grp/proj/-/merge_requests/1", 404),
        ("/launch/proj", 422),
        ("/launch/grp/proj?path=../../etc/passwd", 422),
    ],
)
def test_bad_link(world: World, browser: FlaskClient, path: str, status: int) -> None:
    """A link that names nothing is told in words, on a page."""
    page = browser.get(path, headers=HTML)
    assert (status, "text/html; charset=utf-8") == (page.status_code, page.content_type)
    assert _sessions(world) == []


def test_paste(browser: FlaskClient) -> None:
    """A pasted address leads to its launch page; one of another server is told."""
    answer = browser.get(f"/go?url={FORGE_URL}/grp/proj/-/tree/feature/x")
    assert answer.headers["Location"] == "/launch/grp/proj/-/tree/feature/x"
    refused = browser.get("/go?url=https://evil.test/a/b", headers=HTML)
    assert refused.status_code == 422
    assert "of another server" in refused.text


# ---------------------------------------------------------------- forgery


FORMS = [
    "/launch/grp/proj",
    "/sessions/x/stop",
    "/sessions/x/open",
    "/sessions/x/retry",
    "/sessions/x/build",
    "/tokens",
    "/tokens/x/revoke",
    "/logout",
]


@pytest.mark.parametrize("path", FORMS)
@pytest.mark.parametrize(
    ("headers", "has_token"),
    [
        ({}, False),
        (ORIGIN, False),
        ({"Origin": "https://evil.test"}, True),
        ({"Origin": "null"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, True),
        ({"Sec-Fetch-Site": "same-site"}, True),
    ],
)
def test_forged(world: World, browser: FlaskClient, path: str, headers: dict[str, str], has_token: bool) -> None:  # noqa: FBT001
    """No form is taken without the page's token, or from another site even with it."""
    data = {"csrf_token": token_of(browser)} if has_token else {}
    assert browser.post(path, data=data, headers=headers).status_code == 403
    assert _sessions(world) == []


def test_token_of_another_person(world: World, browser: FlaskClient) -> None:
    """One person's form token is worthless in another's browser."""
    other = client_of(world, None)
    sign_in(other, "bob")
    answer = browser.post("/launch/grp/proj", data={"csrf_token": token_of(other)}, headers=ORIGIN)
    assert answer.status_code == 403


@pytest.mark.parametrize("method", ["POST", "DELETE", "PATCH"])
def test_api_by_cookie(world: World, browser: FlaskClient, method: str) -> None:
    """The API takes a cookie's word only with the page's token; a bearer needs none."""
    path = "/notebooks/servers" + ("" if method == "POST" else "/x")
    assert browser.get("/notebooks/servers").status_code == 200
    assert browser.open(path, method=method, json=BODY, headers=ORIGIN).status_code == 403
    headers = {**ORIGIN, "X-CSRF-Token": token_of(browser)}
    assert browser.open(path, method=method, json=BODY, headers=headers).status_code in {201, 404}
    assert client_of(world, "ada").open(path, method=method, json=BODY).status_code in {200, 404}


# ---------------------------------------------------------------- sessions


def test_session_page(world: World, browser: FlaskClient, ada: FlaskClient) -> None:
    """The page shows the phase in words, the image and why, what happened, and a way in."""
    name = run(world, ada)["name"]
    page = browser.get(f"/sessions/{name}", headers=HTML).text
    for text in ("Running", "This commit&#39;s own image", "Accepted.", "Ready.", "grp/proj", SHA[:8]):
        assert text in page, text
    opened = browser.post(f"/sessions/{name}/open", data={"csrf_token": token_of(browser)}, headers=ORIGIN)
    assert opened.status_code == 200
    assert f"http://{name}.localhost:4567/slipway/open?code=" in opened.text
    assert opened.headers["Referrer-Policy"] == "no-referrer"


def test_waiting_page(world: World, browser: FlaskClient, ada: FlaskClient) -> None:
    """A wait says what is awaited and since when, shows the log, and offers to start now and to stop."""
    project = world.forge.projects[42]
    world.add_job(project, JobStatus.RUNNING, log=b"Resolving numpy\n")
    name = launch(ada)["name"]
    world.until(lambda: "image_build" in browser.get(f"/sessions/{name}", headers=HTML).text)
    page = browser.get(f"/sessions/{name}", headers=HTML).text
    for text in ("Waiting for its image", "image_build", "since", "Resolving numpy", "Start now", "Stop"):
        assert text in page, text
    browser.post(f"/sessions/{name}/start-now", data={"csrf_token": token_of(browser)}, headers=ORIGIN)
    world.be_ready(SessionName(name))
    world.until(lambda: "the default image" in browser.get(f"/sessions/{name}", headers=HTML).text)


def test_building_while_it_runs(
    world: World, browser: FlaskClient, ada: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session on the default image offers to build the commit where nothing else will, and says how that goes."""
    project = world.forge.projects[42]
    manual = world.add_job(project, JobStatus.MANUAL)
    name = launch(ada)["name"]
    world.be_ready(SessionName(name))
    world.until(lambda: "Running" in browser.get(f"/sessions/{name}", headers=HTML).text)
    assert "Build it now" in browser.get(f"/sessions/{name}", headers=HTML).text
    played: list[int] = []

    def play(credential: Credential, project_id: int, job_id: int) -> None:
        del credential, project_id
        played.append(job_id)
        world.add_job(project, JobStatus.RUNNING)

    monkeypatch.setattr(world.forge, "play", play)
    form = {"csrf_token": token_of(browser)}
    assert browser.post(f"/sessions/{name}/build", data=form, headers=ORIGIN).status_code == 303
    world.until(lambda: "Build it now" not in browser.get(f"/sessions/{name}", headers=HTML).text)
    page = browser.get(f"/sessions/{name}", headers=HTML).text
    assert "The job that builds this commit's own image" in page.replace("&#39;", "'")
    again = browser.post(f"/sessions/{name}/build", data=form, headers=HTML | ORIGIN)
    assert (again.status_code, played) == (409, [manual.id])


def test_failed_page(world: World, browser: FlaskClient, ada: FlaskClient) -> None:
    """A failure is a sentence, what to do, the failing lines, and a way to try again."""
    project = world.forge.projects[42]
    world.add_job(project, JobStatus.FAILED, log=b"Resolving\nerror: no numpy==99 <b>\nERROR: Job failed: exit 1\n")
    name = launch(ada, fallback="fail")["name"]
    world.until(lambda: "Failed" in browser.get(f"/sessions/{name}", headers=HTML).text)
    page = browser.get(f"/sessions/{name}", headers=HTML).text
    for text in ("What to do:", "error: no numpy==99 &lt;b&gt;", "Launch again"):
        assert text in page, text
    form = {"csrf_token": token_of(browser), "fallback": "default"}
    browser.post(f"/sessions/{name}/retry", data=form, headers=ORIGIN)
    world.be_ready(SessionName(name))
    world.until(lambda: "Running" in browser.get(f"/sessions/{name}", headers=HTML).text)


def test_retry_of_a_project_that_moved(world: World, browser: FlaskClient, ada: FlaskClient) -> None:
    """Launching again is of the session's own project, also after another one took its path."""
    world.add_job(world.forge.projects[42], JobStatus.FAILED, log=b"error\n")
    name = launch(ada, fallback="fail")["name"]
    world.until(lambda: "Failed" in browser.get(f"/sessions/{name}", headers=HTML).text)
    world.settle(SessionName(name))
    world.move_project(world.forge.projects[42], "other/proj")
    world.add_project("grp/proj", members={"ada": AccessLevel.DEVELOPER})

    form = {"csrf_token": token_of(browser), "fallback": "default"}
    answer = browser.post(f"/sessions/{name}/retry", data=form, headers=ORIGIN)

    assert (303, f"/sessions/{name}") == (answer.status_code, answer.headers["Location"])
    again = world.rows.get(SessionName(name))
    assert again is not None
    assert (again.project_id, again.project_path, again.generation) == (42, "other/proj", 2)


def test_stop(world: World, browser: FlaskClient, ada: FlaskClient) -> None:
    """The page stops a session, and keeps its history."""
    name = run(world, ada)["name"]
    answer = browser.post(f"/sessions/{name}/stop", data={"csrf_token": token_of(browser)}, headers=ORIGIN)
    assert (303, f"/sessions/{name}") == (answer.status_code, answer.headers["Location"])
    world.until(lambda: "Ended" in browser.get(f"/sessions/{name}", headers=HTML).text)


def test_others_session(world: World, ada: FlaskClient) -> None:
    """Somebody else's session is not there, on pages too."""
    name = run(world, ada)["name"]
    bob = client_of(world, None)
    sign_in(bob, "bob")
    theirs, nothing = bob.get(f"/sessions/{name}", headers=HTML), bob.get("/sessions/nothing", headers=HTML)
    assert (theirs.status_code, nothing.status_code) == (404, 404)
    assert theirs.text == nothing.text.replace("nothing", name)


def test_renku_address(browser: FlaskClient) -> None:
    """The address that Renku's command line opens leads to the session's page."""
    answer = browser.get("/projects/grp/proj/sessions/show/x")
    assert answer.headers["Location"] == "/sessions/x"


# ---------------------------------------------------------------- tokens, headers


def test_tokens_page(world: World, browser: FlaskClient) -> None:
    """A token made on the page works, is shown once, and is revoked there."""
    form = {"csrf_token": token_of(browser, "/tokens"), "name": "my <laptop>", "days": "7"}
    made = browser.post("/tokens", data=form, headers=ORIGIN)
    found = re.search(r"<textarea[^>]*>([^<]+)</textarea>", made.text)
    assert found is not None
    program = PublicClient(world.app, world.app.response_class)
    headers = {"Authorization": f"Bearer {found[1]}"}
    assert program.get("/notebooks/servers", headers=headers).status_code == 200
    page = browser.get("/tokens", headers=HTML).text
    assert found[1] not in page
    assert "my &lt;laptop&gt;" in page
    path = re.search(r'action="(/tokens/[^"]+/revoke)"', page)
    assert path is not None
    browser.post(path[1], data=form, headers=ORIGIN)
    assert program.get("/notebooks/servers", headers=headers).status_code == 401


def test_launch_links_have_a_pace(world: World) -> None:
    """One launch too many by link is a page that says so and when to come back."""
    options = replace(world.app.extensions["slipway"].options, launches_per_minute=1)
    client = PublicClient(create_app(world.services, options), world.app.response_class)
    sign_in(client, "ada")
    first, second = (client.get("/launch/grp/proj", headers=HTML) for _ in range(2))
    assert (first.status_code, second.status_code) == (303, 429)
    assert "launched 1 times within a minute" in second.text
    assert second.headers["Retry-After"]


@pytest.mark.parametrize(
    "form", [{"name": "", "days": "7"}, {"name": "x", "days": "soon"}, {"name": "x", "days": "9999"}]
)
def test_bad_token_form(browser: FlaskClient, form: dict[str, str]) -> None:
    """A form that does not fit is told on the page."""
    token = token_of(browser, "/tokens")
    assert browser.post("/tokens", data={**form, "csrf_token": token}, headers=ORIGIN).status_code == 422


@pytest.mark.parametrize("path", ["/", "/login", "/tokens", "/nothing", "/go?url=x"])
def test_headers(browser: FlaskClient, path: str) -> None:
    """Every page forbids inline script, framing and keeping."""
    answer = browser.get(path, headers=HTML)
    assert answer.headers["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    assert (
        answer.headers["X-Frame-Options"],
        answer.headers["X-Content-Type-Options"],
        answer.headers["Referrer-Policy"],
    ) == ("DENY", "nosniff", "same-origin")
    assert "<script>" not in answer.text
    assert " style=" not in answer.text
    assert not re.search(r"\son\w+=", answer.text)


def test_error_page(browser: FlaskClient) -> None:
    """What goes wrong on a page is a page, with the sentence and what to do."""
    answer = browser.get("/sessions/nothing", headers=HTML)
    assert answer.status_code == 404
    assert "There is no session nothing." in answer.text
    assert "Your sessions are on the first page." in answer.text
