"""Loading the settings.

Covered: values of the environment and of callers, unknown names, values that do not fit, lists, what does not go
together, and that no error repeats a value. Left out: what the values do.
"""

import pytest

from spawner import config
from spawner.errors import Misconfigured


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start from an environment without settings."""
    import os  # noqa: PLC0415 - the fixture's alone

    for name in [name for name in os.environ if name.upper().startswith("SPAWNER_")]:
        monkeypatch.delenv(name)


def test_defaults() -> None:
    """Without any setting everything has its documented default."""
    settings = config.load()
    assert (
        settings.sessions.start_budget_seconds,
        settings.sessions.retention_days,
        settings.images.build_job,
        settings.images.environment_max_age_days,
        settings.api.patch_status.value,
        settings.limits.launches_per_minute,
    ) == (120.0, 7.0, "image_build", 30, 200, 60)
    first = settings.resources.classes[0]
    assert (len(settings.resources.classes), first.id, first.cpu_cores, first.memory_gigabytes) == (1, 1, 1.0, 2.0)


VALUES = [
    ("SPAWNER_API__PATCH_STATUS", "204", lambda each: each.api.patch_status.value, 204),
    ("SPAWNER_IMAGES__FALLBACK", "ancestor", lambda each: each.images.fallback.value, "ancestor"),
    ("SPAWNER_REGISTRY__ALLOWED_HOSTS", "a:5000, b", lambda each: each.registry.allowed_hosts, ("a:5000", "b")),
    ("SPAWNER_HTTP__PUBLIC_URL", "https://s.example.org/", lambda each: each.http.public_url, "https://s.example.org"),
    ("SPAWNER_GITLAB__URL", "https://g/", lambda each: each.gitlab.url, "https://g"),
    ("spawner_tasks__threads", "3", lambda each: each.tasks.threads, 3),
    ("SPAWNER_RESOURCES__CLASSES", '[{"id": 4, "name": "big"}]', lambda each: each.resources.classes[0].id, 4),
    ("SPAWNER_SECRETS__KEY_FILE", "/run/key", lambda each: str(each.secrets.key_file), "/run/key"),
]


@pytest.mark.parametrize(("name", "text", "read", "expected"), VALUES, ids=[row[0] for row in VALUES])
def test_values(monkeypatch: pytest.MonkeyPatch, name: str, text: str, read: object, expected: object) -> None:
    """A variable of the environment reaches its field, as its type."""
    monkeypatch.setenv(name, text)
    assert callable(read)
    assert read(config.load()) == expected


def test_callers_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a caller gives wins over the environment, field by field."""
    monkeypatch.setenv("SPAWNER_TASKS__THREADS", "3")
    monkeypatch.setenv("SPAWNER_TASKS__PROCESSES", "2")
    tasks = config.load(tasks={"threads": 5}).tasks
    assert (tasks.threads, tasks.processes) == (5, 2)


UNKNOWN = [
    ("SPAWNER_IMAGES__BULD_JOB", "SPAWNER_IMAGES__BUILD_JOB"),
    ("SPAWNER_IMAGES_BUILD_JOB", "SPAWNER_IMAGES__BUILD_JOB"),
    ("SPAWNER_DATABASE_URL", "SPAWNER_DATABASE__URL"),
    ("spawner_gitlab__clientid", "SPAWNER_GITLAB__CLIENT_ID"),
    ("SPAWNER_GITLAB__CLIENT_IDS", "SPAWNER_GITLAB__CLIENT_ID"),
    ("SPAWNER_DATABASE", "SPAWNER_DATABASE__URL"),
    ("SPAWNER_GITLAB__CLIENT_SECRET", "SPAWNER_GITLAB__CLIENT_SECRET_FILE"),
]


@pytest.mark.parametrize(("name", "near"), UNKNOWN)
def test_unknown_names(monkeypatch: pytest.MonkeyPatch, name: str, near: str) -> None:
    """A name that is no setting is refused, and the nearest one suggested; its value is not told."""
    monkeypatch.setenv(name, "canary")
    with pytest.raises(Misconfigured) as caught:
        config.load()
    assert (caught.value.message, caught.value.remedy) == (f"There is no setting {name}.", f"Did you mean {near}?")


MISFITS = [
    ({"SPAWNER_API__PATCH_STATUS": "205"}, "SPAWNER_API__PATCH_STATUS"),
    ({"SPAWNER_DATABASE__URL": "postgresql://a:canary@h/d"}, "SPAWNER_DATABASE__PASSWORD_FILE"),
    ({"SPAWNER_REDIS__URL": "redis://:canary@h"}, "SPAWNER_REDIS__PASSWORD_FILE"),
    ({"SPAWNER_HTTP__PUBLIC_URL": "https://h/canary"}, "SPAWNER_HTTP__PUBLIC_URL"),
    ({"SPAWNER_STANDALONE__SERVES_PEOPLE": "canary.example.org"}, "SPAWNER_STANDALONE__SERVES_PEOPLE"),
    ({"SPAWNER_GITLAB__URL": "https://canary@h"}, "SPAWNER_GITLAB__URL"),
    ({"SPAWNER_GITLAB__SCOPES": "canary"}, "SPAWNER_GITLAB__SCOPES"),
    ({"SPAWNER_SESSIONS__START_BUDGET_SECONDS": "0"}, "SPAWNER_SESSIONS__START_BUDGET_SECONDS"),
    ({"SPAWNER_SESSIONS__INSTANCE": "Canary_"}, "SPAWNER_SESSIONS__INSTANCE"),
    ({"SPAWNER_TASKS__DISPATCHER": "celery"}, "SPAWNER_REDIS__URL"),
    ({"SPAWNER_RESOURCES__CLASSES": "[]"}, "SPAWNER_RESOURCES__CLASSES"),
    ({"SPAWNER_RESOURCES__CLASSES": '[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]'}, "an id of its own"),
]


@pytest.mark.parametrize(("environment", "expected"), MISFITS, ids=[next(iter(row[0])) for row in MISFITS])
def test_misfits(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str) -> None:
    """A value that does not fit is refused by the setting's name, and never repeated."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Misconfigured) as caught:
        config.load()
    assert expected in caught.value.message
    assert "canary" not in caught.value.message.lower()
    assert caught.value.__cause__ is None


def test_broken_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that is no JSON is refused in a sentence too."""
    monkeypatch.setenv("SPAWNER_RESOURCES__CLASSES", "{canary")
    with pytest.raises(Misconfigured) as caught:
        config.load()
    assert "SPAWNER_RESOURCES__CLASSES" in caught.value.message
    assert "canary" not in caught.value.message


def test_reference_names_everything() -> None:
    """The reference page has a line with a text for every field of every group, and no address of a machine."""
    page = config.reference()
    lines = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    for group_name, group in config.Settings.model_fields.items():
        assert group.annotation is not None
        for name in group.annotation.model_fields:
            line = lines[f"SPAWNER_{group_name.upper()}__{name.upper()}"]
            assert len(line.split("|")[4].strip()) > len("x.")
