"""Staging: the folder that an engine sees.

Covered: exactly the inputs and no more, canonical forms, attributes as `git archive` applies them, links, modes, all of
a repository, and what is refused; a Dockerfile's context. Left out: which files are inputs (test_key).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.entries import Kind
from builder.errors import BuildFailedError
from builder.key import environment_key
from builder.stage import stage, stage_context
from tests.unit.builder.commits import EXECUTABLE, LINK, Files, Repository

if TYPE_CHECKING:
    from pathlib import Path


def _staged(repository: Repository, sha: str, folder: Path) -> dict[str, bytes]:
    """Stage a commit; the bytes of every file, links followed."""
    folder.mkdir()
    with repository.tree(sha) as source:
        stage(source, environment_key(source.tree, source.read), folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_inputs_are_staged_and_nothing_else(repository: Repository, tmp_path: Path) -> None:
    """Files that the key does not count are not there; those counted by what they declare are in canonical form."""
    sha = repository.commit({
        "requirements.txt": "# why\n-r more/base.txt\n\nsix   # this\n./libs/gauge\n",
        "more/base.txt": "attrs\n",
        "more/other.txt": "x",
        "libs/gauge/gauge.py": "x = 1\n",
        "start": f"{EXECUTABLE}#!/bin/sh\n",
        "secret.txt": "x",
    })  # fmt: skip
    assert _staged(repository, sha, tmp_path / "stage") == {
        "requirements.txt": b"-r more/base.txt\nsix\n./libs/gauge\n",
        "more/base.txt": b"attrs\n",
        "libs/gauge/gauge.py": b"x = 1\n",
        "start": b"#!/bin/sh\n",
    }
    assert (tmp_path / "stage" / "start").stat().st_mode & 0o100


def test_equal_keys_stage_equal_folders(repository: Repository, tmp_path: Path) -> None:
    """Two commits with one key give the engine the same bytes, whatever else differs, their own names included."""
    attributes = "*.py export-subst\n"
    files = {".gitattributes": attributes, "requirements.txt": "./libs/g\n", "libs/g/g.py": "sha = '$Format:%H$'\n"}
    first = repository.commit(files)
    second = repository.commit({"requirements.txt": "# new\n./libs/g\n", "a.ipynb": "{}"})
    one, two = (_staged(repository, sha, tmp_path / sha) for sha in (first, second))
    assert one == two
    assert one["libs/g/g.py"] == b"sha = '$Format:%H$'\n"


def test_attributes_are_applied_as_git_archive_does(repository: Repository, tmp_path: Path) -> None:
    """Line ends and left-out files follow the commit's own .gitattributes."""
    sha = repository.commit({
        ".gitattributes": "*.cfg text eol=crlf\n*.bak export-ignore\n",
        "requirements.txt": "./libs/g\n",
        "libs/g/a.cfg": "x\n",
        "libs/g/a.bak": "x\n",
    })  # fmt: skip
    staged = _staged(repository, sha, tmp_path / "stage")
    assert staged["libs/g/a.cfg"] == b"x\r\n"
    assert "libs/g/a.bak" not in staged


def test_a_link_is_staged_with_what_it_points_to(repository: Repository, tmp_path: Path) -> None:
    """A configuration folder and a file behind links are readable through them."""
    sha = repository.commit({"binder": f"{LINK}config", "config/requirements.txt": f"{LINK}real.txt",
                             "config/real.txt": "six # x\n", "config/other.txt": ""})  # fmt: skip
    staged = _staged(repository, sha, tmp_path / "stage")
    assert staged["config/requirements.txt"] == b"six\n"
    assert (tmp_path / "stage" / "binder" / "requirements.txt").read_bytes() == b"six\n"
    assert "config/other.txt" not in staged


def test_everything_is_everything(repository: Repository, tmp_path: Path) -> None:
    """Where all of the repository counts, all of it is there, as it is."""
    files: dict[str, str | bytes] = {"requirements.txt": "# kept\n-r /outside\n", "deep/a/b.txt": "x"}
    sha = repository.commit(files)
    assert _staged(repository, sha, tmp_path / "stage") == {path: str(text).encode() for path, text in files.items()}


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 10\n"
REFUSED: list[tuple[str, Files, str]] = [
    ("an LFS pointer", {"requirements.txt": "", "runtime.txt": POINTER}, "runtime.txt is kept in Git LFS"),
    ("a link outside", {"requirements.txt": "./libs\n", "libs/out": f"{LINK}/etc/passwd"}, "cannot be written out"),
    ("a link upwards", {"requirements.txt": "./libs\n", "libs/out": f"{LINK}../../x"}, "cannot be written out"),
]


@pytest.mark.parametrize(("files", "said"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_cannot_be_staged_is_refused_by_name(
    repository: Repository, tmp_path: Path, files: Files, said: str
) -> None:
    """A pointer without its content, and a link that leaves the folder, end the build in words."""
    with pytest.raises(BuildFailedError, match=said):
        _staged(repository, repository.commit(files), tmp_path / "stage")


def test_a_submodule_that_declares_the_environment_is_refused(repository: Repository, tmp_path: Path) -> None:
    """Files inside a submodule are not at hand, so the build ends and says what to do."""
    sha = repository.commit({"requirements.txt": "-r shared/base.txt\n"})
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{sha},shared")
    repository.git("commit", "--quiet", "--message", "Add a submodule.")
    with pytest.raises(BuildFailedError, match="shared is a submodule"):
        _staged(repository, repository.git("rev-parse", "HEAD"), tmp_path / "stage")


def test_a_git_that_does_not_end_fails_the_build(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive that is not written in time is a failed build, in words."""
    sha = repository.commit({"requirements.txt": "six\n"})
    hanging = tmp_path / "bin"
    hanging.mkdir()
    (hanging / "git").write_text("#!/bin/sh\nexec sleep 60\n")
    (hanging / "git").chmod(0o755)
    with repository.tree(sha) as source:
        key = environment_key(source.tree, source.read)
        monkeypatch.setattr("builder.stage.ARCHIVE_SECONDS", 0.2)
        monkeypatch.setenv("PATH", f"{hanging}:/usr/bin:/bin")
        with pytest.raises(BuildFailedError, match="did not write out"):
            stage(source, key, tmp_path / "out")


def _context(repository: Repository, sha: str, folder: Path) -> tuple[bytes, dict[str, bytes | None]]:
    """Stage a Dockerfile; its bytes, and the context's files by path (None: a folder)."""
    folder.mkdir()
    with repository.tree(sha) as source:
        key = environment_key(source.tree, source.read, kind=Kind.CONTAINER)
        staged = stage_context(source, key, folder)
    found = {str(path.relative_to(staged.context)): path for path in staged.context.rglob("*")}
    return staged.dockerfile.read_bytes(), {
        name: path.read_bytes() if path.is_file() else None for name, path in found.items()
    }


DOCKERFILE = "# why\nFROM scratch\nCOPY . /x\n"


def test_a_context_holds_what_the_rules_leave(repository: Repository, tmp_path: Path) -> None:
    """Ignored files are not there, an emptied folder is, the Dockerfile lies outside unless it is copied, too."""
    files = {"Dockerfile": DOCKERFILE, ".dockerignore": "# x\n*.md\ndata/*\nDockerfile\n", "a.py": "a", "b.md": "b",
             "data/c": "c", "src/d.md": "d"}  # fmt: skip
    dockerfile, context = _context(repository, repository.commit(files), tmp_path / "one")
    assert dockerfile == b"FROM scratch\nCOPY . /x\n"
    assert context == {".dockerignore": files[".dockerignore"].encode(), "a.py": b"a", "data": None, "src": None,
                       "src/d.md": b"d"}  # fmt: skip
    sha = repository.commit({".dockerignore": "*.md\n"})
    dockerfile, context = _context(repository, sha, tmp_path / "two")
    assert (dockerfile, context["Dockerfile"]) == (DOCKERFILE.encode(), DOCKERFILE.encode())


def test_a_context_elsewhere_is_staged_as_its_root(repository: Repository, tmp_path: Path) -> None:
    """`[image] context` is the folder that an engine is given, and a source outside it is not in it."""
    sha = repository.commit({
        "slipway.toml": '[image]\ncontext = "app"\ndockerfile = "ci/Image"\n',
        "ci/Image": "FROM scratch\nCOPY a b/ /x/\n", "app/a": "a", "app/b/c": "c", "app/d": "d", "a": "other",
    })  # fmt: skip
    assert _context(repository, sha, tmp_path / "stage") == (
        b"FROM scratch\nCOPY a b/ /x/\n", {"a": b"a", "b": None, "b/c": b"c"},
    )  # fmt: skip


def test_a_dockerfile_that_copies_nothing_has_an_empty_context(repository: Repository, tmp_path: Path) -> None:
    """Without a source there is no file for an engine to read."""
    sha = repository.commit({"Dockerfile": "FROM scratch\n", "a": "a"})
    assert _context(repository, sha, tmp_path / "stage") == (b"FROM scratch\n", {})


def test_a_large_context_is_staged_at_once(repository: Repository, tmp_path: Path) -> None:
    """Thousands of single files among others are written by one run of Git, and only they."""
    files = {f"data/{number}.{'csv' if number % 2 else 'md'}": "" for number in range(5000)}
    sha = repository.commit({**files, "Dockerfile": DOCKERFILE, ".dockerignore": "**/*.md\n", "src/a.py": "a"})
    _, context = _context(repository, sha, tmp_path / "stage")
    assert len([name for name in context if name.endswith(".csv")]) == 2500
    assert not [name for name in context if name.endswith(".md")]


REFUSED_CONTEXTS: list[tuple[str, Files, str]] = [
    ("an LFS pointer, deep", {"Dockerfile": DOCKERFILE, "data/big.bin": POINTER}, "data/big.bin is kept in Git LFS"),
    ("a link outside", {"Dockerfile": DOCKERFILE, "a": f"{LINK}/etc/passwd"}, "outside of"),
]


@pytest.mark.parametrize(
    ("files", "said"), [row[1:] for row in REFUSED_CONTEXTS], ids=[row[0] for row in REFUSED_CONTEXTS]
)
def test_what_cannot_be_in_a_context_is_refused_by_name(
    files: Files, said: str, repository: Repository, tmp_path: Path
) -> None:
    """A file that Git has only a pointer to, or a link out of the repository, ends the build in words."""
    sha = repository.commit(files)
    with pytest.raises(BuildFailedError, match=said):
        _context(repository, sha, tmp_path / "stage")


def test_a_submodule_that_is_copied_is_refused_by_name(repository: Repository, tmp_path: Path) -> None:
    """A source in a submodule is not in this repository, and the refusal says what to do."""
    repository.commit({"Dockerfile": "FROM scratch\nCOPY sub/a /x\n"})
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},sub")
    repository.git("commit", "--quiet", "--message", "A submodule.")
    with pytest.raises(BuildFailedError, match="sub, a submodule"):
        _context(repository, repository.git("rev-parse", "HEAD"), tmp_path / "stage")


def test_a_dockerfiles_key_is_never_staged_as_files(repository: Repository, tmp_path: Path) -> None:
    """Written as its inputs lie in the commit, a context would lack its ignore rules: that is refused."""
    with repository.tree(repository.commit({"Dockerfile": DOCKERFILE})) as source:
        key = environment_key(source.tree, source.read, kind=Kind.CONTAINER)
        with pytest.raises(BuildFailedError, match="context"):
            stage(source, key, tmp_path)
