"""Environment keys through the port: the builder's own, few exchanges, kept, healing, and no trace of a token.

Left out: what makes a key (the builder's own tests).
"""

import base64
import contextlib
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from builder.key import Kind, environment_key
from builder.trees import GitTree
from spawner.errors import ForgeUnavailable, RevisionNotFound, TokenRejected
from spawner.names import CommitSha
from spawner.ports import ImageKind, Visibility
from tests.contract.forge_port.conftest import personal

if TYPE_CHECKING:
    from spawner.testing.gitlab import ProjectHandle
    from tests.contract.forge_port.conftest import World

NO_COMMIT = CommitSha("0123456789" * 4)
FILES = {
    "requirements.txt": "-r more/other.txt\nnumpy==2.0.0\n",
    "more/other.txt": "pandas==2.2.0\n",
    "slipway.toml": '[image]\npython = "3.11"\n',
    "notebooks/a.ipynb": "{}",
}


def exchanges(world: "World") -> int:
    """Return how many times Git asked for objects so far."""
    return sum(count for route, count in world.standin.requests().items() if "git-upload-pack" in route)


def signed_in(world: "World") -> list[str]:
    word = base64.b64encode(f"oauth2:{world.ada.token}".encode()).decode()
    return ["git", "-c", f"http.extraHeader=Authorization: Basic {word}", "-c", "maintenance.auto=false"]


def imported(world: "World", project: "ProjectHandle", files: dict[str, str], folder: Path) -> CommitSha:
    """Push one commit of very many files, made without a working tree."""
    blobs = "".join(f"M 100644 inline {name}\ndata {len(text.encode())}\n{text}\n" for name, text in files.items())
    stream = f"commit refs/heads/main\ncommitter A <a@example.org> 1700000000 +0000\ndata 5\nlarge\n{blobs}\n"
    git = [*signed_in(world), f"--git-dir={folder}"]
    subprocess.run([*git, "init", "-q", "--bare"], check=True, timeout=60)
    subprocess.run([*git, "fast-import", "--quiet"], input=stream.encode(), check=True, timeout=60)
    subprocess.run([*git, "push", "-q", project.http_url, "main"], check=True, timeout=60)
    found = subprocess.run([*git, "rev-parse", "main"], check=True, timeout=60, capture_output=True, text=True)
    return CommitSha(found.stdout.strip())


def builders_keys(world: "World", project: "ProjectHandle", sha: str, folder: Path) -> dict[str, str]:
    """Return the keys that the builder computes in an ordinary clone, by kind."""
    subprocess.run([*signed_in(world), "clone", "-q", project.http_url, str(folder)], check=True, timeout=60)
    with GitTree(folder / ".git", sha) as files:
        return {kind.value: environment_key(files.tree, files.read, kind=kind).digest for kind in Kind}


def test_the_key_is_the_builders_own_in_two_exchanges_and_then_none(world: "World", tmp_path: Path) -> None:
    """A commit never seen costs two fetches and one for a file that another refers to; afterwards nothing is asked."""
    project = world.standin.add_project("ada/keyed", owner=world.ada)
    sha = CommitSha(world.standin.commit(project, FILES))
    ada = personal(world.ada.token)
    known = world.project(project, ada)
    forge = world.forge(cache=tmp_path / "keys")
    before = exchanges(world)
    keys = forge.environment_keys(ada, known, sha)
    # Commit and trees; control files; and the one file that a control file refers to.
    assert exchanges(world) - before == 3
    assert {key.kind.value: key.key for key in keys} == builders_keys(world, project, sha, tmp_path / "clone")
    environment = next(key for key in keys if key.kind is ImageKind.ENVIRONMENT)
    assert [path for path, _, _ in environment.inputs] == ["more/other.txt", "requirements.txt"]
    before = exchanges(world)
    assert world.forge(cache=tmp_path / "keys").environment_keys(ada, known, sha) == keys
    assert exchanges(world) == before


def test_a_notebooks_edit_keeps_the_key_and_a_requirement_changes_it(world: "World", tmp_path: Path) -> None:
    """The same cache serves the next commits of a project."""
    project = world.standin.add_project("ada/edited", owner=world.ada)
    shas = [
        world.standin.commit(project, FILES),
        world.standin.commit(project, {"notebooks/a.ipynb": '{"cells": []}'}),
        world.standin.commit(project, {"more/other.txt": "pandas==2.2.1\n"}),
    ]
    ada = personal(world.ada.token)
    known = world.project(project, ada)
    forge = world.forge(cache=tmp_path / "keys")
    found = [[key.key for key in forge.environment_keys(ada, known, CommitSha(sha))] for sha in shas]
    assert (found[0] == found[1], found[0] == found[2]) == (True, False)


def test_a_commit_that_declares_nothing_has_no_key(world: "World", tmp_path: Path) -> None:
    """Where no recipe fits, and where slipway.toml cannot be followed, there is no key and no error."""
    project = world.standin.add_project("ada/bare", owner=world.ada)
    ada = personal(world.ada.token)
    shas = [
        world.standin.commit(project, {"README.md": "x"}),
        world.standin.commit(project, {"slipway.toml": "[image\n", "requirements.txt": "numpy\n"}),
    ]
    known = world.project(project, ada)
    forge = world.forge(cache=tmp_path / "keys")
    assert [forge.environment_keys(ada, known, CommitSha(sha)) for sha in shas] == [(), ()]


def test_a_commit_says_what_its_build_makes(world: "World", tmp_path: Path) -> None:
    """`kinds` of slipway.toml comes with the keys, from GitLab and from the cache alike, and changes none."""
    project = world.standin.add_project("ada/kinds", owner=world.ada)
    ada = personal(world.ada.token)
    shas = [
        world.standin.commit(project, FILES),
        world.standin.commit(project, {"slipway.toml": '[image]\nkinds = ["container"]\npython = "3.11"\n'}),
    ]
    known = world.project(project, ada)
    for _ in range(2):
        forge = world.forge(cache=tmp_path / "keys")
        plain, told = (forge.environment_keys(ada, known, CommitSha(sha)) for sha in shas)
        assert {key.made_kinds for key in plain} == {()}
        assert {key.made_kinds for key in told} == {(ImageKind.CONTAINER,)}
        assert [key.key for key in plain] == [key.key for key in told]


def test_a_large_commit_costs_no_more_exchanges(world: "World", tmp_path: Path) -> None:
    """Twenty thousand files make the fetch larger, not longer in exchanges."""
    project = world.standin.add_project("ada/large", owner=world.ada)
    files = {f"data/{number // 200:03}/{number:05}.csv": f"{number}\n" for number in range(20_000)}
    sha = imported(world, project, FILES | files, tmp_path / "large.git")
    ada = personal(world.ada.token)
    known = world.project(project, ada)
    before = exchanges(world)
    keys = world.forge(cache=tmp_path / "keys").environment_keys(ada, known, sha)
    assert exchanges(world) - before == 3
    assert len(keys) == 2
    size = sum(file.stat().st_size for file in (tmp_path / "keys").rglob("*") if file.is_file())
    assert size < 4_000_000


@pytest.mark.parametrize(
    "place",
    [
        {"Dockerfile": "", ".dockerignore": "data\n"},
        {"ci/Dockerfile.gpu": "", "ci/Dockerfile.gpu.dockerignore": "data\n",
         "slipway.toml": '[image]\ndockerfile = "ci/Dockerfile.gpu"\n'},
    ],
    ids=["in the root", "elsewhere"],
)  # fmt: skip
def test_a_dockerfile_in_a_large_commit_costs_two_exchanges(
    world: "World", tmp_path: Path, place: dict[str, str]
) -> None:
    """The trees, and every file that says what a Dockerfile's build reads: the key is the builder's own."""
    project = world.standin.add_project(f"ada/dockerfile{len(place)}", owner=world.ada)
    files = {f"data/{number // 200:03}/{number:05}.csv": f"{number}\n" for number in range(20_000)}
    files |= {path: text or "FROM python:3.12\nCOPY . /srv\n" for path, text in place.items()}
    sha = imported(world, project, files | {"requirements.txt": "six\n", "src/a.py": "a"}, tmp_path / "large.git")
    ada = personal(world.ada.token)
    known = world.project(project, ada)
    before = exchanges(world)
    keys = world.forge(cache=tmp_path / "keys").environment_keys(ada, known, sha)
    assert exchanges(world) - before == 2
    assert {key.kind.value: key.key for key in keys} == builders_keys(world, project, sha, tmp_path / "clone")
    container = next(key for key in keys if key.kind is ImageKind.CONTAINER)
    assert container.recipe == "dockerfile-2"
    assert "data" not in [path for path, _, _ in container.inputs]


def test_eight_threads_that_want_one_key_ask_git_once(world: "World", tmp_path: Path) -> None:
    """The project's lock makes the first compute and the others read."""
    project = world.standin.add_project("ada/wanted", owner=world.ada)
    sha = CommitSha(world.standin.commit(project, {"requirements.txt": "numpy\n"}))
    ada = personal(world.ada.token)
    known = world.project(project, ada)
    forge = world.forge(cache=tmp_path / "keys")
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(forge.environment_keys(ada, known, sha))) for _ in range(8)]
    before = exchanges(world)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (len(found), len({tuple(key.key for key in keys) for keys in found})) == (8, 1)
    assert exchanges(world) - before <= 4


@pytest.mark.parametrize("damage", ["objects", "config", "HEAD", "everything"])
def test_a_damaged_cache_heals(world: "World", tmp_path: Path, damage: str) -> None:
    """What a crash or a full disk left broken is made anew."""
    ada = personal(world.ada.token)
    known = world.project(world.private, ada)
    forge = world.forge(cache=tmp_path)
    first = forge.environment_keys(ada, known, world.first)
    place = tmp_path / str(world.private.id)
    for kept in (place / "keys").iterdir():
        kept.write_text("{broken")
    repository = place / "repository.git"
    victims = [repository / damage] if damage != "everything" else [repository]
    for victim in victims:
        for file in victim.rglob("*") if victim.is_dir() else [victim]:
            if file.is_file():
                file.chmod(0o600)
                file.write_bytes(b"broken")
    with contextlib.suppress(ForgeUnavailable):  # the first may find the damage; the next begins anew
        forge.environment_keys(ada, known, world.first)
    assert forge.environment_keys(ada, known, world.first) == first


def test_no_token_is_left_behind(world: "World", tmp_path: Path) -> None:
    """Nothing in the cache holds the token, in clear or in base64."""
    ada = personal(world.ada.token)
    world.forge(cache=tmp_path).environment_keys(ada, world.project(world.private, ada), world.first)
    words = [ada.token.encode(), base64.b64encode(f"oauth2:{ada.token}".encode())]
    held = [file for file in tmp_path.rglob("*") if file.is_file() and any(word in file.read_bytes() for word in words)]
    assert held == []


def test_gitlabs_refusals_are_told_apart(world: "World", tmp_path: Path) -> None:
    """An unknown commit is not found, a dead token rejected; a stranger gets neither commit nor reason."""
    ada = personal(world.ada.token)
    known = world.project(world.private, ada)
    forge = world.forge(cache=tmp_path)
    with pytest.raises(RevisionNotFound):
        forge.environment_keys(ada, known, NO_COMMIT)
    with pytest.raises(RevisionNotFound):
        forge.environment_keys(ada, known, CommitSha("--upload-pack=touch /tmp/x"))
    with pytest.raises(TokenRejected):
        forge.environment_keys(personal("glpat-dead"), known, world.first)
    with pytest.raises(RevisionNotFound):
        forge.environment_keys(personal(world.bob.token), known, world.first)


def test_a_public_project_needs_no_right_of_the_token(world: "World", tmp_path: Path) -> None:
    """A token that may not read repositories still gets the key of a public project."""
    narrow = personal(world.standin.add_token(world.bob.id, scopes=["read_api"]))
    known = world.project(world.public, narrow)
    assert known.visibility is Visibility.PUBLIC
    head = world.forge().commit(narrow, known.id, "main")
    assert head is not None
    assert len(world.forge(cache=tmp_path).environment_keys(narrow, known, head.sha)) == 2
