"""`spawner connect` and `spawner disconnect` against a whole GitLab stand-in.

Covered: an administrator, a group's owner and a maintainer; a dry run; running twice; what was there before; a right
that lacks; a group without hooks of groups; a template project; a crash between begin and end; undoing. Left out: a
GitLab on a sub-path (tests/functional/test_places.py), sign-in itself.
"""

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from spawner.cli import main
from spawner.cli.connect.folder import SettingsFolder
from spawner.cli.connect.ledger import Ledger, Thing, ThingKind
from spawner.cli.exits import ExitCode
from spawner.testing.gitlab import ProjectHandle, StandIn, UserHandle

PUBLIC_URL = "https://slipway.example.org"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def steps(self) -> list[tuple[str, str]]:
        """The steps, as (thing, outcome)."""
        return [(row["thing"], row["outcome"]) for row in json.loads(self.out)["steps"]]


@dataclass(frozen=True)
class Operator:
    """A person with a project and a group of theirs, and the command line as they use it."""

    person: UserHandle
    project: ProjectHandle
    group: str
    forge: StandIn
    folder: Path
    call: Callable[..., Ended]

    def api(self, path: str) -> Any:
        """Ask GitLab as this person."""
        return self.forge.api("GET", path, user=self.person)


@pytest.fixture
def operator(stand_in: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Operator:
    """An operator who owns a project with one commit, and an empty group."""
    mark = secrets.token_hex(4)
    person = stand_in.add_user(f"op-{mark}")
    group = f"lab-{mark}"
    stand_in.add_group(group, owner=person)
    project = stand_in.add_project(f"{group}/wind", owner=person)
    stand_in.commit(project, {"requirements.txt": "six\n"}, "Begin.")

    def call(*arguments: str, token: str | None = None) -> Ended:
        token_file = tmp_path / "operator-token"
        token_file.write_text(token or person.token)
        capsys.readouterr()
        command, *more = arguments
        shared = ["--token-file", str(token_file), "--folder", str(tmp_path / "settings")]
        url = ["--public-url", PUBLIC_URL] if command == "connect" else []
        with pytest.raises(SystemExit) as ended:
            main([command, stand_in.url, *shared, *url, *more])
        printed = capsys.readouterr()
        return Ended(int(ended.value.code or 0), printed.out, printed.err)

    return Operator(
        person=person, project=project, group=group, forge=stand_in, folder=tmp_path / "settings", call=call
    )


def test_a_maintainer_connects_a_project_and_undoes_it(operator: Operator) -> None:
    """A project gets its hook, badge and merge request; a second run changes nothing; undoing leaves nothing."""
    at = f"/projects/{operator.project.id}"
    ended = operator.call("connect", "--project", operator.project.path, "--json")
    path = operator.project.path
    assert ended.steps() == [
        ("gitlab", "kept"), ("token", "kept"), ("application", "lacks"), ("settings", "made"),
        (path, "made"), (path, "made"), (path, "made"),
    ]  # fmt: skip
    assert ended.code == ExitCode.NO_RIGHT
    (hook,) = operator.api(f"{at}/hooks")
    assert hook["url"] == f"{PUBLIC_URL}/hooks/gitlab"
    assert (hook["job_events"], hook["pipeline_events"], hook["token_present"]) == (True, True, True)
    (badge,) = operator.api(f"{at}/badges")
    assert badge["rendered_link_url"] == f"{PUBLIC_URL}/launch/{path}/-/tree/main"
    (proposal,) = operator.api(f"{at}/merge_requests?state=opened")
    assert (proposal["source_branch"], proposal["target_branch"]) == ("slipway/add-image-build", "main")

    again = operator.call("connect", "--project", path, "--json")
    assert {outcome for thing, outcome in again.steps() if thing == "settings"} == {"kept"}
    assert [len(operator.api(f"{at}/{things}")) for things in ("hooks", "badges", "merge_requests")] == [1, 1, 1]

    undone = operator.call("disconnect", "--json")
    assert {outcome for _, outcome in undone.steps()} == {"removed"}
    assert undone.code == ExitCode.DONE
    assert (operator.api(f"{at}/hooks"), operator.api(f"{at}/badges")) == ([], [])
    assert operator.api(f"{at}/merge_requests?state=opened") == []
    assert [row["name"] for row in operator.api(f"{at}/repository/branches")] == ["main"]


def test_what_others_set_up_is_kept(operator: Operator) -> None:
    """A hook and a badge that were there are never doubled nor removed; one that lacks events is set right."""
    at = f"/projects/{operator.project.id}"
    there = {"url": f"{PUBLIC_URL}/hooks/gitlab", "push_events": True}
    operator.forge.api("POST", f"{at}/hooks", user=operator.person, body=there)
    ended = operator.call("connect", "--project", operator.project.path, "--no-template", "--json")
    assert (operator.project.path, "changed") in ended.steps()
    operator.call("disconnect")
    (hook,) = operator.api(f"{at}/hooks")
    assert hook["job_events"] is True


def test_a_dry_run_changes_nothing(operator: Operator) -> None:
    """It says what would be done, in GitLab and on this machine, and does none of it."""
    ended = operator.call("connect", "--project", operator.project.path, "--dry-run", "--json")
    assert [outcome for thing, outcome in ended.steps() if thing == operator.project.path] == ["would"] * 3
    assert operator.api(f"/projects/{operator.project.id}/hooks") == []
    assert not operator.folder.exists()


def test_an_administrator_registers_sign_in(operator: Operator) -> None:
    """The application's id and secret stand in the folder, readable by its owner alone, and are never printed."""
    token = operator.forge.admin.token
    ended = operator.call("connect", "--json", token=token)
    assert ("application", "made") in ended.steps()
    assert ended.code == ExitCode.DONE
    folder = SettingsFolder(path=operator.folder)
    settings = folder.settings()
    secret = folder.secret("client-secret")
    assert (operator.folder / "client-secret").stat().st_mode & 0o777 == 0o600
    assert secret not in ended.out + ended.err
    assert settings["SPAWNER_GITLAB__URL"] == operator.forge.url
    applications = operator.forge.api("GET", "/applications")
    made = [row for row in applications if row["application_id"] == settings["SPAWNER_GITLAB__CLIENT_ID"]]
    assert [row["callback_url"] for row in made] == [f"{PUBLIC_URL}/login/callback"]
    assert ("application", "kept") in operator.call("connect", "--json", token=token).steps()
    (operator.folder / "client-secret").unlink()
    assert ("application", "changed") in operator.call("connect", "--json", token=token).steps()
    assert folder.secret("client-secret") != secret
    operator.call("disconnect", token=token)
    assert all(
        row["callback_url"] != f"{PUBLIC_URL}/login/callback" for row in operator.forge.api("GET", "/applications")
    )


def test_a_group_gives_its_projects_the_button(operator: Operator) -> None:
    """One badge on the group, a hook on each project where the plan has none for groups, a proposal for each."""
    ended = operator.call("connect", "--group", operator.group, "--json")
    assert not [row for row in ended.steps() if row[1] == "lacks" and row[0] != "application"], ended.out
    badges = operator.api(f"/projects/{operator.project.id}/badges")
    assert [row["kind"] for row in badges] == ["group"]
    assert len(operator.api(f"/projects/{operator.project.id}/merge_requests?state=opened")) == 1
    operator.call("disconnect")
    assert operator.api(f"/projects/{operator.project.id}/badges") == []


def test_a_right_that_lacks_is_named(operator: Operator) -> None:
    """A developer learns which role each step wants and why; a path that is wrong, that it is; nothing is half done."""
    developer = operator.forge.add_user(f"dev-{secrets.token_hex(4)}")
    operator.forge.add_member(operator.project, developer, 30)
    ended = operator.call("connect", "--project", operator.project.path, "--project", "no/where", token=developer.token)
    assert ended.code == ExitCode.NO_RIGHT
    assert "a hook wants a maintainer of it" in ended.out
    assert "no/where" in ended.out
    assert operator.api(f"/projects/{operator.project.id}/hooks") == []


def test_a_token_without_the_scope_is_told(operator: Operator) -> None:
    """What may only read sets nothing up, and the scope that is wanted is named."""
    token = operator.forge.add_token(operator.person.id, scopes=("read_api",))
    ended = operator.call("connect", "--project", operator.project.path, token=token)
    assert ended.code == ExitCode.NO_RIGHT
    assert "wants api" in ended.out
    assert operator.call("connect", token="glpat-nobody").code == ExitCode.NO_RIGHT


def test_a_template_project_is_what_init_writes(operator: Operator) -> None:
    """The project holds the build job and a requirements file, each once, however often it is asked for."""
    path = f"{operator.group}/template"
    for _ in range(2):
        operator.call("connect", "--template-project", path)
    found = operator.api(f"/projects/{path.replace('/', '%2F')}")
    files = operator.api(f"/projects/{found['id']}/repository/tree")
    assert sorted(row["path"] for row in files) == [".gitlab-ci.yml", "requirements.txt"]
    assert len(operator.api(f"/projects/{found['id']}/repository/commits")) == 2


def test_what_was_begun_and_not_ended_is_undone(operator: Operator) -> None:
    """A thing that was made just before the command was killed is found again by its mark."""
    at = f"/projects/{operator.project.id}"
    url = f"{PUBLIC_URL}/hooks/gitlab"
    operator.forge.api("POST", f"{at}/hooks", user=operator.person, body={"url": url})
    Ledger.open(operator.folder, operator.forge.url).begin(Thing(kind=ThingKind.HOOK, address=at, mark=url))
    operator.call("disconnect")
    assert operator.api(f"{at}/hooks") == []
    assert list(Ledger.open(operator.folder, operator.forge.url).of(ThingKind.HOOK)) == []


def test_a_folder_of_another_gitlab_is_refused(operator: Operator) -> None:
    """The record of one GitLab is never used to change another."""
    Ledger.open(operator.folder, "https://other.example.org").begin(
        Thing(kind=ThingKind.HOOK, address="/projects/1", mark="x")
    )
    ended = operator.call("disconnect")
    assert ended.code == ExitCode.FAILED
    assert "https://other.example.org" in ended.err
