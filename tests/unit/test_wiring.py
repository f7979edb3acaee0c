"""Settings to services: what a setting says is what the service or the edge is told.

Covered: settings that go through wiring alone. Left out: serving with them (the functional suites), the adapters.
"""

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from spawner import config
from spawner.wiring import Wired, more_addresses, wire


@pytest.fixture
def wired(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """The services of the least settings and those of the test; nothing is started, nobody is asked."""
    (tmp_path / "keys").write_text("0123456789abcdefghijklmnopqrstuvwxyz-unit\n")
    monkeypatch.setenv("SPAWNER_DATABASE__URL", f"sqlite:///{tmp_path}/slipway.db")
    monkeypatch.setenv("SPAWNER_GITLAB__URL", "http://127.0.0.1:9")
    monkeypatch.setenv("SPAWNER_GITLAB__CLIENT_ID", "an-application")
    monkeypatch.setenv("SPAWNER_SECRETS__KEY_FILE", str(tmp_path / "keys"))
    monkeypatch.setenv("SPAWNER_STANDALONE__ROOT", str(tmp_path / "standalone"))
    monkeypatch.setenv("SPAWNER_DOCKER__ROOT", str(tmp_path / "docker"))
    for name, value in request.param.items():
        monkeypatch.setenv(f"SPAWNER_{name}", value)
    made = wire(config.load())
    yield made
    made.engine.dispose()


def _scopes(wired: Wired) -> str:
    url = wired.services.users.begin_sign_in(redirect_uri="http://s/login/callback", return_to="/")[0]
    return parse_qs(urlsplit(url).query)["scope"][0]


def _host_suffix(wired: Wired) -> str:
    runtime: Any = wired.services.sessions._runtimes["standalone"]
    return str(runtime.public_host_suffix)


def _runtimes(wired: Wired) -> tuple[str, ...]:
    return tuple(wired.services.sessions._runtimes)


def _docker(wired: Wired) -> tuple[str, int]:
    runtime: Any = wired.services.sessions._runtimes["docker"]
    return runtime.place.network, runtime.place.processes_limit


@pytest.mark.parametrize(
    ("wired", "read", "expected"),
    [
        ({}, lambda each: each.edge.launches_per_minute, 60),
        ({"LIMITS__LAUNCHES_PER_MINUTE": "7"}, lambda each: each.edge.launches_per_minute, 7),
        ({"LIMITS__TOKEN_DAYS": "14"}, lambda each: each.services.users.longest_token_days, 14),
        ({}, _scopes, "openid profile read_api read_repository write_repository read_registry"),
        ({"GITLAB__SCOPES": "api,read_registry"}, _scopes, "api read_registry"),
        ({}, _host_suffix, "localhost"),
        ({"STANDALONE__SERVES_PEOPLE": "{name}.sessions.example.org"}, _host_suffix, "sessions.example.org"),
        ({}, _runtimes, ("standalone",)),
        ({"SESSIONS__RUNTIME": "docker", "SESSIONS__MORE_RUNTIMES": "standalone"}, _runtimes, ("docker", "standalone")),
        ({"SESSIONS__RUNTIME": "docker"}, _docker, ("slipway-slipway", 2048)),
        (
            {"SESSIONS__RUNTIME": "docker", "DOCKER__NETWORK": "ours", "DOCKER__PROCESSES_LIMIT": "99"},
            _docker,
            ("ours", 99),
        ),
    ],
    ids=[
        "pace",
        "another pace",
        "token days",
        "scopes",
        "other scopes",
        "sessions' host",
        "another host",
        "one runtime",
        "two runtimes",
        "docker",
        "docker with settings",
    ],
    indirect=["wired"],
)
def test_a_setting_arrives(wired: Wired, read: Any, expected: object) -> None:
    """What is set is what the part that acts on it has been told."""
    assert read(wired) == expected


@pytest.mark.parametrize("runtime", ["standalone", "docker"])
def test_containers_get_a_socket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, runtime: str) -> None:
    """The web process listens at a socket in a file where there are containers, and nowhere else."""
    monkeypatch.setenv("SPAWNER_DOCKER__ROOT", str(tmp_path))
    monkeypatch.setenv("SPAWNER_SESSIONS__RUNTIME", runtime)

    expected = (f"unix:{tmp_path}/spawner/web.sock",) if runtime == "docker" else ()
    assert more_addresses(config.load()) == expected
