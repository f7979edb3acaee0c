"""Logs.

Covered: both forms, masking of every place a secret may stand in, tracebacks, libraries' logs, levels. Left out:
who logs what.
"""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from spawner import log
from spawner.log import MASK

SECRETS = [
    ("glpat-abcdef1234567890ABCD", MASK),
    ("see gloas-abcdef123456.", f"see {MASK}"),
    ("for slws_ada-1234.2.c2lnbmF0dXJl", f"for {MASK}"),
    ("whsec_c2lnbmluZyBrZXk=", MASK),
    ("Authorization: Bearer abc.def-123456", f"Authorization: Bearer {MASK}"),
    ("{'Authorization': 'Basic dXNlcjpwYXNz'}", f"{{'Authorization': 'Basic {MASK}'}}"),
    ("authorization=opaque-value", f"authorization={MASK}"),
    ("https://oauth2:hunter2@gitlab.example.org/a.git", f"https://{MASK}@gitlab.example.org/a.git"),
    ("GET /api?private_token=abc&x=1", f"GET /api?private_token={MASK}&x=1"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl", MASK),
]
HARMLESS = [
    "a global-config of glitches",
    "https://gitlab.example.org/group/project/-/jobs/1?page=2",
    "sha256:0123456789abcdef",
    "bearer of news",
]


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the log goes; afterwards nothing refers to it."""
    stream = io.StringIO()
    log.configure(level="INFO", form="json", stream=stream)
    yield stream
    log.configure(level="WARNING", form="json", stream=io.StringIO())


def fail(message: str) -> None:
    """Raise an error, with a local variable that a traceback must not show."""
    local = "canary-" + "local"
    if local:
        raise ValueError(message)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    """Return the lines, parsed."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(("text", "expected"), SECRETS, ids=[row[0][:20] for row in SECRETS])
def test_masked(text: str, expected: str) -> None:
    """What looks like a secret is masked, and only that."""
    assert log.masked(text).rstrip(".") == expected.rstrip(".")


@pytest.mark.parametrize("text", HARMLESS)
def test_not_masked(text: str) -> None:
    """What only resembles a secret stays."""
    assert log.masked(text) == text


def test_masked_everywhere(stream: io.StringIO) -> None:
    """A secret is masked in the event, in fields, deep inside them, by a field's name, and in a traceback."""
    secret = "glpat-abcdef1234567890ABCD"
    logger = log.get_logger("a")
    try:
        fail(secret)
    except ValueError as error:
        logger.exception(
            "event", field=secret, deep=[{"a": ("x", secret)}], access_token="opaque", raw=secret.encode(), error=error
        )
    logging.getLogger("library").warning("with %s", secret)
    assert secret not in stream.getvalue()
    assert "opaque" not in stream.getvalue()
    first, second = lines(stream)
    assert (first["field"], first["access_token"], first["event"]) == (MASK, MASK, "event")
    assert "ValueError" in str(first["exception"])
    assert (second["event"], second["logger"], second["level"]) == (f"with {MASK}", "library", "warning")


def test_console_has_no_locals(stream: io.StringIO) -> None:
    """On a terminal a traceback stays one: no local variables, where secrets live."""
    out = io.StringIO()
    log.configure(form="console", stream=out)
    try:
        fail("x")
    except ValueError:
        log.get_logger("a").exception("event")
    assert "ValueError: x" in out.getvalue()
    assert "canary-local" not in out.getvalue()
    assert stream.getvalue() == ""


def test_auto_is_json_elsewhere() -> None:
    """Where there is no terminal a line is JSON with its time, level and logger."""
    out = io.StringIO()
    log.configure(stream=out)
    log.get_logger("a").info("event", count=3)
    (line,) = lines(out)
    assert {key: line[key] for key in ("event", "count", "level", "logger")} == {
        "event": "event",
        "count": 3,
        "level": "info",
        "logger": "a",
    }
    assert str(line["timestamp"]).endswith("Z")


def test_level(stream: io.StringIO) -> None:
    """What is less important than the level is left out, of ours and of libraries."""
    log.get_logger("a").debug("quiet")
    logging.getLogger("b").debug("quiet")
    log.configure(level="ERROR", form="json", stream=stream)
    log.get_logger("a").warning("quiet")
    log.get_logger("a").error("loud")
    assert [line["event"] for line in lines(stream)] == ["loud"]
