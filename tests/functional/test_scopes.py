"""A browser's sign-in with an application that has no more scopes than the settings ask for.

Covered: the whole sign-in, a session on it, and what a build asked for without `api` ends in. Left out: what each
scope allows (tests/contract/forge_port).
"""

from spawner.testing.gitlab.standin import StandIn
from tests.functional.signing_in import sign_in
from tests.installation import Installation, wait_for

PASSWORD = "a-password-of-carol"
JOB = "image_build:\n  stage: build\n  when: manual\n  script: ['true']\n"


def test_a_build_asked_for_without_api_says_so(installation: Installation, stand_in: StandIn) -> None:
    """GitLab accepts what a sign-in asks for; a build that needs more ends in words, and nothing is waited for."""
    carol = stand_in.add_user(f"carol-{installation.port}", password=PASSWORD)
    sign_in(installation.url, stand_in.url, username=carol.username, password=PASSWORD)
    project = stand_in.add_project(f"{carol.username}/manual", owner=carol)
    sha = stand_in.commit(project, {".gitlab-ci.yml": JOB})
    stand_in.wait_for_pipeline(project, sha)
    client = installation.client(carol)
    name = client.launch(project, sha, build="now", fallback="fail")["name"]
    ended = wait_for(
        lambda: server if (server := client.get(name)) and server["slipway"]["phase"] == "FAILED" else None,
        seconds=30,
        what="the refusal",
    )["slipway"]["error"]
    assert ended["code"] == "MissingScope"
    assert "needs the scope api" in ended["message"]
    assert "SPAWNER_GITLAB__SCOPES" in ended["remedy"]
