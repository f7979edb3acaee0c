"""Finds a commit's build jobs, wherever GitLab keeps them: its statuses, child pipelines, merge request pipelines.

For: `GitLabForge.builds`, which gives it the person's way of asking. Promises: the cheapest question first, no other
where that has an answer, and a bound on all of them; what belongs to another project is never taken for this one's,
because its job writes to another project's registry (decision 0020).
Must not know: HTTP, credentials, what an answer is used for.
Source: GitLab REST API v4, 17.x to 19.x: `pipelines` and `statuses` of a commit leave child pipelines out, and a
merged-results pipeline runs on a commit of GitLab's own making.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from spawner.errors import RevisionNotFound
from spawner.gitlab import shapes
from spawner.names import CommitSha
from spawner.ports import BuildJob, CommitBuilds, JobStatus, Pipeline

NEWEST_PIPELINES = 3
_MOST_CHILDREN = 6
_DEEPEST = 2  # GitLab's own limit: a child of a child is the last
_MOST_REQUESTS = 2
_ENDED_BADLY = frozenset({JobStatus.FAILED})
_YET_TO_START = frozenset(
    {JobStatus.CREATED, JobStatus.WAITING_FOR_RESOURCE, JobStatus.PREPARING, JobStatus.PENDING, JobStatus.RUNNING}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """A person's way of asking GitLab: a list below the project (None: not there), and one job or commit of it."""

    rows: Callable[[str, dict[str, Any]], list[shapes.Body] | None]
    job: Callable[[int], BuildJob | None]
    parents: Callable[[str], Sequence[CommitSha]]


@dataclass(slots=True, kw_only=True)
class BuildSearch:
    """One look at one commit."""

    ask: Asking
    project_id: int
    sha: CommitSha
    job_name: str
    _children: int = field(default=0, init=False)

    def look(self) -> CommitBuilds:
        """Return what CI knows of the commit; raises RevisionNotFound where GitLab does not know the commit."""
        jobs = self._own()
        if jobs:
            return CommitBuilds(pipelines=_pipelines_of(jobs), jobs=tuple(self._explained(jobs)))
        listed = self.ask.rows("/pipelines", {"sha": self.sha})
        pipelines = sorted((shapes.pipeline(row) for row in listed or ()), key=lambda pipeline: -pipeline.id)
        found = self._in(pipelines)
        if not found:
            results = self._merged_results()
            pipelines += [pipeline for pipeline in results if pipeline.id not in {one.id for one in pipelines}]
            found = self._in(results)
        return CommitBuilds(pipelines=tuple(pipelines), jobs=tuple(sorted(found, key=lambda job: -job.id)))

    def _own(self) -> list[BuildJob]:
        """Return the jobs of exactly that name among the commit's statuses, newest first."""
        query = {"name": self.job_name, "order_by": "id", "sort": "desc"}
        rows = self.ask.rows(f"/repository/commits/{self.sha}/statuses", query)
        if rows is None:
            raise RevisionNotFound(f"GitLab knows no commit {self.sha[:8]} in this project.")
        jobs = [job for row in rows if (job := shapes.status_job(row)) is not None and job.name == self.job_name]
        return sorted(jobs, key=lambda job: -job.id)

    def _explained(self, jobs: list[BuildJob]) -> list[BuildJob]:
        """Ask for the newest job whole where every job has failed: a commit's statuses do not say why."""
        if not all(job.status in _ENDED_BADLY for job in jobs):
            return jobs
        newest = self.ask.job(jobs[0].id)
        return jobs if newest is None else [newest, *jobs[1:]]

    def _in(self, pipelines: Sequence[Pipeline]) -> list[BuildJob]:
        """Return the jobs in pipelines and their children, or else the trigger jobs that may still bring one."""
        found: list[BuildJob] = []
        awaited: list[BuildJob] = []
        for pipeline in [one for one in pipelines if one.source != "external"][:NEWEST_PIPELINES]:
            found += self._named(pipeline.id)
            if not found:
                for job in self._below(pipeline.id, depth=1):
                    (found if self._is_named(job) else awaited).append(job)
        return found or awaited

    def _named(self, pipeline_id: int) -> list[BuildJob]:
        rows = self.ask.rows(f"/pipelines/{pipeline_id}/jobs", {})
        return [job for row in rows or () if self._is_named(job := shapes.job(row))]

    def _is_named(self, job: BuildJob) -> bool:
        return job.name == self.job_name or job.name.startswith((f"{self.job_name} ", f"{self.job_name}:"))

    def _below(self, pipeline_id: int, *, depth: int) -> Iterator[BuildJob]:
        """Yield the jobs in child pipelines, and the trigger jobs that have started none yet."""
        for row in self.ask.rows(f"/pipelines/{pipeline_id}/bridges", {}) or ():
            bridge = shapes.bridge(row)
            if bridge.downstream_id is None:
                if bridge.job.status in _YET_TO_START:
                    yield bridge.job
            elif bridge.downstream_project_id == self.project_id and self._children < _MOST_CHILDREN:
                self._children += 1
                named = self._named(bridge.downstream_id)
                yield from named
                if not named and depth < _DEEPEST:
                    yield from self._below(bridge.downstream_id, depth=depth + 1)

    def _merged_results(self) -> list[Pipeline]:
        """Return the pipelines of this project that run on a merge of the commit into its target, newest first."""
        requests = self.ask.rows(f"/repository/commits/{self.sha}/merge_requests", {"state": "opened"})
        numbers = sorted((shapes.merge_request(row).number for row in requests or ()), reverse=True)
        found: list[Pipeline] = []
        for number in numbers[:_MOST_REQUESTS]:
            rows = self.ask.rows(f"/merge_requests/{number}/pipelines", {}) or ()
            newest = next((row for row in rows if self._may_be_result(row)), None)
            if newest is not None and self.sha in self.ask.parents(shapes.sha(newest, "sha")):
                found.append(shapes.pipeline(newest))
        return found

    def _may_be_result(self, row: shapes.Body) -> bool:
        ref = shapes.optional(row, "ref") or ""
        is_here = row.get("project_id") == self.project_id
        return is_here and bool(re.fullmatch(r"refs/merge-requests/\d+/merge", ref)) and row.get("sha") != self.sha


def _pipelines_of(jobs: Sequence[BuildJob]) -> tuple[Pipeline, ...]:
    """Return the jobs' pipelines, newest first, as far as the jobs tell."""
    found = {
        job.pipeline_id: Pipeline(
            id=job.pipeline_id,
            status="",
            source="",
            ref=job.ref,
            web_url=re.sub(r"/-/jobs/\d+$", f"/-/pipelines/{job.pipeline_id}", job.web_url),
            created_at=None,
        )
        for job in jobs
    }
    return tuple(found[number] for number in sorted(found, reverse=True))
