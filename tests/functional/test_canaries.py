"""Secrets of every kind, planted in a whole run, stand nowhere that anybody but the spawner reads.

Covered: logs (at DEBUG), targets of the calls to GitLab, arguments and environments of every process, pages, answers,
errors of many sorts, metrics, the database dumped whole; in clear, base64 and URL form. Left out: what code in a
session can read (test_isolation).
"""

import base64
import contextlib
import json
import os
import secrets as random
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest
import requests
from sqlalchemy import MetaData, select

from spawner.config import read_keys
from spawner.errors import StoreUnavailable
from spawner.gitlab.transport import meaning
from spawner.names import SessionName
from spawner.store.engine import open_engine, reading
from spawner.store.users import UserRows
from spawner.testing.gitlab.client import ProjectHandle
from spawner.testing.gitlab.standin import StandIn
from spawner.users.model import user_id
from spawner.wiring import SystemClock
from tests.functional.conftest import WAYS, Maker
from tests.functional.inside import forms
from tests.functional.signing_in import sign_in
from tests.installation import Client, Installation

pytestmark = pytest.mark.timeout(600)

PAGES = ("/", "/tokens", "/login", "/go?url=x", "/nothing", "/metrics", "/healthz", "/readyz", "/notebooks/spec.json")
LISTS = ("/api/notebooks/servers", "/api/slipway/v1/tokens", "/api/slipway/v1/person", "/api/notebooks/server_options")


class Processes:
    """Arguments and environments of all processes, looked at again and again while a run lasts."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(10)

    def _look(self) -> None:
        own = str(os.getpid())
        while not self._over.wait(0.1):
            for part in ("cmdline", "environ"):
                for path in Path("/proc").glob(f"[0-9]*/{part}"):
                    if path.parent.name != own:
                        with contextlib.suppress(OSError):
                            self.seen.add(path.read_bytes())


@dataclass(slots=True, kw_only=True)
class Run:
    """What was planted, and everything that can be read of the run by others, place by place."""

    planted: dict[str, str] = field(default_factory=dict)
    controls: dict[str, str] = field(default_factory=dict)  # by place, what is no secret and stands there
    places: dict[str, bytes] = field(default_factory=dict)

    def add(self, place: str, *contents: bytes | str) -> None:
        """Keep what a place holds."""
        joined = b"\n".join(each.encode() if isinstance(each, str) else each for each in contents)
        self.places[place] = self.places.get(place, b"") + b"\n" + joined

    def found(self, secret: str) -> list[str]:
        """Return the places where a secret stands, in any form."""
        return [place for place, content in self.places.items() if any(form in content for form in forms(secret))]


@pytest.fixture(scope="module", params=WAYS)
def installation(request: pytest.FixtureRequest, make: Maker, standalone_root: Path) -> Iterator[Installation]:
    """A spawner that logs all it can, and takes hooks."""
    made = make(request.param, root=standalone_root, settings={"LOG__LEVEL": "DEBUG", "IMAGES__GRACE_SECONDS": "2"})
    hooks = made.data / "hooks"
    hooks.touch(mode=0o600)
    key = base64.b64encode(random.token_bytes(32)).decode()
    hooks.write_text(f"{random.token_urlsafe(32)}\nwhsec_{key}\n")
    made.environment = {**made.environment, "SPAWNER_GITLAB__WEBHOOK_SECRET_FILE": str(hooks)}
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def run(stand_in: StandIn, installation: Installation) -> Run:
    """A person signs in, launches, opens and stops, and makes every mistake; what others can read of it is kept."""
    found, password = Run(), random.token_urlsafe(12)
    user = stand_in.add_user(f"canary-{random.token_hex(4)}", password=password)
    project = stand_in.add_project(f"{user.username}/private", owner=user)
    sha = stand_in.commit(project, {"README.md": "a"})  # before anybody looks: this Git is the test's own
    client = installation.client(user)
    with Processes() as processes:
        browser = sign_in(installation.url, stand_in.url, username=user.username, password=password)
        _plant_service(found, installation)
        _plant_person(found, installation, stand_in, user.id, browser)
        found.planted |= {"personal token": user.token, "password": password}
        name = _live(found, client, project, sha, installation)
        _see(found, client, browser, name)
        _err(found, client, stand_in, project, installation)
        client.stop(name)
        client.reaches(name, "GONE", seconds=60)
    found.controls = {
        "processes": installation.environment["SPAWNER_SESSIONS__INSTANCE"],
        "logs": name,
        "calls to GitLab": project.path,
        "database": project.path,
        "pages": project.path,
        "events": "Starting",
        "errors": "This hook is not ours",
    }
    found.add("processes", *processes.seen)
    found.add("logs", *(installation.log(part) for part in installation.parts))
    found.add("calls to GitLab", *stand_in.targets())
    found.add("database", *_dump(installation))
    return found


def _plant_service(run: Run, installation: Installation) -> None:
    told = installation.environment
    plain, signing = (installation.data / "hooks").read_text().split()
    run.planted |= {
        "client secret": Path(told["SPAWNER_GITLAB__CLIENT_SECRET_FILE"]).read_text().strip(),
        "key": Path(told["SPAWNER_SECRETS__KEY_FILE"]).read_text().strip(),
        "hook token": plain,
        "hook signing key": signing.removeprefix("whsec_"),
    }


def _plant_person(
    run: Run, installation: Installation, stand_in: StandIn, number: int, browser: requests.Session
) -> None:
    """Learn what the sign-in brought: from the database with its key, and from the browser's cookies."""
    told = installation.environment
    engine = open_engine(told["SPAWNER_DATABASE__URL"])
    keys = read_keys(Path(told["SPAWNER_SECRETS__KEY_FILE"]))
    grant = UserRows(engine, SystemClock(), keys).grant(user_id(stand_in.url, str(number)))
    engine.dispose()
    assert grant is not None
    assert grant.refresh_token is not None
    login = next(each.value for each in browser.cookies if "login" in each.name)
    assert login is not None
    run.planted |= {"oauth token": grant.access_token, "refresh token": grant.refresh_token, "login": login}


def _live(run: Run, client: Client, project: ProjectHandle, sha: str, installation: Installation) -> SessionName:
    """Launch with the personal token, make a token of ours, open the session, take hooks."""
    made = client.call("POST", "/api/slipway/v1/tokens", json={"name": "canary"}).json()
    name = client.launch(project, sha, build="never")["name"]
    told = client.reaches(name, "RUNNING", seconds=300)["slipway"]
    opened = client.call("POST", f"/api/notebooks/servers/{name}/open").json()["url"]
    client.enter(name)
    root = Path(installation.environment["SPAWNER_STANDALONE__ROOT"])
    private = json.loads((root / "workspaces" / told["workspace"] / ".slipway" / "session.json").read_text())
    run.planted |= {
        "own token": made["token"],
        "session's credential": private["credential"],
        "one-time code": opened.partition("code=")[2].partition("&")[0],
    }
    own = {"Authorization": f"Bearer {made['token']}"}
    assert client.call("GET", "/api/notebooks/servers", headers=own).ok
    hook = {"X-Gitlab-Token": run.planted["hook token"], "X-Gitlab-Event": "Job Hook"}
    for body in (b"{}", b"no json"):
        requests.post(f"{installation.url}/hooks/gitlab", data=body, headers=hook, timeout=10)
    return SessionName(name)


def _see(run: Run, client: Client, browser: requests.Session, name: SessionName) -> None:
    """Read every page and list, signed in by cookie and by token."""
    server = f"/api/notebooks/servers/{name}"
    events = client.call("GET", f"{server}/events?until=ready", stream=True)
    run.add("events", events.raw.read(65536))
    events.close()
    for path in (*PAGES, *LISTS, server, f"/api/notebooks/logs/{name}", f"/sessions/{name}"):
        answers = [client.call("GET", path), browser.get(f"{client.url}{path}", timeout=30)]
        run.add("pages", *(f"{each.headers} {each.url}\n{each.text}" for each in answers))


def _err(run: Run, client: Client, stand_in: StandIn, project: ProjectHandle, installation: Installation) -> None:
    """Provoke errors: wrong tokens and right ones in wrong places, a GitLab that refuses or babbles, a wrong hook."""
    said = []
    for name, secret in run.planted.items():
        said += [
            client.call("GET", "/api/notebooks/servers", headers={"Authorization": f"Bearer {secret}x"}),
            client.call(
                "POST", "/api/slipway/v1/agent/report", json={}, headers={"Authorization": f"Bearer {secret}x"}
            ),
            requests.post(
                f"{client.url}/hooks/gitlab", data=b"{}", headers={"X-Gitlab-Token": f"{secret}x"}, timeout=10
            ),
        ]
        if name != "personal token":
            said.append(client.call("GET", f"/git/{name.replace(' ', '-')}/x.git/info/refs?service=git-upload-pack"))
    for fault in ("bad_gateway_html", "token_expired"):
        stand_in.control("POST", "/faults", {"fault": fault, "times": 3})
        said += [client.call("GET", f"/launch/{project.path}") for _ in range(3)]
        stand_in.control("DELETE", "/faults")
    said += [client.call("GET", "/login/callback?code=x&state=x"), client.call("POST", "/logout")]
    errors = [meaning(status, b"{}", "") for status in (401, 403, 404, 500)]
    run.add("errors", *(f"{each.headers}\n{each.text}" for each in said), *map(repr, errors))
    assert installation.processes["web"].poll() is None


def _dump(installation: Installation) -> Iterator[str | bytes]:
    """Yield every row of every table, and SQLite's files as they lie there."""
    engine = open_engine(installation.environment["SPAWNER_DATABASE__URL"])
    metadata = MetaData()
    metadata.reflect(engine)
    with reading(engine) as connection:
        for table in metadata.sorted_tables:
            for row in connection.execute(select(table)):
                yield f"{table.name} {tuple(row)}"
    engine.dispose()
    yield from (file.read_bytes() for file in installation.data.glob("slipway.db*"))


def test_what_was_looked_at(run: Run) -> None:
    """In every place the search finds what is no secret and stands there, and a secret of each kind was planted."""
    assert {place: place in run.found(word) for place, word in run.controls.items()} == dict.fromkeys(run.places, True)
    assert len(run.planted) == 12
    assert all(len(secret) >= 12 for secret in run.planted.values())


def test_no_secret_is_found(run: Run) -> None:
    """Not one of them stands anywhere, in clear, in base64 or as a URL has it."""
    found: Mapping[str, list[str]] = {name: run.found(secret) for name, secret in run.planted.items()}
    assert {name: places for name, places in found.items() if places} == {}


def test_an_error_of_the_database_has_no_password() -> None:
    """A URL's password is in no error, whatever cannot be reached."""
    engine = open_engine("postgresql://canary@127.0.0.1:9/nothing", password="a-canary-password")
    with pytest.raises(StoreUnavailable) as caught, reading(engine):
        pass
    assert "a-canary-password" not in f"{caught.value} {caught.value.__cause__} {engine.url}"
