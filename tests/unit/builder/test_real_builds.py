"""What a real engine reads, against what the key counts.

Covered: for each form of source and ignore rule, `buildah` builds from a checkout in which every file that is no input
is poison, with the commit's own ignore file: the image has no poison in it, and is the one that is built from the
staged context with no ignore file at all; and a change to any file that the image holds changes the key.
Left out: where buildah 1.28 and Docker differ (`COPY --parents`, heredocs; `!a/**/b` under an ignored folder, which
buildah does not look for): test_dockerfile and test_ignore have what Docker does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from builder.entries import Kind
from builder.key import Key, environment_key
from builder.stage import stage_context
from tests.unit.builder.commits import LINK, Files, Repository, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

POISON = "poison"
BUSYBOX = "/bin/busybox"  # Debian's busybox-static
_TREE = ("a.py", "b.md", "c.ipynb", ".hidden", "src/a.py", "src/b.md", "src/deep/c.py", "src/deep/d.md", "data/e.csv",
         "data/keep/f.csv", "docs/[1].md", "docs/README.md", "x/y/z/g.md", "sp ace/h.txt")  # fmt: skip


def _files(dockerfile: str, *rules: str, **more: str) -> Files:
    """A commit whose files say their own names, so that what is in an image says where it came from."""
    ignore = {".dockerignore": "\n".join(rules)} if rules else {}
    return {"Dockerfile": f"FROM scratch\n{dockerfile}\n", **ignore, **{path: f"is {path}" for path in _TREE}, **more}


CASES: dict[str, Files] = {
    "files and folders": _files("COPY a.py src ./docs/ /x/\nADD data/keep /y/"),
    "patterns": _files('COPY *.py src/*.md s?c/d[a-e]ep/*.py */keep /x/\nCOPY ["sp ace/h.txt", "/y/"]'),
    "all, but some": _files("COPY . /x/", "*.ipynb", "data/*", "!data/keep", "**/*.md", "!docs/README.md", ".git*"),
    "nothing, but some": _files("COPY . /x/", "# only these", "*", "!src/*.py", "!docs", "!a.py"),
    "a folder, less the rules": _files("COPY src /x/\nCOPY x/ /y/", "src/deep/*.md", "**/z", "/a.py"),
    "stages and arguments": _files(
        "ARG WHERE=src\nENV MORE=$WHERE/deep\nCOPY a.py /one\nFROM scratch\nARG WHAT=docs\n"
        "COPY --from=0 /one /b.md\nCOPY ${WHAT}/README.md ${NOT:-data}/e.csv /x/"
    ),
    "rules of the Dockerfile's own and links": _files(
        "COPY link.txt folder/ through/b.md /x/", "unused",
        **{"link.txt": f"{LINK}src/a.py", "folder/l": f"{LINK}../b.md", "through": f"{LINK}src"},
    ),
    "the build's own files": _files("COPY . /x/", "Dockerfile", ".dockerignore", "data", "x", "sp ace"),
    "another context and Dockerfile": {
        **{f"app/{path}": text for path, text in _files("").items()},
        "ci/Image": "FROM scratch\nCOPY . /x/\n", "app/.dockerignore": "src\n!src/deep\n",
        "slipway.toml": '[image]\ndockerfile = "ci/Image"\ncontext = "app"\n', "a.py": "is another",
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Buildah:
    """Builds images from nothing, in a store of its own."""

    store: Path

    def image(self, context: Path, dockerfile: Path, *options: str) -> dict[str, str]:
        """Build, and return what the image holds, by path; of a link its target. No file is left."""
        with tempfile.TemporaryDirectory(dir=self.store) as folder:
            out = Path(folder, "out")
            where = [f"--root={self.store}/root", f"--runroot={self.store}/run", "--storage-driver=vfs"]
            command = ["buildah", *where, "build", "--quiet", "--isolation=chroot", "--no-cache"]
            command += [f"--file={dockerfile}", f"--output=type=local,dest={out}", *options, str(context)]
            environment = os.environ | {"TMPDIR": folder}
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
            assert done.returncode == 0, done.stderr
            return dict(_listed(out))


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    """Buildah, where it is installed and may work."""
    if shutil.which("buildah") is None or os.geteuid() != 0:
        pytest.skip("no buildah, or not root: install Debian's package of that name (scripts/install does)")
    store = tmp_path_factory.mktemp("buildah")
    yield Buildah(store=store)
    shutil.rmtree(store, ignore_errors=True)


def _listed(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            yield name, f"{LINK}{path.readlink()}"
        elif path.is_file():
            yield name, path.read_bytes().decode("latin-1")
        else:
            yield name, ""


def _key(files: Files) -> Key:
    table = Table(files=files)
    return environment_key(table.tree, table.read, kind=Kind.CONTAINER)


def _poisoned(files: Files, staged: Path, key: Key) -> Files:
    """Put poison into every file that is no input."""
    assert key.context is not None
    counted = {one.path for one in key.inputs} | {"slipway.toml"}
    kept = {str(path.relative_to(staged)) for path in staged.rglob("*")} | counted
    return {path: text if path in kept else POISON for path, text in files.items()}


def _written(files: Files, folder: Path) -> Path:
    Repository(path=folder).write(files)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_an_engine_reads_the_inputs_and_nothing_else(
    name: str, repository: Repository, buildah: Buildah, tmp_path: Path
) -> None:
    """With poison in every other file, the image is the one from the staged context, and each of its files counts."""
    files = CASES[name]
    sha = repository.commit(files)
    with repository.tree(sha) as source:
        key = environment_key(source.tree, source.read, kind=Kind.CONTAINER)
        (tmp_path / "stage").mkdir()
        staged = stage_context(source, key, tmp_path / "stage")
    assert key.context is not None
    assert key.everything is None
    from_inputs = buildah.image(staged.context, staged.dockerfile, "--ignorefile=/dev/null")
    poisoned = _poisoned(files, tmp_path / "stage" / "context", key)
    checkout = _written(poisoned, tmp_path / "checkout")
    from_checkout = buildah.image(checkout / key.context.folder, checkout / key.context.dockerfile)
    assert POISON not in from_checkout.values()
    assert from_inputs == from_checkout
    assert _key(poisoned).digest == _key(files).digest
    _assert_each_counts(files, set(from_checkout.values()) - {""}, key)


def _assert_each_counts(files: Files, held: set[str], key: Key) -> None:
    """Change each file whose text an image holds: the key changes."""
    sources = [path for path, text in files.items() if text in held]
    assert sources
    for path in sources:
        text = f"{LINK}elsewhere" if str(files[path]).startswith(LINK) else f"{files[path]!s}# x\nUSER 1\n"
        assert _key({**files, path: text}).digest != key.digest, path


def test_a_mount_shows_what_counts(repository: Repository, buildah: Buildah, tmp_path: Path) -> None:
    """A file that a step reads through a bind mount counts, one beside it does not, and no ignored file is shown."""
    if not Path(BUSYBOX).exists():
        pytest.skip("no busybox: install Debian's busybox-static (scripts/install does)")
    step = 'RUN --mount=type=bind,source=src,target=/in ["/bin/busybox", "cp", "-r", "/in", "/out"]'
    files = _files(f"COPY busybox /bin/busybox\n{step}", "src/deep")
    repository.commit({**files, "busybox": Path(BUSYBOX).read_bytes()})
    repository.git("update-index", "--chmod=+x", "busybox")
    repository.git("commit", "--quiet", "--amend", "--message", "Executable.")
    sha = repository.git("rev-parse", "HEAD")
    with repository.tree(sha) as source:
        key = environment_key(source.tree, source.read, kind=Kind.CONTAINER)
        (tmp_path / "stage").mkdir()
        staged = stage_context(source, key, tmp_path / "stage")
    assert [one.path for one in key.inputs] == [".dockerignore", "Dockerfile", "busybox", "src"]
    image = buildah.image(staged.context, staged.dockerfile, "--ignorefile=/dev/null")
    assert {path for path in image if path.startswith("out")} == {"out", "out/a.py", "out/b.md"}
