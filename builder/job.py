"""Where a command finds its commit, its registry and its credentials: in the job's variables, or in options and files.

The only module of the builder that reads `CI_*` variables
(https://docs.gitlab.com/ci/variables/predefined_variables/, 18.x). They say where images go and for which commit, and
never what is built. It promises that no secret is taken from an argument or shown.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from builder import errors
from builder.build import Target
from builder.oci import Credentials, RegistryClient
from builder.trees import find_git_dir, resolve_commit

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Which commit of which repository a command is about."""

    git_dir: Path
    commit: str


def where(directory: Path, commit: str | None) -> Where:
    """Find the repository and the commit: the one asked for, the job's, or HEAD."""
    git_dir = find_git_dir(directory)
    named = commit or _job_commit()
    return Where(git_dir=git_dir, commit=resolve_commit(git_dir, named or "HEAD"))


def _job_commit() -> str | None:
    """Name the commit a job is for: in a merged-results pipeline the source branch's, not the throw-away merge."""
    return os.environ.get("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA") or os.environ.get("CI_COMMIT_SHA") or None


def target(
    commit: str, registry_image: str | None, user: str | None, token_file: str | None, trusted: Sequence[str]
) -> Target:
    """Find the registry: from the options, else from the job's variables."""
    named = registry_image or os.environ.get("CI_REGISTRY_IMAGE")
    if not named:
        raise errors.UsageError("No registry: name the project's repository with --registry-image HOST/PATH.")
    address, _, repository = named.partition("/")
    if not repository:
        raise errors.UsageError(f"“{errors.capped(named)}” names no repository: HOST/PATH is needed.")
    credentials = _credentials(address, user, token_file)
    hosts = [*trusted, *filter(None, [urlsplit(os.environ.get("CI_SERVER_URL", "")).netloc])]
    client = RegistryClient(address, credentials=lambda: credentials, trusted_hosts=hosts)
    return Target(
        registry=client, repository=repository.lower(), commit=commit, source_url=_source_url(), credentials=credentials
    )  # fmt: skip


def _source_url() -> str:
    return os.environ.get("CI_PROJECT_URL", "")


def _credentials(address: str, user: str | None, token_file: str | None) -> Credentials | None:
    """Read the token file, else take the job's password, which is shown to the job's own registry only."""
    if token_file is not None:
        is_stdin = token_file == "-"  # noqa: S105 - a file name
        try:
            text = sys.stdin.read() if is_stdin else Path(token_file).read_text(encoding="utf-8")
        except OSError as error:
            raise errors.UsageError(f"The token file {token_file} cannot be read.") from error
        return Credentials(username=user or "slipway", password=text.strip())
    password = os.environ.get("CI_REGISTRY_PASSWORD")
    own = {os.environ.get(name, "").partition("/")[0].lower() for name in ("CI_REGISTRY", "CI_REGISTRY_IMAGE")}
    if not password or address.lower() not in own:
        return None
    return Credentials(username=user or os.environ.get("CI_REGISTRY_USER", "gitlab-ci-token"), password=password)


def split_source(text: str, target: Target) -> tuple[str, str]:
    """Split what is to be retagged into repository and tag or digest."""
    own = text.removeprefix(f"{target.registry.address}/")
    if "@" in own:
        repository, _, name = own.partition("@")
        return repository or target.repository, name
    if own.startswith("sha256:"):
        return target.repository, own
    repository, separator, name = own.rpartition(":")
    return (repository.lower(), name) if separator else (target.repository, own)
