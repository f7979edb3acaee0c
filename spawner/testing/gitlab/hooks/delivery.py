"""Sends events to hooks, once each, and keeps what became of it.

Source: https://docs.gitlab.com/user/project/integrations/webhooks/ (18.x).
Promises: one POST per event and hook, in no promised order; the same idempotency key on a resend; after 4 failures
a hook rests for a minute, doubling up to a day, after 40 for good; a 2xx or 3xx answer wakes it. Signatures follow
Standard Webhooks.
Must not know: why the event happened.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import hmac
import json
import threading
import time
import uuid
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import requests

from spawner.testing.gitlab import faults
from spawner.testing.gitlab.hooks import payloads
from spawner.testing.gitlab.hooks.events import TITLES
from spawner.testing.gitlab.instance import VERSION, now
from spawner.testing.gitlab.records import Delivery, Hook, Job, Pipeline, Project, Push, User

if TYPE_CHECKING:
    from spawner.testing.gitlab.instance import Instance
    from spawner.testing.gitlab.letters import Letter

_KEPT_RESPONSE_BYTES = 8192
_FREE_FAILURES = 3
_FINAL_FAILURES = 39
_REST_SECONDS = 60
_LONGEST_REST_SECONDS = 86400


def deliver(instance: Instance, letter: Letter) -> Delivery | None:
    """Build and send one letter; None when nothing was sent."""
    hook = instance.store.get(Hook, letter.hook_id)
    project = instance.store.get(Project, _project_id(letter))
    if hook is None or project is None or alert_status(hook) != "executable":
        return None
    if not _wants_ref(hook, letter) or faults.strikes(instance, faults.Kind.HOOK_LOST, project):
        return None
    if not letter.is_held and _is_reordered(instance, project, letter):
        return None
    slow = faults.strikes(instance, faults.Kind.HOOK_SLOW, project)
    if slow:
        time.sleep(faults.DEFAULT_SLOW_SECONDS if slow.seconds is None else slow.seconds)
    body = json.dumps(_body(instance, letter))
    keys = (letter.event_uuid, str(uuid.uuid4()))
    if faults.strikes(instance, faults.Kind.HOOK_DOUBLED, project):
        send(instance, hook, letter.event, body, keys)
    return send(instance, hook, letter.event, body, keys)


def _is_reordered(instance: Instance, project: Project, letter: Letter) -> bool:
    """Put a letter back for a while, so that later ones overtake it, if the dial says so."""
    held = faults.strikes(instance, faults.Kind.HOOK_REORDERED, project)
    if held is None:
        return False
    seconds = faults.DEFAULT_SLOW_SECONDS if held.seconds is None else held.seconds
    later = threading.Timer(seconds, instance.outbox.put, [replace(letter, is_held=True)])
    later.daemon = True
    later.start()
    return True


def send(instance: Instance, hook: Hook, event: str, body: str, keys: tuple[str, str]) -> Delivery:
    """POST a body to a hook and keep the attempt; `keys` are the event's uuid and idempotency key."""
    headers = _headers(instance, hook, event, body, keys)
    began = time.monotonic()
    status, text, answered = _post(instance, hook, body, headers)
    ok = status.isdigit() and int(status) < 400  # noqa: PLR2004 - 2xx and 3xx count as taken
    with instance.store as store:
        _account(instance, hook, ok=ok)
        return store.put(
            Delivery(
                id=store.next_id(Delivery),
                hook_id=hook.id,
                event_uuid=keys[0],
                idempotency_key=keys[1],
                trigger=event,
                url=hook.url,
                body=body,
                response_status=status,
                response_body=text,
                request_headers=tuple(headers.items()),
                response_headers=answered,
                created_at=now(),
                duration_seconds=time.monotonic() - began,
            )
        )


def alert_status(hook: Hook) -> str:
    """Return whether a hook works, rests or is off."""
    if hook.failures > _FINAL_FAILURES:
        return "disabled"
    if hook.disabled_until and hook.disabled_until > now():
        return "temporarily_disabled"
    return "executable"


def _project_id(letter: Letter) -> int:
    first = letter.about[0]
    return first.project_id if isinstance(first, Job | Pipeline) else first.id


def _body(instance: Instance, letter: Letter) -> dict[str, object]:
    match letter.about:
        case (Job() as job,):
            return payloads.job(instance, job)
        case (Pipeline() as pipeline,):
            return payloads.pipeline(instance, pipeline)
        case (Project() as project, User() as user, Push() as push):
            return payloads.push(instance, project, user, push)
    raise ValueError(f"No body is known for {letter.event}.")


def _wants_ref(hook: Hook, letter: Letter) -> bool:
    push = next((row for row in letter.about if isinstance(row, Push)), None)
    if push is None or not hook.branch_filter or letter.event != "push_events":
        return True
    return fnmatch.fnmatchcase(push.ref.removeprefix("refs/heads/"), hook.branch_filter)


def _headers(instance: Instance, hook: Hook, event: str, body: str, keys: tuple[str, str]) -> dict[str, str]:
    event_uuid, key = keys
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"GitLab/{VERSION}",
        "Idempotency-Key": key,
        "X-Gitlab-Event": TITLES[event],
        "X-Gitlab-Webhook-UUID": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{instance.url}/hooks/{hook.id}")),
        "X-Gitlab-Instance": instance.url,
        "X-Gitlab-Event-UUID": event_uuid,
        **dict(hook.custom_headers),
    }
    if hook.token:
        headers["X-Gitlab-Token"] = hook.token
    if hook.signing_token:
        headers |= _signature(hook.signing_token, key, body)
    return headers


def _signature(secret: str, key: str, body: str) -> dict[str, str]:
    moment = str(int(time.time()))
    raw = base64.b64decode(secret.removeprefix("whsec_"))
    signed = hmac.new(raw, f"{key}.{moment}.{body}".encode(), hashlib.sha256).digest()
    return {
        "webhook-id": key,
        "webhook-timestamp": moment,
        "webhook-signature": "v1," + base64.b64encode(signed).decode(),
    }


def _post(
    instance: Instance, hook: Hook, body: str, headers: dict[str, str]
) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    with requests.Session() as session:
        session.trust_env = False
        try:
            answered = session.post(
                hook.url,
                data=body.encode(),
                headers=headers,
                timeout=instance.limits.hook_seconds,
                verify=hook.enable_ssl_verification,
                allow_redirects=False,
            )
        except requests.RequestException as exc:
            return "internal error", str(exc)[:_KEPT_RESPONSE_BYTES], ()
        text = answered.content[:_KEPT_RESPONSE_BYTES].decode(errors="replace")
        return str(answered.status_code), text, tuple(answered.headers.items())


def _account(instance: Instance, hook: Hook, *, ok: bool) -> None:
    present = instance.store.get(Hook, hook.id)
    if present is None:
        return
    if ok:
        if present.failures:
            instance.store.put(replace(present, failures=0, disabled_until=None))
        return
    failures = present.failures + 1
    until = None
    if failures > _FREE_FAILURES:
        rest = min(_REST_SECONDS * 2 ** (failures - _FREE_FAILURES - 1), _LONGEST_REST_SECONDS)
        until = now() + timedelta(seconds=rest)
    instance.store.put(replace(present, failures=failures, disabled_until=until))
