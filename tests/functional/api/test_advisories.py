"""What went wrong elsewhere, tried here: one attack per published advisory of JupyterHub, BinderHub and their kin.

Each entry of ATTACKS is named by its advisory, does what was done there, and fails if it works here. The services,
store and app are the real ones. Left out: what an attack needs a real session for (tests/functional/test_isolation.py).
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from flask.testing import FlaskClient

from spawner import config
from spawner.errors import InvalidInput, Misconfigured, RevisionNotFound
from spawner.gitlab.client import GitLabForge
from spawner.http import create_app
from spawner.names import (
    CommitSha,
    SessionName,
    SessionSubject,
    WorkloadSubject,
    session_name,
    workspace_name,
)
from spawner.ports import Credential, CredentialKind, ForgeUser, Project
from spawner.sessions.addresses import default_url_of, parse_path
from spawner.users.model import user_id
from tests.functional.api.conftest import client_of
from tests.functional.api.test_pages import HTML, ORIGIN, sign_in, token_of
from tests.functional.api.test_servers import BODY, launch, run
from tests.functional.api.world import PUBLIC_URL, SHA, World, WorldJobs

OPTIONS = ("--upload-pack=touch /tmp/x", "-oProxyCommand=x", "--output=/etc/passwd", "-c", "--", "main --exec=x")
SAFE = {"GET", "HEAD", "OPTIONS"}
# To a session's page, whoever asks and whether or not there is one.
REDIRECTS = {"/sessions/<name>/", "/sessions/<name>/<path:path>", "/projects/<path:project>/sessions/show/<name>"}
OF_THEIR_OWN = {
    "agent",
    "git",
    "hooks",
}  # doors whose callers prove themselves by a secret that no browser sends by itself
ABSENT = "nobody-nothing-00000000"
Pytest = pytest.MonkeyPatch


def signed_in(world: World, username: str = "ada") -> FlaskClient:
    client = client_of(world, None)
    sign_in(client, username)
    return client


def cookie(client: FlaskClient, purpose: str) -> tuple[str, str]:
    """Return a cookie's name and value."""
    found = [each for each in (client._cookies or {}).values() if f"slipway-{purpose}" in each.key]
    return found[0].key, found[0].value


def routes(world: World, *, with_name: bool | None = None) -> Iterator[tuple[str, str]]:
    """Yield method and example path of every route that people and programs use."""
    for rule in world.app.url_map.iter_rules():
        parts = set(rule.rule.strip("/").split("/"))
        if with_name is not None and with_name != ("<name>" in rule.rule):
            continue
        if not parts & OF_THEIR_OWN:
            yield from ((method, rule.rule) for method in sorted(rule.methods or ()))


def option_injection(world: World, _: Pytest) -> None:
    """A ref or SHA that is an option of Git reaches neither Git nor GitLab."""
    nowhere = GitLabForge("http://127.0.0.1:9", key_cache=Path("unused"))  # a call would be ForgeUnavailable
    credential = Credential(forge="default", token="t", kind=CredentialKind.PERSONAL)
    ada = client_of(world, "ada")
    for text in OPTIONS:
        assert nowhere.commit(credential, 42, text) is None
        assert nowhere.ref(credential, 42, text) is None
        with pytest.raises(RevisionNotFound):
            nowhere.environment_keys(credential, project_of(world), CommitSha(text))
        assert ada.post("/notebooks/servers", json={**BODY, "commit_sha": text}).status_code == 422
        assert ada.post("/notebooks/servers", json={**BODY, "branch": text}).status_code in {404, 422}
        assert ada.get(f"/launch/grp/proj?ref={quote(text)}", headers=HTML).status_code in {404, 422}


def project_of(world: World) -> Project:
    return world.forge.projects[42].project


def deep_link(world: World, _: Pytest) -> None:
    """A link's parameters are a project, a revision and a path within it, or nothing."""
    for path in ("../../etc/passwd", "/etc/passwd", "a/../../b", "a\\b", "a\n", "./a", "a//b"):
        with pytest.raises(InvalidInput):
            default_url_of(path, otherwise="/lab")
    for target in ("-x/y", "a/--upload-pack=x", "../a/b", "a/b;c", "a/b\n", "a"):
        with pytest.raises(InvalidInput):
            parse_path(target)
    assert client_of(world, "ada").get("/launch/grp/proj?path=../../x", headers=HTML).status_code == 422


def colliding_names(world: World, _: Pytest) -> None:
    """Parts that read the same when they are joined are sessions, folders and workloads of their own."""
    del world
    people, paths = ("a", "a-b", "a.b", "a_b"), ("b/c", "b-c/d", "b/c-d", "b.c/d")
    subjects = [(person, path, branch) for person, path in product(people, paths) for branch in ("main", "c-main")]
    sessions, folders = {}, {}
    for person, path, branch in subjects:
        namespace, project = path.split("/")
        subject = SessionSubject(username=person, namespace=namespace, project=project, branch=branch, sha=SHA)
        sessions[person, path, branch] = session_name(subject, hash_length=32)
        work = WorkloadSubject(
            instance="slipway",
            forge="default",
            user_id=user_id("f", person),
            project_id=paths.index(path),
            project=path,
            branch=branch,
            sha=SHA,
        )
        folders[person, path, branch] = workspace_name(work)
    assert len(set(sessions.values())) == len(sessions)
    assert len(set(folders.values())) == len(folders)


def cookie_tossing(world: World, _: Pytest) -> None:
    """A neighbour's cookie of our name is no login; over https none can be planted; a form token is its login's."""
    options = replace(world.app.extensions["slipway"].options, public_url="https://slipway.test")
    secure = create_app(world.services, options).test_client()
    begun = secure.get("/login/gitlab", base_url="https://slipway.test").headers["Set-Cookie"]
    assert begun.startswith("__Host-")
    assert {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"} <= set(begun.split("; "))
    assert "Domain=" not in begun
    victim, attacker = signed_in(world), signed_in(world, "bob")
    tossed = client_of(world, None)
    tossed.set_cookie(cookie(victim, "login")[0], "tossed", domain="slipway.test")
    assert tossed.get("/notebooks/servers").status_code == 401
    form = {"csrf_token": token_of(attacker)}
    assert victim.post("/launch/grp/proj", data=form, headers=ORIGIN).status_code == 403


def escalation(world: World, _: Pytest) -> None:
    """A token makes no token that may more: not one of ours, not a job's, not one without `api`."""
    made = client_of(world, "ada").post("/api/slipway/v1/tokens", json={"name": "first"}).json
    assert made is not None
    job = WorldJobs().token(world.forge.people["token-ada"].id, 42)
    for token in (made["token"], job):
        headers = {"Authorization": f"Bearer {token}"}
        assert client_of(world, None).post(
            "/api/slipway/v1/tokens", json={"name": "more"}, headers=headers
        ).status_code in {
            401,
            403,
        }


def incomplete_logout(world: World, _: Pytest) -> None:
    """A sign-out in one tab ends every tab and every copy of the cookie, on pages and in the API."""
    victim = signed_in(world)
    name, value = cookie(victim, "login")
    thief = client_of(world, None)
    thief.set_cookie(name, value, domain="slipway.test")
    assert thief.get("/notebooks/servers").status_code == 200
    victim.post("/logout", data={"csrf_token": token_of(victim)}, headers=ORIGIN)
    thief.set_cookie(name, value, domain="slipway.test")
    assert thief.get("/notebooks/servers").status_code == 401
    assert thief.get("/tokens", headers=HTML).status_code == 302


def forged_forms(world: World, _: Pytest) -> None:
    """No route at all changes anything for a cookie without the page's token."""
    victim = signed_in(world)
    name = launch(client_of(world, "ada"))["name"]
    tried = 0
    for method, rule in routes(world):
        if method in SAFE:
            continue
        path = re.sub(r"<path:[^>]+>", "grp/proj", rule).replace("<name>", name)
        path = re.sub(r"<[^>]+>", "x", path)
        answer = victim.open(path, method=method, json={}, headers=ORIGIN)
        assert (method, path, answer.status_code) == (method, path, 403)
        tried += 1
    assert tried > 12
    assert world.rows.get(SessionName(name)) is not None


def open_redirect(world: World, _: Pytest) -> None:
    """Wherever a sign-in is told to go, and whatever page asks for it, it ends on a path of ours."""
    hosts = ("evil.test", "slipway.test@evil.test", "slipway.test.evil.test")
    leads = (
        "//",
        "\\\\",
        "/\\",
        "\\/",
        "///",
        "/\t/",
        "\t//",
        "/%0d/",
        "https://",
        "https:",
        "javascript://",
        "/%09/",
        ".",
    )
    seen = 0
    for lead, host in product(leads, hosts):
        for target in (lead + host, quote(lead + host, safe="")):
            asked = quote(target, safe="")
            if client_of(world, None).get(f"/login/gitlab?next={asked}").status_code == 422:
                continue  # control characters are refused as such
            location = sign_in(client_of(world, None), "ada", next_=asked)
            assert is_own(location), (target, location)
            again = signed_in(world).get(f"/login?next={asked}", headers=HTML)
            assert is_own(again.headers["Location"]), target
            seen += 1
    assert seen > 50


def is_own(location: str) -> bool:
    """Say whether a browser at our origin stays there: it strips tabs and newlines; a backslash is a slash to it."""
    seen = re.sub(r"[\t\r\n]", "", location).replace("\\", "/")
    return seen.startswith(f"{PUBLIC_URL}/") or (seen.startswith("/") and not seen.startswith("//"))


def foreign_page(world: World, _: Pytest) -> None:
    """Even with the page's token another site's request is refused, by Origin or by Sec-Fetch-Site."""
    victim = signed_in(world)
    form = {"csrf_token": token_of(victim)}
    for headers in (
        {"Origin": "https://evil.test"},
        {"Origin": "null"},
        {"Origin": "http://slipway.test.evil.test"},
        {"Origin": "http://slipway.test:8080"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        assert victim.post("/launch/grp/proj", data=form, headers=headers).status_code == 403
    assert victim.get("/launch/grp/proj", headers={**HTML, "Sec-Fetch-Dest": "image"}).status_code == 200
    assert servers(victim) == {}


def servers(client: FlaskClient) -> Mapping[str, Any]:
    found: Mapping[str, Any] = client.get("/notebooks/servers").json["servers"]  # type: ignore[index]
    return found


def unbounded_log(world: World, monkeypatch: Pytest) -> None:
    """Nobody writes our log full: what a stranger sends is capped before it is logged, and none of it is a line."""
    lines: list[str] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: lines.append(record.getMessage()))
    logging.getLogger().addHandler(handler)
    huge = "x" * 60_000
    stranger = client_of(world, None)
    try:
        for path in (
            f"/{huge}",
            f"/launch/grp/{huge}",
            f"/login/callback?error={huge}&state={huge}",
            f"/go?url={huge}",
        ):
            stranger.get(path, headers=HTML)
        stranger.get("/notebooks/servers", headers={"Authorization": f"Bearer {huge}"})
        stranger.post("/hooks/gitlab", data=huge, headers={"X-Gitlab-Token": huge, "X-Gitlab-Event": huge})
        client_of(world, "ada").post("/notebooks/servers", json={**BODY, "branch": huge})
    finally:
        logging.getLogger().removeHandler(handler)
    assert [len(line) for line in lines if len(line) > 2000 or "x" * 300 in line] == []


def by_object(world: World, _: Pytest) -> None:
    """Every route of a session answers a stranger as it does for one that does not exist."""
    name = run(world, client_of(world, "ada"))["name"]
    bob, tried = client_of(world, "bob"), 0

    def asked(method: str, rule: str, which: str) -> tuple[int, str]:
        answer = bob.open(re.sub(r"<path:[^>]+>", "grp/proj", rule).replace("<name>", which), method=method, json={})
        return answer.status_code, answer.text.replace(which, "…")

    for method, rule in routes(world, with_name=True):
        if method == "OPTIONS" or rule in REDIRECTS:
            continue
        foreign = asked(method, rule, name)
        assert (method, rule, foreign) == (method, rule, asked(method, rule, ABSENT))
        assert foreign[0] in {404, 422}, rule
        tried += 1
    assert tried > 12
    found = world.rows.get(SessionName(name))
    assert found is not None
    assert found.phase.value == "RUNNING"


def membership(world: World, _: Pytest) -> None:
    """Who is no member launches nothing of a private project, the moment GitLab says so, signed in or not."""
    browser = signed_in(world)
    assert browser.get("/launch/grp/proj", headers=HTML).status_code == 303
    world.forge.projects[42].members.clear()
    answer = browser.get("/launch/grp/proj?ref=feature/x", headers=HTML)
    assert answer.status_code == 404
    body = {**BODY, "branch": "feature/x"}
    assert client_of(world, "ada").post("/notebooks/servers", json=body).status_code == 404


def renamed_option(world: World, monkeypatch: Pytest) -> None:
    """A setting that is misspelt, renamed or unknown stops the start; nothing runs without what it was to forbid."""
    del world
    for name in ("SPAWNER_GITLAB__ALLOWED_GROUPS", "SPAWNER_LIMITS__LAUNCH_PER_MINUTE", "SPAWNER_SIGNIN__ONLY"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "x")
            with pytest.raises(Misconfigured):
                config.load()


def issuer_and_subject(world: World, _: Pytest) -> None:
    """An e-mail address, a name or another issuer's number make nobody somebody else."""
    ada = world.forge.people["token-ada"]
    twin = ForgeUser(id=ada.id + 1000, username=ada.username, name=ada.name, email=ada.email)
    world.forge.people["token-twin"] = world.forge.people["oauth-twin"] = twin
    name = launch(client_of(world, "ada"))["name"]
    for client in (client_of(world, "twin"), signed_in(world, "twin")):
        assert client.get(f"/notebooks/servers/{name}").status_code == 404
        assert servers(client) == {}
    issuers, subjects = ("https://a.test", "https://a.test/", "https://b.test", "https://a.test1"), ("1", "11", "7")
    ids = [user_id(issuer, subject) for issuer, subject in product(issuers, subjects)]
    assert all(one != other for one, other in combinations(ids, 2))


def session_origin(world: World, _: Pytest) -> None:
    """A session is given nothing that acts as its person, and lives on another host than the pages with the cookie."""
    browser = signed_in(world)
    name = run(world, client_of(world, "ada"))["name"]
    given = repr(world.runtime.workloads[SessionName(name)]) + repr(
        [
            getattr(world.runtime.workloads[SessionName(name)], each)
            for each in ("environment", "credential", "checkout")
        ]
    )
    for secret in ("token-ada", "oauth-ada", cookie(browser, "login")[1]):
        assert secret not in given
    opened = browser.post(f"/sessions/{name}/open", data={"csrf_token": token_of(browser)}, headers=ORIGIN)
    url = re.search(r'href="(http://[^"]+)"', opened.text)
    assert url is not None
    assert urlsplit(url[1]).hostname != urlsplit(PUBLIC_URL).hostname
    assert opened.headers["Referrer-Policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in opened.headers["Content-Security-Policy"]


def login_csrf(world: World, _: Pytest) -> None:
    """Nobody is signed in as somebody else by a link: a code and a state count in the browser that began alone."""
    attacker, victim = client_of(world, None), client_of(world, None)
    state = parse_qs(urlsplit(attacker.get("/login/gitlab").headers["Location"]).query)["state"][0]
    answer = victim.get(f"/login/callback?code=bob&state={state}", headers=HTML)
    assert (answer.status_code, "Set-Cookie" in answer.headers) == (401, False)
    signed_in_victim = signed_in(world)
    signed_in_victim.get(f"/login/callback?code=bob&state={state}", headers=HTML)
    assert signed_in_victim.get("/api/slipway/v1/person").json["username"] == "ada"  # type: ignore[index]


def session_fixation(world: World, _: Pytest) -> None:
    """A login that an attacker planted, made up or their own, is no way into what the victim signs in to."""
    own = signed_in(world, "bob")
    name, value = cookie(own, "login")
    for planted in ("made-up", value):
        victim = client_of(world, None)
        victim.set_cookie(name, planted, domain="slipway.test")
        sign_in(victim, "ada")
        assert cookie(victim, "login")[1] != planted
        attacker = client_of(world, None)
        attacker.set_cookie(name, planted, domain="slipway.test")
        assert attacker.get("/notebooks/servers").status_code == 401


ATTACKS: Mapping[str, Callable[[World, Pytest], None]] = {
    "CVE-2021-39159 BinderHub: option injection through a ref": option_injection,
    "CVE-2021-39160 nbgitpuller: argument injection by a link": deep_link,
    "CVE-2020-15110 KubeSpawner: names that collide": colliding_names,
    "CVE-2024-28233 JupyterHub: cookie tossing": cookie_tossing,
    "CVE-2024-41942 JupyterHub: a role that grants more than it has": escalation,
    "CVE-2021-41247 JupyterHub: a logout that leaves a way in": incomplete_logout,
    "CVE-2020-36191 JupyterHub: forged forms": forged_forms,
    "CVE-2019-10255, CVE-2026-33709 JupyterHub: open redirect": open_redirect,
    "CVE-2026-40864 JupyterHub: forged requests of another site": foreign_page,
    "CVE-2026-54338 JupyterHub: a log without bounds": unbounded_log,
    "GHSA-c4gm-pwx9-9w8j, GHSA-69wv-m5fw-2fhp JupyterHub: rights by route": by_object,
    "CVE-2018-7206 OAuthenticator: membership not checked": membership,
    "CVE-2020-26250 OAuthenticator: a renamed option, ignored": renamed_option,
    "CVE-2026-33175, CVE-2022-31027 OAuthenticator: identity by e-mail": issuer_and_subject,
    "CVE-2024-35225, CVE-2026-44727, CVE-2026-40171 Jupyter: a session that steals tokens": session_origin,
    "login CSRF": login_csrf,
    "session fixation": session_fixation,
}


@pytest.mark.parametrize("advisory", ATTACKS)
def test_advisory(world: World, monkeypatch: pytest.MonkeyPatch, advisory: str) -> None:
    """What the advisory tells of does not work here."""
    ATTACKS[advisory](world, monkeypatch)
