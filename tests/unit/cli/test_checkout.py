"""A checkout's work, with real Git: what is committed of it, and that nothing of the person's is touched.

Covered: every kind of change, ignored files, odd names, the same work twice, conflicts, too much, remotes, pushing.
Left out: GitLab at the other end (functional/test_launch_here).
"""

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from spawner.cli import checkout as module
from spawner.cli.checkout import Checkout, Remote, Work
from spawner.cli.exits import CommandFailed, ExitCode

Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Git:
    """Git in a checkout of its own, with a bare repository as its remote and nothing of this machine's settings."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "settings"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_OPTIONAL_LOCKS", "0")  # that looking here writes no index either
    (tmp_path / "settings").write_text("[user]\n\tname = Ada\n\temail = ada@people.test\n")
    folder = tmp_path / "checkout"
    folder.mkdir()

    def run(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    subprocess.run(["git", "init", "--quiet", "--bare", tmp_path / "bare"], check=True)
    run("init", "--quiet", "--initial-branch", "main")
    for name, content in {"kept.py": "1", "edited.py": "1", "gone.py": "1", "old.py": "1\n2\n3\n"}.items():
        (folder / name).write_text(content)
    (folder / ".gitignore").write_text("secret.env\n")
    run("add", "--all")
    run("commit", "--quiet", "--message", "Begin.")
    run("remote", "add", "origin", str(tmp_path / "bare"))
    run("push", "--quiet", "--set-upstream", "origin", "main")
    return run


@pytest.fixture
def folder(git: Git) -> Path:
    """The checkout's folder."""
    return Path(git("rev-parse", "--show-toplevel"))


def everything(folder: Path, git: Git) -> tuple[object, ...]:
    """Return what must stay: index, files, branches, HEAD, stashes, and what Git says of them."""
    index = hashlib.sha256((folder / ".git" / "index").read_bytes()).hexdigest()
    files = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts}
    return (
        index,
        files,
        git("for-each-ref", "refs/heads", "refs/stash"),
        git("symbolic-ref", "HEAD"),
        git("status", "-s"),
    )


def dirty(folder: Path, git: Git) -> None:
    """Change files in every way there is."""
    (folder / "edited.py").write_text("2")
    (folder / "staged.py").write_text("staged")
    git("add", "staged.py")
    (folder / "staged.py").write_text("and edited")
    (folder / "gone.py").unlink()
    git("mv", "old.py", "new.py")
    (folder / "new folder").mkdir()
    (folder / "new folder" / "ä\n.txt").write_text("new")
    (folder / "secret.env").write_text("TOKEN=1")


def test_clean(git: Git, folder: Path) -> None:
    """What is committed is launched as it is."""
    assert Checkout(folder).work() == Work(sha=git("rev-parse", "HEAD"))


def test_uncommitted_work(git: Git, folder: Path) -> None:
    """Every change but of ignored files is in the commit, on top of HEAD, and nothing of the person's has moved."""
    dirty(folder, git)
    before = everything(folder, git)
    work = Checkout(folder).work()
    assert everything(folder, git) == before
    assert set(work.uncommitted) == {"edited.py", "staged.py", "gone.py", "new.py", "new folder/ä\n.txt"}
    listed = git("ls-tree", "-r", "-z", "--name-only", work.sha).split("\0")
    assert set(listed) - {""} == {".gitignore", "kept.py", *set(work.uncommitted) - {"gone.py"}}
    assert git("show", f"{work.sha}:staged.py") == "and edited"
    assert git("rev-parse", f"{work.sha}^") == git("rev-parse", "HEAD")


def test_the_same_work_is_the_same_commit(git: Git, folder: Path) -> None:
    """Launching twice pushes once; one more edit is another commit."""
    dirty(folder, git)
    first = Checkout(folder).work()
    assert Checkout(folder).work() == first
    (folder / "kept.py").write_text("3")
    assert Checkout(folder).work().sha != first.sha


def test_pushing(git: Git, folder: Path, tmp_path: Path) -> None:
    """The work arrives on a branch of its own, and on no other; the checkout stays as it was."""
    dirty(folder, git)
    before, checkout = everything(folder, git), Checkout(folder)
    work, remote = checkout.work(), next(checkout.remotes())
    branch = checkout.own_branch("ada", work)
    checkout.push(remote, work, branch)
    checkout.push(remote, work, branch)
    assert everything(folder, git) == before
    assert branch == f"slipway/ada/main/{work.sha[:7]}"
    heads = git("ls-remote", "--heads", str(tmp_path / "bare"))
    assert {line.split("\t")[1]: line.split("\t")[0] for line in heads.splitlines()} == {
        "refs/heads/main": git("rev-parse", "HEAD"),
        f"refs/heads/{branch}": work.sha,
    }


def test_a_push_that_fails_is_told(git: Git, folder: Path) -> None:
    """What Git says is the failure's sentence."""
    checkout = Checkout(folder)
    remote = Remote(name="nowhere", url="")
    with pytest.raises(CommandFailed, match=r"git push failed: .*nowhere"):
        checkout.push(remote, Work(sha=git("rev-parse", "HEAD")), "slipway/ada/main/1")


def test_remotes_in_order(git: Git, folder: Path) -> None:
    """The remote that the branch follows comes first, then origin, then the rest."""
    for name in ("a", "team"):
        git("remote", "add", name, f"https://gitlab.test/{name}/proj.git")
    assert [remote.name for remote in Checkout(folder).remotes()] == ["origin", "a", "team"]
    git("config", "branch.main.remote", "team")
    git("config", "branch.main.merge", "refs/heads/trunk")
    checkout = Checkout(folder)
    remotes = list(checkout.remotes())
    assert [remote.name for remote in remotes] == ["team", "origin", "a"]
    assert [checkout.branch_at(remote) for remote in remotes] == ["trunk", "main", "main"]


def test_detached(git: Git, folder: Path) -> None:
    """Without a branch there is still a commit to launch."""
    git("switch", "--quiet", "--detach")
    checkout = Checkout(folder)
    assert (checkout.branch, checkout.branch_at(Remote(name="origin", url=""))) == (None, None)
    assert checkout.own_branch("ada", Work(sha="b" * 40)) == "slipway/ada/detached/bbbbbbb"


def test_conflicts_are_nobodys_work(git: Git, folder: Path) -> None:
    """In the middle of a merge nothing is committed."""
    git("switch", "--quiet", "--create", "other")
    (folder / "kept.py").write_text("other")
    git("commit", "--quiet", "--all", "--message", "Other.")
    git("switch", "--quiet", "main")
    (folder / "kept.py").write_text("main")
    git("commit", "--quiet", "--all", "--message", "Main.")
    with pytest.raises(subprocess.CalledProcessError):
        git("merge", "--quiet", "other")
    with pytest.raises(CommandFailed, match="conflicts") as caught:
        Checkout(folder).work()
    assert caught.value.code == ExitCode.USAGE


def test_too_much(git: Git, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forgotten data set is not copied, let alone pushed."""
    monkeypatch.setattr(module, "UNCOMMITTED_BYTES", 1000)
    (folder / "data.bin").write_bytes(bytes(2000))
    before = git("count-objects")
    with pytest.raises(CommandFailed, match="too much"):
        Checkout(folder).work()
    assert git("count-objects") == before


def test_no_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is none, no repository, or has no commit is told apart, each as a wrong use."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "empty").mkdir()
    subprocess.run(["git", "init", "--quiet", tmp_path / "empty"], check=True)
    for place, words in (("absent", "no folder"), (".", "no Git checkout"), ("empty", "no commit yet")):
        with pytest.raises(CommandFailed, match=words) as caught:
            Checkout(tmp_path / place)
        assert caught.value.code == ExitCode.USAGE
