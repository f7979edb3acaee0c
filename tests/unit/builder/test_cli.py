"""The commands that build nothing: `key`, `explain`, `plan`, `retag`, `init`; and how any of them ends.

Left out: `build` (test_build).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from builder.cli import Exit, run
from builder.environment import this_platform
from builder.key import environment_key
from builder.oci import RegistryClient
from tests.unit.builder.test_oci import _push

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.builder.commits import Files, Repository

FILES: Files = {"requirements.txt": "six\n", "a.ipynb": "{}"}
Output = Callable[..., tuple[int, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, repository: Repository, capsys: pytest.CaptureFixture[str]) -> Output:
    """Run a command in the checkout; its exit code and stdout."""
    for name in list(os.environ):
        if name.startswith("CI"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(repository.path)

    def run_it(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = run(list(arguments))
        return code, capsys.readouterr().out

    return run_it


def _digest(repository: Repository, sha: str) -> str:
    with repository.tree(sha) as tree:
        return environment_key(tree.tree, tree.read, platform=this_platform()).digest


def test_key_prints_64_characters(call: Output, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of HEAD, of the commit asked for, of the job's commit, and of a checkout elsewhere; alone on stdout."""
    first = repository.commit(FILES)
    second = repository.commit({"requirements.txt": "attrs\n"})
    assert call("key") == (Exit.DONE, f"{_digest(repository, second)}\n")
    assert call("key", "--commit", first) == (Exit.DONE, f"{_digest(repository, first)}\n")
    monkeypatch.chdir("/")
    assert call("key", str(repository.path)) == (Exit.DONE, f"{_digest(repository, second)}\n")
    monkeypatch.setenv("CI_COMMIT_SHA", first)
    assert call("key", str(repository.path)) == (Exit.DONE, f"{_digest(repository, first)}\n")


def test_key_as_json_is_one_document(call: Output, repository: Repository) -> None:
    """With --json the key comes with all that it was made of."""
    sha = repository.commit(FILES)
    with repository.tree(sha) as tree:
        found = environment_key(tree.tree, tree.read, platform=this_platform())
    code, text = call("key", "--json")
    assert (code, json.loads(text)) == (Exit.DONE, {
        "key": found.digest, "scheme": 1, "kind": "environment", "platform": this_platform(), "recipe": "python-1",
        "source": "requirements.txt", "everything": None, "mutable": list(found.mutable),
        "inputs": [{"path": "requirements.txt", "mode": "100644", "fingerprint": found.inputs[0].fingerprint}],
    })  # fmt: skip


def test_the_kinds_have_keys_of_their_own(call: Output, repository: Repository) -> None:
    """A container's key is another than an environment's."""
    repository.commit(FILES)
    assert call("key", "--kind", "container")[1] != call("key", "--kind", "environment")[1]


@pytest.mark.parametrize(
    ("edit", "changes"),
    [
        ({"a.ipynb": "{1}"}, []),
        ({"requirements.txt": "# why\nsix\n"}, []),
        ({"requirements.txt": "attrs\n"}, [{"path": "requirements.txt", "change": "changed"}]),
        ({"runtime.txt": "python-3.12"}, [{"path": "runtime.txt", "change": "added"}]),
        ({"slipway.toml": '[image]\npython = "3.12"'}, [{"path": "slipway.toml [image]", "change": "changed"}]),
    ],
)
def test_explain_says_what_changed(
    call: Output, repository: Repository, edit: Files, changes: list[dict[str, str]]
) -> None:
    """Against the parent, or any commit, the inputs that differ are named, file by file."""
    first = repository.commit(FILES)
    repository.commit(edit)
    code, text = call("explain", "--json")
    assert code == Exit.DONE
    assert json.loads(text)["against"] == {
        "commit": first, "key": _digest(repository, first), "changes": changes,
    }  # fmt: skip
    assert json.loads(call("explain", "--against", first, "--json")[1]) == json.loads(text)
    assert ("the same environment" in call("explain")[1]) is (not changes)


def test_explain_of_a_first_commit_has_nothing_to_compare(call: Output, repository: Repository) -> None:
    """Without a parent, or with one that declares nothing, the inputs are listed all the same."""
    repository.commit({"README.md": ""})
    assert call("explain")[0] == Exit.NO_RECIPE
    repository.commit(FILES)
    code, text = call("explain", "--json")
    assert (code, json.loads(text)["against"]) == (Exit.DONE, None)


def test_plan_says_what_build_would_do(call: Output, repository: Repository, registry: str, tmp_path: Path) -> None:
    """Without an image of the key it would build, with one it would reuse; and it pushes nothing."""
    sha = repository.commit(FILES)
    name = f"plan/{tmp_path.name}"
    tag = f"env-{_digest(repository, sha)[:32]}"
    image = ["--registry-image", f"{registry}/{name}"]
    client = RegistryClient(registry)
    assert json.loads(call("plan", "--json")[1])["action"] == "build"
    document = json.loads(call("plan", "--json", *image)[1])
    assert (document["action"], document["tags"]) == ("build", [tag, f"{sha}-environment"])
    assert client.tags(name) == ()
    _push(client, name, tag)
    assert json.loads(call("plan", "--json", *image)[1])["action"] == "reuse"
    assert call("plan", *image)[1].startswith(f"reuse: {registry}/{name}:{tag} is sha256:")
    assert client.tags(name) == (tag,)
    client.close()


def test_retag_gives_an_image_a_commits_tags(call: Output, registry: str, tmp_path: Path) -> None:
    """By tag, by digest or from another repository, an image comes under the commit's tags, its digest unchanged."""
    sha, name = "1" * 40, f"retag/{tmp_path.name}"
    image = ["--registry-image", f"{registry}/{name}", "--commit", sha]
    client = RegistryClient(registry)
    pushed = _push(client, name, "env-1")
    for source, target in (("env-1", name), (pushed.digest, name), (f"{name}:env-1", f"{name}-2"),
                           (f"{registry}/{name}@{pushed.digest}", f"{name}-3")):  # fmt: skip
        image[1] = f"{registry}/{target}"
        code, text = call("retag", source, "--json", *image)
        assert (code, json.loads(text)) == (Exit.DONE, {
            "references": [f"{registry}/{target}:{sha}-environment"], "digest": pushed.digest,
            "tags": [f"{sha}-environment"],
        })  # fmt: skip
        assert client.manifest(target, f"{sha}-environment") == pushed
    assert (
        call("retag", "env-1", "--kind", "container", "--registry-image", f"{registry}/{name}", "--commit", sha)[0] == 0
    )
    assert sorted(client.tags(name)) == sorted(["1111111", sha, f"{sha}-environment", "env-1"])
    client.close()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["no-such-tag", "--commit", "1" * 40], Exit.NOT_FOUND),
        (["env-1", "--commit", "1234567"], Exit.USAGE),
        (["env-1", "--commit", "--help"], Exit.USAGE),
        (["env-1"], Exit.USAGE),
    ],
)
def test_retag_ends_in_words(call: Output, registry: str, arguments: list[str], code: Exit) -> None:
    """An image that is not there, a short SHA and no SHA have their exit codes."""
    assert call("retag", *arguments, "--registry-image", f"{registry}/retag/none")[0] == code


def test_init_writes_what_is_missing_and_keeps_what_is_there(call: Output, tmp_path: Path) -> None:
    """An empty folder gets both files, a second run changes nothing, a declared environment stays as it is."""
    fresh, declared = tmp_path / "fresh", tmp_path / "declared"
    fresh.mkdir()
    declared.mkdir()
    (declared / "pyproject.toml").write_text("[project]\n")
    assert json.loads(call("init", str(fresh), "--json")[1]) == {
        "written": [".gitlab-ci.yml", "requirements.txt"], "kept": [],
    }  # fmt: skip
    before = (fresh / ".gitlab-ci.yml").read_text()
    assert json.loads(call("init", str(fresh), "--json")[1])["written"] == []
    assert (fresh / ".gitlab-ci.yml").read_text() == before
    assert json.loads(call("init", str(declared), "--json")[1])["written"] == [".gitlab-ci.yml"]


@pytest.mark.parametrize(
    "name",
    ["setup.py", "setup.cfg", "runtime.txt", "Pipfile.lock", "requirements-dev.txt", "environment.yml", "binder/x"],
)
def test_init_leaves_alone_what_declares_an_environment(call: Output, tmp_path: Path, name: str) -> None:
    """Whatever file a recipe reads, no empty requirements file takes its place."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    done = json.loads(call("init", str(tmp_path), "--json")[1])
    assert done == {"written": [".gitlab-ci.yml"], "kept": [name.partition("/")[0]]}


def test_a_project_made_by_init_has_a_key(call: Output, repository: Repository) -> None:
    """What `init` writes is a project that can be built."""
    call("init")
    repository.commit({})
    assert call("key")[0] == Exit.DONE


@pytest.mark.parametrize(
    "arguments", [[], ["no-such-command"], ["key", "--no-such-option"], ["key", "/no/such/folder"]]
)
def test_a_wrong_command_is_a_usage_error(call: Output, arguments: list[str]) -> None:
    """What cannot be understood ends with 2, never with a trace."""
    assert call(*arguments)[0] == Exit.USAGE


def test_a_folder_without_git_is_a_usage_error(call: Output, tmp_path: Path) -> None:
    """A key needs a commit, and a commit needs Git."""
    (tmp_path / "plain").mkdir()
    assert call("key", str(tmp_path / "plain"))[0] == Exit.USAGE
