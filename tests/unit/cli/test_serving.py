"""What `serve`, `worker`, `beat`, `migrate`, `gc`, `reseal` and `doctor` say before they do anything.

Covered: settings that do not fit, a database of another release, usage, the doctor's findings.
Left out: serving itself, which the functional suite and the demo do.
"""

import json
import os
from pathlib import Path

import pytest

from spawner import config
from spawner.cli.exits import ExitCode
from spawner.cli.serving import exposed_cookie
from spawner.names import UserId
from spawner.store.engine import open_engine
from spawner.store.users import UserRows
from spawner.users.model import Grant
from spawner.wiring import SystemClock
from tests.unit.cli.conftest import Run


@pytest.mark.parametrize(
    ("environment", "command", "code", "words"),
    [
        ({"SPAWNER_GITLAB__ULR": "x"}, ("serve", "--embedded"), ExitCode.FAILED, "SPAWNER_GITLAB__URL"),
        ({}, ("serve",), ExitCode.FAILED, "spawner serve --embedded"),
        ({}, ("serve", "--embedded", "--processes", "2"), ExitCode.USAGE, "one process"),
        ({}, ("worker",), ExitCode.FAILED, "No Redis is set"),
        ({}, ("beat",), ExitCode.FAILED, "No Redis is set"),
        (
            {"SPAWNER_TASKS__DISPATCHER": "celery", "SPAWNER_REDIS__URL": "redis://127.0.0.1:9/0"},
            ("serve",),
            ExitCode.FAILED,
            "spawner migrate",
        ),
    ],
    ids=["unknown setting", "nobody works", "two processes", "worker", "beat", "not migrated"],
)
@pytest.mark.usefixtures("settings")
def test_refusals(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    command: tuple[str, ...],
    code: ExitCode,
    words: str,
) -> None:
    """What cannot work is refused in a sentence before anything listens."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ended = run(*command)
    assert ended.code == code
    assert words in ended.err


@pytest.mark.parametrize(
    ("user_id", "public_url", "is_told"),
    [
        (0, "http://slipway.example.org", True),
        (0, "http://192.0.2.7:8000", True),
        (0, "https://slipway.example.org", False),
        (0, "http://127.0.0.1:8000", False),
        (0, "http://localhost:8000", False),
        (1000, "http://slipway.example.org", False),
    ],
)
def test_where_a_session_could_read_the_login_cookie(
    monkeypatch: pytest.MonkeyPatch, *, user_id: int, public_url: str, is_told: bool
) -> None:
    """Where people are separated and come over plain http from elsewhere, their cookie goes to every port."""
    monkeypatch.setattr(os, "geteuid", lambda: user_id)
    monkeypatch.setenv("SPAWNER_HTTP__PUBLIC_URL", public_url)
    assert (exposed_cookie(config.load()) is not None) == is_told


@pytest.mark.usefixtures("settings")
def test_an_exposed_cookie_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`serve` and `doctor` say it; only root separates people, so only root is told."""
    monkeypatch.setenv("SPAWNER_HTTP__PUBLIC_URL", "http://slipway.example.org")
    findings = json.loads(run("doctor", "--json").out)["findings"]
    monkeypatch.setenv("SPAWNER_TASKS__DISPATCHER", "celery")
    monkeypatch.setenv("SPAWNER_REDIS__URL", "redis://127.0.0.1:9/0")
    said = run("serve").err  # ends at the database, which is of no release
    is_root = os.geteuid() == 0
    assert any(row["check"] == "cookie" for row in findings) == is_root
    assert ("login cookie" in said) == is_root


def test_version(run: Run) -> None:
    """The command line knows under which name it is installed, and says its version."""
    ended = run("--version")
    assert (ended.code, ended.out.startswith("spawner, version ")) == (0, True)


def test_migrate_twice(settings: Path, run: Run) -> None:
    """A migration makes the database; a second one finds nothing to do."""
    first, second = run("migrate", "--json").document, run("migrate", "--json").document
    assert first["before"] is None
    assert second["before"] == second["after"] == first["after"]
    assert (settings / "slipway.db").exists()


def test_a_key_is_exchanged(settings: Path, run: Run) -> None:
    """After `reseal` the old key is needed no more: what it had encrypted opens with the new one alone."""
    run("migrate")
    file = config.load().secrets.key_file
    assert file is not None
    (old,), new = config.read_keys(file), b"a new key of the key file, 0123456789 ABCDEF"
    engine = open_engine(f"sqlite:///{settings}/slipway.db")
    UserRows(engine, SystemClock(), [old]).put_grant(Grant(user_id=UserId("a"), forge="default", access_token="kept"))
    file.write_bytes(new + b"\n" + old + b"\n")
    assert run("reseal", "--json").document == {"resealed": 1}
    found = UserRows(engine, SystemClock(), [new]).grant(UserId("a"))
    engine.dispose()
    assert found is not None
    assert found.access_token == "kept"


@pytest.mark.usefixtures("settings")
def test_gc_finds_nothing_on_a_new_machine(run: Run) -> None:
    """Where nothing runs there are no leftovers."""
    run("migrate")
    assert run("gc", "--json").document == {"leftovers": [], "ended": []}


@pytest.mark.usefixtures("settings")
def test_doctor_names_what_is_wrong_and_what_to_do(run: Run) -> None:
    """Each thing has one line; what is wrong has a remedy, and what is away is told apart."""
    ended = run("doctor", "--json")
    found = {row["check"]: row for row in json.loads(ended.out)["findings"]}
    assert ended.code == ExitCode.FAILED
    assert (found["database"]["verdict"], found["database"]["remedy"]) == ("wrong", "Run `spawner migrate`.")
    assert found["gitlab"]["verdict"] == "away"
    assert {name for name, row in found.items() if row["verdict"] == "ok"} >= {"settings", "redis", "runtime", "git"}
    run("migrate")
    assert run("doctor").code == ExitCode.UNAVAILABLE


def test_doctor_ends_where_settings_do_not_fit(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GitLab there is one finding, and it says which setting."""
    monkeypatch.delenv("SPAWNER_GITLAB__URL", raising=False)
    found = json.loads(run("doctor", "--json").out)["findings"]
    assert [row["check"] for row in found] == ["settings"]
    assert "SPAWNER_" in found[0]["remedy"]
