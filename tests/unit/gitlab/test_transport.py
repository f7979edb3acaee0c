"""What every call to GitLab promises: errors by status, bounds in time and size, one origin, no cookies.

Left out: what the calls ask (contract/forge_port).
"""

import threading
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from time import monotonic, time

import pytest

from spawner.errors import (
    Conflict,
    Forbidden,
    ForgeUnavailable,
    InvalidInput,
    Misconfigured,
    MissingScope,
    NotFound,
    ProjectNotFound,
    RateLimited,
    SpawnerError,
    TokenRejected,
)
from spawner.gitlab import transport
from spawner.gitlab.allowance import patience_seconds
from spawner.gitlab.client import GitLabForge
from spawner.gitlab.transport import Transport, origin_of
from spawner.names import ProjectPath
from spawner.ports import Credential, CredentialKind, GitRequest
from tests.unit.gitlab.conftest import Scripted, Server

Serve = Callable[..., Server]
OAUTH = Credential(forge="default", token="canary-token", kind=CredentialKind.OAUTH)
PERSONAL = Credential(forge="default", token="canary-token", kind=CredentialKind.PERSONAL)
OID = "ab" * 32


def ask(url: str, credential: Credential = OAUTH, *, timeout_seconds: float = 5.0) -> None:
    Transport(url, timeout_seconds=timeout_seconds).request(credential, "get", "/user")


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, b'{"message":"401 Unauthorized"}', TokenRejected),
        (401, b'{"error":"invalid_token","error_description":"Token is expired."}', TokenRejected),
        (403, b'{"error":"insufficient_scope","scope":"api read_api"}', MissingScope),
        (403, b'{"message":"403 Forbidden"}', Forbidden),
        (404, b'{"message":"404 Project Not Found"}', ProjectNotFound),
        (404, b'{"message":"404 Commit Not Found"}', NotFound),
        (404, b"<html>nginx</html>", ForgeUnavailable),
        (400, b'{"message":{"base":["No stages / jobs for this pipeline."]}}', InvalidInput),
        (409, b'{"message":"409 Conflict: Resource lock"}', Conflict),
        (422, b'{"error":"x"}', InvalidInput),
        (429, b"Retry later", RateLimited),
        (500, b'{"message":"500 Internal Server Error"}', ForgeUnavailable),
        (502, b"<html>Whoops, GitLab is taking too much time to respond.</html>", ForgeUnavailable),
        (503, b"", ForgeUnavailable),
        (418, b"[]", ForgeUnavailable),
    ],
)
def test_a_status_is_an_error_of_ours(serve: Serve, status: int, body: bytes, expected: type[SpawnerError]) -> None:
    """Each status of GitLab's has one class; none of them names the token."""
    server = serve(Scripted(status=status, body=body))
    with pytest.raises(SpawnerError) as caught:
        ask(server.url)
    assert type(caught.value) is expected
    assert "canary" not in caught.value.message
    assert len(server.seen) == 1  # nothing is tried again here


def test_a_missing_scope_is_named(serve: Serve) -> None:
    """The sentence says which scope would do."""
    with pytest.raises(MissingScope, match="read_api or api"):
        ask(serve(Scripted(status=403, body=b'{"error":"insufficient_scope","scope":"read_api api"}')).url)


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ((("Retry-After", "42"), ("RateLimit-ResetTime", "Wed")), b"Retry later", 42.0),
        ((), b'{"message":{"error":"This endpoint has been requested too many times. Try again later."}}', 30.0),
        ((("Retry-After", "0"),), b"", 1.0),
        ((("Retry-After", "999999"),), b"", 3600.0),
        ((("Retry-After", "inf"),), b"", 30.0),
    ],
)
def test_both_kinds_of_rate_limit_say_how_long(
    serve: Serve, headers: tuple[tuple[str, str], ...], body: bytes, expected: float
) -> None:
    """Rack's 429 names its seconds, the application's does not; nobody sleeps meanwhile."""
    begun = monotonic()
    with pytest.raises(RateLimited) as caught:
        ask(serve(Scripted(status=429, body=body, headers=headers)).url)
    assert caught.value.retry_after_seconds == expected
    assert monotonic() - begun < 20


def test_patience_may_be_a_date() -> None:
    """`Retry-After` as an HTTP date counts from now."""
    assert 50 < patience_seconds(formatdate(time() + 60, usegmt=True)) <= 60


@pytest.mark.parametrize(
    "answer",
    [
        Scripted(body=b"<html>sign in to the proxy</html>", content_type="text/html"),
        Scripted(body=b"[1"),
        Scripted(body=b"[]"),
        Scripted(body=b'{"id": "one"}'),
        Scripted(body=b'{"id": true, "username": "ada"}'),
        Scripted(body=b'{"id": 1, "username": "ada"}', is_cut=True),
    ],
)
def test_what_is_no_answer_is_unavailable(serve: Serve, tmp_path: Path, answer: Scripted) -> None:
    """A page with status 200, broken and misshapen JSON are "cannot be asked"."""
    with pytest.raises(ForgeUnavailable):
        GitLabForge(serve(answer).url, key_cache=tmp_path).user(OAUTH)


def test_an_answer_that_never_comes_is_given_up(serve: Serve) -> None:
    """Neither silence nor a trickle holds a thread for long."""
    silent = serve(Scripted(pause_seconds=1.5, pieces=2, body=b" "))
    begun = monotonic()
    with pytest.raises(ForgeUnavailable):
        ask(silent.url, timeout_seconds=0.3)
    trickle = serve(Scripted(body=b" ", pieces=600, pause_seconds=0.05))
    with pytest.raises(ForgeUnavailable):
        ask(trickle.url, timeout_seconds=0.2)
    assert monotonic() - begun < 20


def test_an_answer_beyond_its_size_is_given_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endless answer does not fill the memory."""
    monkeypatch.setattr(transport, "ANSWER_BYTES", 1000)
    with pytest.raises(ForgeUnavailable):
        ask(serve(Scripted(body=b" " * 100, pieces=20)).url)


def test_what_only_asks_is_sent_again_when_gitlab_hangs_up(serve: Serve) -> None:
    """A kept connection that ends without an answer costs a second GET, not the launch; a POST is never repeated."""
    hangs_up, answers = Scripted(hangs_up=True), Scripted()
    again = serve(hangs_up, answers)
    ask(again.url)
    assert len(again.seen) == 2
    with pytest.raises(ForgeUnavailable):
        ask(serve(hangs_up).url)
    once = serve(hangs_up, answers)
    with pytest.raises(ForgeUnavailable):
        Transport(once.url, timeout_seconds=5).request(OAUTH, "post", "/projects/1/pipeline")
    assert len(once.seen) == 1


def test_nobody_there_is_unavailable() -> None:
    """A refused connection is "cannot be asked"."""
    with pytest.raises(ForgeUnavailable):
        ask("http://127.0.0.1:9")


@pytest.mark.parametrize("credential", [OAUTH, PERSONAL])
def test_a_token_goes_to_no_other_origin(serve: Serve, credential: Credential) -> None:
    """A redirect to another host or port is not followed, with whatever header the token travels."""
    other = serve(Scripted())
    server = serve(Scripted(status=302, headers=(("Location", f"{other.url}/api/v4/user"),)))
    with pytest.raises(ForgeUnavailable, match="another address"):
        ask(server.url, credential)
    assert other.seen == []


def test_a_redirect_within_gitlab_is_followed(serve: Serve) -> None:
    """A moved project answers by its id."""
    server = serve(Scripted())
    server.answers[:] = [Scripted(status=301, headers=(("Location", f"{server.url}/api/v4/projects/81"),)), Scripted()]
    ask(server.url)
    assert [path for path, _ in server.seen] == ["/api/v4/user", "/api/v4/projects/81"]


def test_no_cookie_of_one_person_goes_with_another(serve: Serve) -> None:
    """Sessions are shared, cookies are not kept."""
    server = serve(Scripted(headers=(("Set-Cookie", "_gitlab_session=adas; path=/"),)))
    shared = Transport(server.url, timeout_seconds=5)
    for credential in (OAUTH, PERSONAL):
        shared.request(credential, "get", "/user")
    assert [headers.get("cookie") for _, headers in server.seen] == [None, None]
    assert [(headers.get("authorization"), headers.get("private-token")) for _, headers in server.seen] == [
        ("Bearer canary-token", None),
        (None, "canary-token"),
    ]


def test_the_environment_does_not_leak_in(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a proxy nor a `.netrc` of the machine's is used."""
    other = serve(Scripted())
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login l password p\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("http_proxy", other.url)
    monkeypatch.delenv("no_proxy", raising=False)
    server = serve(Scripted())
    ask(server.url)
    assert (len(server.seen), other.seen) == (1, [])


def test_connections_are_shared_by_threads_that_come_and_go(serve: Serve) -> None:
    """Ten threads after each other use one connection; each is lent to one at a time."""
    server = serve(Scripted())
    shared = Transport(server.url, timeout_seconds=5)
    lent: set[int] = set()

    def use() -> None:
        with shared.session() as session:
            lent.add(id(session))
            session.get(f"{server.url}/x", timeout=5)

    for _ in range(10):
        thread = threading.Thread(target=use)
        thread.start()
        thread.join(30)
    assert len(lent) == 1
    with shared.session() as first, shared.session() as second:
        assert first is not second


@pytest.mark.parametrize(
    "url", ["", "gitlab.example", "ftp://a", "https://user:secret@a", "https://a?b", "https://a#b"]
)
def test_what_is_no_gitlabs_url_is_misconfigured(url: str) -> None:
    """The setting is named in the error."""
    with pytest.raises(Misconfigured):
        origin_of(url)


def test_a_large_file_kept_elsewhere_is_fetched_without_the_token(serve: Serve, tmp_path: Path) -> None:
    """GitLab may send an LFS download to its object storage; the token stays behind."""
    storage = serve(Scripted(body=b"large", content_type="application/octet-stream"))
    server = serve(Scripted(status=302, headers=(("Location", f"{storage.url}/bucket/x?signature=s"),)))
    forge = GitLabForge(server.url, key_cache=tmp_path)
    request = GitRequest(
        method="GET", suffix=f"gitlab-lfs/objects/{OID}", query="", headers={"Authorization": "sessions own"}, body=None
    )
    with forge.git(OAUTH, ProjectPath("a/b"), request) as answer:
        assert (answer.status, b"".join(answer.body)) == (200, b"large")
    assert server.seen[0][1]["authorization"].startswith("Basic ")
    assert [headers.get("authorization") for _, headers in storage.seen] == [None]


def test_git_itself_is_sent_nowhere_else(serve: Serve, tmp_path: Path) -> None:
    """A redirect of a fetch is an error, not a journey."""
    other = serve(Scripted())
    server = serve(Scripted(status=301, headers=(("Location", f"{other.url}/a/b.git/info/refs"),)))
    request = GitRequest(method="GET", suffix="info/refs", query="service=git-upload-pack", headers={}, body=None)
    forge = GitLabForge(server.url, key_cache=tmp_path)
    with pytest.raises(ForgeUnavailable), forge.git(OAUTH, ProjectPath("a/b"), request):
        pass
    assert other.seen == []
