"""Deploy tokens by real python-gitlab.

Covered: making, listing, showing and ending one, who may, what it opens. Left out: tokens of groups; Git with one.
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import gitlab
import pytest
import requests

if TYPE_CHECKING:
    from spawner.testing.gitlab import ProjectHandle, StandIn
    from tests.contract.forge.conftest import Cast

SOON = (datetime.now(UTC) + timedelta(days=3)).isoformat()


def test_a_maintainer_makes_and_ends_one(cast: Cast) -> None:
    """The secret is shown once; name, scopes and end are as asked for; an ended one is gone."""
    project = cast.client().projects.get(cast.project.id)
    made = project.deploytokens.create({"name": "pull", "scopes": ["read_registry"], "expires_at": SOON})
    assert made.token
    assert made.username == f"gitlab+deploy-token-{made.id}"
    shown = project.deploytokens.get(made.id)
    assert (shown.name, shown.scopes, shown.revoked, shown.expired) == ("pull", ["read_registry"], False, False)
    assert "token" not in shown.attributes
    assert made.id in [row.id for row in project.deploytokens.list(iterator=True)]
    made.delete()
    with pytest.raises(gitlab.GitlabGetError) as gone:
        project.deploytokens.get(made.id)
    assert gone.value.response_code == 404


@pytest.mark.parametrize("body", [{}, {"scopes": ["api"]}, {"scopes": ["read_registry"], "expires_at": "soon"}])
def test_a_wrong_one_is_refused(cast: Cast, body: dict[str, object]) -> None:
    """Scopes are needed, and of those that a project's token can have; the end is a moment."""
    with pytest.raises(gitlab.GitlabHttpError) as refused:
        cast.client().http_post(f"/projects/{cast.project.id}/deploy_tokens", post_data={"name": "x", **body})
    assert refused.value.response_code == 400


def test_a_developer_may_not(cast: Cast) -> None:
    """It takes a maintainer."""
    developer = cast.forge.add_user("dev" + cast.path("x").rsplit("-", 1)[-1])
    cast.forge.add_member(cast.project, developer, 30)
    with pytest.raises(gitlab.GitlabCreateError) as refused:
        cast.client(developer).projects.get(cast.project.id, lazy=True).deploytokens.create(
            {"name": "pull", "scopes": ["read_registry"]}
        )
    assert refused.value.response_code == 403


def granted(stand_in: StandIn, who: tuple[str, str], project: ProjectHandle, actions: str) -> tuple[int, list[str]]:
    """Ask for a registry token; return the status, and the actions that it opens."""
    query = {"service": "container_registry", "scope": f"repository:{project.path.lower()}:{actions}"}
    answer = requests.get(f"{stand_in.url}/jwt/auth", params=query, auth=who, timeout=20)
    if not answer.ok:
        return answer.status_code, []
    part = answer.json()["token"].split(".")[1]
    access = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))["access"]
    return answer.status_code, [action for row in access for action in row["actions"]]


def test_it_reads_its_projects_images_and_nothing_else(cast: Cast, stand_in: StandIn) -> None:
    """It pulls from its own project, pushes nowhere, opens no API, needs its own name, and ends when it is ended."""
    own = stand_in.add_project(cast.path("own"), owner=cast.owner)
    other = stand_in.add_project(cast.path("other"), owner=cast.owner)
    client = gitlab.Gitlab(stand_in.url, private_token=cast.owner.token, timeout=20)
    made = client.projects.get(own.id).deploytokens.create({"name": "pull", "scopes": ["read_registry"]})
    who = (made.username, made.token)
    assert granted(stand_in, who, own, "pull,push") == (200, ["pull"])
    assert granted(stand_in, who, other, "pull") == (200, [])
    assert granted(stand_in, ("oauth2", made.token), own, "pull") == (403, [])
    answer = requests.get(f"{stand_in.url}/api/v4/projects/{own.id}", headers={"PRIVATE-TOKEN": made.token}, timeout=20)
    assert answer.status_code == 401
    made.delete()
    assert granted(stand_in, who, own, "pull") == (403, [])
