"""Settings as the plain values that services and edges are given.

Promises: what a setting names and is not there is Misconfigured, in a sentence; nothing is opened but secret files.
Must not know: adapters.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from spawner import metrics
from spawner.config import DEFAULT_FORGE, ResourceClass, Settings, read_keys, read_secret
from spawner.context import Announcements, EdgeOptions, ForgeAddress
from spawner.errors import ImageUnparsable, Misconfigured
from spawner.images.model import FallbackPolicy, Policy
from spawner.images.reference import parse
from spawner.images.service import BUILTIN, ImageSettings
from spawner.ports import ImageKind
from spawner.runtimes import default_environment
from spawner.sessions import options
from spawner.sessions.machine import Rules
from spawner.sessions.reconcile import SessionSettings

GIGABYTE = options.GIGABYTE
_RESERVED_THREADS = 8  # kept for requests; the rest may serve event streams


def image_settings(settings: Settings) -> ImageSettings:
    """Return what the image service is told."""
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


def default_hosts(settings: Settings) -> Iterator[str]:
    """Yield the registries of the default images; raises Misconfigured for one that does not parse."""
    for name in ("default_environment", "default_container"):
        reference = getattr(settings.images, name)
        if not reference or reference.startswith(BUILTIN):
            continue
        try:
            yield parse(reference).host
        except ImageUnparsable as error:
            raise Misconfigured(error.message, remedy=f"Mend SPAWNER_IMAGES__{name.upper()}.") from error


def session_settings(settings: Settings) -> SessionSettings:
    """Return what sessions are told."""
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


def edge_options(settings: Settings, *, keys: tuple[bytes, ...], announcements: Announcements) -> EdgeOptions:
    """Return what the HTTP edge is told."""
    http = settings.http
    options_ = EdgeOptions(
        public_url=http.public_url,
        cookie_keys=tuple(hashlib.sha256(b"cookies:" + key).hexdigest() for key in keys),
        forges=(ForgeAddress(name=DEFAULT_FORGE, web_url=settings.gitlab.url),),
        announcements=announcements,
        patch_status=settings.api.patch_status.value,
        viewer_limit=max(1, http.threads - _RESERVED_THREADS),
        hook_secrets=tuple((secret(settings.gitlab.webhook_secret_file, "GITLAB__WEBHOOK_SECRET") or "").split()),
        default_url=settings.sessions.default_url,
        default_urls=settings.sessions.url_choices,
        metrics=metrics.exposition,
        max_body_bytes=settings.limits.body_bytes,
        takes_renku_headers=http.renku_headers,
        launches_per_minute=settings.limits.launches_per_minute,
    )
    return replace(options_, notices=_notices(settings))


def _notices(settings: Settings) -> tuple[str, ...]:
    host = urlsplit(settings.http.public_url).hostname or ""
    if "standalone" not in runtime_names(settings) or host in {"127.0.0.1", "localhost"}:
        return ()
    return ("Sessions of this service are processes of one machine.",)


def keys_of(settings: Settings) -> tuple[bytes, ...]:
    """Return the keys, newest first; raises Misconfigured where none are set."""
    if settings.secrets.key_file is None:
        raise Misconfigured(
            "No key file is set.", remedy="Set SPAWNER_SECRETS__KEY_FILE to a file with one key per line."
        )
    return read_keys(settings.secrets.key_file)


def secret(path: Path | None, setting: str) -> str | None:
    """Return the secret in a file of the settings, or None where none is named; raises Misconfigured."""
    return None if path is None else read_secret(path, setting=f"SPAWNER_{setting}_FILE")


def ca_file_of(settings: Settings) -> str | None:
    """Return the certificates to trust besides the system's, or None."""
    return str(settings.gitlab.ca_file) if settings.gitlab.ca_file else None


def runtime_names(settings: Settings) -> tuple[str, ...]:
    """Return the runtimes of this service, the default first."""
    return tuple(dict.fromkeys((settings.sessions.runtime, *settings.sessions.more_runtimes)))
