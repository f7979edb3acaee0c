"""Settings to services: the only place that chooses adapters.

For: every entry point (`wsgi`, `worker`, the command line) calls `wire` once per process, after any fork.
Promises: what a setting names and is not there is Misconfigured, in a sentence; nothing is started until
`Wired.start`; the edges get services and values, never a setting.
Must not know: HTTP routes, pages, command line options.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from sqlalchemy import Engine

from spawner.config import DEFAULT_FORGE, Dispatching, Settings
from spawner.context import Announcements, EdgeOptions
from spawner.gitlab.registry import RegistryHosts
from spawner.images.badges import Badges
from spawner.images.pulling import PullService
from spawner.images.service import ImageService
from spawner.ports import Dispatcher, TaskKind
from spawner.runtimes.doors import HTTPDoors
from spawner.services import Services
from spawner.sessions.access import Access
from spawner.sessions.agents import AgentService
from spawner.sessions.checkout import CheckoutPlan
from spawner.sessions.inventory import Inventory
from spawner.sessions.reconcile import Reconciler
from spawner.sessions.service import SessionService
from spawner.sessions.waiters import SessionWaiters
from spawner.store.builds import BuildRows
from spawner.store.deliveries import DeliveryRows
from spawner.store.engine import open_engine, ping
from spawner.store.pulltokens import PullTokenRows
from spawner.store.sessions import SessionRows
from spawner.tasks.inprocess import InProcessDispatcher, Pace
from spawner.tasks.reconcile import TaskServices
from spawner.wiring.clock import SystemClock
from spawner.wiring.gitlab import hook_watch, people, registry_of, standings_of, statuses_of
from spawner.wiring.runtimes import DOCKER, more_addresses, routes_of, start_runtimes
from spawner.wiring.values import (
    default_hosts,
    edge_options,
    image_settings,
    keys_of,
    runtime_names,
    secret,
    session_settings,
)

__all__ = [
    "DOCKER",
    "RunningDispatcher",
    "SystemClock",
    "Wired",
    "hook_watch",
    "more_addresses",
    "runtime_names",
    "wire",
]


class RunningDispatcher(Dispatcher, Protocol):
    """A dispatcher with a life of its own."""

    @property
    def announcements(self) -> Announcements:
        """Where viewers of this process wait."""
        ...

    def start(self, services: TaskServices) -> None:
        """Start its threads, once, after any fork."""
        ...

    def stop(self, *, timeout_seconds: float = 10.0) -> bool:
        """End its threads."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Wired:
    """One process's services, what its edges need, and what it must start and stop."""

    services: Services
    edge: EdgeOptions
    dispatcher: RunningDispatcher
    engine: Engine

    def start(self) -> None:
        """Start the dispatcher's threads; call once, after any fork."""
        self.dispatcher.start(self.services)
        self.dispatcher.soon(TaskKind.PREPARE, "")

    def stop(self) -> None:
        """End the threads and the connections, bounded in time."""
        self.dispatcher.stop()
        self.engine.dispose()


def wire(settings: Settings) -> Wired:
    """Build one process's services; raises Misconfigured."""
    keys = keys_of(settings)
    engine = open_engine(settings.database.url, password=secret(settings.database.password_file, "DATABASE__PASSWORD"))
    dispatcher = _dispatcher(settings)
    services = _services(settings, engine=engine, keys=keys, dispatcher=dispatcher)
    return Wired(
        services=services,
        edge=replace(
            edge_options(settings, keys=keys, announcements=dispatcher.announcements),
            # GitLab and Redis are left out: without them we answer less, not nothing.
            readiness={"database": partial(ping, engine)},
            deliveries=DeliveryRows(engine, SystemClock()),
        ),
        dispatcher=dispatcher,
        engine=engine,
    )


# ---------------------------------------------------------------- services


def _services(
    settings: Settings, *, engine: Engine, keys: tuple[bytes, ...], dispatcher: RunningDispatcher
) -> Services:
    clock = SystemClock()
    sessions = SessionRows(engine, clock)
    hosts = RegistryHosts([*settings.registry.allowed_hosts, *default_hosts(settings)])
    registry = registry_of(settings, hosts)
    forge, users = people(settings, engine=engine, clock=clock, keys=keys, hosts=hosts)
    started = start_runtimes(settings, registry)
    waiters = SessionWaiters(sessions=sessions, users=users, runtimes=started, dispatcher=dispatcher)
    standings = standings_of(settings, forge=forge, registry=registry, clock=clock, started=started)
    images = ImageService(
        forge=forge,
        registry=registry,
        builds=BuildRows(engine),
        waiters=waiters,
        dispatcher=dispatcher,
        clock=clock,
        settings=image_settings(settings),
        statuses=statuses_of(settings, forge=forge, standings=standings),
    )
    own = session_settings(settings)
    hooks = hook_watch(settings, engine)
    access = Access(users=users, forge=forge, clock=clock)
    reconciler = Reconciler(
        sessions=sessions,
        images=images,
        users=users,
        runtimes=started,
        dispatcher=dispatcher,
        clock=clock,
        settings=own,
        checkouts=CheckoutPlan(relay_url=own.relay_url),
        access=access,
        pulls=PullService(
            forge=forge,
            registry=registry,
            tokens=PullTokenRows(engine, keys),
            clock=clock,
            life_days=settings.images.pull_token_days,
        ),
    )
    service = SessionService(
        sessions=sessions,
        images=images,
        users=users,
        forge=forge,
        runtimes=started,
        routes=routes_of(started),
        dispatcher=dispatcher,
        clock=clock,
        settings=own,
        reconciler=reconciler,
        access=access,
        inventory=Inventory(sessions=sessions, runtimes=started, clock=clock),
        chores=() if hooks is None else (hooks.watch,),
    )
    return Services(
        sessions=service,
        agents=AgentService(sessions=sessions, users=users, access=access, dispatcher=dispatcher),
        images=images,
        badges=Badges(
            forge=forge,
            standings=standings,
            clock=clock,
            forge_name=DEFAULT_FORGE,
            looks_per_minute=settings.limits.badge_looks_per_minute,
        ),
        users=users,
        forge=forge,
        doors=HTTPDoors(),
        dispatcher=dispatcher,
        clock=clock,
    )


def _dispatcher(settings: Settings) -> RunningDispatcher:
    pace = Pace(
        threads=settings.tasks.threads,
        sweep_seconds=settings.tasks.sweep_seconds,
        housekeeping_seconds=settings.tasks.housekeeping_seconds,
    )
    match settings.tasks.dispatcher:
        case Dispatching.INPROCESS:
            return InProcessDispatcher(pace)
        case Dispatching.CELERY:
            from spawner.tasks.celery import CeleryDispatcher  # noqa: PLC0415 - only where it is asked for

            return CeleryDispatcher(settings.redis)
