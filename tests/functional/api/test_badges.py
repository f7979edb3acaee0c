"""Badges over HTTP: the state of public commits, and not a word of any other.

Covered: every state, private, internal and absent projects, signed-in viewers, caches on the way and here, many viewers
at once, a flood of addresses, GitLab away, the switch. Left out: what a real GitLab tells anonymous visitors
(contract/forge_port/test_nobody); how it looks (docs/images).
"""

import threading
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from spawner.images.badges import FRESH_SECONDS, Badges
from spawner.images.standing import Standing
from spawner.names import ProjectPath
from spawner.ports import AccessLevel, JobStatus, Visibility
from tests.functional.api.conftest import client_of
from tests.functional.api.test_pages import sign_in
from tests.functional.api.world import OLD_SHA, SHA, World, WorldProject

BADGE = "/badge/lab/open.svg"
PLAIN = "Launch"


@pytest.fixture
def public(world: World) -> WorldProject:
    """A public project, of which Ada is a member."""
    return world.add_project("lab/open", members={"ada": AccessLevel.DEVELOPER}, visibility=Visibility.PUBLIC)


def title(answer: TestResponse) -> str:
    """Return what a badge says, of a picture that is well-formed."""
    assert (answer.status_code, answer.mimetype) == (200, "image/svg+xml")
    picture = ET.fromstring(answer.text)  # noqa: S314 - our own
    return picture.findtext("{http://www.w3.org/2000/svg}title", "")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (None, "Launch: default image"),
        (JobStatus.PENDING, "Launch: building"),
        (JobStatus.RUNNING, "Launch: building"),
        (JobStatus.FAILED, "Launch: default image"),
        (JobStatus.MANUAL, "Launch: default image"),
        (JobStatus.SUCCESS, "Launch: default image"),
    ],
)
def test_build(
    world: World, nobody: FlaskClient, public: WorldProject, status: JobStatus | None, expected: str
) -> None:
    """A public commit's badge says whether its image is being built; without one it starts on the default image."""
    if status is not None:
        world.add_job(public, status)
    assert title(nobody.get(BADGE)) == expected


@pytest.mark.parametrize(
    "address",
    [
        BADGE,
        "/badge/Lab/Open.svg",
        "/badge/lab/open/-/tree/main.svg",
        "/badge/lab/open/-/tree/feature/x.svg",
        f"/badge/lab/open/-/commit/{SHA}.svg",
        "/badge/lab/open.svg?ref=feature/x",
        f"/badge/lab/open.svg?sha={SHA}",
    ],
)
def test_ready(world: World, nobody: FlaskClient, public: WorldProject, address: str) -> None:
    """A commit with an image of its own is ready, by whichever address it is named."""
    del public
    world.add_image("lab/open")
    assert title(nobody.get(address)) == "Launch: ready"
    assert title(nobody.get(f"/badge/lab/open/-/commit/{OLD_SHA}.svg")) == "Launch: default image"


@pytest.mark.parametrize("who", ["nobody", "a bearer", "a login"])
def test_nothing_private_is_told(world: World, public: WorldProject, who: str) -> None:
    """Private, internal, absent and nonsensical names look the same, byte by byte, to members too."""
    del public
    world.add_image()
    world.add_project("lab/inner", members={"ada": AccessLevel.OWNER}, visibility=Visibility.INTERNAL)
    world.add_image("lab/inner")
    client = client_of(world, "ada" if who == "a bearer" else None)
    if who == "a login":
        sign_in(client, "ada")
    names = ("grp/proj", "lab/inner", "grp/absent", "nonsense", "grp/../x", "lab/open/-/merge_requests/1")
    answers = [client.get(f"/badge/{name}.svg") for name in (*names, "lab/open/-/tree/absent")]
    plain = client.get("/badge_logo.svg")
    assert {title(each) for each in answers} == {PLAIN}
    assert {(each.data, each.headers["ETag"]) for each in answers} == {(plain.data, plain.headers["ETag"])}
    for each in answers:
        kept = {name: value for name, value in each.headers if name in {"Cache-Control", "Set-Cookie", "Vary"}}
        assert kept == {"Cache-Control": "public, max-age=30"}


def test_caches_on_the_way(world: World, nobody: FlaskClient, public: WorldProject) -> None:
    """A picture that has not changed is not sent again; one that has is."""
    first = nobody.get(BADGE)
    again = nobody.get(BADGE, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data, again.headers["Cache-Control"]) == (304, b"", "public, max-age=30")
    world.add_job(public, JobStatus.RUNNING)
    world.clock.passed += timedelta(seconds=FRESH_SECONDS + 1)
    changed = nobody.get(BADGE, headers={"If-None-Match": first.headers["ETag"]})
    assert title(changed) == "Launch: building"


def test_a_thousand_viewers_are_one_question(world: World, nobody: FlaskClient, public: WorldProject) -> None:
    """GitLab is asked once in half a minute, however many look."""
    del public
    nobody.get(BADGE)
    asked = world.forge.asked
    for _ in range(1000):
        nobody.get(BADGE)
    assert world.forge.asked == asked
    world.clock.passed += timedelta(seconds=FRESH_SECONDS + 1)
    for _ in range(10):
        nobody.get(BADGE)
    assert world.forge.asked == 2 * asked


def test_viewers_at_one_moment_are_one_question(
    world: World, public: WorldProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes while somebody asks waits for that answer."""
    del public
    badges, begun, goes_on = world.services.badges, threading.Event(), threading.Event()
    ask, asked = world.forge.project, []

    def slow(*given: object) -> object:
        asked.append(given)
        begun.set()
        assert goes_on.wait(10)
        return ask(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(world.forge, "project", slow)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(badges.standing, ProjectPath("lab/open"), None)
        assert begun.wait(10)
        others = [pool.submit(badges.standing, ProjectPath("lab/open"), None) for _ in range(5)]
        goes_on.set()
        assert {each.result(10) for each in (first, *others)} == {Standing.NONE}
    assert len(asked) == 1


def test_a_flood_of_addresses_is_no_flood_of_questions(world: World, nobody: FlaskClient, public: WorldProject) -> None:
    """All badges together ask so often within a minute; those that were seen before keep their answer meanwhile."""
    world.add_job(public, JobStatus.RUNNING)
    assert title(nobody.get(BADGE)) == "Launch: building"
    for number in range(100):
        nobody.get(f"/badge/lab/absent-{number}.svg")
    world.clock.passed += timedelta(seconds=FRESH_SECONDS + 1)
    asked = world.forge.asked
    assert title(nobody.get(BADGE)) == "Launch: building"
    assert world.forge.asked == asked
    world.clock.passed += timedelta(seconds=60)
    nobody.get(BADGE)
    assert world.forge.asked > asked


def test_gitlab_away(world: World, nobody: FlaskClient, public: WorldProject) -> None:
    """The last answer stays while GitLab cannot be asked, and it is left in peace; a badge never seen is plain."""
    world.add_job(public, JobStatus.RUNNING)
    nobody.get(BADGE)
    world.forge.is_down = True
    world.clock.passed += timedelta(seconds=FRESH_SECONDS + 1)
    assert title(nobody.get(BADGE)) == "Launch: building"
    asked = world.forge.asked
    assert title(nobody.get("/badge/lab/open/-/tree/main.svg")) == PLAIN
    assert world.forge.asked == asked


def test_switched_off(world: World, public: WorldProject) -> None:
    """Without looks there is no state, and GitLab is not asked at all."""
    del public
    world.add_image("lab/open")
    badges = Badges(
        forge=world.forge,
        standings=world.services.badges._standings,
        clock=world.clock,
        forge_name="default",
        looks_per_minute=0,
    )
    asked = world.forge.asked
    assert badges.standing(ProjectPath("lab/open"), None) is Standing.UNKNOWN
    assert world.forge.asked == asked
