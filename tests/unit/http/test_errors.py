"""The table of errors, and how each kind of client is told.

Covered: every class has a row, HTTP's own errors, programs, pages, Git. Left out: what views raise.
"""

from collections.abc import Iterator

import pytest
from flask import Flask, abort

from spawner import errors
from spawner.errors import SpawnerError
from spawner.http import ERRORS, create_app, status_and_code
from tests.functional.api.world import world_options


def _classes(kind: type[SpawnerError] = SpawnerError) -> Iterator[type[SpawnerError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _classes(below)


@pytest.mark.parametrize("kind", list(dict.fromkeys(_classes())))
def test_row(kind: type[SpawnerError]) -> None:
    """Every error of the tree has a row of its own."""
    assert kind in ERRORS


@pytest.fixture
def app() -> Flask:
    """An app whose views raise what a test names."""
    app = create_app(None, world_options())  # type: ignore[arg-type] # these views need no services

    def fail(name: str) -> str:
        if name.isdecimal():
            abort(int(name))
        if name == "defect":
            raise ValueError("a secret in a defect")
        kind: type[SpawnerError] = getattr(errors, name)
        raise kind("It broke.", remedy="Mend it.")

    for prefix in ("/api/slipway/v1", "/git/x", ""):
        app.add_url_rule(f"{prefix}/fail/<name>", endpoint=f"{prefix}fail", view_func=fail)
    return app


HOST = {"Host": "slipway.test"}


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("InvalidInput", 422, 1000),
        ("ImageUnparsable", 422, 1002),
        ("EnvironmentOverridden", 422, 1004),
        ("ResourcesUnavailable", 422, 1005),
        ("MalformedRequest", 400, 1400),
        ("TokenRejected", 401, 1401),
        ("Forbidden", 403, 1403),
        ("SessionNotFound", 404, 1404),
        ("Conflict", 409, 3409),
        ("HibernationUnavailable", 500, 3006),
        ("LaunchRefused", 500, 3002),
        ("Misconfigured", 500, 2001),
        ("ForgeUnavailable", 503, 3503),
        ("RateLimited", 429, 1429),
    ],
)
def test_program(app: Flask, name: str, status: int, code: int) -> None:
    """A program gets the contract's three keys, with the remedy as detail."""
    answer = app.test_client().get(f"/api/slipway/v1/fail/{name}")
    assert (status, {"error": {"code": code, "message": "It broke.", "detail": "Mend it."}}) == (
        answer.status_code,
        answer.json,
    )


@pytest.mark.parametrize(
    ("status", "code"), [(400, 1400), (404, 1404), (405, 1405), (408, 3408), (409, 3409), (422, 1422), (500, 2500)]
)
def test_http_error(app: Flask, status: int, code: int) -> None:
    """HTTP's own errors have the contract's codes and a message."""
    answer = app.test_client().get(f"/api/slipway/v1/fail/{status}")
    assert answer.json is not None
    assert (status, code, None) == (answer.status_code, answer.json["error"]["code"], answer.json["error"]["detail"])
    assert answer.json["error"]["message"]


@pytest.mark.parametrize(("path", "status"), [("/notebooks/nothing", 404), ("/api/notebooks/version", 405)])
def test_route(app: Flask, path: str, status: int) -> None:
    """A route that does not exist, and a method that does not, are told in JSON too."""
    answer = app.test_client().delete(path)
    assert (status, {"error"}) == (answer.status_code, set(answer.json or {}))


def test_defect(app: Flask) -> None:
    """A defect of ours is a sentence without its inside."""
    answer = app.test_client().get("/api/slipway/v1/fail/defect")
    assert answer.status_code == 500
    assert answer.json is not None
    assert answer.json["error"]["code"] == 2500
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("name", "status"),
    [("TokenRejected", 403), ("Forbidden", 403), ("NotFound", 404), ("ForgeUnavailable", 503), ("RateLimited", 503)],
)
def test_git(app: Flask, name: str, status: int) -> None:
    """Git gets a line of text and never 401, which would make it ask for a password."""
    answer = app.test_client().get(f"/git/x/fail/{name}")
    assert (status, "text/plain; charset=utf-8", "It broke. Mend it.\n") == (
        answer.status_code,
        answer.content_type,
        answer.text,
    )


def test_sign_in(app: Flask) -> None:
    """A person who is not signed in is sent to sign in, and comes back."""
    answer = app.test_client().get("/fail/SignInRequired?a=b", headers=HOST)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/login?next=/fail/SignInRequired?a%3Db")


def test_retry_after(app: Flask) -> None:
    """What will be tried again says when."""
    assert app.test_client().get("/api/slipway/v1/fail/ForgeUnavailable").headers["Retry-After"] == "5"


def test_ancestor() -> None:
    """A class made elsewhere has its nearest ancestor's row."""

    class Unlisted(errors.NotFound):
        pass

    assert status_and_code(Unlisted("x")) == (404, 1404)
