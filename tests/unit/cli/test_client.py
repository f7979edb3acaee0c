"""The client commands against a spawner over HTTP.

Covered: launch by path and address, progress, list, logs, events, open, stop, explain, tokens, login, exit codes, JSON.
Left out: opening a real browser; a real GitLab (tests/functional).
"""

import json
import stat
import threading
from pathlib import Path

import pytest

from spawner.cli.connection import configuration_file
from spawner.cli.exits import ExitCode
from spawner.cli.launch import without_credentials
from spawner.names import SessionName
from spawner.ports import JobStatus, NumberedPage, PageKind, Shown
from tests.functional.api.world import OLD_SHA, SHA
from tests.unit.cli.conftest import Run, Served

NAME = "ada-proj-"


def launch_ready(served: Served, run: Run, *more: str) -> str:
    """Launch grp/proj and let it become ready; return its name."""
    served.world.add_image()
    name = str(run("launch", "grp/proj", "--json", *more).document["name"])
    served.world.be_ready(SessionName(name))
    return name


def test_launch_and_list(served: Served, ada: Run) -> None:
    """A launch prints the server object, and the list then has it with branch, commit and phase."""
    served.world.add_image()
    launched = ada("launch", "grp/proj", "--json")
    assert launched.code == ExitCode.DONE
    assert launched.document["annotations"]["renku.io/commit-sha"] == SHA
    name = launched.document["name"]
    assert list(ada("sessions", "--json").document["servers"]) == [name]
    plain = ada("sessions").out.splitlines()
    assert [line.split("\t")[:4] for line in plain] == [[name, "grp/proj", "main", SHA[:8]]]


@pytest.mark.parametrize(
    ("arguments", "branch", "sha"),
    [
        (("grp/proj",), "main", SHA),
        (("grp/proj", "--ref", "feature/x"), "feature/x", SHA),
        (("grp/proj", "--sha", OLD_SHA), "main", OLD_SHA),
        (("https://gitlab.test/grp/proj/-/tree/feature/x",), "feature/x", SHA),
        (("https://gitlab.test/grp/proj/-/blob/feature/x/a/b.ipynb",), "feature/x", SHA),
        ((f"https://gitlab.test/grp/proj/-/commit/{OLD_SHA}",), "main", OLD_SHA),
        (("https://gitlab.test/grp/proj.git",), "main", SHA),
        (("https://ada:secret@gitlab.test/grp/proj.git",), "main", SHA),
        (("git@gitlab.test:grp/proj.git",), "main", SHA),
        (("https://gitlab.test/grp/proj/-/issues/4",), "main", SHA),
        (("https://gitlab.test/grp/proj/-/merge_requests/4",), "feature/x", OLD_SHA),
    ],
)
def test_launch_finds_the_commit(served: Served, ada: Run, arguments: tuple[str, ...], branch: str, sha: str) -> None:
    """A project's path and every address of it lead to the branch and commit that it names."""
    project = next(iter(served.world.forge.projects.values()))
    page = NumberedPage(kind=PageKind.MERGE_REQUEST, number=4)
    project.pages[page] = Shown(sha=OLD_SHA, ref="feature/x")
    served.world.add_image()
    notes = ada("launch", *arguments, "--json").document["annotations"]
    assert (notes["renku.io/branch"], notes["renku.io/commit-sha"]) == (branch, sha)


@pytest.mark.parametrize(
    ("address", "sent"),
    [
        ("https://ada:glpat-secret@gitlab.test/a/b.git", "https://gitlab.test/a/b.git"),
        ("https://gitlab.test:8443/a/b?x=y@z", "https://gitlab.test:8443/a/b?x=y@z"),
        ("git@gitlab.test:a/b.git", "git@gitlab.test:a/b.git"),
        ("a/b", "a/b"),
    ],
)
def test_no_credential_of_an_address_is_sent(address: str, sent: str) -> None:
    """A clone URL with a token in it is sent without; everything else goes as it is."""
    assert without_credentials(address) == sent


def test_launch_waits_for_ready(served: Served, ada: Run) -> None:
    """With --wait every step is shown on stderr, and the name printed when the session is ready."""
    served.world.add_image()

    def become_ready() -> None:
        name = served.world.until(lambda: next(iter(served.world.runtime.workloads), None))
        served.world.be_ready(SessionName(name))

    other = threading.Thread(target=become_ready)
    other.start()
    ended = ada("launch", "grp/proj", "--wait")
    other.join(10)
    assert ended.code == ExitCode.DONE
    assert ended.out.startswith(NAME)
    assert "Starting Jupyter." in ended.err


def test_launch_that_fails(served: Served, ada: Run) -> None:
    """A launch that fails ends with 1 and the sentence that the session failed with."""
    project = next(iter(served.world.forge.projects.values()))
    served.world.add_job(project, JobStatus.FAILED, log=b"no such package\n")
    ended = ada("launch", "grp/proj", "--fallback", "fail", "--wait", "--json")
    assert ended.code == ExitCode.FAILED
    assert "image_build" in json.loads(ended.out)["error"]["message"]


def test_launch_waits_too_long(served: Served, ada: Run) -> None:
    """A launch that is not ready in time ends with 5, and goes on."""
    project = next(iter(served.world.forge.projects.values()))
    served.world.add_job(project, JobStatus.RUNNING)
    ended = ada("launch", "grp/proj", "--wait", "--timeout", "1")
    assert ended.code == ExitCode.WAITED_TOO_LONG
    assert len(ada("sessions", "--json").document["servers"]) == 1


def test_events_logs_and_explanation(served: Served, ada: Run) -> None:
    """Events come one document per line, logs by container, and the image is explained, by a name's beginning."""
    name = launch_ready(served, ada)
    lines = [json.loads(line) for line in ada("events", NAME, "--until", "ready", "--json").out.splitlines()]
    assert lines[-1]["event"] == "ready"
    assert ada("logs", name, "--json").code == ExitCode.DONE
    assert ada("logs", name, "--container", "nothing").code == ExitCode.NOT_FOUND
    assert ada("explain", NAME, "--json").document["image"]["source"] == "exact"
    assert "exact: " in ada("explain", name).out


def test_open_prints_the_address(served: Served, ada: Run) -> None:
    """A one-time address is printed; nothing is opened when that is not wanted."""
    name = launch_ready(served, ada)
    assert served.world.until(lambda: ada("open", name, "--no-browser").out.startswith("http://127.0.0.1:4567/"))
    assert set(ada("open", name, "--json").document) == {"url", "expires_at"}


def test_stop_waits_until_gone(served: Served, ada: Run) -> None:
    """A stop that waits returns when the session is gone from the list."""
    name = launch_ready(served, ada)
    assert ada("stop", name, "--wait", "--json").document == {"stopped": [name]}
    assert ada("sessions", "--json").document == {"servers": {}}
    assert ada("stop", name).code == ExitCode.NOT_FOUND


def test_an_address_elsewhere(served: Served, ada: Run) -> None:
    """An address of another server, or one of nothing, ends with the server's own sentence."""
    ended = ada("launch", "https://gitlab.elsewhere.example/grp/proj")
    assert (ended.code, "This address is of another server." in ended.err) == (ExitCode.FAILED, True)
    assert ada("launch", "https://gitlab.test/grp/proj/-/pipelines/8").code == ExitCode.NOT_FOUND
    assert served.world.runtime.workloads == {}


def test_strangers_are_told_nothing(served: Served, ada: Run, tmp_path: Path) -> None:
    """Another person's session is not found, and neither is a project that one may not see."""
    name = launch_ready(served, ada)
    bob = tmp_path / "bob"
    bob.write_text("token-bob")
    for command in (("logs", name), ("stop", name), ("explain", name), ("launch", "grp/proj")):
        assert ada(*command, "--token-file", str(bob)).code == ExitCode.NOT_FOUND


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("sessions",), ExitCode.NO_RIGHT, "spawner login"),
        (
            ("sessions", "--url", "http://127.0.0.1:9", "--token-file", "{token}"),
            ExitCode.UNAVAILABLE,
            "cannot be reached",
        ),
        (("sessions", "--url", "http://h", "--token-file", "{missing}"), ExitCode.USAGE, "cannot be read"),
        (("sessions", "--url", "http://h", "--token-file", "{empty}"), ExitCode.USAGE, "holds no token"),
        (("sessions", "--url", "http://h", "--token-file", "{binary}"), ExitCode.USAGE, "holds no token"),
        (("launch", "justaname"), ExitCode.USAGE, "names no project"),
        (
            ("launch", "https://[x/grp/proj", "--url", "http://h", "--token-file", "{token}"),
            ExitCode.USAGE,
            "is no address",
        ),
        (("stop",), ExitCode.USAGE, "Name sessions"),
        (("nothing",), ExitCode.USAGE, "No such command"),
        (("login", "gitlab.example.org"), ExitCode.USAGE, "is no address"),
    ],
)
def test_usage_and_reach(run: Run, tmp_path: Path, arguments: tuple[str, ...], code: ExitCode, words: str) -> None:
    """What is wrong before any answer has its code, its sentence, and with --json one document."""
    (tmp_path / "token").write_text("token")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    places = {name: str(tmp_path / name) for name in ("token", "missing", "empty", "binary")}
    ended = run(*(argument.format(**places) for argument in arguments), "--json")
    assert ended.code == code
    assert words in ended.err
    assert json.loads(ended.out)["error"]["code"] == code


def test_a_wrong_token_is_no_right(served: Served, run: Run, tmp_path: Path) -> None:
    """A token that GitLab does not know ends with 3 and says how to sign in."""
    (tmp_path / "token").write_text("token-of-nobody")
    ended = run("sessions", "--url", served.url, "--token-file", str(tmp_path / "token"))
    assert ended.code == ExitCode.NO_RIGHT


def test_login_by_a_gitlab_token_can_launch(served: Served, run: Run, tmp_path: Path) -> None:
    """Of somebody who never signed in, GitLab's token is kept: one of ours would have nothing to act with."""
    (tmp_path / "token").write_text("token-ada")
    told = run("login", served.url, "--token-file", str(tmp_path / "token"))
    assert "GitLab's own token" in told.err
    served.world.add_image()
    assert run("launch", "grp/proj", "--json").code == ExitCode.DONE


def test_login_keeps_a_token_of_ours(served: Served, run: Run, tmp_path: Path) -> None:
    """Of somebody who has signed in it is exchanged; what is kept is ours, private, good, and gone after logout."""
    served.world.sign_in("ada")
    (tmp_path / "token").write_text("token-ada")
    assert run("login", served.url, "--token-file", str(tmp_path / "token"), "--json").document["username"] == "ada"
    kept = configuration_file()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert "token-ada" not in kept.read_text()
    listed = run("token", "list", "--json").document["tokens"]
    assert [row["revoked_at"] for row in listed] == [None]
    assert run("token", "revoke", listed[0]["id"]).code == ExitCode.DONE
    assert run("sessions").code == ExitCode.NO_RIGHT
    assert run("logout", "--json").document == {"forgotten": True}
    assert run("logout", "--json").document == {"forgotten": False}


def test_a_token_is_printed_once(ada: Run) -> None:
    """A token that is made is printed, works, and is not in the list of tokens."""
    made = ada("token", "create", "a script", "--days", "2")
    assert made.code == ExitCode.DONE
    assert made.out.count(".") == 2
    assert made.out.strip() not in ada("token", "list", "--json").out


def test_help_names_every_command(run: Run) -> None:
    """The help lists all commands without importing them, and every one has a help of its own."""
    from spawner.cli import COMMANDS  # noqa: PLC0415 - the table is what is tested

    listed = run("--help").out
    for name in COMMANDS:
        assert f"\n  {name} " in listed
        assert run(name, "--help").code == ExitCode.DONE
