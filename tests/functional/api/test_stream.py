"""Event streams over HTTP, with real services and tasks behind them.

Covered: order, ends, resuming, the build's log, 204, the limit of viewers, a person's stream, strangers.
Left out: browsers (tests/browser), many processes (tests/functional/celery).
"""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from spawner.errors import ForgeUnavailable
from spawner.names import CommitSha, SessionName
from spawner.ports import JobStatus
from spawner.sessions.model import EventKind, NewEvent, Phase, Target
from tests.functional.api.conftest import client_of
from tests.functional.api.test_servers import BODY, launch, run
from tests.functional.api.world import OLD_SHA, SHA, World

ACCEPTED = NewEvent(kind=EventKind.PHASE, message="Accepted.")


@dataclass(frozen=True)
class Frame:
    """One server-sent event, read."""

    id: str
    event: str
    data: Any


def read(chunks: Iterator[bytes]) -> Iterator[Frame]:
    """Yield the frames of a stream as they come; comments and pauses are passed over."""
    text = ""
    for chunk in chunks:
        text += chunk.decode()
        while "\n\n" in text:
            block, text = text.split("\n\n", 1)
            fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if "event" in fields:
                yield Frame(fields.get("id", ""), fields["event"], json.loads(fields["data"]))


def frames(client: FlaskClient, path: str, **headers: str) -> list[Frame]:
    """Return every frame of a stream that ends by itself."""
    answer = client.get(path, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.content_type == "text/event-stream; charset=utf-8"
    return list(read(iter([answer.data])))


def test_until_ready(world: World, ada: FlaskClient) -> None:
    """The stream tells the whole launch in order and ends with ready; data has when, phase and sentence."""
    name = run(world, ada)["name"]
    found = frames(ada, f"/notebooks/servers/{name}/events?until=ready")
    assert [frame.event for frame in found] == ["phase", "image", "phase", "step", "step", "phase", "ready"]
    assert [frame.id for frame in found] == [f"{number}-0" for number in range(1, 8)]
    assert all({"at", "phase", "message"} <= set(frame.data) for frame in found)
    assert found[1].data["source"] == "exact"


def test_live(world: World, ada: FlaskClient) -> None:
    """A viewer who is there from the start sees ready when it happens."""
    world.add_image()
    name = launch(ada)["name"]
    ready = threading.Timer(0.3, world.be_ready, [SessionName(name)])
    ready.start()
    found = frames(ada, f"/notebooks/servers/{name}/events?until=ready")
    ready.join()
    assert (found[0].event, found[-1].event) == ("phase", "ready")


@pytest.mark.parametrize("how", ["header", "query"])
def test_resume(world: World, ada: FlaskClient, how: str) -> None:
    """A reconnect goes on after the last event seen; after the last of all there is 204."""
    name = run(world, ada)["name"]
    path = f"/notebooks/servers/{name}/events?until=ready"

    def after(cursor: str) -> Any:
        if how == "header":
            return ada.get(path, headers={"Last-Event-ID": cursor})
        return ada.get(f"{path}&after={cursor}")

    found = list(read(iter([after("5-0").data])))
    assert [frame.event for frame in found] == ["phase", "ready"]
    last = after(found[-1].id)
    assert (last.status_code, last.data) == (204, b"")


def test_gone(world: World, ada: FlaskClient) -> None:
    """Without `until` the stream goes on to gone; a reconnect after that gets 204."""
    name = run(world, ada)["name"]
    ada.delete(f"/notebooks/servers/{name}")
    found = frames(ada, f"/notebooks/servers/{name}/events")
    assert found[-1].event == "gone"
    again = ada.get(f"/notebooks/servers/{name}/events", headers={"Last-Event-ID": found[-1].id})
    assert again.status_code == 204


def test_next_generation(world: World, ada: FlaskClient) -> None:
    """A new viewer of a session launched again is not shown its former end."""
    name = run(world, ada)["name"]
    ada.delete(f"/notebooks/servers/{name}")
    frames(ada, f"/notebooks/servers/{name}/events")
    world.runtime.workloads.clear()
    ada.post("/notebooks/servers", json=BODY)
    world.be_ready(SessionName(name))
    found = frames(ada, f"/notebooks/servers/{name}/events?until=ready")
    assert "gone" not in [frame.event for frame in found]
    assert found[-1].event == "ready"


def test_build_log(world: World, ada: FlaskClient) -> None:
    """The build's log travels in the stream, once, and resumes where it was."""
    project = world.forge.projects[42]
    log = "Resolving äöü\n" * 3000
    world.add_job(project, JobStatus.FAILED, log=log.encode())
    name = launch(ada, fallback="fail")["name"]
    found = frames(ada, f"/notebooks/servers/{name}/events?until=ready")
    pieces = [frame.data["text"] for frame in found if frame.event == "log"]
    assert log == "".join(pieces)
    assert len(pieces) > 1
    assert found[-1].event == "failed"
    middle = next(frame for frame in found if frame.event == "log")
    rest = frames(ada, f"/notebooks/servers/{name}/events?until=ready", **{"Last-Event-ID": middle.id})
    assert log == middle.data["text"] + "".join(frame.data["text"] for frame in rest if frame.event == "log")


def test_build_log_comes_before_its_end(world: World, ada: FlaskClient) -> None:
    """Who reads up to the image has read the whole log of the build that was waited for."""
    world.add_job(world.forge.projects[42], JobStatus.FAILED, log=b"Resolving\n")
    name = launch(ada)["name"]
    world.be_ready(SessionName(name))
    kinds = [frame.event for frame in frames(ada, f"/notebooks/servers/{name}/events?until=ready")]
    assert kinds.index("log") < kinds.index("image")


def test_build_log_that_grows(world: World, ada: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the log grew by is shown when it is announced, though nothing else has happened."""
    monkeypatch.setattr(world.app.extensions["slipway"].looks, "_period_seconds", 60.0)
    project = world.forge.projects[42]
    world.add_job(project, JobStatus.RUNNING, log=b"Resolving\n")
    name = launch(ada)["name"]
    world.until(lambda: ada.get(f"/notebooks/logs/{name}").json)
    stream = ada.get(f"/notebooks/servers/{name}/events")
    pieces = (frame.data["text"] for frame in read(stream.iter_encoded()) if frame.event == "log")
    assert next(pieces) == "Resolving\n"
    world.add_job(project, JobStatus.RUNNING, log=b"Resolving\nFetching\n")
    world.services.images.hint("default", 42, SHA)
    assert next(pieces) == "Fetching\n"
    stream.close()


def test_build_log_after_a_hiccup(world: World, ada: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that could not be shown, as GitLab was away for a moment, is shown at the next look."""
    world.add_job(world.forge.projects[42], JobStatus.RUNNING, log=b"Resolving\n")
    name = launch(ada)["name"]
    world.until(lambda: ada.get(f"/notebooks/logs/{name}").json)
    world.services.sessions._access._jobs.clear()
    answers, real = [0], world.forge.job

    def away_once(*asked: Any) -> Any:
        answers[0] += 1
        if answers[0] == 1:
            raise ForgeUnavailable("GitLab is away.")
        return real(*asked)

    monkeypatch.setattr(world.forge, "job", away_once)
    stream = ada.get(f"/notebooks/servers/{name}/events")
    for chunk in stream.iter_encoded():
        if b"event: log" in chunk:
            break
        assert b"keep-alive" not in chunk, "the log did not come"
    stream.close()
    assert answers == [2]


def test_viewers_look_together(world: World, ada: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing happens, one look at the log and one at each build serve every viewer; each hears what comes."""
    looks = world.app.extensions["slipway"].looks
    monkeypatch.setattr(looks, "_period_seconds", 0.2)
    monkeypatch.setattr("spawner.api.stream.LOGIN_SECONDS", 600.0)  # each viewer's own look, however long this takes
    world.add_job(world.forge.projects[42], JobStatus.RUNNING)
    name = launch(ada)["name"]
    world.until(lambda: ada.get(f"/notebooks/servers/{name}").json["slipway"]["phase"] == "WAITING")  # type: ignore[index]
    asked: Counter[str] = Counter()
    for method in ("events", "events_of", "build_of"):
        monkeypatch.setattr(world.services.sessions, method, _counted(asked, method, world.services.sessions))
    with ThreadPoolExecutor(4) as threads:
        watching = [
            threads.submit(frames, client_of(world, "ada"), f"/notebooks/servers/{name}/events") for _ in "1234"
        ]
        world.until(lambda: asked["events_of"] >= 3)
        asked.clear()
        world.until(lambda: asked["events_of"] >= 10)
        counts = dict(asked)
        ada.delete(f"/notebooks/servers/{name}")
        ends = [each.result(timeout=30)[-1].event for each in watching]
    assert ends == ["gone"] * 4
    assert counts.get("events", 0) <= 4, counts  # one announcement's; alone they would look forty times
    assert counts["build_of"] <= counts["events_of"] + 1, counts


def _counted(asked: Counter[str], method: str, sessions: Any) -> Any:
    real = getattr(sessions, method)

    def counting(*given: Any, **named: Any) -> Any:
        asked[method] += 1
        return real(*given, **named)

    return counting


def test_too_many(ada: FlaskClient) -> None:
    """Beyond the places for viewers a stream is refused with when to try again; a place freed is a place."""
    name = launch(ada)["name"]
    path = f"/notebooks/servers/{name}/events"
    open_streams = [ada.get(path) for _ in range(4)]
    refused = ada.get(path)
    assert refused.json is not None
    assert (refused.status_code, refused.json["error"]["code"], refused.headers["Retry-After"]) == (503, 3503, "5")
    assert ada.get("/notebooks/servers").status_code == 200
    open_streams.pop().close()
    ada.get(path).close()
    for stream in open_streams:
        stream.close()


def test_person(world: World, ada: FlaskClient) -> None:
    """One stream tells of all of a person's sessions, new ones too, and resumes by a cursor for each."""
    first = launch(ada)["name"]
    stream = ada.get("/api/slipway/v1/events")
    second = launch(client_of(world, "ada"), commit_sha=OLD_SHA)["name"]
    found = next(frame for frame in read(stream.iter_encoded()) if frame.data["session"] == second)
    stream.close()
    assert f"{second}:" in found.id
    assert f"{first}:" in found.id
    again = ada.get("/api/slipway/v1/events", headers={"Last-Event-ID": f"{first}:0,{second}:0"})
    replayed = [frame for frame, _ in zip(read(again.iter_encoded()), range(2), strict=False)]
    again.close()
    assert {first, second} >= {frame.data["session"] for frame in replayed}
    assert replayed[0].data["message"] == "Accepted."


def test_person_with_a_long_history(world: World, ada: FlaskClient) -> None:
    """A person's stream resumes however many sessions they once had; one launched again is told from its launch on."""
    first = launch(ada)
    row = world.rows.get(SessionName(first["name"]))
    assert row is not None
    long_ago = world.clock.now() - timedelta(hours=2)
    old = replace(row, phase=Phase.GONE, target=Target.GONE, phase_since=long_ago, due_at=None, sha=CommitSha("b" * 40))
    for number in range(300):
        world.rows.add(replace(old, name=SessionName(f"ada-proj-of-long-ago-{number}")), [ACCEPTED])

    stream = ada.get("/api/slipway/v1/events", headers={"Last-Event-ID": f"{first['name']}:0"})
    told = read(stream.iter_encoded())
    assert next(told).id == f"{first['name']}:1"
    again = world.rows.get(SessionName("ada-proj-of-long-ago-7"))
    assert again is not None
    begun = replace(again, phase=Phase.NEW, target=Target.RUNNING, generation=2)
    assert world.rows.relaunch(begun, [replace(ACCEPTED, message="Anew.")]) is not None
    found = next(frame for frame in told if frame.data["session"] == again.name)
    stream.close()
    assert found.data["message"] == "Anew."


def test_person_sees_no_others(world: World, ada: FlaskClient, bob: FlaskClient) -> None:
    """A person's stream does not take somebody else's session from a cursor."""
    name = launch(ada)["name"]
    stream = bob.get("/api/slipway/v1/events", headers={"Last-Event-ID": f"{name}:0"})
    chunks = iter(stream.iter_encoded())
    assert b"retry" in next(chunks)
    world.add_project("open/proj", members={"bob": 30})
    body = {"namespace": "open", "project": "proj", "commit_sha": SHA, "branch": "main"}
    own = client_of(world, "bob").post("/notebooks/servers", json=body).json
    assert own is not None
    assert next(read(chunks)).data["session"] == own["name"]
    stream.close()
