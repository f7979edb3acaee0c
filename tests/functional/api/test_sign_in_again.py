"""A sign-in that ends while its session waits for a build: the wait is kept, says so, and goes on after a new sign-in.

Left out: sessions that run meanwhile (test_housekeeping).
"""

from flask.testing import FlaskClient

from spawner.names import SessionName
from spawner.ports import JobStatus
from spawner.sessions.model import Phase, Session
from tests.functional.api.conftest import client_of
from tests.functional.api.test_pages import HTML, ORIGIN, sign_in, token_of
from tests.functional.api.test_servers import BODY
from tests.functional.api.world import World


def waiting(world: World, browser: FlaskClient) -> SessionName:
    """Launch by the browser's sign-in a commit whose build runs."""
    world.add_job(world.forge.projects[42], JobStatus.RUNNING)
    headers = {**ORIGIN, "X-CSRF-Token": token_of(browser)}
    made = browser.post("/notebooks/servers", json=BODY, headers=headers).json
    assert made is not None
    name = SessionName(made["name"])
    world.until(lambda: in_phase(world, name, Phase.WAITING))
    return name


def in_phase(world: World, name: SessionName, phase: Phase) -> Session | None:
    found = world.rows.get(name)
    return found if found is not None and found.phase is phase else None


def test_the_wait_is_kept_until_the_person_is_back(world: World) -> None:
    """GitLab ends the grant: the session waits on and says to sign in; signed in again, it starts on its image."""
    browser = client_of(world, None)
    sign_in(browser, "ada")
    name = waiting(world, browser)
    person = world.rows.get(name)
    assert person is not None
    world.services.users._store.remove_grant(person.user_id)

    def told() -> str | None:
        world.rows.want([name])
        world.services.sessions.reconcile(name)
        page = browser.get(f"/sessions/{name}", headers=HTML).text
        return page if "Sign in again" in page else None

    world.until(told)
    assert in_phase(world, name, Phase.WAITING) is not None

    sign_in(browser, "ada")
    world.add_job(world.forge.projects[42], JobStatus.SUCCESS)
    world.add_image()
    world.services.images.hint("default", 42, person.sha)
    world.services.sessions.reconcile(name)
    world.be_ready(name)
    running = world.until(lambda: in_phase(world, name, Phase.RUNNING))
    assert running.image is not None
    assert running.image.source.value in {"built", "exact"}
