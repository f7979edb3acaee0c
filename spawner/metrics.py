"""Every metric, with its unit and its buckets.

For: services, tasks and edges count and time here; `/metrics` prints `exposition`.
Promises: a label's values are few and fixed (never an id, a name or a path of a person's); times are in seconds.
With several processes behind one address, `PROMETHEUS_MULTIPROC_DIR` names the folder they share.
Must not know: who counts, settings.
"""

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

REGISTRY = CollectorRegistry()

# From an answer out of memory to a build that used its whole budget.
_LAUNCH_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 60, 120, 300, 600, 1800, 3600)
_CALL_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

LAUNCH_STAGES = ("accept", "image", "pull", "boot")

LAUNCHES = Counter(
    "slipway_launches",
    "Launches that came to an end: `outcome` ready, failed or gone; `source` the rung of the image, or none.",
    ("outcome", "source"),
    registry=REGISTRY,
)
LAUNCH_STAGE_SECONDS = Histogram(
    "slipway_launch_stage_seconds",
    "Time a launch spent in each stage: " + ", ".join(LAUNCH_STAGES) + ".",
    ("stage",),
    buckets=_LAUNCH_BUCKETS,
    registry=REGISTRY,
)
LAUNCH_SECONDS = Histogram(
    "slipway_launch_seconds",
    "Time from accepting a launch to its first answer.",
    ("source",),
    buckets=_LAUNCH_BUCKETS,
    registry=REGISTRY,
)
SESSIONS = Gauge(
    "slipway_sessions",
    "Sessions by phase, as last counted by this process.",
    ("phase",),
    registry=REGISTRY,
    multiprocess_mode="mostrecent",
)
TASK_SECONDS = Histogram(
    "slipway_task_seconds",
    "Time of a task: `kind` session, build or cleanup; `outcome` done, postponed or failed.",
    ("kind", "outcome"),
    buckets=_CALL_BUCKETS,
    registry=REGISTRY,
)
WAKEUPS = Counter(
    "slipway_wakeups",
    "Wake-ups for other processes: `outcome` sent, failed, or dropped while Redis is away.",
    ("outcome",),
    registry=REGISTRY,
)
REQUEST_SECONDS = Histogram(
    "slipway_request_seconds",
    "Time of an HTTP request: `route` is the rule, never the path; event streams are left out.",
    ("method", "route", "status"),
    buckets=_CALL_BUCKETS,
    registry=REGISTRY,
)
VIEWERS = Gauge(
    "slipway_viewers",
    "Open event streams.",
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
HOOKS = Counter(
    "slipway_hooks",
    "Deliveries of GitLab's hooks: `outcome` taken, ignored (no event of ours), repeated, lost or refused.",
    ("outcome",),
    registry=REGISTRY,
)
HOOK_STATES = Gauge(
    "slipway_hook_states",
    "Hooks of GitLab that lead here, by what it does with them: executable, temporarily_disabled or disabled.",
    ("state",),
    registry=REGISTRY,
    multiprocess_mode="mostrecent",
)
FORGE_CALL_SECONDS = Histogram(
    "slipway_forge_call_seconds",
    "Time of a REST call to GitLab: `operation` is the method and its path's words; `outcome` ok, refused or down.",
    ("operation", "outcome"),
    buckets=_CALL_BUCKETS,
    registry=REGISTRY,
)


def exposition() -> tuple[bytes, str]:
    """Return every metric in Prometheus' text format, and its content type."""
    return generate_latest(REGISTRY), CONTENT_TYPE_LATEST
