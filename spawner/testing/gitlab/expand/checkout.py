"""Makes the small folder in which gitlab-ci-local reads one commit.

It borrows the bare repository's objects and has an index, but only the files that reading a configuration may ask for:
the YAML files where there is an `include`, and empty files in the place of all others where there is an `exists`.

Promises: the bare repository is not written to; the folder is gone at the end.
Must not know: what the configuration says, beyond those two words.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from spawner.testing.gitlab.expand.model import ConfigurationError

_GIT_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """A folder that stands for one commit."""

    folder: Path
    repository: Path
    sha: str

    def place_yaml_files(self) -> None:
        """Write every YAML file of the commit, for `include:local`; other files stay away."""
        self._git("read-tree", self.sha)
        listed = self._git("ls-files", "-z", "--", "*.yml", "*.yaml")
        self._git("checkout-index", "-z", "--stdin", "--force", "--quiet", given=listed)

    def place_names(self) -> None:
        """Make an empty file for every path of the commit that is not there yet, for `rules:exists`."""
        for name in self._git("ls-tree", "-r", "-z", "--name-only", self.sha).split(b"\0")[:-1]:
            path = self.folder / os.fsdecode(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def _git(self, *arguments: str, given: bytes = b"") -> bytes:
        return _run(["git", *arguments], folder=self.folder, given=given)


@contextmanager
def temporary_checkout(repository: Path, *, sha: str, origin_url: str) -> Iterator[Checkout]:
    """Yield a new folder for the commit `sha` of the bare `repository`; it is removed at the end.

    `origin_url` is what `include:project` and `include:component` are resolved against.

    Raises:
        ConfigurationError: the repository has no such commit.
    """
    with tempfile.TemporaryDirectory(prefix="slipway-expand-") as name:
        folder = Path(name)
        git = folder / ".git"
        for part in ("objects/info", "refs/remotes/origin"):
            (git / part).mkdir(parents=True)
        (git / "HEAD").write_text(f"{sha}\n")
        (git / "objects/info/alternates").write_text(f"{repository.resolve() / 'objects'}\n")
        (git / "refs/remotes/origin/HEAD").write_text("ref: refs/remotes/origin/main\n")
        (git / "refs/remotes/origin/main").write_text(f"{sha}\n")
        (git / "config").write_text(
            f'[core]\n\trepositoryformatversion = 0\n\tbare = false\n[remote "origin"]\n\turl = {origin_url}\n'
            "[user]\n\tname = CI\n\temail = ci@localhost\n"
        )
        made = Checkout(folder=folder, repository=repository, sha=sha)
        _run(["git", "cat-file", "-e", f"{sha}^{{commit}}"], folder=folder, given=b"")
        yield made


def _run(command: Sequence[str], *, folder: Path, given: bytes) -> bytes:
    surroundings = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "GIT_DIR": str(folder / ".git"),
        "GIT_WORK_TREE": str(folder),
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    try:
        return subprocess.run(
            list(command), cwd=folder, env=surroundings, input=given,
            capture_output=True, timeout=_GIT_SECONDS, check=True,
        ).stdout  # fmt: skip
    except subprocess.CalledProcessError as exc:
        raise ConfigurationError(f"Git cannot read this commit: {exc.stderr.decode(errors='replace')[:256]}") from exc
    except subprocess.TimeoutExpired as exc:
        raise ConfigurationError(f"Git did not read this commit within {_GIT_SECONDS} s.") from exc
