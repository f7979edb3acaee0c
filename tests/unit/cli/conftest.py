"""A spawner that answers over a real socket, and the command line called as a shell would."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from werkzeug.serving import make_server

from spawner.cli import main
from spawner.ports import AccessLevel
from spawner.store.engine import open_engine
from tests.functional.api.world import World, make_world
from tests.servers import free_port


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


Run = Callable[..., Ended]


@dataclass(frozen=True)
class Served:
    """A spawner on a port."""

    world: World
    url: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Call the command line with a configuration folder of its own and nothing in the environment."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    monkeypatch.delenv("SLIPWAY_URL", raising=False)
    monkeypatch.delenv("SLIPWAY_TOKEN_FILE", raising=False)

    def call(*arguments: str) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        printed = capsys.readouterr()
        return Ended(int(ended.value.code or 0), printed.out, printed.err)

    return call


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The least settings a spawner needs; GitLab's address answers nobody."""
    (tmp_path / "keys").write_text("0123456789abcdefghijklmnopqrstuvwxyz-unit\n")
    for name, value in {
        "DATABASE__URL": f"sqlite:///{tmp_path}/slipway.db",
        "GITLAB__URL": f"http://127.0.0.1:{free_port()}",
        "SECRETS__KEY_FILE": str(tmp_path / "keys"),
        "STANDALONE__ROOT": str(tmp_path / "standalone"),
    }.items():
        monkeypatch.setenv(f"SPAWNER_{name}", value)
    return tmp_path


@pytest.fixture
def served(sqlite_url: str) -> Iterator[Served]:
    """A spawner with its tasks running; Ada is developer of grp/proj, Bob is not."""
    engine = open_engine(sqlite_url)
    world = make_world(engine)
    for name in ("ada", "bob"):
        world.add_person(name)
    world.add_project(members={"ada": AccessLevel.DEVELOPER})
    world.dispatcher.start(world.services)
    server = make_server("127.0.0.1", 0, world.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with capture_logs():  # the server's, which would stand among the command's output
        yield Served(world, f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()
    thread.join(30)
    world.dispatcher.stop(timeout_seconds=30)
    engine.dispose()


@pytest.fixture
def ada(served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Run) -> Run:
    """The command line as Ada uses it in a script: address and token file in the environment."""
    token = tmp_path / "token"
    token.write_text("token-ada\n")
    monkeypatch.setenv("SLIPWAY_URL", served.url)
    monkeypatch.setenv("SLIPWAY_TOKEN_FILE", str(token))
    return run
