"""The registry client, against real registries.

Covered: reading, pushing, retagging, mounting, listing, labels; the token dance, rights, a token's life; that
credentials and tokens stay where they belong; "cannot be asked" against "does not exist"; broken and hostile answers.
Left out: an S3 store behind a registry (no such server here; redirects to another host are played).
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from builder.build import Target, adopt
from builder.errors import RefusedError, UnauthorizedError, UnavailableError, UsageError
from builder.oci import MANIFEST_TYPES, Credentials, Manifest, RegistryClient, digest_of, is_loopback

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.builder.conftest import Guarded

ADA = Credentials(username="ada", password="ada-secret")
EVE = Credentials(username="eve", password="eve-secret")


def _push(client: RegistryClient, repository: str, tag: str, labels: dict[str, str] | None = None) -> Manifest:
    """Push a tiny image."""
    layer, config = b"layer", json.dumps({"config": {"Labels": labels or {}}}).encode()
    for content in (layer, config):
        client.upload(repository, digest_of(content), content)
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPES[1],
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest_of(config),
                   "size": len(config)},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest_of(layer),
                    "size": len(layer)}],
    }  # fmt: skip
    content = json.dumps(document).encode()
    manifest = Manifest(content=content, media_type=MANIFEST_TYPES[1], digest=digest_of(content))
    client.put_manifest(repository, tag, manifest)
    return manifest


def test_an_image_is_pushed_read_listed_and_retagged(registry: str) -> None:
    """What is pushed is read back byte for byte under its tag, its digest and every tag given to it later."""
    client = RegistryClient(registry)
    pushed = _push(client, "group/one", "first", {"a": "b"})
    assert client.manifest("group/one", "first") == pushed
    assert client.manifest("group/one", pushed.digest) == pushed
    head = client.head("group/one", "first")
    assert head is not None
    assert (head.digest, head.media_type, head.size_bytes) == (pushed.digest, MANIFEST_TYPES[1], len(pushed.content))
    assert client.retag("group/one", "first", ["second", "third"]) == pushed
    assert sorted(client.tags("group/one")) == ["first", "second", "third"]
    assert client.labels("group/one", pushed) == {"a": "b"}
    client.close()


def test_what_does_not_exist_is_none(registry: str) -> None:
    """A missing tag, digest, repository or source of a retag is a value, not an error."""
    client = RegistryClient(registry)
    assert client.head("group/none", "x") is None
    assert client.manifest("group/none", f"sha256:{'0' * 64}") is None
    assert client.retag("group/none", "x", ["y"]) is None
    assert client.tags("group/none") == ()
    assert not client.has_blob("group/none", f"sha256:{'0' * 64}")
    client.close()


def test_blobs_come_and_go_as_files_checked(registry: str, tmp_path: Path) -> None:
    """A file is uploaded and downloaded whole; larger than allowed, it is refused and nothing is left behind."""
    client = RegistryClient(registry)
    (tmp_path / "in").write_bytes(b"x" * 3_000_000)
    digest = digest_of(b"x" * 3_000_000)
    client.upload("group/two", digest, tmp_path / "in")
    client.upload("group/two", digest, tmp_path / "in")
    client.download("group/two", digest, tmp_path / "out", largest_bytes=3_000_000)
    assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()
    with pytest.raises(RefusedError):
        client.download("group/two", digest, tmp_path / "late", largest_bytes=2_999_999)
    with pytest.raises(RefusedError):
        client.blob("group/two", f"sha256:{'0' * 64}", largest_bytes=10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    client.close()


def test_a_blob_is_mounted_from_another_repository(guarded: Guarded) -> None:
    """An image of one repository is given to another without moving its layers."""
    client = RegistryClient(guarded.address, credentials=lambda: ADA, trusted_hosts=[guarded.token_host])
    pushed = _push(client, "group/source", "one")
    digest = str(pushed.document()["layers"][0]["digest"])
    assert not client.has_blob("group/target", digest)
    assert client.mount("group/target", digest, source_repository="group/source")
    assert client.has_blob("group/target", digest)
    client.close()


def test_tokens_are_fetched_once_per_scope_and_anew_when_old(guarded: Guarded) -> None:
    """One token serves all reads of a repository, until most of its life is over."""
    pusher = RegistryClient(guarded.address, credentials=lambda: ADA, trusted_hosts=[guarded.token_host])
    _push(pusher, "group/tokens", "one")
    pusher.close()
    now = [0.0]
    client = RegistryClient(
        guarded.address, credentials=lambda: ADA, trusted_hosts=[guarded.token_host], clock=lambda: now[0]
    )
    guarded.service.requests.clear()
    for seconds in (0.0, 1.0, 200.0):
        now[0] = seconds
        assert client.head("group/tokens", "one") is not None
    assert guarded.service.requests == [("ada", ["repository:group/tokens:pull"])]
    now[0] = 250.0
    assert client.head("group/tokens", "one") is not None
    assert len(guarded.service.requests) == 2
    client.close()


@pytest.mark.parametrize("who", [EVE, Credentials(username="ada", password="wrong"), None])
def test_who_may_not_push_is_refused(guarded: Guarded, who: Credentials | None) -> None:
    """A reader, a wrong password and nobody at all are refused as such; it never reads as "does not exist"."""
    client = RegistryClient(guarded.address, credentials=lambda: who, trusted_hosts=[guarded.token_host])
    with pytest.raises(UnauthorizedError):
        client.upload("group/closed", digest_of(b"x"), b"x")
    client.close()


def test_credentials_are_shown_to_trusted_hosts_only(guarded: Guarded) -> None:
    """A registry that names a token service elsewhere gets no token out of us, unless that host is trusted."""
    client = RegistryClient(guarded.address, credentials=lambda: ADA)
    guarded.service.requests.clear()
    with pytest.raises(UnauthorizedError, match="not known to belong"):
        client.head("group/one", "x")
    assert guarded.service.requests == []
    client.close()


def test_no_representation_shows_a_password() -> None:
    """A printed value never holds the secret."""
    assert "ada-secret" not in repr(ADA)


Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def _server(answer: Answer) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Run a registry that answers as the test says; its address, and the headers of each request."""
    seen: list[dict[str, str]] = []

    class Answers(BaseHTTPRequestHandler):
        """Answers everything alike."""

        def do_GET(self) -> None:
            """Answer, and remember what came."""
            seen.append({name.lower(): value for name, value in self.headers.items()})
            answer(self)

        do_HEAD = do_PUT = do_POST = do_GET  # noqa: N815 - the names http.server calls

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name http.server has
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        thread.join(timeout=30)
        server.server_close()


def _plain(status: int, headers: dict[str, str], body: bytes = b"") -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)

    return answer


def test_all_manifest_types_are_asked_for_at_once() -> None:
    """One Accept header names all four types, and a digest header is taken at its word."""
    digest = f"sha256:{'a' * 64}"
    with _server(_plain(200, {"Docker-Content-Digest": digest, "Content-Type": MANIFEST_TYPES[0]})) as (address, seen):
        client = RegistryClient(address)
        found = client.head("g/p", "x")
        client.close()
    assert found is not None
    assert found.digest == digest
    assert [headers["accept"] for headers in seen] == [", ".join(MANIFEST_TYPES)]


def test_without_a_digest_header_the_bytes_decide() -> None:
    """A registry that names no digest is asked for the manifest itself."""
    with _server(_plain(200, {"Content-Type": MANIFEST_TYPES[1]}, b"{}")) as (address, _):
        client = RegistryClient(address)
        found = client.head("g/p", "x")
        client.close()
    assert found is not None
    assert found.digest == digest_of(b"{}")


@pytest.mark.parametrize(
    ("status", "headers", "retry_after_seconds"),
    [(500, {}, None), (502, {}, None), (503, {"Retry-After": "7"}, 7.0), (429, {"Retry-After": "soon"}, None)],
)
def test_a_registry_in_trouble_cannot_be_asked(
    status: int, headers: dict[str, str], retry_after_seconds: float | None
) -> None:
    """A failing or busy registry is unavailable, with its own advice on when to try again."""
    with _server(_plain(status, headers, b"<html>")) as (address, _):
        client = RegistryClient(address)
        with pytest.raises(UnavailableError) as caught:
            client.head("g/p", "x")
        client.close()
    assert caught.value.retry_after_seconds == retry_after_seconds


def test_a_registry_may_name_the_moment_to_try_again() -> None:
    """`Retry-After` as a date counts as the seconds until then, and one that is over as none."""
    for ahead_seconds, wanted in ((60, 60.0), (-60, 0.0)):
        moment = format_datetime(datetime.now(UTC) + timedelta(seconds=ahead_seconds), usegmt=True)
        with _server(_plain(429, {"Retry-After": moment})) as (address, _):
            client = RegistryClient(address)
            with pytest.raises(UnavailableError) as caught:
                client.tags("g/p")
            client.close()
        assert caught.value.retry_after_seconds == pytest.approx(wanted, abs=20)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_names_what_was_refused(status: int) -> None:
    """Whoever may not read is told so about reading, also where only the name was asked for."""
    with _server(_plain(status, {"WWW-Authenticate": "Basic realm=x"})) as (address, _):
        client = RegistryClient(address, credentials=lambda: ADA)
        for act, what in ((client.head, "read"), (client.manifest, "read")):
            with pytest.raises(UnauthorizedError, match=f"no right to {what} there"):
                act("g/p", "x")
        with pytest.raises(UnauthorizedError, match="no right to push there"):
            client.mount("g/p", digest_of(b"x"), source_repository="g/q")
        client.close()


def test_a_registry_that_is_gone_or_silent_cannot_be_asked() -> None:
    """A closed port and a server that never answers are unavailable, within the timeout."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        closed = RegistryClient(address, timeout_seconds=0.3)
        with pytest.raises(UnavailableError, match="cannot be reached"):
            closed.head("g/p", "x")
        listening.listen()
        with pytest.raises(UnavailableError, match="no answer"):
            closed.head("g/p", "x")
        closed.close()


def test_a_question_is_asked_again_when_the_registry_hangs_up() -> None:
    """A kept connection that ends without an answer costs a second HEAD, not a rung; an upload is never sent twice."""
    hung_up: list[str] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        if not hung_up or request.command == "POST":
            hung_up.append(request.command)
            request.close_connection = True
            return
        _plain(200, {"Content-Type": MANIFEST_TYPES[1]}, b"{}")(request)

    with _server(answer) as (address, seen):
        client = RegistryClient(address)
        assert client.manifest("g/p", "x") is not None
        assert hung_up == ["GET"]
        seen.clear()
        with pytest.raises(UnavailableError, match="cannot be reached"):
            client.mount("g/p", digest_of(b"blob"), source_repository="g/q")
        client.close()
    assert hung_up == ["GET", "POST"]
    assert len(seen) == 1


def test_a_manifest_that_is_another_than_asked_for_is_refused() -> None:
    """Bytes that do not have the digest asked for, or the one the registry claims, are refused."""
    wrong = f"sha256:{'a' * 64}"
    for reference, headers in ((wrong, {}), ("x", {"Docker-Content-Digest": wrong})):
        with _server(_plain(200, {"Content-Type": MANIFEST_TYPES[1], **headers}, b"{}")) as (address, _):
            client = RegistryClient(address)
            with pytest.raises(RefusedError, match="another manifest"):
                client.manifest("g/p", reference)
            client.close()


def test_a_redirect_takes_no_token_along() -> None:
    """A blob kept elsewhere is fetched there without the registry's token."""
    body = b"blob"
    with _server(_plain(200, {}, body)) as (elsewhere, seen):

        def redirect(request: BaseHTTPRequestHandler) -> None:
            if "Authorization" not in request.headers:
                _plain(401, {"WWW-Authenticate": "Basic realm=x"})(request)
            else:
                _plain(307, {"Location": f"http://{elsewhere}/store"})(request)

        with _server(redirect) as (address, _):
            client = RegistryClient(address, credentials=lambda: ADA)
            assert client.blob("g/p", digest_of(body), largest_bytes=10) == body
            client.close()
    assert [headers.get("authorization") for headers in seen] == [None]


@pytest.mark.parametrize("target", ["http://registry.example.com/x", "ftp://127.0.0.1/x"])
def test_plain_http_is_spoken_to_loopback_only(target: str) -> None:
    """A redirect to an unencrypted place elsewhere is refused before anything is sent."""
    with _server(_plain(302, {"Location": target})) as (address, _):
        client = RegistryClient(address)
        with pytest.raises(RefusedError, match="over plain"):
            client.manifest("g/p", "x")
        client.close()


@pytest.mark.parametrize(
    ("address", "origin"),
    [
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("localhost:5000", "http://localhost:5000"),
        ("registry.localhost", "http://registry.localhost"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("Registry.example.com:5050", "https://registry.example.com:5050"),
        ("127.0.0.1.example.com", "https://127.0.0.1.example.com"),
        ("10.0.0.1:5000", "https://10.0.0.1:5000"),
    ],
)
def test_the_scheme_follows_from_the_address(address: str, origin: str) -> None:
    """Loopback is spoken to plainly, everything else by https."""
    assert RegistryClient(address).origin == origin
    assert is_loopback(address) is origin.startswith("http:")


@pytest.mark.parametrize("address", ["", "a/b", "user@host", "host?x", "a b"])
def test_what_is_no_address_is_refused(address: str) -> None:
    """A registry's address is a host and perhaps a port, nothing more."""
    with pytest.raises(UsageError):
        RegistryClient(address)


WRONG_TOKENS = {
    "a login page elsewhere": _plain(302, {"Location": "https://login.example.com/"}),
    "a page": _plain(200, {"Content-Type": "text/html"}, b"<html>Sign in</html>"),
    "no such service": _plain(404, {}, b"{}"),
    "another question": _plain(400, {"Content-Type": "application/json"}, b'{"errors": null}'),
    "no token in it": _plain(200, {"Content-Type": "application/json"}, b"{}"),
    "out of order": _plain(503, {"Retry-After": "3"}),
}


@pytest.mark.parametrize("case", WRONG_TOKENS)
def test_a_token_service_that_gives_no_token_says_nothing_about_an_image(case: str) -> None:
    """Whatever a token service answers but a refusal of the person, the registry cannot be asked."""
    with _server(WRONG_TOKENS[case]) as (tokens, _):
        challenge = {"WWW-Authenticate": f'Bearer realm="http://{tokens}/token",service="x"'}
        with _server(_plain(401, challenge)) as (address, _):
            client = RegistryClient(address, credentials=lambda: ADA, trusted_hosts=[tokens])
            with pytest.raises(UnavailableError):
                client.manifest("g/p", "x")
            client.close()


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/json", ""])
def test_what_is_no_manifest_says_nothing_about_an_image(kind: str) -> None:
    """A page in a manifest's place is a registry that cannot be asked."""
    with _server(_plain(200, {"Content-Type": kind}, b"<html>")) as (address, _):
        client = RegistryClient(address)
        with pytest.raises(UnavailableError, match="where the manifest"):
            client.manifest("g/p", "x")
        client.close()


def _pages(link: Callable[[int], str]) -> Answer:
    """Answer with one tag a page; `link` names what follows page n."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        number = int(request.path.partition("n=")[2] or 0)
        following = link(number)
        headers = {"Link": f'<{following}>; rel="next"'} if following else {}
        _plain(200, headers, json.dumps({"tags": [f"t{number}"]}).encode())(request)

    return answer


@pytest.mark.parametrize("link", ["/v2/g/p/tags/list?n={}", "?n={}", "http://registry.internal/v2/g/p/tags/list?n={}"])
def test_tags_are_listed_over_every_page(link: str) -> None:
    """Links to the next page are followed, be they whole addresses or parts, and always at the registry's own host."""
    with _server(_pages(lambda number: link.format(number + 1) if number < 3 else "")) as (address, _):
        client = RegistryClient(address)
        assert client.tags("g/p") == ("t0", "t1", "t2", "t3")
        client.close()


def test_tags_without_an_end_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that names itself as the next one does not hold the caller for ever."""
    monkeypatch.setattr("builder.oci.MOST_PAGES", 20)
    with _server(_pages(lambda _: "/v2/g/p/tags/list?n=7")) as (address, seen):
        client = RegistryClient(address)
        with pytest.raises(UnavailableError, match="20 pages"):
            client.tags("g/p")
        client.close()
    assert len(seen) == 20


@pytest.mark.parametrize("body", [b'{"errors": null}', b'{"errors": [null]}', b"[]", b"{}", b"5", b"<html>"])
def test_a_refusal_in_any_words_is_a_refusal(body: bytes) -> None:
    """What a registry says besides its status is shown if it can be read, and never needed."""
    with _server(_plain(400, {}, body)) as (address, _):
        client = RegistryClient(address)
        with pytest.raises(RefusedError, match="answered 400"):
            client.tags("g/p")
        client.close()


def test_an_answer_that_trickles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then holds nobody: an answer has a whole time besides the time between two of its bytes."""
    monkeypatch.setattr("builder.transport.PATIENCE_SECONDS", 0.5)
    ended = threading.Event()

    def trickle(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", MANIFEST_TYPES[1])
        request.send_header("Content-Length", "4000")
        request.end_headers()
        while not ended.wait(0.05):
            request.wfile.write(b" ")

    with _server(trickle) as (address, _):
        client = RegistryClient(address, timeout_seconds=5)
        try:
            with pytest.raises(UnavailableError, match="too slowly"):
                client.manifest("g/p", "x")
        finally:
            ended.set()
            client.close()


@pytest.mark.parametrize("manifest", [b"{}", b'{"config": null, "layers": []}', b'{"config": {"digest": "x"}}', b"[]"])
def test_what_is_no_image_is_not_adopted(manifest: bytes) -> None:
    """A manifest without a configuration and layers is refused in words."""
    with _server(_plain(200, {"Content-Type": MANIFEST_TYPES[1]}, manifest)) as (address, _):
        client = RegistryClient(address)
        with pytest.raises(RefusedError):
            adopt(Target(registry=client, repository="g/p", commit="a" * 40), "g/other", "x", ("y",))
        client.close()
