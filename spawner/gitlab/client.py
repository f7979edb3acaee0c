"""`GitLabForge`: the Forge port over GitLab's REST API, python-gitlab and Git.

For: `spawner.wiring` builds one per forge; services use it through `spawner.ports.Forge`.
Promises: every call has the caller's rights and no others, a timeout, and no retry of its own; a project that does not
exist and one that is hidden are the same `ProjectNotFound`; safe for threads; a token goes to this GitLab alone.
Calls: `project`, `commit`, `refs_of`, `open_merge_request`, `access_level`, `first_parents`, `job`, `user`: one
each; `shown`: one, a second for a merged result's pipeline; `ref`: one, a second for a tag; `builds`: one where CI has
a job of that name, one more where it failed, else two and one per pipeline (three at most); `environment_keys`: two
fetches at a commit's first time, then none.
Must not know: the database, sessions, what its answers are used for.
"""

import contextlib
import re
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from spawner.errors import (
    Conflict,
    Forbidden,
    ForgeUnavailable,
    InvalidInput,
    MissingScope,
    NotFound,
    ProjectNotFound,
    RevisionNotFound,
    TokenRejected,
)
from spawner.gitlab import shapes
from spawner.gitlab.builds import Asking, BuildSearch
from spawner.gitlab.relay import Relay, is_project_path
from spawner.gitlab.transport import PROJECT_MISSING, Transport, pieces
from spawner.gitlab.trees import KeyCache
from spawner.names import PULL_TOKEN_NAME, CommitSha, ProjectPath, is_full_sha
from spawner.ports import (
    AccessLevel,
    BuildJob,
    Commit,
    CommitBuilds,
    Credential,
    CredentialKind,
    EnvironmentKey,
    ForgeUser,
    GitAnswer,
    GitRequest,
    MergeRequest,
    NumberedPage,
    PageKind,
    Pipeline,
    Project,
    ProjectKey,
    PullToken,
    Ref,
    RefKind,
    Shown,
)

PAGE = 100  # GitLab's largest
LOG_BYTES = 100 * 1024 * 1024  # GitLab's own default limit for a job's log
LOG_SECONDS = 120.0
_LONGEST_REVISION = 255
# What no Git revision holds (git-check-ref-format), and what a URL's path would resolve away.
_NOT_A_REVISION = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|^[-./]|[./]$|//|/\.|\.lock(?:/|$)")
_FOLDERS = {PageKind.MERGE_REQUEST: "merge_requests", PageKind.PIPELINE: "pipelines", PageKind.JOB: "jobs"}


class GitLabForge:
    """One GitLab. `application_ids` are the OAuth applications whose tokens count; `key_cache` is a private folder."""

    def __init__(  # noqa: PLR0913 - keyword-only; each is one setting
        self,
        url: str,
        *,
        key_cache: Path,
        registry_host: str | None = None,
        application_ids: frozenset[str] = frozenset(),
        timeout_seconds: float = 20.0,
        ca_file: str | None = None,
        learn_registry: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._transport = Transport(url, timeout_seconds=timeout_seconds, ca_file=ca_file)
        self._registry_host = registry_host
        self._application_ids = application_ids
        self._learn_registry = learn_registry
        self._keys = KeyCache(key_cache, url=self._transport.url, ca_file=ca_file)
        self._relay = Relay(self._transport)

    # ---------------------------------------------------------------- people

    def user(self, credential: Credential) -> ForgeUser:
        """Return who the credential belongs to; raises TokenRejected, or MissingScope naming `read_user`."""
        return shapes.user(self._object(credential, "/user"))

    def scopes(self, credential: Credential) -> frozenset[str]:
        """Return the credential's scopes; raises TokenRejected for an OAuth token of a stranger's application."""
        if credential.kind is CredentialKind.OAUTH:
            try:
                info = self._object(credential, f"{self._transport.url}/oauth/token/info")
            except TokenRejected:  # a personal token that is kept as a bearer, or a dead one: the next call tells
                info = None
            if info is not None:
                uid = shapes.part(info, "application").get("uid")
                if uid not in self._application_ids:
                    raise TokenRejected("The token was issued to another application.", remedy="Sign in with GitLab.")
                return _scopes(info.get("scope"))
        return _scopes(self._object(credential, "/personal_access_tokens/self").get("scopes"))

    def access_level(self, credential: Credential, project: ProjectKey, user_id: int) -> int:
        """Return the person's effective level, invited groups included; NONE for a non-member or one not yet let in."""
        found = self._maybe(credential, f"{_at(project)}/members/all/{user_id}")
        if found is None or found.get("membership_state", "active") != "active":
            return AccessLevel.NONE
        return shapes.whole(found, "access_level")

    # ---------------------------------------------------------------- projects and commits

    def project(self, credential: Credential, project: ProjectKey) -> Project:
        """Return a project, also by a path it had before; raises ProjectNotFound, the same for hidden and absent."""
        found = self._maybe(credential, _at(project))
        if found is None:
            raise ProjectNotFound(PROJECT_MISSING)
        result = shapes.project(found, registry_host=self._registry_host)
        if result.registry_image:
            self._learn_registry(result.registry_image.partition("/")[0])
        return result

    def commit(self, credential: Credential, project: ProjectKey, revision: str) -> Commit | None:
        """Return the commit that a SHA, branch or tag names, or None; raises ProjectNotFound."""
        if not _is_revision(revision):
            return None
        found = self._maybe(credential, f"{_at(project)}/repository/commits/{_encoded(revision)}")
        return None if found is None else shapes.commit(found)

    def refs_of(self, credential: Credential, project: ProjectKey, sha: CommitSha) -> Sequence[Ref]:
        """Return up to 100 branches and tags that contain the commit; empty when none does or it is unknown."""
        path = f"{_at(project)}/repository/commits/{_sha(sha)}/refs"
        rows = self._maybe_list(credential, path, {"type": "all"})
        return [ref for row in rows or () if (ref := shapes.containing_ref(row)) is not None]

    def open_merge_request(self, credential: Credential, project: ProjectKey, sha: CommitSha) -> MergeRequest | None:
        """Return the newest open merge request into the project that contains the commit, or None."""
        path = f"{_at(project)}/repository/commits/{_sha(sha)}/merge_requests"
        rows = self._maybe_list(credential, path, {"state": "opened"})
        opened = [shapes.merge_request(row) for row in rows or () if row.get("state") == "opened"]
        return max(opened, key=lambda each: each.number, default=None)

    def shown(self, credential: Credential, project: ProjectKey, page: NumberedPage) -> Shown | None:
        """Return what a numbered page shows, or None where it is gone or hidden; MissingScope is raised.

        A pipeline of a merge request's result is of a commit that no branch holds: the merge request's own is returned.
        """
        try:
            found = self._maybe(credential, f"{_at(project)}/{_FOLDERS[page.kind]}/{page.number}")
        except MissingScope:
            raise
        except Forbidden:
            return None
        if found is None:
            return None
        if page.kind is PageKind.MERGE_REQUEST:
            return shapes.shown_by_merge_request(found)
        merged = shapes.merged_result(found)
        if merged is not None:
            return self.shown(credential, project, NumberedPage(kind=PageKind.MERGE_REQUEST, number=merged))
        return shapes.shown_by_run(found)

    def ref(self, credential: Credential, project: ProjectKey, name: str) -> Ref | None:
        """Return the branch, else the tag, of exactly that name, or None; raises ProjectNotFound."""
        if not _is_revision(name):
            return None
        for kind, folder in ((RefKind.BRANCH, "branches"), (RefKind.TAG, "tags")):
            found = self._maybe(credential, f"{_at(project)}/repository/{folder}/{_encoded(name)}")
            if found is not None:
                return shapes.ref(found, kind)
        return None

    def first_parents(
        self, credential: Credential, project_id: int, sha: CommitSha, *, limit: int
    ) -> Sequence[CommitSha]:
        """Return up to `limit` (99 at most: one page) ancestors along first parents, nearest first, without `sha`."""
        query = {"ref_name": _sha(sha), "first_parent": "true", "per_page": min(limit + 1, PAGE)}
        rows = self._maybe_list(credential, f"/projects/{project_id}/repository/commits", query)
        found = [shapes.sha(row, "id") for row in rows or ()]
        return [one for one in found if one != sha][:limit]

    # ---------------------------------------------------------------- CI

    def builds(self, credential: Credential, project_id: int, sha: CommitSha, *, job_name: str) -> CommitBuilds:
        """Return what CI knows of the commit, newest first; raises RevisionNotFound or ProjectNotFound.

        Where there are jobs of the name, `pipelines` are theirs, known by id only (`status` and `source` are empty);
        where there are none, `pipelines` are all the commit has. The newest failed job has its reason, when no other
        is alive or done. A name with a suffix (`image_build 1/3`, `image_build: [py311]`) counts if no exact one is.
        Child pipelines and merged results of this project count; a trigger job that has started none yet stands for it.
        """
        at = f"/projects/{project_id}"

        def parents(merged: str) -> Sequence[CommitSha]:
            commit = self.commit(credential, project_id, merged)
            return commit.parents if commit else ()

        asking = Asking(
            rows=lambda path, query: self._maybe_list(credential, f"{at}{path}", query),
            job=lambda number: self.job(credential, project_id, number),
            parents=parents,
        )
        return BuildSearch(ask=asking, project_id=project_id, sha=_sha(sha), job_name=job_name).look()

    def job(self, credential: Credential, project_id: int, job_id: int) -> BuildJob | None:
        """Return one job, or None when it is gone or hidden; MissingScope and TokenRejected are raised."""
        try:
            found = self._maybe(credential, f"/projects/{project_id}/jobs/{job_id}")
        except MissingScope:
            raise
        except (Forbidden, ProjectNotFound):
            return None
        return None if found is None else shapes.job(found)

    def job_log(self, credential: Credential, project_id: int, job_id: int) -> bytes:
        """Return the job's raw log so far, its first 100 MiB at most; empty when there is none or it is hidden."""
        path = f"/projects/{project_id}/jobs/{job_id}/trace"
        try:
            with self._transport.stream(credential, path) as response:
                return _bounded_log(response)
        except MissingScope:
            raise
        except (NotFound, Forbidden):  # a job's status may be shown where its log is not
            return b""

    def play(self, credential: Credential, project_id: int, job_id: int) -> None:
        """Start a manual job; raises MissingScope, Forbidden, Conflict, or NotFound when it is gone."""
        try:
            self._transport.request(credential, "post", f"/projects/{project_id}/jobs/{job_id}/play")
        except InvalidInput as error:
            raise Conflict(
                error.message, remedy="Look at the job in GitLab: it may have been started already."
            ) from error

    def retry(self, credential: Credential, project_id: int, job_id: int) -> None:
        """Run an ended job again as a new job; raises MissingScope, Forbidden (also: not retryable), or NotFound."""
        self._transport.request(credential, "post", f"/projects/{project_id}/jobs/{job_id}/retry")

    def create_pipeline(self, credential: Credential, project_id: int, ref: str) -> Pipeline:
        """Make a pipeline for a branch or tag; raises MissingScope, Forbidden or Conflict (nothing would run)."""
        try:
            response = self._transport.request(
                credential, "post", f"/projects/{project_id}/pipeline", body={"ref": ref}
            )
        except InvalidInput as error:
            raise Conflict(
                error.message, remedy="Look at the project's .gitlab-ci.yml: its rules may leave all out."
            ) from error
        return shapes.pipeline(_json_object(response))

    # ---------------------------------------------------------------- pull tokens

    def make_pull_token(self, credential: Credential, project_id: int, *, expires_at: datetime) -> PullToken:
        """Make a deploy token that reads the project's registry; raises MissingScope, Forbidden or ProjectNotFound."""
        body = {"name": PULL_TOKEN_NAME, "scopes": ["read_registry"], "expires_at": expires_at.isoformat()}
        response = self._transport.request(credential, "post", f"/projects/{project_id}/deploy_tokens", body=body)
        return shapes.pull_token(_json_object(response), expires_at=expires_at)

    def revoke_pull_token(self, credential: Credential, project_id: int, id: int) -> None:  # noqa: A002 - GitLab's word
        """End a deploy token; a no-op when it is gone. Raises MissingScope or Forbidden."""
        with contextlib.suppress(NotFound):
            self._transport.request(credential, "delete", f"/projects/{project_id}/deploy_tokens/{id}")

    # ---------------------------------------------------------------- Git

    def environment_keys(self, credential: Credential, project: Project, sha: CommitSha) -> Sequence[EnvironmentKey]:
        """Return the commit's keys, newest scheme first; asks Git the first time only. Raises as `KeyCache.keys`."""
        return self._keys.keys(credential, project, _sha(sha))

    def git(
        self, credential: Credential | None, project: ProjectPath, request: GitRequest
    ) -> AbstractContextManager[GitAnswer]:
        """Relay one smart-HTTP or LFS request; see `spawner.gitlab.relay`."""
        return self._relay.git(credential, project, request)

    # ---------------------------------------------------------------- asking

    def _object(self, credential: Credential, path: str, query: dict[str, Any] | None = None) -> shapes.Body:
        return _json_object(self._transport.request(credential, "get", path, query=query))

    def _maybe(self, credential: Credential, path: str) -> shapes.Body | None:
        """Return an object, or None for a 404 that is not the project's own."""
        try:
            return self._object(credential, path)
        except ProjectNotFound:
            raise
        except NotFound:
            return None

    def _maybe_list(self, credential: Credential, path: str, query: dict[str, Any]) -> list[shapes.Body] | None:
        """Return the first page of a list, or None for a 404 that is not the project's own."""
        try:
            response = self._transport.request(credential, "get", path, query={"per_page": PAGE, **query})
        except ProjectNotFound:
            raise
        except NotFound:
            return None
        found = _json(response)
        if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
            raise ForgeUnavailable("GitLab answered what is no list.", remedy="It is tried again.")
        return found


def _json(response: requests.Response) -> Any:
    """Parse an answer; an HTML page with status 200 (a proxy's, a maintenance page) is no answer."""
    try:
        return response.json()
    except ValueError as error:
        raise ForgeUnavailable("GitLab answered with a page instead of data.", remedy="It is tried again.") from error


def _json_object(response: requests.Response) -> shapes.Body:
    found = _json(response)
    if not isinstance(found, dict):
        raise ForgeUnavailable("GitLab answered what is no object.", remedy="It is tried again.")
    return found


def _bounded_log(response: requests.Response) -> bytes:
    """Read a log up to its bounds; what is cut off is asked for never, since GitLab limits logs to the same size."""
    deadline = time.monotonic() + LOG_SECONDS
    log = bytearray()
    for chunk in pieces(response):
        log += chunk
        if len(log) >= LOG_BYTES:
            break
        if time.monotonic() > deadline:
            raise ForgeUnavailable("GitLab sends the job's log too slowly.", remedy="It is tried again.")
    return bytes(log[:LOG_BYTES])


def _scopes(found: object) -> frozenset[str]:
    words = found.split() if isinstance(found, str) else found
    return frozenset(str(word) for word in words) if isinstance(words, list) else frozenset()


def _at(project: ProjectKey) -> str:
    if not isinstance(project, int) and not is_project_path(project):
        raise ProjectNotFound(PROJECT_MISSING)
    return f"/projects/{_encoded(str(project))}"


def _is_revision(text: str) -> bool:
    return 0 < len(text) <= _LONGEST_REVISION and _NOT_A_REVISION.search(text) is None


def _sha(sha: CommitSha) -> CommitSha:
    if not is_full_sha(sha):
        raise RevisionNotFound("A full commit SHA is needed: 40 characters of 0-9 and a-f.")
    return sha


def _encoded(text: str) -> str:
    return quote(text, safe="")
