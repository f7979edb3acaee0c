"""Staging: the folder that an engine sees.

Covered: exactly the inputs and no more, canonical forms, attributes as `git archive` applies them, links, modes, all of
a repository, and what is refused. Left out: which files are inputs (test_key).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.errors import BuildFailedError
from builder.key import environment_key
from builder.stage import stage
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
    files: dict[str, str | bytes] = {"requirements.txt": "# kept\nsix\n", "postBuild": "make\n", "deep/a/b.txt": "x"}
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
