"""Protected branches: who may push to a ref.

Promises: GitLab's rules (https://docs.gitlab.com/user/project/repository/branches/protected/, 18.x): the default
branch is protected from the first push on; a Developer may make that first push.
Must not know: how a push arrives.
"""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING

from spawner.testing.gitlab.access import level
from spawner.testing.gitlab.records import Level, Project, ProtectedBranch, User

if TYPE_CHECKING:
    from spawner.testing.gitlab.instance import Instance

_HEADS = "refs/heads/"


def rule_for(instance: Instance, project: Project, branch: str) -> ProtectedBranch | None:
    """Return the rule that protects a branch, or None."""
    rows = instance.store.all(ProtectedBranch, lambda row: row.project_id == project.id)
    return next((row for row in rows if fnmatch.fnmatchcase(branch, row.name)), None)


def may_push(instance: Instance, project: Project, user: User, ref: str) -> bool:
    """Tell whether a person may push to a ref."""
    present = level(instance, project, user)
    if not ref.startswith(_HEADS):
        return present >= Level.DEVELOPER
    rule = rule_for(instance, project, ref.removeprefix(_HEADS))
    if rule is None:
        return present >= Level.DEVELOPER
    first = not instance.repository(project).refs()
    if first:
        return present >= Level.DEVELOPER
    return rule.push_level > Level.NONE and present >= rule.push_level


def is_guarded(instance: Instance, project: Project, ref: str) -> bool:
    """Tell whether a ref may be neither rewritten nor deleted by a push."""
    rule = rule_for(instance, project, ref.removeprefix(_HEADS)) if ref.startswith(_HEADS) else None
    return rule is not None and not rule.allow_force_push


def is_protected(instance: Instance, project: Project, branch: str) -> bool:
    """Tell whether a rule protects a branch."""
    return rule_for(instance, project, branch) is not None


def protect(
    instance: Instance, project: Project, branch: str, *, push_level: Level = Level.MAINTAINER
) -> ProtectedBranch:
    """Protect a branch or wildcard."""
    with instance.store as store:
        return store.put(
            ProtectedBranch(
                id=store.next_id(ProtectedBranch),
                project_id=project.id,
                name=branch,
                push_level=push_level,
                merge_level=Level.MAINTAINER,
                allow_force_push=False,
            )
        )
