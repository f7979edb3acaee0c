"""The metrics.

Covered: the names that others rely on, the labels, and the text that is served.
"""

import pytest

from spawner import metrics

NAMES = {
    "slipway_launches_total": ("outcome", "source"),
    "slipway_launch_stage_seconds_count": ("stage",),
    "slipway_launch_seconds_count": ("source",),
    "slipway_task_seconds_count": ("kind", "outcome"),
    "slipway_wakeups_total": ("outcome",),
}


def test_promised_names() -> None:
    """The names and labels of the interface are there once something is counted."""
    metrics.LAUNCHES.labels(outcome="ready", source="exact").inc()
    metrics.LAUNCH_SECONDS.labels(source="exact").observe(1)
    metrics.TASK_SECONDS.labels(kind="session", outcome="done").observe(0.1)
    metrics.WAKEUPS.labels(outcome="sent").inc()
    for stage in metrics.LAUNCH_STAGES:
        metrics.LAUNCH_STAGE_SECONDS.labels(stage=stage).observe(0.5)
    samples = {
        sample.name: tuple(sorted(sample.labels)) for family in metrics.REGISTRY.collect() for sample in family.samples
    }
    assert {name: samples.get(name) for name in NAMES} == NAMES


@pytest.mark.parametrize("text", ["slipway_launches_total", 'stage="boot"', "# HELP slipway_viewers"])
def test_exposition(text: str) -> None:
    """The metrics are served as Prometheus reads them."""
    metrics.LAUNCH_STAGE_SECONDS.labels(stage="boot").observe(0.5)
    metrics.LAUNCHES.labels(outcome="ready", source="exact").inc()
    body, content_type = metrics.exposition()
    assert content_type.startswith("text/plain")
    assert text in body.decode()
