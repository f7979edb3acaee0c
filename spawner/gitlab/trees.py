"""Environment keys of commits, read from a bare, blobless cache of each project.

For: `GitLabForge.environment_keys`. A commit never seen costs one fetch of its trees and one of its control files,
whatever the repository's size; afterwards its keys are a small file, kept for ever by SHA and kept apart by scheme.
Promises: the very key that the builder computes (the same function, over Git's own objects); no text of a stranger's
reaches a command line but full SHAs; Git speaks http(s) to this GitLab only, runs no hook, helper or filter, checks
nothing out, and is bounded in time and bytes; the token stands in a private file that lives as long as the fetch, not
in an argument, the environment or a URL. Whoever asks has been let at the commit by GitLab beforehand.
Must not know: images, sessions.
"""

import base64
import fcntl
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote

import structlog

from builder.environment import this_platform
from builder.errors import CommitNotFoundError, GitError
from builder.key import RULES, Key, Kind, NoRecipeError, ProjectError, control_files, environment_keys
from builder.trees import GitTree
from spawner.errors import (
    Forbidden,
    ForgeUnavailable,
    RateLimited,
    RevisionNotFound,
    SpawnerError,
    TokenRejected,
    foreign,
)
from spawner.names import CommitSha
from spawner.ports import Credential, CredentialKind, EnvironmentKey, ImageKind, Project, Visibility

log = structlog.get_logger()

FETCH_SECONDS = 60.0
LOCK_SECONDS = 90.0
READ_SECONDS = 30.0
PACK_BYTES = 256 * 1024 * 1024  # trees of one commit; 20,000 entries are 0.5 MB
CACHE_BYTES = 256 * 1024 * 1024  # a project's cache is begun anew above this
_LOOK_SECONDS = 0.05
_FORMAT = 2
_BLOCK_BYTES = 512  # the unit of `ulimit -f` in POSIX shells
_LIMITED = 'ulimit -f "$1" && shift && exec "$@"'
_SETTINGS = """\
[core]
	repositoryformatversion = 1
	bare = true
	hooksPath = /dev/null
	askPass =
	fsmonitor = false
	compression = 1
[extensions]
	partialClone = origin
[remote "origin"]
	url = {url}
	promisor = true
	partialclonefilter = blob:none
[protocol]
	allow = never
[protocol "http"]
	allow = always
[protocol "https"]
	allow = always
[http]
	followRedirects = false
	lowSpeedLimit = 1
	lowSpeedTime = 30
[gc]
	auto = 0
[maintenance]
	auto = false
[transfer]
	fsckObjects = false
	credentialsInUrl = die
[credential]
	helper =
[fetch]
	unpackLimit = 1
	recurseSubmodules = false
"""


class KeyCache:
    """The caches of one GitLab's projects, in a private folder. Several processes may share it."""

    def __init__(self, folder: Path, *, url: str, ca_file: str | None = None) -> None:
        self._folder = folder
        self._url = url.rstrip("/")
        self._ca_file = ca_file

    def keys(self, credential: Credential, project: Project, sha: CommitSha) -> Sequence[EnvironmentKey]:
        """Return the commit's keys, every scheme and kind, newest scheme first; empty when no recipe fits.

        Raises RevisionNotFound, TokenRejected, Forbidden, RateLimited, or ForgeUnavailable.
        """
        place = self._folder / str(project.id)
        kept = place / "keys" / f"{sha}.json"
        found = _load(kept)
        if found is not None:
            return found
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(place / "lock"):
            found = _load(kept)
            if found is None:
                found = self._computed(credential, project, sha, place / "repository.git")
                _save(kept, found)
        return found

    def _computed(
        self, credential: Credential, project: Project, sha: CommitSha, repository: Path
    ) -> tuple[EnvironmentKey, ...]:
        try:
            return self._read(credential, project, sha, repository)
        except (Forbidden, TokenRejected):
            if project.visibility is not Visibility.PUBLIC:
                raise
        return self._read(None, project, sha, repository)  # a token without read_repository, where none is needed

    def _read(
        self, credential: Credential | None, project: Project, sha: CommitSha, repository: Path
    ) -> tuple[EnvironmentKey, ...]:
        with _private_settings(credential, self._url, self._ca_file) as environment:
            self._prepare(repository, project)
            try:
                _fetch(repository, sha, environment)
                return _keys(repository, sha, environment)
            except (ForgeUnavailable, GitError) as error:
                # Whether GitLab failed or a crash left the cache broken: the next try begins with a new one.
                shutil.rmtree(repository, ignore_errors=True)
                if isinstance(error, ForgeUnavailable):
                    raise
                raise ForgeUnavailable(f"Git could not read the commit: {foreign(error)}") from error

    def _prepare(self, repository: Path, project: Project) -> None:
        if repository.exists() and _size_bytes(repository) > CACHE_BYTES:
            shutil.rmtree(repository)
        for folder in ("objects", "refs"):
            (repository / folder).mkdir(parents=True, exist_ok=True, mode=0o700)
        url = f"{self._url}/{quote(project.path)}.git"
        (repository / "config").write_text(_SETTINGS.format(url=url), encoding="utf-8")
        (repository / "HEAD").write_text("ref: refs/heads/none\n", encoding="utf-8")


def _fetch(repository: Path, sha: CommitSha, environment: Mapping[str, str]) -> None:
    """Fetch one commit and its trees, without files or history."""
    command = ["git", f"--git-dir={repository}", "fetch", "--quiet", "--depth=1", "--filter=blob:none", "--no-tags"]
    command += ["--no-write-fetch-head", "--no-auto-maintenance", "--end-of-options", "origin", sha]
    limit = str(PACK_BYTES // _BLOCK_BYTES)
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", _LIMITED, "sh", limit, *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=FETCH_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ForgeUnavailable(f"GitLab did not send the commit within {FETCH_SECONDS:.0f} s.") from error
    if done.returncode != 0:
        raise _meaning(done.stderr.decode(errors="replace"), sha)


def _meaning(said: str, sha: CommitSha) -> SpawnerError:
    """Return what Git's complaint means; the sentences are Git 2.39's and GitLab's."""
    if "not our ref" in said or "couldn't find remote ref" in said or "no such remote ref" in said.lower():
        return RevisionNotFound(f"GitLab does not give out the commit {sha[:8]}.")
    if "Authentication failed" in said or "error: 401" in said or "could not read Username" in said:
        return TokenRejected("GitLab does not accept the token for Git.", remedy="Sign in again.")
    if "error: 403" in said:
        return Forbidden(
            "GitLab does not let the token read the repository.", remedy="Sign in again and allow read_repository."
        )
    if "not found" in said or "error: 404" in said:
        return RevisionNotFound("GitLab does not give out this repository.")
    if "error: 429" in said:
        return RateLimited("GitLab asks for patience: too many requests.", retry_after_seconds=30.0)
    return ForgeUnavailable(f"Git could not fetch the commit: {foreign(said)}", remedy="It is tried again.")


def _keys(repository: Path, sha: CommitSha, environment: Mapping[str, str]) -> tuple[EnvironmentKey, ...]:
    found: list[tuple[int, EnvironmentKey]] = []
    with GitTree(repository, sha, environment=environment, timeout_seconds=READ_SECONDS) as files:
        try:
            files.prefetch(control_files(files.tree, files.read))
            for kind in Kind:
                try:
                    keys = environment_keys(files.tree, files.read, kind=kind, platform=this_platform())
                except NoRecipeError:
                    continue
                found += [(place, _value(key)) for place, key in enumerate(keys)]
        except ProjectError as error:
            log.warning("environment_key_unreadable", commit=sha, reason=foreign(error))
            return ()
        except (CommitNotFoundError, KeyError, subprocess.TimeoutExpired) as error:
            raise GitError(f"Git has lost a part of {sha[:8]}.") from error
    return tuple(key for _, key in sorted(found, key=lambda pair: pair[0]))


def _value(key: Key) -> EnvironmentKey:
    return EnvironmentKey(
        key=key.digest,
        kind=ImageKind(key.kind.value),
        recipe=key.recipe_name,
        inputs=tuple((one.path, one.mode, one.fingerprint) for one in key.inputs),
        mutable=key.mutable,
        made_kinds=tuple(ImageKind(kind.value) for kind in key.kinds),
    )


@contextmanager
def _private_settings(credential: Credential | None, url: str, ca_file: str | None) -> Iterator[dict[str, str]]:
    """Yield the environment that lets Git act with the token: a file only we may read, gone afterwards."""
    is_somebody = credential is not None and credential.kind is not CredentialKind.NONE
    header = f"\textraHeader = Authorization: Basic {_basic(credential)}\n" if credential and is_somebody else ""
    with tempfile.TemporaryDirectory(prefix="slipway-git-") as folder:
        settings = Path(folder, "config")
        settings.touch(mode=0o600)
        trust = f"\tsslCAInfo = {ca_file}\n" if ca_file else ""
        settings.write_text(f'[http "{url}/"]\n{header}{trust}', encoding="utf-8")
        yield {
            "GIT_CONFIG_GLOBAL": str(settings),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_OPTIONAL_LOCKS": "0",
            "HOME": folder,
            "LC_ALL": "C",
            "PATH": _path(),
        }


def _basic(credential: Credential) -> str:
    return base64.b64encode(f"oauth2:{credential.token}".encode()).decode()


def _path() -> str:
    git = shutil.which("git")
    if git is None:
        raise ForgeUnavailable("Git is not installed where the spawner runs.", remedy="Install Git.")
    return f"{Path(git).parent}:/usr/local/bin:/usr/bin:/bin"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a project's lock, waiting a bounded time; it ends with its process."""
    deadline = time.monotonic() + LOCK_SECONDS
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ForgeUnavailable("Other commits of this project are still being read.") from None
                time.sleep(_LOOK_SECONDS)
        yield


def _schemes() -> list[int]:
    return list(RULES)


def _load(path: Path) -> tuple[EnvironmentKey, ...] | None:
    """Read kept keys; None when there are none of the present schemes."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    if document.get("format") != _FORMAT or document.get("schemes") != _schemes():
        return None
    return tuple(
        EnvironmentKey(
            key=row["key"],
            kind=ImageKind(row["kind"]),
            recipe=row["recipe"],
            inputs=tuple((entry[0], entry[1], entry[2]) for entry in row["inputs"]),
            mutable=tuple(row["mutable"]),
            made_kinds=tuple(ImageKind(kind) for kind in row["made_kinds"]),
        )
        for row in document["keys"]
    )


def _save(path: Path, keys: Sequence[EnvironmentKey]) -> None:
    path.parent.mkdir(exist_ok=True, mode=0o700)
    partial = path.with_suffix(".partial")
    document = {"format": _FORMAT, "schemes": _schemes(), "keys": [asdict(key) for key in keys]}
    # Paths of a commit may hold any bytes; JSON's escapes keep them.
    partial.write_text(json.dumps(document), encoding="ascii")
    partial.rename(path)


def _size_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
