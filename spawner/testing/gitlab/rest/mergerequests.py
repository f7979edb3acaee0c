"""Merge requests: open, find, change, merge, and their pipelines.

Source: https://docs.gitlab.com/api/merge_requests/ (18.x).
"""

from __future__ import annotations

import flask

from spawner.testing.gitlab import access, protection, web
from spawner.testing.gitlab.access import find_project
from spawner.testing.gitlab.ci import create, merging
from spawner.testing.gitlab.instance import now
from spawner.testing.gitlab.records import Level, MergeRequest, Pipeline, Project, User
from spawner.testing.gitlab.rest import paging, pipelines, repositories, shapes

blueprint = flask.Blueprint("merge_requests", __name__)

_STATES = frozenset({"opened", "closed", "merged", "locked", "all"})


@blueprint.get("/projects/<key:project>/merge_requests")
def listing(project: str) -> flask.Response:
    """Answer a project's merge requests, newest first."""
    found = web.project_for(project)
    wanted = {int(word) for word in web.several("iids") if word.isdigit()}
    rows = _of(found)
    rows = [row for row in rows if not wanted or row.sequence in wanted]
    for name in ("source_branch", "target_branch"):
        rows = [row for row in rows if web.text(name) in {None, getattr(row, name)}]
    return paging.listed(_in_state(rows)[::-1], _basic)


@blueprint.get("/projects/<key:project>/repository/commits/<key:sha>/merge_requests")
def of_commit(project: str, sha: str) -> flask.Response:
    """Answer the merge requests that brought, or would bring, a commit."""
    found, repository = repositories.code_for(project)
    commit = repositories.commit_for(repository, sha)
    rows = [
        row for row in _of(found) if row.base_sha and repository.is_between(commit.id, base=row.base_sha, head=row.sha)
    ]
    return paging.listed(_in_state(rows)[::-1], _basic)


@blueprint.post("/projects/<key:project>/merge_requests")
def open_one(project: str) -> flask.Response:
    """Open a merge request of a branch of this project, into it or the project it was forked from."""
    source = web.project_for(project, at_least=Level.DEVELOPER)
    target = web.project_for(web.text("target_project_id") or str(source.id))
    branch, into, title = (web.needed(name) for name in ("source_branch", "target_branch", "title"))
    head = web.here().repository(source).head(branch)
    if head is None or web.here().repository(target).head(into) is None:
        web.bad_request([f"{'Source' if head is None else 'Target'} branch does not exist"])
    if source.id == target.id and branch == into:
        web.bad_request(["You can't use same project/branch for source and target"])
    with web.here().store as store:
        rows = _of(target)
        same = (source.id, branch, into)
        twin = next((row for row in rows if row.state == "opened" and _ends(row) == same), None)
        if twin:
            sentence = f"Another open merge request already exists for this source branch: !{twin.sequence}"
            raise web.APIError(409, {"message": [sentence]})
        made = store.put(
            MergeRequest(
                id=store.next_id(MergeRequest),
                sequence=max((row.sequence for row in rows), default=0) + 1,
                project_id=target.id,
                source_project_id=source.id,
                source_branch=branch,
                target_branch=into,
                title=title,
                description=web.text("description"),
                state="opened",
                author_id=web.caller().id,
                sha=head,
                created_at=now(),
                updated_at=now(),
                removes_source=web.flag("remove_source_branch"),
            )
        )
    return web.answer(_full(merging.refreshed(web.here(), made) or made), 201)


@blueprint.get("/projects/<key:project>/merge_requests/<int:number>")
def one(project: str, number: int) -> flask.Response:
    """Answer a merge request."""
    return web.answer(_full(_request(project, number)))


@blueprint.put("/projects/<key:project>/merge_requests/<int:number>")
def change(project: str, number: int) -> flask.Response:
    """Change a merge request's words, or close or open it."""
    found = _request(project, number)
    _check_author(project, found)
    changed: dict[str, object] = {name: web.text(name) for name in ("title", "description") if web.text(name)}
    match web.text("state_event"), found.state:
        case "close", "opened":
            changed |= {"state": "closed", "closed_at": now()}
        case "reopen", "closed":
            changed |= {"state": "opened", "closed_at": None, "is_stale": True}
    return web.answer(_full(web.here().store.change(found, updated_at=now(), **changed)))


@blueprint.put("/projects/<key:project>/merge_requests/<int:number>/merge")
def accept(project: str, number: int) -> flask.Response:
    """Merge; 409 when the head is not the one that was named, 405 when it is not open, 422 when it conflicts."""
    found = _request(project, number)
    target = web.project_for(project, at_least=Level.DEVELOPER)
    if not protection.may_push(web.here(), target, web.caller(), f"refs/heads/{found.target_branch}"):
        web.unauthorized()
    if web.text("sha") not in {None, found.sha}:
        raise web.APIError(409, {"message": "SHA does not match HEAD of source branch"})
    if found.state != "opened":
        raise web.APIError(405, {"message": "405 Method Not Allowed"})
    try:
        return web.answer(_full(merging.merge(web.here(), found, web.caller())))
    except merging.UnmergeableError as exc:
        raise web.APIError(422, {"message": "Branch cannot be merged"}) from exc


@blueprint.get("/projects/<key:project>/merge_requests/<int:number>/pipelines")
def its_pipelines(project: str, number: int) -> flask.Response:
    """Answer a merge request's pipelines, those of its head's branch among them, newest first."""
    found = _request(project, number)
    pipelines.ci_for(project)
    rows = web.here().store.all(Pipeline, lambda row: row.merge_request_id == found.id or _is_of_head(row, found))
    return paging.listed(rows[::-1], lambda row: shapes.pipeline_basic(web.here(), row))


@blueprint.post("/projects/<key:project>/merge_requests/<int:number>/pipelines")
def run(project: str, number: int) -> flask.Response:
    """Make a pipeline: in this project for who may, which is how a fork's code runs with its parent's rights."""
    found = _request(project, number)
    target = web.project_for(project)
    place = target
    if access.level(web.here(), target, web.caller()) < Level.DEVELOPER:
        place = web.project_for(str(found.source_project_id), at_least=Level.DEVELOPER)
    try:
        made = merging.by_hand(web.here(), found, place, web.caller())
    except create.NoPipelineError as exc:
        web.bad_request({"base": [str(exc)]})
    return web.answer(shapes.pipeline(web.here(), made), 201)


def _of(project: Project) -> list[MergeRequest]:
    return web.here().store.all(MergeRequest, lambda row: row.project_id == project.id)


def _ends(row: MergeRequest) -> tuple[int, str, str]:
    return row.source_project_id, row.source_branch, row.target_branch


def _in_state(rows: list[MergeRequest]) -> list[MergeRequest]:
    state = web.text("state") or "all"
    if state not in _STATES:
        web.invalid("state does not have a valid value")
    return [row for row in rows if state in {"all", row.state}]


def _request(key: str, number: int) -> MergeRequest:
    project = web.project_for(key)
    found = next((row for row in _of(project) if row.sequence == number), None)
    if found is None:
        web.not_found()
    return found


def _check_author(key: str, found: MergeRequest) -> None:
    if web.caller().id != found.author_id:
        web.project_for(key, at_least=Level.DEVELOPER)


def _is_of_head(row: Pipeline, found: MergeRequest) -> bool:
    own = (row.project_id, row.ref, row.sha) == (found.source_project_id, found.source_branch, found.sha)
    return own and row.source != "parent_pipeline"


def _basic(row: MergeRequest) -> shapes.Shape:
    instance = web.here()
    target = find_project(instance, str(row.project_id))
    path = target.path if target else ""
    people = {"author": row.author_id, "merge_user": row.merged_by_id}
    shown = {name: shapes.user_basic(instance, instance.store.get(User, who or 0)) for name, who in people.items()}
    can_merge = row.state == "opened" and row.merge_ref_sha is not None
    return {
        "id": row.id,
        "iid": row.sequence,
        "project_id": row.project_id,
        "title": row.title,
        "description": row.description,
        "state": row.state,
        "created_at": shapes.moment(row.created_at),
        "updated_at": shapes.moment(row.updated_at),
        "merged_at": shapes.moment(row.merged_at),
        "closed_at": shapes.moment(row.closed_at),
        **shown,
        "merged_by": shown["merge_user"],
        "closed_by": None,
        "target_branch": row.target_branch,
        "source_branch": row.source_branch,
        "source_project_id": row.source_project_id,
        "target_project_id": row.project_id,
        "sha": row.sha,
        "merge_commit_sha": row.merge_commit_sha,
        "squash_commit_sha": None,
        "assignee": None,
        "assignees": [],
        "reviewers": [],
        "labels": [],
        "milestone": None,
        "draft": row.title.lower().startswith("draft:"),
        "work_in_progress": row.title.lower().startswith("draft:"),
        "merge_when_pipeline_succeeds": False,
        "merge_status": "can_be_merged" if can_merge else "cannot_be_merged",
        "detailed_merge_status": "mergeable" if can_merge else "conflict" if row.state == "opened" else "not_open",
        "has_conflicts": row.merge_ref_sha is None,
        "should_remove_source_branch": None,
        "force_remove_source_branch": row.removes_source,
        "reference": f"!{row.sequence}",
        "references": {"short": f"!{row.sequence}", "relative": f"!{row.sequence}", "full": f"{path}!{row.sequence}"},
        "web_url": f"{instance.url}/{path}/-/merge_requests/{row.sequence}",
        "squash": False,
        "squash_on_merge": False,
        "user_notes_count": 0,
        "upvotes": 0,
        "downvotes": 0,
        "discussion_locked": None,
        "imported": False,
        "imported_from": "none",
        "prepared_at": shapes.moment(row.created_at),
        "merge_after": None,
        "blocking_discussions_resolved": True,
        "task_completion_status": {"count": 0, "completed_count": 0},
        "time_stats": {
            "time_estimate": 0,
            "total_time_spent": 0,
            "human_time_estimate": None,
            "human_total_time_spent": None,
        },
    }


def _full(row: MergeRequest) -> shapes.Shape:
    instance = web.here()
    own = instance.store.all(Pipeline, lambda other: other.merge_request_id == row.id or _is_of_head(other, row))
    head = own[-1] if own else None
    return {
        **_basic(row),
        "subscribed": False,
        "changes_count": None,
        "pipeline": shapes.pipeline_basic(instance, head) if head else None,
        "head_pipeline": shapes.pipeline(instance, head) if head else None,
        "diff_refs": {"base_sha": row.base_sha, "head_sha": row.sha, "start_sha": row.base_sha},
        "merge_error": None,
        "latest_build_started_at": shapes.moment(head.started_at) if head else None,
        "latest_build_finished_at": shapes.moment(head.finished_at) if head else None,
        "first_deployed_to_production_at": None,
        "first_contribution": False,
        "user": {"can_merge": web.actor().user is not None},
    }
