"""Commits, branches, tags, trees, files and archives."""

from __future__ import annotations

import base64
import hashlib
import mimetypes
from typing import TYPE_CHECKING, Any, NoReturn

import flask

from spawner.testing.gitlab import access, protection, web
from spawner.testing.gitlab.rest import paging, shapes

if TYPE_CHECKING:
    from spawner.testing.gitlab.records import Project
    from spawner.testing.gitlab.repository import Commit, Entry, Repository

blueprint = flask.Blueprint("repositories", __name__)

_ARCHIVES = {
    "tar.gz": ("tar.gz", "application/octet-stream"),
    "tgz": ("tar.gz", "application/octet-stream"),
    "tar": ("tar", "application/octet-stream"),
    "zip": ("zip", "application/octet-stream"),
}


def code_for(key: str) -> tuple[Project, Repository]:
    """Return a project whose code the caller may read.

    Raises:
        APIError: 404 or 403.
    """
    found = web.project_for(key)
    if not access.can_read_code(web.here(), found, web.actor().user):
        web.forbidden()
    return found, web.here().repository(found)


def commit_for(repository: Repository, name: str) -> Commit:
    """Return the commit that a SHA, branch or tag names.

    Raises:
        APIError: 404 Commit Not Found.
    """
    sha = repository.resolve(name)
    found = repository.commit(sha) if sha else None
    if found is None:
        web.not_found("Commit")
    return found


@blueprint.get("/projects/<key:project>/repository/commits")
def commits(project: str) -> flask.Response:
    """Answer commits, newest first."""
    found, repository = code_for(project)
    name = web.text("ref_name") or found.default_branch
    sha = repository.resolve(name)
    if sha is None:
        if web.text("ref_name"):
            web.not_found("Commit")
        return paging.sliced([], total=0)
    options = [f"--{word}={web.text(word)}" for word in ("since", "until") if web.text(word)]
    if web.flag("all"):
        options.append("--all")
    if web.flag("first_parent"):
        options.append("--first-parent")
    path = web.text("path") or ""
    page, per_page = paging.window()
    rows = repository.log(sha, limit=per_page, skip=(page - 1) * per_page, options=options, path=path)
    total = repository.count(sha, options=options, path=path)
    return paging.sliced([shapes.commit(web.here(), found, row) for row in rows], total=total)


@blueprint.get("/projects/<key:project>/repository/commits/<key:sha>")
def commit(project: str, sha: str) -> flask.Response:
    """Answer a commit, with its newest pipeline."""
    found, repository = code_for(project)
    row = commit_for(repository, sha)
    instance = web.here()
    pipelines = shapes.pipelines_of_commit(instance, found, row.id)
    last = pipelines[-1] if pipelines else None
    body = shapes.commit(instance, found, row) | {
        "status": last.status.value if last else None,
        "project_id": found.id,
        "last_pipeline": shapes.pipeline_basic(instance, last) if last else None,
    }
    if web.flag("stats", default=True):
        body["stats"] = repository.line_counts(row)
    return web.answer(body)


@blueprint.get("/projects/<key:project>/repository/commits/<key:sha>/refs")
def refs(project: str, sha: str) -> flask.Response:
    """Answer the branches and tags that a commit is reachable from."""
    _, repository = code_for(project)
    row = commit_for(repository, sha)
    wanted = web.text("type") or "all"
    if wanted not in {"branch", "tag", "all"}:
        web.invalid("type does not have a valid value")
    rows = [
        {"type": kind, "name": name}
        for kind, folder in (("branch", "heads"), ("tag", "tags"))
        if wanted in {kind, "all"}
        for name in repository.containing(row.id, folder)
    ]
    return paging.listed(rows, lambda shown: shown)


@blueprint.get("/projects/<key:project>/repository/branches")
def branches(project: str) -> flask.Response:
    """Answer branches by name."""
    found, repository = code_for(project)
    search = web.text("search") or ""
    names = [ref.removeprefix("refs/heads/") for ref in repository.refs() if ref.startswith("refs/heads/")]
    return paging.listed([name for name in names if search in name], lambda name: _branch(found, repository, name))


@blueprint.get("/projects/<key:project>/repository/branches/<key:branch>")
def branch(project: str, branch: str) -> flask.Response:
    """Answer a branch."""
    found, repository = code_for(project)
    if repository.head(branch) is None:
        web.not_found("Branch")
    return web.answer(_branch(found, repository, branch))


@blueprint.get("/projects/<key:project>/repository/tags")
def tags(project: str) -> flask.Response:
    """Answer tags."""
    found, repository = code_for(project)
    search = web.text("search") or ""
    names = [ref.removeprefix("refs/tags/") for ref in repository.refs() if ref.startswith("refs/tags/")]
    return paging.listed([name for name in names if search in name], lambda name: _tag(found, repository, name))


@blueprint.get("/projects/<key:project>/repository/tags/<key:tag>")
def tag(project: str, tag: str) -> flask.Response:
    """Answer a tag."""
    found, repository = code_for(project)
    if repository.resolve(f"refs/tags/{tag}") is None:
        web.not_found("Tag")
    return web.answer(_tag(found, repository, tag))


@blueprint.get("/projects/<key:project>/repository/tree")
def tree(project: str) -> flask.Response:
    """Answer the rows of a folder."""
    found, repository = code_for(project)
    sha = repository.resolve(web.text("ref") or found.default_branch)
    rows = repository.tree(sha, web.text("path") or "", recursive=web.flag("recursive")) if sha else None
    if rows is None:
        if sha is None and not web.text("ref") and not repository.refs():
            return paging.listed([], _entry)
        web.not_found("Tree")
    if paging.wants_keyset():
        return _tree_after(rows)
    return paging.listed(rows, _entry)


@blueprint.route("/projects/<key:project>/repository/files/<key:path>", methods=["GET", "HEAD"])
def file(project: str, path: str) -> flask.Response:
    """Answer a file with its content in base64; HEAD answers the same facts in headers."""
    facts, content = _file(project, path)
    headers = {f"X-Gitlab-{name.replace('_', '-').title()}": str(value) for name, value in facts.items()}
    if flask.request.method == "HEAD":
        return flask.Response(status=200, headers=headers)
    return web.answer(facts | {"content": base64.b64encode(content).decode()}, headers=headers)


@blueprint.route("/projects/<key:project>/repository/files/<key:path>/raw", methods=["GET", "HEAD"])
def raw_file(project: str, path: str) -> flask.Response:
    """Answer a file's bytes."""
    facts, content = _file(project, path)
    kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
    response = flask.Response(content, mimetype=kind if kind.startswith("image/") else "text/plain")
    response.headers["Content-Disposition"] = f'inline; filename="{path.rsplit("/", 1)[-1]}"'
    response.headers["X-Gitlab-Blob-Id"] = str(facts["blob_id"])
    return response


@blueprint.get("/projects/<key:project>/repository/archive")
@blueprint.get("/projects/<key:project>/repository/archive.<any('tar.gz',tgz,tar,zip):suffix>")
def archive(project: str, suffix: str = "tar.gz") -> flask.Response:
    """Answer an archive of a commit."""
    found, repository = code_for(project)
    name = web.text("sha") or found.default_branch
    sha = repository.resolve(name)
    if sha is None:
        web.not_found("File")
    kind, mimetype = _ARCHIVES[suffix]
    stem = f"{found.path.rsplit('/', 1)[-1]}-{name.replace('/', '-')}-{sha}"
    content = repository.archive(sha, archive_format=kind, prefix=stem, path=web.text("path") or "")
    response = flask.Response(content, mimetype=mimetype)
    response.headers["Content-Disposition"] = f'attachment; filename="{stem}.{suffix}"'
    return response


def _branch(project: Project, repository: Repository, name: str) -> shapes.Shape:
    user = web.actor().user
    may = user is not None and protection.may_push(web.here(), project, user, f"refs/heads/{name}")
    row = commit_for(repository, f"refs/heads/{name}")
    return shapes.branch(web.here(), project, name, row, can_push=may)


def _tag(project: Project, repository: Repository, name: str) -> shapes.Shape:
    target, message = repository.tag_object(name)
    row = commit_for(repository, f"refs/tags/{name}")
    return {
        "name": name,
        "message": message,
        "target": target,
        "commit": shapes.commit(web.here(), project, row),
        "release": None,
        "protected": False,
        "created_at": None,
    }


def _entry(row: Entry) -> shapes.Shape:
    return {"id": row.id, "name": row.name, "type": row.type, "path": row.path, "mode": row.mode}


def _tree_after(rows: list[Entry]) -> flask.Response:
    """Answer the rows after `page_token`, which is the last row's object id."""
    _, per_page = paging.window()
    token = web.text("page_token")
    start = next((index + 1 for index, row in enumerate(rows) if row.id == token), 0)
    part = rows[start : start + per_page]
    headers = {}
    if start + per_page < len(rows):
        headers["Link"] = f'<{paging.address(page_token=part[-1].id)}>; rel="next"'
    return web.answer([_entry(row) for row in part], headers=headers)


def _file(project: str, path: str) -> tuple[dict[str, Any], bytes]:
    found, repository = code_for(project)
    ref = web.text("ref") or "HEAD"
    sha = repository.resolve(found.default_branch if ref == "HEAD" else ref)
    if sha is None:
        web.not_found("Commit")
    entry = repository.entry(sha, path)
    content = repository.blob(sha, path)
    if entry is None or content is None:
        _no_file()
    last = repository.log(sha, limit=1, path=path)
    return {
        "file_name": entry.name,
        "file_path": path,
        "size": len(content),
        "encoding": "base64",
        "content_sha256": hashlib.sha256(content).hexdigest(),
        "ref": ref,
        "blob_id": entry.id,
        "commit_id": sha,
        "last_commit_id": last[0].id if last else sha,
        "execute_filemode": entry.mode == "100755",
    }, content


def _no_file() -> NoReturn:
    web.not_found("File")
