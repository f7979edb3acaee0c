"""Git and Git LFS over HTTP, with the real programs.

Covered: clone and push with tokens in every form, refusals, protected branches, fetch by SHA, blobless clones, LFS
objects and locks. Left out: SSH, which is not offered.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
import requests

from spawner.testing.gitlab import StandInError

if TYPE_CHECKING:
    from pathlib import Path

    from spawner.testing.gitlab import ProjectHandle
    from tests.contract.forge.conftest import Cast


def _git(folder: Path, header: str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = {"http.extraHeader": header} if header else {}
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_AUTHOR_NAME": "Ada",
        "GIT_AUTHOR_EMAIL": "ada@example.com",
        "GIT_COMMITTER_NAME": "Ada",
        "GIT_COMMITTER_EMAIL": "ada@example.com",
        "GIT_CONFIG_COUNT": str(len(settings)),
    }
    for index, (key, value) in enumerate(settings.items()):
        environment |= {f"GIT_CONFIG_KEY_{index}": key, f"GIT_CONFIG_VALUE_{index}": value}
    return subprocess.run(
        ["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def _basic(name: str, token: str) -> str:
    return "Authorization: Basic " + base64.b64encode(f"{name}:{token}".encode()).decode()


def _clone(cast: Cast, folder: Path, *options: str) -> Path:
    header = _basic("oauth2", cast.owner.token)
    done = _git(folder, header, "clone", "--quiet", *options, cast.project.http_url, "work")
    assert done.returncode == 0, done.stderr
    return folder / "work"


@pytest.mark.parametrize("form", ["oauth2", "own name", "bearer"])
def test_clone_with_a_token(cast: Cast, tmp_path: Path, form: str) -> None:
    """A token opens a private repository as password of `oauth2`, of its owner's name, or as Bearer."""
    header = {
        "oauth2": _basic("oauth2", cast.owner.token),
        "own name": _basic(cast.owner.username, cast.owner.token),
        "bearer": f"Authorization: Bearer {cast.owner.token}",
    }[form]
    done = _git(tmp_path, header, "ls-remote", cast.project.http_url, "refs/heads/main")
    assert done.stdout.split() == [cast.sha, "refs/heads/main"], done.stderr


def test_strangers_are_told_nothing(cast: Cast, tmp_path: Path) -> None:
    """A stranger hears that there is no such project; a wrong token hears that it is wrong."""
    hidden = _git(tmp_path, _basic("oauth2", cast.stranger.token), "ls-remote", cast.project.http_url)
    assert hidden.returncode == 128
    assert "not found" in hidden.stderr
    wrong = requests.get(
        f"{cast.project.http_url}/info/refs?service=git-upload-pack", auth=("oauth2", "glpat-wrong"), timeout=20
    )
    assert wrong.status_code == 401
    assert wrong.headers["WWW-Authenticate"].startswith("Basic")


def test_public_projects_are_cloned_by_anybody_and_pushed_by_members(cast: Cast, tmp_path: Path) -> None:
    """A public project needs no token to read and a Developer's to write."""
    made = cast.forge.add_project(cast.path("open"), owner=cast.owner, visibility="public")
    sha = cast.forge.commit(made, {"a": "a"}, "Open.")
    assert sha in _git(tmp_path, None, "ls-remote", made.http_url).stdout
    refused = requests.get(
        f"{made.http_url}/info/refs?service=git-receive-pack", auth=("oauth2", cast.stranger.token), timeout=20
    )
    assert refused.status_code == 403


def test_scopes_hold_for_git(cast: Cast) -> None:
    """`read_repository` fetches and does not push; `read_api` does not fetch."""
    reading = cast.forge.add_token(cast.owner.id, scopes=["read_repository"])
    other = cast.forge.add_token(cast.owner.id, scopes=["read_user"])

    def status(token: str, service: str) -> int:
        address = f"{cast.project.http_url}/info/refs?service={service}"
        return requests.get(address, auth=("oauth2", token), timeout=20).status_code

    assert status(reading, "git-upload-pack") == 200
    assert status(reading, "git-receive-pack") == 403
    assert status(other, "git-upload-pack") in {401, 403}


def test_fetch_by_sha_and_without_blobs(cast: Cast, tmp_path: Path) -> None:
    """A single commit is fetched by its SHA, and a clone may leave out the blobs."""
    work = _clone(cast, tmp_path, "--filter=blob:none", "--no-checkout")
    assert _git(work, None, "rev-parse", "HEAD").stdout.strip() == cast.sha
    missing = _git(work, None, "rev-list", "--objects", "--missing=print", "HEAD").stdout
    assert "?" in missing
    header = _basic("oauth2", cast.owner.token)
    alone = tmp_path / "alone"
    alone.mkdir()
    _git(alone, None, "init", "--quiet")
    done = _git(alone, header, "fetch", "--quiet", "--depth=1", cast.project.http_url, cast.first)
    assert done.returncode == 0, done.stderr
    assert _git(alone, None, "rev-parse", "FETCH_HEAD").stdout.strip() == cast.first


def test_large_push(cast: Cast) -> None:
    """A push above Git's post buffer arrives in chunks and whole."""
    made = cast.forge.add_project(cast.path("heavy"), owner=cast.owner)
    content = os.urandom(3 << 20)
    sha = cast.forge.commit(made, {"random.bin": content}, "Heavy.")
    assert cast.client().projects.get(made.id).files.raw("random.bin", ref=sha) == content


def test_a_job_reads_its_own_project_only(cast: Cast) -> None:
    """A job's token fetches its own private project, not another one of the same person, and pushes nowhere."""
    made = cast.forge.add_project(cast.path("jobgit"), owner=cast.owner)
    configuration = """
image_build:
  script:
    - read_refs() { git ls-remote "${CI_SERVER_URL/:\\/\\//://gitlab-ci-token:$CI_JOB_TOKEN@}/$1.git" >/dev/null 2>&1; }
    - read_refs "$CI_PROJECT_PATH"
    - if read_refs OTHER; then exit 3; fi
    - if git push "$CI_REPOSITORY_URL" HEAD:refs/heads/from-job; then exit 4; fi
""".replace("OTHER", cast.project.path)
    sha = cast.forge.commit(made, {".gitlab-ci.yml": configuration}, "Read.")
    done = cast.forge.wait_for_job(made, sha, "image_build")
    assert done["status"] == "success", cast.client().projects.get(made.id).jobs.get(done["id"]).trace()


def test_protected_branch(cast: Cast) -> None:
    """A developer may not push to the default branch, and nobody rewrites it; another branch is free."""
    made = cast.forge.add_project(cast.path("guarded"), owner=cast.owner)
    first = cast.forge.commit(made, {"a": "a"}, "One.")
    second = cast.forge.commit(made, {"a": "b"}, "Two.")
    cast.forge.add_member(made, cast.stranger, 30)
    with pytest.raises(StandInError, match="not allowed to push code to protected branches"):
        cast.forge.commit(made, {"a": "c"}, "Mine.", user=cast.stranger)
    cast.forge.commit(made, {"a": "c"}, "Mine.", branch="mine", user=cast.stranger)
    with pytest.raises(StandInError, match="force push"):
        cast.forge.commit(made, {"a": "d"}, "Rewrite.", parent=first)
    head = cast.client().projects.get(made.id).branches.get("main").commit["id"]
    assert head == second


def _lfs_project(cast: Cast) -> ProjectHandle:
    return cast.forge.add_project(cast.path("large"), owner=cast.owner)


def test_lfs_round_trip(cast: Cast, tmp_path: Path) -> None:
    """git-lfs stores an object with a push and gets it back in another clone."""
    if shutil.which("git-lfs") is None:
        pytest.skip("git-lfs is not installed; install the package git-lfs")
    made = _lfs_project(cast)
    header = _basic("oauth2", cast.owner.token)
    work = tmp_path / "work"
    work.mkdir()
    (work / "big.bin").write_bytes(b"large" * 1000)
    for arguments in (
        ("init", "--quiet", "--initial-branch=main"),
        ("lfs", "install", "--local"),
        ("lfs", "track", "*.bin"),
        ("add", "--all"),
        ("commit", "--quiet", "--message", "Large."),
        ("push", "--quiet", made.http_url, "main"),
    ):
        done = _git(work, header, *arguments)
        assert done.returncode == 0, done.stderr
    pointer = cast.client().projects.get(made.id).files.raw("big.bin", ref="main")
    assert b"git-lfs.github.com/spec/v1" in bytes(pointer)
    other = tmp_path / "other"
    done = _git(tmp_path, header, "clone", "--quiet", made.http_url, "other")
    assert done.returncode == 0, done.stderr
    _git(other, header, "lfs", "install", "--local")
    done = _git(other, header, "lfs", "pull")
    assert (other / "big.bin").read_bytes() == b"large" * 1000, done.stderr


def test_lfs_batch_carries_a_token(cast: Cast) -> None:
    """A batch answer holds an Authorization header that is good for the object; an unknown object is an error in it."""
    made = _lfs_project(cast)
    content = b"object"
    oid = hashlib.sha256(content).hexdigest()
    base = f"{made.http_url}/info/lfs/objects/batch"
    auth = ("oauth2", cast.owner.token)
    body = {"operation": "upload", "objects": [{"oid": oid, "size": len(content)}]}
    (row,) = requests.post(base, json=body, auth=auth, timeout=20).json()["objects"]
    upload = row["actions"]["upload"]
    assert upload["header"]["Authorization"].startswith("Basic ")
    assert cast.owner.token not in base64.b64decode(upload["header"]["Authorization"][6:]).decode()
    headers = {key: value for key, value in upload["header"].items() if key != "Transfer-Encoding"}
    assert requests.put(upload["href"], data=content, headers=headers, timeout=20).status_code == 200
    wanted = {"operation": "download", "objects": [{"oid": oid, "size": 6}, {"oid": "0" * 64, "size": 1}]}
    there, absent = requests.post(base, json=wanted, auth=auth, timeout=20).json()["objects"]
    download = there["actions"]["download"]
    assert requests.get(download["href"], headers=download["header"], timeout=20).content == content
    assert absent["error"]["code"] == 404
    hidden = requests.post(base, json=wanted, auth=("oauth2", cast.stranger.token), timeout=20)
    assert hidden.status_code == 404


def test_lfs_refuses_other_bytes(cast: Cast) -> None:
    """An object whose bytes have another digest is not taken."""
    made = _lfs_project(cast)
    answer = requests.put(
        f"{made.http_url}/gitlab-lfs/objects/{'0' * 64}/3", data=b"abc", auth=("oauth2", cast.owner.token), timeout=20
    )
    assert answer.status_code == 400


def test_lfs_locks(cast: Cast) -> None:
    """A lock is seen by all, made once, and removed by its owner."""
    made = _lfs_project(cast)
    base, auth = f"{made.http_url}/info/lfs/locks", ("oauth2", cast.owner.token)
    lock = requests.post(base, json={"path": "big.bin"}, auth=auth, timeout=20).json()["lock"]
    assert lock["path"] == "big.bin"
    assert requests.post(base, json={"path": "big.bin"}, auth=auth, timeout=20).status_code == 409
    verified = requests.post(f"{base}/verify", json={}, auth=auth, timeout=20).json()
    assert ([row["id"] for row in verified["ours"]], verified["theirs"]) == ([lock["id"]], [])
    assert requests.post(f"{base}/{lock['id']}/unlock", json={}, auth=auth, timeout=20).status_code == 200
    assert requests.get(base, auth=auth, timeout=20).json()["locks"] == []
