"""What speaks to GitLab and its registry, as the settings say.

Promises: nothing connects before it is used. Must not know: sessions, runtimes.
"""

from collections.abc import Mapping
from functools import partial

from sqlalchemy import Engine

from spawner.config import DEFAULT_FORGE, Settings
from spawner.errors import Misconfigured
from spawner.gitlab.client import GitLabForge
from spawner.gitlab.hookwatch import HookWatch
from spawner.gitlab.jobtokens import GitLabJobTokens
from spawner.gitlab.oauth import GitLabOAuth
from spawner.gitlab.registry import GitLabRegistry, RegistryHosts
from spawner.gitlab.statuses import GitLabStatuses
from spawner.gitlab.transport import Transport
from spawner.images.finding import ImageFinder
from spawner.images.standing import Standings
from spawner.images.statuses import LaunchStatuses
from spawner.ports import (
    Clock,
    Credential,
    CredentialKind,
    Forge,
    Registry,
    Runtime,
)
from spawner.store.builds import BuildRows
from spawner.store.users import UserRows
from spawner.users.service import UserRules, UserService
from spawner.wiring.clock import SystemClock
from spawner.wiring.values import ca_file_of, image_settings, secret

_MOST_HOOKED_PROJECTS = 100  # one call each, every ten minutes


def people(
    settings: Settings, *, engine: Engine, clock: Clock, keys: tuple[bytes, ...], hosts: RegistryHosts
) -> tuple[GitLabForge, UserService]:
    """Return the forge and who its people are; raises Misconfigured where no GitLab is set."""
    asked = settings.gitlab
    if not asked.url:
        raise Misconfigured("No GitLab is set.", remedy="Set SPAWNER_GITLAB__URL.")
    ca_file = ca_file_of(settings)
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
        client_secret=secret(asked.client_secret_file, "GITLAB__CLIENT_SECRET"),
        redirect_uri=f"{settings.http.public_url}/login/callback",
        scopes=asked.scopes,
        timeout_seconds=asked.timeout_seconds,
        ca_file=ca_file,
    )


def hook_watch(settings: Settings, engine: Engine) -> HookWatch | None:
    """Return what looks at our hooks, or None where the operator gave no token to look with."""
    asked = settings.gitlab
    token = secret(asked.hooks_token_file, "GITLAB__HOOKS_TOKEN")
    if token is None:
        return None
    return HookWatch(
        Transport(asked.url, timeout_seconds=asked.timeout_seconds, ca_file=ca_file_of(settings)),
        token=token,
        receiver_url=f"{settings.http.public_url}/hooks/gitlab",
        projects=partial(BuildRows(engine).projects, limit=_MOST_HOOKED_PROJECTS),
        clock=SystemClock(),
    )


def registry_of(settings: Settings, hosts: RegistryHosts) -> GitLabRegistry:
    """Return registries as people see them."""
    return GitLabRegistry(
        gitlab_url=settings.gitlab.url,
        hosts=hosts,
        timeout_seconds=settings.registry.timeout_seconds,
        ca_file=ca_file_of(settings),
    )


def standings_of(
    settings: Settings, *, forge: Forge, registry: Registry, clock: Clock, started: Mapping[str, Runtime]
) -> Standings:
    """Return what tells how a commit stands."""
    images = image_settings(settings)
    finder = ImageFinder(
        forge=forge, registry=registry, clock=clock, defaults=images.defaults, max_age_days=images.max_age_days
    )
    accepts = started[settings.sessions.runtime].image_kinds
    return Standings(forge=forge, finder=finder, build_job=images.build_job, accepts=accepts)


def statuses_of(settings: Settings, *, forge: Forge, standings: Standings) -> LaunchStatuses | None:
    """Return what puts launch links on pipelines, or None where no token was given to do it with."""
    asked = settings.gitlab
    token = secret(asked.status_token_file, "GITLAB__STATUS_TOKEN")
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
