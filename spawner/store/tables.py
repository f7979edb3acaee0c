"""Every table, as SQLAlchemy Core knows it; `migrations` makes them.

Promises: names of constraints are fixed, so that a migration can name them; each list, sweep and count has an
index that keeps it away from other people's rows and from history.
Must not know: how a row becomes a value (the repositories do that).
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
)

from spawner.store.types import CleanText, Name, UTCDateTime

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

sessions = Table(
    "sessions",
    metadata,
    Column("name", Name, primary_key=True),
    Column("instance", Name, nullable=False),
    Column("forge", Name, nullable=False),
    Column("user_id", Name, nullable=False),
    Column("username", Name, nullable=False),
    Column("project_id", BigInteger, nullable=False),
    Column("project", JSON, nullable=False),
    # The two parts of the project's path in lower case, as lists are filtered by them.
    Column("namespace", CleanText, nullable=False),
    Column("project_slug", CleanText, nullable=False),
    Column("branch", CleanText, nullable=False),
    Column("ref_kind", Name, nullable=False),
    Column("sha", Name, nullable=False),
    Column("request", JSON, nullable=False),
    Column("runtime", Name, nullable=False),
    Column("target", Name, nullable=False),
    Column("phase", Name, nullable=False),
    # Follows `phase`: an index can then leave history aside on both databases.
    Column("is_gone", Boolean, nullable=False),
    Column("phase_since", UTCDateTime, nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("workload", Name),
    Column("workspace", CleanText, nullable=False),
    Column("image", JSON(none_as_null=True)),
    Column("build_id", Name),
    Column("is_start_now", Boolean, nullable=False),
    Column("wants_built_image", Boolean, nullable=False),
    Column("reason", CleanText, nullable=False),
    Column("step", CleanText, nullable=False),
    Column("failure", JSON(none_as_null=True)),
    Column("warnings", JSON, nullable=False),
    Column("restarts", JSON, nullable=False),
    Column("image_asked_at", UTCDateTime),
    Column("launched_at", UTCDateTime),
    Column("ready_at", UTCDateTime),
    Column("due_at", UTCDateTime),
    Column("retain_until", UTCDateTime),
    Column("has_workspace", Boolean, nullable=False),
    Column("trouble", CleanText, nullable=False),
    Column("trouble_since", UTCDateTime),
    Column("version", BigInteger, nullable=False),
    Column("events", BigInteger, nullable=False),
    # When GitLab was last asked whether the owner still sees the project, and since when it cannot be asked as them.
    Column("access_checked_at", UTCDateTime),
    Column("access_unknown_since", UTCDateTime),
    # The lease, by the database's clock, and the count of wake-ups.
    Column("holder", Name),
    Column("claimed_until", UTCDateTime),
    Column("wanted", BigInteger, nullable=False, server_default="0"),
    Index(None, "user_id", "is_gone", "created_at"),
    Index(None, "project_id", "is_gone", "created_at"),
    Index(None, "namespace", "project_slug", "is_gone"),
    Index(None, "user_id", "project_id", "sha"),
    Index(None, "workspace"),
    Index(None, "phase", "access_checked_at"),
    Index(None, "is_gone", "created_at"),
    Index(None, "build_id", "phase", "created_at"),
    Index(None, "due_at"),
    Index(None, "retain_until"),
)

events = Table(
    "events",
    metadata,
    Column("session", Name, ForeignKey("sessions.name", ondelete="CASCADE"), primary_key=True),
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("at", UTCDateTime, nullable=False),
    Column("phase", Name, nullable=False),
    Column("kind", Name, nullable=False),
    Column("message", CleanText, nullable=False),
    Column("data", JSON, nullable=False),
)

workloads = Table(
    "workloads",
    metadata,
    Column("name", Name, primary_key=True),
    Column("owner_kind", Name, nullable=False),
    Column("owner_name", Name, nullable=False),
    Column("site", Name, nullable=False),
    Column("image", CleanText),
    Column("state", JSON, nullable=False),
    Column("generation", Integer, nullable=False),
    Index(None, "owner_kind", "owner_name"),
)

observations = Table(
    "observations",
    metadata,
    Column("workload", Name, ForeignKey("workloads.name", ondelete="CASCADE"), primary_key=True),
    Column("health", Name, nullable=False),
    Column("message", CleanText, nullable=False),
    Column("exit_code", Integer),
    Column("is_out_of_memory", Boolean, nullable=False),
    Column("memory_bytes", BigInteger),
    Column("cpu_cores", Float),
)

# What runs although no session is served by it, since when it is seen: it outlives a restart of ours.
strays = Table(
    "strays",
    metadata,
    Column("site", Name, primary_key=True),
    Column("workload", Name, primary_key=True),
    Column("first_seen_at", UTCDateTime, nullable=False),
)

builds = Table(
    "builds",
    metadata,
    Column("id", Name, primary_key=True),
    Column("forge", Name, nullable=False),
    Column("project_id", BigInteger, nullable=False),
    Column("sha", Name, nullable=False),
    Column("job_name", CleanText, nullable=False),
    Column("first_asked_at", UTCDateTime, nullable=False),
    Column("job", JSON(none_as_null=True)),
    Column("pipelines", JSON, nullable=False),
    Column("checked_at", UTCDateTime),
    Column("due_at", UTCDateTime),
    Column("looks", Integer, nullable=False),
    Column("log_bytes", BigInteger, nullable=False),
    Column("trouble", CleanText, nullable=False),
    Column("is_over", Boolean, nullable=False),
    Column("finished_at", UTCDateTime),
    Column("found", JSON(none_as_null=True)),
    Column("ordered_at", UTCDateTime),
    Column("version", BigInteger, nullable=False),
    Column("claimed_until", UTCDateTime),
    Index(None, "is_over", "due_at"),
)

# Apart from the rows that a poller reads and writes each time.
build_logs = Table(
    "build_logs",
    metadata,
    Column("build_id", Name, primary_key=True),
    Column("text", CleanText, nullable=False),
)

users = Table(
    "users",
    metadata,
    Column("id", Name, primary_key=True),
    Column("forge", Name, nullable=False),
    Column("subject", Name, nullable=False),
    Column("username", Name, nullable=False),
    Column("name", CleanText, nullable=False),
    Column("email", CleanText, nullable=False),
    Column("is_admin", Boolean, nullable=False),
    Column("seen_at", UTCDateTime, nullable=False),
    Index(None, "forge", "username"),
)

grants = Table(
    "grants",
    metadata,
    Column("user_id", Name, primary_key=True),
    Column("session", Name, primary_key=True),  # empty: the person's own grant
    Column("forge", Name, nullable=False),
    Column("sealed", Text, nullable=False),  # both tokens, encrypted, bound to the row's key
    Column("expires_at", UTCDateTime),
    Column("scopes", JSON, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("holder", Name),
    Column("claimed_until", UTCDateTime),
)

logins = Table(
    "logins",
    metadata,
    Column("id", Name, primary_key=True),
    Column("user_id", Name, nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    Column("expires_at", UTCDateTime, nullable=False),
    Index(None, "expires_at"),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Name, primary_key=True),
    Column("user_id", Name, nullable=False),
    Column("name", CleanText, nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    Column("expires_at", UTCDateTime, nullable=False),
    Column("revoked_at", UTCDateTime),
    Column("last_used_at", UTCDateTime),
    Index(None, "user_id", "created_at"),
)

# What GitLab's hooks delivered lately, by its id: a repeat, or a replay, does nothing in any process.
deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Name, primary_key=True),
    Column("seen_at", UTCDateTime, nullable=False),
    Index(None, "seen_at"),
)

pull_tokens = Table(
    "pull_tokens",
    metadata,
    Column("forge", Name, primary_key=True),
    Column("project_id", BigInteger, primary_key=True),
    Column("token_id", BigInteger, nullable=False),
    Column("username", CleanText, nullable=False),
    Column("sealed", Text, nullable=False),
    Column("expires_at", UTCDateTime, nullable=False),
)

codes = Table(
    "codes",
    metadata,
    Column("code_hash", Name, primary_key=True),
    Column("session", Name, nullable=False),
    Column("user_id", Name, nullable=False),
    Column("expires_at", UTCDateTime, nullable=False),
    Index(None, "expires_at"),
)
