"""From what a person names to one commit of one project that they may launch.

For: `SessionService.launch` and the launch page. Promises: the person's own token is asked, each time; a
project or commit they may not see is told apart from one that does not exist by nobody; the full SHA comes
back, whatever was named; calls that do not need each other are made side by side.
Must not know: sessions' phases, HTTP.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from spawner.errors import InvalidInput, ProjectNotFound, RevisionNotFound, foreign
from spawner.names import CommitSha, is_full_sha
from spawner.ports import AccessLevel, Commit, Credential, Forge, NumberedPage, Project, ProjectKey, Ref, RefKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What is launched: a commit on a branch (or tag) of a project, and how the person stands to it."""

    project: Project
    commit: Commit
    branch: str
    ref_kind: RefKind
    access_level: int = AccessLevel.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What the person named. `sha` and `branch` may each be absent; `revision` is either, unread (from a URL).

    `page` is a merge request, pipeline or job, and then stands alone.
    """

    project: ProjectKey
    sha: str | None = None
    branch: str | None = None
    revision: str | None = None
    page: NumberedPage | None = None


class Finder:
    """Finds the place that a person names, with their rights."""

    def __init__(self, *, forge: Forge, pool: ThreadPoolExecutor) -> None:
        self._forge = forge
        self._pool = pool

    def find(self, named: Named, credential: Credential, forge_user_id: int) -> Place:
        """Return the place; raises ProjectNotFound, RevisionNotFound or InvalidInput."""
        if named.sha is not None and not is_full_sha(named.sha):
            raise InvalidInput(
                f"'{foreign(named.sha, limit=60)}' is not a full commit SHA.",
                remedy="Give all 40 hexadecimal digits, in lower case.",
                detail="commit_sha",
            )
        asked = _Asked(forge=self._forge, pool=self._pool, credential=credential, named=named, user_id=forge_user_id)
        project = _project(asked)  # first: everything else is "not found" where this is
        place = self._place(asked, project)
        level = asked.level.result()
        return Place(
            project=project, commit=place.commit, branch=place.branch, ref_kind=place.ref_kind, access_level=level
        )

    def _place(self, asked: "_Asked", project: Project) -> Place:
        named = asked.named
        if named.page is not None:
            return self._on_page(asked, project, named.page)
        if named.sha is not None:
            return self._at_commit(asked, project)
        wanted = named.branch or named.revision or project.default_branch
        if wanted is None:
            raise RevisionNotFound(
                f"The project {project.path} has no commit yet.", remedy="Push a commit, then launch it."
            )
        ref = self._forge.ref(asked.credential, project.id, wanted)
        if ref is not None:
            commit = _found(self._forge.commit(asked.credential, project.id, ref.sha or ref.name), wanted, project)
            return Place(project=project, commit=commit, branch=ref.name, ref_kind=ref.kind)
        if named.branch is not None:
            raise _no_branch(named.branch, project)
        commit = _found(self._forge.commit(asked.credential, project.id, wanted), wanted, project)
        return self._at_commit(asked.at(commit.sha), project)

    def _on_page(self, asked: "_Asked", project: Project, page: NumberedPage) -> Place:
        """Return the commit of a merge request, pipeline or job, on the branch it names while that is there."""
        shown = self._forge.shown(asked.credential, project.id, page)
        if shown is None:
            raise RevisionNotFound(
                f"{project.path} has no {page.kind} {page.number}, or you may not see it.", remedy="Check its number."
            )
        place = self._at_commit(asked.at(shown.sha), project)
        if shown.ref in {None, place.branch}:
            return place
        ref = self._forge.ref(asked.credential, project.id, shown.ref or "")
        return place if ref is None else replace(place, branch=ref.name, ref_kind=ref.kind)

    def _at_commit(self, asked: "_Asked", project: Project) -> Place:
        sha, branch = asked.named.sha or "", asked.named.branch
        commit = _found(asked.commit.result(), sha, project)
        holding = asked.refs.result()
        if holding and branch is None:
            chosen = best_ref(holding, project.default_branch)
            return Place(project=project, commit=commit, branch=chosen.name, ref_kind=chosen.kind)
        source = None if holding else self._source_branch(asked.credential, project, commit)
        ref = None if branch is None else asked.ref.result()
        if ref is not None:
            return Place(project=project, commit=commit, branch=ref.name, ref_kind=ref.kind)
        if source is None or branch not in {None, source}:
            raise _no_branch(branch or "", project)
        return Place(project=project, commit=commit, branch=source, ref_kind=RefKind.BRANCH)

    def _source_branch(self, credential: Credential, project: Project, commit: Commit) -> str:
        """Return the branch of a commit that only an open merge request holds; raises RevisionNotFound for any other.

        It is the merge request's source branch. A fork's may be called like a branch of the project, where what is
        pushed from the session would then go: its branch is called after the merge request.
        """
        found = self._forge.open_merge_request(credential, project.id, commit.sha)
        if found is None:
            raise RevisionNotFound(
                f"Commit {commit.sha[:12]} is on no branch, tag or open merge request of {project.path}.",
                remedy="Push it to a branch of this project, or launch it from the project it is of.",
            )
        is_taken = self._forge.ref(credential, project.id, found.source_branch) is not None
        return f"merge-request-{found.number}" if is_taken else found.source_branch


class _Asked:
    """GitLab's answers about one place, asked for side by side: each is a future from the start."""

    def __init__(
        self, *, forge: Forge, pool: ThreadPoolExecutor, credential: Credential, named: Named, user_id: int
    ) -> None:
        self._forge = forge
        self._pool = pool
        self._user_id = user_id
        self.credential = credential
        self.named = named
        self.project = pool.submit(forge.project, credential, named.project)
        self.level = pool.submit(forge.access_level, credential, named.project, user_id)
        self._ask_about_commit()

    def at(self, sha: CommitSha) -> "_Asked":
        """Ask about a commit that was found by another name."""
        self.named = replace(self.named, sha=sha, branch=None)
        self._ask_about_commit()
        return self

    def _ask_about_commit(self) -> None:
        named = self.named
        if named.sha is not None:
            sha = CommitSha(named.sha)
            self.commit = self._pool.submit(self._forge.commit, self.credential, named.project, named.sha)
            self.refs = self._pool.submit(self._forge.refs_of, self.credential, named.project, sha)
            if named.branch is not None:
                self.ref = self._pool.submit(self._forge.ref, self.credential, named.project, named.branch)


def _project(asked: _Asked) -> Project:
    try:
        return asked.project.result()
    except ProjectNotFound as exc:
        raise ProjectNotFound(
            f"There is no project {foreign(asked.named.project, limit=120)}, or you may not see it.",
            remedy="Check its path; if it is private, ask one of its members to add you.",
        ) from exc


def best_ref(refs: Sequence[Ref], default_branch: str | None) -> Ref:
    """Return the ref a bare commit is launched on: the default branch, else the first branch by name, else a tag.

    Raises RevisionNotFound when there is none.
    """
    branches = sorted((ref for ref in refs if ref.kind is RefKind.BRANCH), key=lambda ref: ref.name)
    tags = sorted((ref for ref in refs if ref.kind is RefKind.TAG), key=lambda ref: ref.name)
    ordered = [*(ref for ref in branches if ref.name == default_branch), *branches, *tags]
    if not ordered:
        raise RevisionNotFound("The commit is on no branch and no tag.", remedy="Name its branch.")
    return ordered[0]


def _found(commit: Commit | None, revision: str, project: Project) -> Commit:
    if commit is None:
        raise RevisionNotFound(
            f"{project.path} has no commit, branch or tag '{foreign(revision, limit=60)}'.",
            remedy="Check the name; a commit that was never pushed is not there yet.",
        )
    return commit


def _no_branch(branch: str, project: Project) -> RevisionNotFound:
    return RevisionNotFound(
        f"The following resources are missing: branch {foreign(branch, limit=120)} does not exist in {project.path}.",
        remedy="Check the branch's name; it is case sensitive.",
    )
