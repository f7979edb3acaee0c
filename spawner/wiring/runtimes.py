"""The runtimes that the settings name, and how what they run is reached.

Promises: a runtime's own library is imported only where it is chosen. Must not know: GitLab, sessions.
"""

from collections.abc import Mapping
from typing import Any

from spawner import runtimes
from spawner.config import Settings
from spawner.ports import (
    Registry,
    Routes,
    Runtime,
)
from spawner.runtimes.routes import PortRoutes
from spawner.wiring.values import runtime_names

DOCKER = "docker"


def start_runtimes(settings: Settings, registry: Registry) -> Mapping[str, Runtime]:
    """Return the runtimes by name; each connects when it is used."""
    made = {}
    for name in runtime_names(settings):
        options = _docker_options(settings) if name == DOCKER else _standalone_options(settings)
        made[name] = runtimes.factory(name)(
            instance=settings.sessions.instance,
            registry=registry,
            start_budget_seconds=settings.sessions.start_budget_seconds,
            **options,
        )
    return made


def _standalone_options(settings: Settings) -> dict[str, Any]:
    return {
        "root": settings.standalone.root.absolute(),
        "listen_host": settings.standalone.host,
        "public_host_suffix": settings.standalone.serves_people.removeprefix("{name}."),
    }


def _docker_options(settings: Settings) -> dict[str, Any]:
    return {
        "root": settings.docker.root.absolute(),
        "host": settings.docker.host,
        "network": settings.docker.network,
        "processes_limit": settings.docker.processes_limit,
    }


def more_addresses(settings: Settings) -> tuple[str, ...]:
    """Return where the web process listens besides its port: at the socket that containers of ours are given."""
    if DOCKER not in runtime_names(settings):
        return ()
    from spawner.runtimes.docker import spawner_socket  # noqa: PLC0415 - only where it is chosen

    return (f"unix:{spawner_socket(settings.docker.root.absolute())}",)


def routes_of(started: Mapping[str, Runtime]) -> Mapping[str, Routes]:
    """Return how people reach what each runtime runs."""
    # Every runtime of today is reached at its own port; behind a gateway, a runtime's routes will be the gateway's.
    return dict.fromkeys(started, PortRoutes())
