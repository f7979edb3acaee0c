"""Commit statuses: what somebody outside says of a commit, shown in its pipeline and merge requests.

For: `spawner.images.statuses`, through the port CommitStatuses. Promises: two calls; `mapped` errors only.
Must not know: what is said.
Source: https://docs.gitlab.com/api/commits/#commit-status (18): a status that has ended is replaced by the next of its
name, and one without `pipeline_id` may make a pipeline of its own.
"""

from typing import Any

from spawner.errors import ForgeUnavailable
from spawner.gitlab import shapes
from spawner.gitlab.transport import Transport
from spawner.names import CommitSha
from spawner.ports import CommitStatus, Credential


class GitLabStatuses:
    """The statuses of one GitLab."""

    def __init__(self, url: str, *, timeout_seconds: float = 20.0, ca_file: str | None = None) -> None:
        self._transport = Transport(url, timeout_seconds=timeout_seconds, ca_file=ca_file)

    def newest(
        self, credential: Credential, project_id: int, sha: CommitSha, *, name: str, pipeline_id: int
    ) -> CommitStatus | None:
        """Return the status of that name on the commit's pipeline, or None."""
        query: dict[str, Any] = {"name": name, "pipeline_id": pipeline_id, "order_by": "id", "sort": "desc"}
        path = f"/projects/{project_id}/repository/commits/{sha}/statuses"
        rows = self._transport.request(credential, "get", path, query=query).json()
        if not isinstance(rows, list):
            raise ForgeUnavailable("GitLab answered what is no list.", remedy="It is tried again.")
        if not rows:
            return None
        return CommitStatus(
            state=shapes.text(rows[0], "status"),
            description=shapes.optional(rows[0], "description") or "",
            target_url=shapes.optional(rows[0], "target_url") or "",
        )

    def post(
        self,
        credential: Credential,
        project_id: int,
        sha: CommitSha,
        status: CommitStatus,
        *,
        name: str,
        pipeline_id: int,
    ) -> None:
        """Set the status of that name; raises MissingScope, Forbidden or NotFound."""
        body = {
            "state": status.state,
            "name": name,
            "description": status.description,
            "target_url": status.target_url,
            "pipeline_id": pipeline_id,
        }
        self._transport.request(credential, "post", f"/projects/{project_id}/statuses/{sha}", body=body)
