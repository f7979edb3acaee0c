"""Settings to services: the only place that chooses adapters.

For: every entry point (`wsgi`, `worker`, the command line) calls `wire` once per process, after any fork.
Promises: what a setting names and is not there is Misconfigured, in a sentence; nothing is started until
`Wired.start`; the edges get services and values, never a setting.
Must not know: HTTP routes, pages, command line options.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from sqlalchemy import Engine

from spawner import metrics, runtimes
from spawner.config import DEFAULT_FORGE, Dispatching, ResourceClass, Settings, read_keys, read_secret
from spawner.context import Announcements, EdgeOptions, ForgeAddress
from spawner.errors import ImageUnparsable, Misconfigured
from spawner.gitlab.client import GitLabForge
from spawner.gitlab.hookwatch import HookWatch
from spawner.gitlab.jobtokens import GitLabJobTokens
from spawner.gitlab.oauth import GitLabOAuth
from spawner.gitlab.registry import GitLabRegistry, RegistryHosts
from spawner.gitlab.statuses import GitLabStatuses
from spawner.gitlab.transport import Transport
from spawner.images.badges import Badges
from spawner.images.finding import ImageFinder
from spawner.images.model import FallbackPolicy, Policy
from spawner.images.pulling import PullService
from spawner.images.reference import parse
from spawner.images.service import BUILTIN, ImageService, ImageSettings
from spawner.images.standing import Standings
from spawner.images.statuses import LaunchStatuses
from spawner.ports import (
    Clock,
    Credential,
    CredentialKind,
    Dispatcher,
    Forge,
    ImageKind,
    Registry,
    Routes,
    Runtime,
    TaskKind,
)
from spawner.runtimes import default_environment
from spawner.runtimes.doors import HTTPDoors
from spawner.runtimes.routes import PortRoutes
from spawner.services import Services
from spawner.sessions import options
from spawner.sessions.access import Access
from spawner.sessions.agents import AgentService
from spawner.sessions.checkout import CheckoutPlan
from spawner.sessions.inventory import Inventory
from spawner.sessions.machine import Rules
from spawner.sessions.reconcile import Reconciler, SessionSettings
from spawner.sessions.service import SessionService
from spawner.sessions.waiters import SessionWaiters
from spawner.store.builds import BuildRows
from spawner.store.deliveries import DeliveryRows
from spawner.store.engine import open_engine, ping
from spawner.store.pulltokens import PullTokenRows
from spawner.store.sessions import SessionRows
from spawner.store.users import UserRows
from spawner.tasks.inprocess import InProcessDispatcher, Pace
from spawner.tasks.reconcile import TaskServices
from spawner.users.service import UserRules, UserService

GIGABYTE = options.GIGABYTE
DOCKER = "docker"
_MOST_HOOKED_PROJECTS = 100  # one call each, every ten minutes
_RESERVED_THREADS = 8  # kept for requests; the rest may serve event streams


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Return the present as an aware UTC datetime."""
        return datetime.now(UTC)


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
    keys = _keys(settings)
    engine = open_engine(settings.database.url, password=_secret(settings.database.password_file, "DATABASE__PASSWORD"))
    dispatcher = _dispatcher(settings)
    services = _services(settings, engine=engine, keys=keys, dispatcher=dispatcher)
    return Wired(
        services=services,
        edge=replace(
            _edge(settings, keys=keys, announcements=dispatcher.announcements),
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
    hosts = RegistryHosts([*settings.registry.allowed_hosts, *_default_hosts(settings)])
    registry = _registry(settings, hosts)
    forge, users = _people(settings, engine=engine, clock=clock, keys=keys, hosts=hosts)
    started = _runtimes(settings, registry)
    waiters = SessionWaiters(sessions=sessions, users=users, runtimes=started, dispatcher=dispatcher)
    standings = _standings(settings, forge=forge, registry=registry, clock=clock, started=started)
    images = ImageService(
        forge=forge,
        registry=registry,
        builds=BuildRows(engine),
        waiters=waiters,
        dispatcher=dispatcher,
        clock=clock,
        settings=_image_settings(settings),
        statuses=_statuses(settings, forge=forge, standings=standings),
    )
    own = _session_settings(settings)
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
        routes=_routes(started),
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


def _standings(
    settings: Settings, *, forge: Forge, registry: Registry, clock: Clock, started: Mapping[str, Runtime]
) -> Standings:
    images = _image_settings(settings)
    finder = ImageFinder(
        forge=forge, registry=registry, clock=clock, defaults=images.defaults, max_age_days=images.max_age_days
    )
    accepts = started[settings.sessions.runtime].image_kinds
    return Standings(forge=forge, finder=finder, build_job=images.build_job, accepts=accepts)


def _statuses(settings: Settings, *, forge: Forge, standings: Standings) -> LaunchStatuses | None:
    asked = settings.gitlab
    token = _secret(asked.status_token_file, "GITLAB__STATUS_TOKEN")
    if token is None:
        return None
    ca_file = str(asked.ca_file) if asked.ca_file else None
    return LaunchStatuses(
        forge=forge,
        statuses=GitLabStatuses(asked.url, timeout_seconds=asked.timeout_seconds, ca_file=ca_file),
        standings=standings,
        credential=Credential(forge=DEFAULT_FORGE, token=token, kind=CredentialKind.PERSONAL),
        build_job=settings.images.build_job,
        public_url=settings.http.public_url,
    )


def _people(
    settings: Settings, *, engine: Engine, clock: Clock, keys: tuple[bytes, ...], hosts: RegistryHosts
) -> tuple[GitLabForge, UserService]:
    asked = settings.gitlab
    if not asked.url:
        raise Misconfigured("No GitLab is set.", remedy="Set SPAWNER_GITLAB__URL.")
    ca_file = _ca_file(settings)
    applications = frozenset({*asked.accepted_client_ids, asked.client_id} - {""})
    forge = GitLabForge(
        asked.url,
        key_cache=settings.standalone.root / "keys",
        application_ids=applications,
        timeout_seconds=asked.timeout_seconds,
        ca_file=ca_file,
        learn_registry=hosts.learn,
    )
    users = UserService(
        store=UserRows(engine, clock, keys),
        forge=forge,
        oauth=_oauth(settings, ca_file),
        jobs=GitLabJobTokens(
            asked.url, audience=settings.http.public_url, timeout_seconds=asked.timeout_seconds, ca_file=ca_file
        ),
        clock=clock,
        keys=keys,
        rules=UserRules(
            forge=DEFAULT_FORGE,
            forge_url=asked.url,
            other_application_ids=frozenset(asked.accepted_client_ids),
            login_seconds=settings.limits.login_hours * 3600,
            token_days=settings.limits.token_days,
            unknown_bearers_in_all=settings.limits.unknown_tokens_per_minute,
        ),
    )
    return forge, users


def _oauth(settings: Settings, ca_file: str | None) -> GitLabOAuth | None:
    asked = settings.gitlab
    if not asked.client_id:
        return None
    return GitLabOAuth(
        asked.url,
        client_id=asked.client_id,
        client_secret=_secret(asked.client_secret_file, "GITLAB__CLIENT_SECRET"),
        redirect_uri=f"{settings.http.public_url}/login/callback",
        scopes=asked.scopes,
        timeout_seconds=asked.timeout_seconds,
        ca_file=ca_file,
    )


def hook_watch(settings: Settings, engine: Engine) -> HookWatch | None:
    """Return what looks at our hooks, or None where the operator gave no token to look with."""
    asked = settings.gitlab
    token = _secret(asked.hooks_token_file, "GITLAB__HOOKS_TOKEN")
    if token is None:
        return None
    return HookWatch(
        Transport(asked.url, timeout_seconds=asked.timeout_seconds, ca_file=_ca_file(settings)),
        token=token,
        receiver_url=f"{settings.http.public_url}/hooks/gitlab",
        projects=partial(BuildRows(engine).projects, limit=_MOST_HOOKED_PROJECTS),
        clock=SystemClock(),
    )


def _registry(settings: Settings, hosts: RegistryHosts) -> GitLabRegistry:
    return GitLabRegistry(
        gitlab_url=settings.gitlab.url,
        hosts=hosts,
        timeout_seconds=settings.registry.timeout_seconds,
        ca_file=_ca_file(settings),
    )


def runtime_names(settings: Settings) -> tuple[str, ...]:
    """Return the runtimes of this service, the default first."""
    return tuple(dict.fromkeys((settings.sessions.runtime, *settings.sessions.more_runtimes)))


def _runtimes(settings: Settings, registry: Registry) -> Mapping[str, Runtime]:
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


def _routes(started: Mapping[str, Runtime]) -> Mapping[str, Routes]:
    # Every runtime of today is reached at its own port; behind a gateway, a runtime's routes will be the gateway's.
    return dict.fromkeys(started, PortRoutes())


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


# ---------------------------------------------------------------- values


def _image_settings(settings: Settings) -> ImageSettings:
    images = settings.images
    defaults = {ImageKind.ENVIRONMENT: images.default_environment or default_environment.reference()}
    if images.default_container:
        defaults[ImageKind.CONTAINER] = images.default_container
    policy = Policy(
        fallback=FallbackPolicy(images.fallback.value),
        grace_seconds=images.grace_seconds,
        queue_budget_seconds=images.queue_budget_seconds,
        build_budget_seconds=images.build_budget_seconds,
        registry_budget_seconds=images.registry_budget_seconds,
        push_lag_seconds=images.push_lag_seconds,
    )
    return ImageSettings(
        build_job=images.build_job, defaults=defaults, max_age_days=images.environment_max_age_days, policy=policy
    )


def _default_hosts(settings: Settings) -> Iterator[str]:
    """Yield the registries of the default images; raises Misconfigured for one that does not parse."""
    for name in ("default_environment", "default_container"):
        reference = getattr(settings.images, name)
        if not reference or reference.startswith(BUILTIN):
            continue
        try:
            yield parse(reference).host
        except ImageUnparsable as error:
            raise Misconfigured(error.message, remedy=f"Mend SPAWNER_IMAGES__{name.upper()}.") from error


def _session_settings(settings: Settings) -> SessionSettings:
    own = settings.sessions
    base = settings.http.public_url
    rules = Rules(
        start_budget_seconds=own.start_budget_seconds,
        stop_grace_seconds=own.stop_grace_seconds,
        retention_seconds=own.retention_days * 86400,
        observe_seconds=own.observe_seconds,
        restarts_limit=own.restarts_limit,
        restarts_window_seconds=own.restarts_window_seconds,
    )
    return SessionSettings(
        instance=own.instance,
        default_runtime=own.runtime,
        report_url=f"{base}/api/slipway/v1/agent",
        relay_url=f"{base}/git",
        classes=tuple(_class(each) for each in settings.resources.classes),
        rules=rules,
        access_check_seconds=own.access_check_seconds,
        prepares_default_image=own.prepare_default_image,
    )


def _class(each: ResourceClass) -> options.ResourceClass:
    return options.ResourceClass(
        id=each.id,
        name=each.name,
        cpu_cores=each.cpu_cores,
        memory_bytes=round(each.memory_gigabytes * GIGABYTE),
        gpu_count=each.gpu_count,
        default_storage_bytes=round(each.default_storage_gigabytes * GIGABYTE),
        max_storage_bytes=round(each.max_storage_gigabytes * GIGABYTE),
        is_default=each.is_default,
    )


def _edge(settings: Settings, *, keys: tuple[bytes, ...], announcements: Announcements) -> EdgeOptions:
    http = settings.http
    edge = EdgeOptions(
        public_url=http.public_url,
        cookie_keys=tuple(hashlib.sha256(b"cookies:" + key).hexdigest() for key in keys),
        forges=(ForgeAddress(name=DEFAULT_FORGE, web_url=settings.gitlab.url),),
        announcements=announcements,
        patch_status=settings.api.patch_status.value,
        viewer_limit=max(1, http.threads - _RESERVED_THREADS),
        hook_secrets=tuple((_secret(settings.gitlab.webhook_secret_file, "GITLAB__WEBHOOK_SECRET") or "").split()),
        default_url=settings.sessions.default_url,
        default_urls=settings.sessions.url_choices,
        metrics=metrics.exposition,
        max_body_bytes=settings.limits.body_bytes,
        takes_renku_headers=http.renku_headers,
        launches_per_minute=settings.limits.launches_per_minute,
    )
    return replace(edge, notices=_notices(settings))


def _notices(settings: Settings) -> tuple[str, ...]:
    host = urlsplit(settings.http.public_url).hostname or ""
    if "standalone" not in runtime_names(settings) or host in {"127.0.0.1", "localhost"}:
        return ()
    return ("Sessions of this service are processes of one machine.",)


def _keys(settings: Settings) -> tuple[bytes, ...]:
    if settings.secrets.key_file is None:
        raise Misconfigured(
            "No key file is set.", remedy="Set SPAWNER_SECRETS__KEY_FILE to a file with one key per line."
        )
    return read_keys(settings.secrets.key_file)


def _secret(path: Path | None, setting: str) -> str | None:
    return None if path is None else read_secret(path, setting=f"SPAWNER_{setting}_FILE")


def _ca_file(settings: Settings) -> str | None:
    return str(settings.gitlab.ca_file) if settings.gitlab.ca_file else None
