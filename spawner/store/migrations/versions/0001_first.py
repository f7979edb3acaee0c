"""The first schema.

Safe with the previous release running, because there is none.
"""

import sqlalchemy as sa
from alembic import op

from spawner.store.types import CleanText, Name, UTCDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table."""
    op.create_table(
        "build_logs",
        sa.Column("build_id", Name(), nullable=False),
        sa.Column("text", CleanText(), nullable=False),
        sa.PrimaryKeyConstraint("build_id", name=op.f("pk_build_logs")),
    )
    op.create_table(
        "builds",
        sa.Column("id", Name(), nullable=False),
        sa.Column("forge", Name(), nullable=False),
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("sha", Name(), nullable=False),
        sa.Column("job_name", CleanText(), nullable=False),
        sa.Column("first_asked_at", UTCDateTime(), nullable=False),
        sa.Column("job", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("pipelines", sa.JSON(), nullable=False),
        sa.Column("checked_at", UTCDateTime(), nullable=True),
        sa.Column("due_at", UTCDateTime(), nullable=True),
        sa.Column("looks", sa.Integer(), nullable=False),
        sa.Column("log_bytes", sa.BigInteger(), nullable=False),
        sa.Column("trouble", CleanText(), nullable=False),
        sa.Column("is_over", sa.Boolean(), nullable=False),
        sa.Column("finished_at", UTCDateTime(), nullable=True),
        sa.Column("found", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("claimed_until", UTCDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_builds")),
    )
    op.create_index(op.f("ix_builds_is_over_due_at"), "builds", ["is_over", "due_at"], unique=False)
    op.create_table(
        "codes",
        sa.Column("code_hash", Name(), nullable=False),
        sa.Column("session", Name(), nullable=False),
        sa.Column("user_id", Name(), nullable=False),
        sa.Column("expires_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("code_hash", name=op.f("pk_codes")),
    )
    op.create_index(op.f("ix_codes_expires_at"), "codes", ["expires_at"], unique=False)
    op.create_table(
        "grants",
        sa.Column("user_id", Name(), nullable=False),
        sa.Column("session", Name(), nullable=False),
        sa.Column("forge", Name(), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column("expires_at", UTCDateTime(), nullable=True),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("holder", Name(), nullable=True),
        sa.Column("claimed_until", UTCDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("user_id", "session", name=op.f("pk_grants")),
    )
    op.create_table(
        "logins",
        sa.Column("id", Name(), nullable=False),
        sa.Column("user_id", Name(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("expires_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_logins")),
    )
    op.create_index(op.f("ix_logins_expires_at"), "logins", ["expires_at"], unique=False)
    op.create_table(
        "sessions",
        sa.Column("name", Name(), nullable=False),
        sa.Column("instance", Name(), nullable=False),
        sa.Column("forge", Name(), nullable=False),
        sa.Column("user_id", Name(), nullable=False),
        sa.Column("username", Name(), nullable=False),
        sa.Column("project_id", sa.BigInteger(), nullable=False),
        sa.Column("project", sa.JSON(), nullable=False),
        sa.Column("namespace", CleanText(), nullable=False),
        sa.Column("project_slug", CleanText(), nullable=False),
        sa.Column("branch", CleanText(), nullable=False),
        sa.Column("ref_kind", Name(), nullable=False),
        sa.Column("sha", Name(), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("runtime", Name(), nullable=False),
        sa.Column("target", Name(), nullable=False),
        sa.Column("phase", Name(), nullable=False),
        sa.Column("is_gone", sa.Boolean(), nullable=False),
        sa.Column("phase_since", UTCDateTime(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("workload", Name(), nullable=True),
        sa.Column("workspace", CleanText(), nullable=False),
        sa.Column("image", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("build_id", Name(), nullable=True),
        sa.Column("is_start_now", sa.Boolean(), nullable=False),
        sa.Column("wants_built_image", sa.Boolean(), nullable=False),
        sa.Column("reason", CleanText(), nullable=False),
        sa.Column("step", CleanText(), nullable=False),
        sa.Column("failure", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("warnings", sa.JSON(), nullable=False),
        sa.Column("restarts", sa.JSON(), nullable=False),
        sa.Column("image_asked_at", UTCDateTime(), nullable=True),
        sa.Column("launched_at", UTCDateTime(), nullable=True),
        sa.Column("ready_at", UTCDateTime(), nullable=True),
        sa.Column("due_at", UTCDateTime(), nullable=True),
        sa.Column("retain_until", UTCDateTime(), nullable=True),
        sa.Column("has_workspace", sa.Boolean(), nullable=False),
        sa.Column("trouble", CleanText(), nullable=False),
        sa.Column("trouble_since", UTCDateTime(), nullable=True),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("holder", Name(), nullable=True),
        sa.Column("claimed_until", UTCDateTime(), nullable=True),
        sa.Column("wanted", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_sessions")),
    )
    op.create_index(
        op.f("ix_sessions_build_id_phase_created_at"), "sessions", ["build_id", "phase", "created_at"], unique=False
    )
    op.create_index(op.f("ix_sessions_due_at"), "sessions", ["due_at"], unique=False)
    op.create_index(op.f("ix_sessions_is_gone_created_at"), "sessions", ["is_gone", "created_at"], unique=False)
    op.create_index(
        op.f("ix_sessions_namespace_project_slug_is_gone"),
        "sessions",
        ["namespace", "project_slug", "is_gone"],
        unique=False,
    )
    op.create_index(
        op.f("ix_sessions_project_id_is_gone_created_at"),
        "sessions",
        ["project_id", "is_gone", "created_at"],
        unique=False,
    )
    op.create_index(op.f("ix_sessions_retain_until"), "sessions", ["retain_until"], unique=False)
    op.create_index(
        op.f("ix_sessions_user_id_is_gone_created_at"), "sessions", ["user_id", "is_gone", "created_at"], unique=False
    )
    op.create_table(
        "tokens",
        sa.Column("id", Name(), nullable=False),
        sa.Column("user_id", Name(), nullable=False),
        sa.Column("name", CleanText(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("expires_at", UTCDateTime(), nullable=False),
        sa.Column("revoked_at", UTCDateTime(), nullable=True),
        sa.Column("last_used_at", UTCDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
    )
    op.create_index(op.f("ix_tokens_user_id_created_at"), "tokens", ["user_id", "created_at"], unique=False)
    op.create_table(
        "users",
        sa.Column("id", Name(), nullable=False),
        sa.Column("forge", Name(), nullable=False),
        sa.Column("subject", Name(), nullable=False),
        sa.Column("username", Name(), nullable=False),
        sa.Column("name", CleanText(), nullable=False),
        sa.Column("email", CleanText(), nullable=False),
        sa.Column("is_admin", sa.Boolean(), nullable=False),
        sa.Column("seen_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
    )
    op.create_index(op.f("ix_users_forge_username"), "users", ["forge", "username"], unique=False)
    op.create_table(
        "workloads",
        sa.Column("name", Name(), nullable=False),
        sa.Column("owner_kind", Name(), nullable=False),
        sa.Column("owner_name", Name(), nullable=False),
        sa.Column("site", Name(), nullable=False),
        sa.Column("image", CleanText(), nullable=True),
        sa.Column("state", sa.JSON(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workloads")),
    )
    op.create_index(op.f("ix_workloads_owner_kind_owner_name"), "workloads", ["owner_kind", "owner_name"], unique=False)
    op.create_table(
        "events",
        sa.Column("session", Name(), nullable=False),
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.Column("phase", Name(), nullable=False),
        sa.Column("kind", Name(), nullable=False),
        sa.Column("message", CleanText(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["session"], ["sessions.name"], name=op.f("fk_events_session"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("session", "id", name=op.f("pk_events")),
    )
    op.create_table(
        "observations",
        sa.Column("workload", Name(), nullable=False),
        sa.Column("health", Name(), nullable=False),
        sa.Column("message", CleanText(), nullable=False),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("is_out_of_memory", sa.Boolean(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("cpu_cores", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["workload"], ["workloads.name"], name=op.f("fk_observations_workload"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("workload", name=op.f("pk_observations")),
    )
