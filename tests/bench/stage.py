"""What benches run on: a stand-in, a whole spawner as processes, and rows put where launches would have put them.

For: every bench. Promises: everything started here ends with the block; data lies in a folder of its own; rows are
written through the store's own repositories, into the database that the running spawner uses.
Must not know: what is measured.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import delete, func, select, update

from spawner.names import CommitSha, ProjectPath, SessionName, SessionSubject, UserId, session_name
from spawner.ports import Project, RefKind, Visibility
from spawner.sessions.model import EventKind, LaunchRequest, NewEvent, Phase, Session, Target
from spawner.store import tables
from spawner.store.engine import open_engine, reading, writing
from spawner.store.sessions import SessionRows
from spawner.store.users import UserRows
from spawner.testing.gitlab.client import ProjectHandle, UserHandle
from spawner.testing.gitlab.standin import StandIn
from spawner.users.model import Grant, User, user_id
from tests.bench import memory_runtime
from tests.installation import Installation, install

HOOK_SECRET = secrets.token_urlsafe(24)
_FORGE = "default"


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Return the present as an aware UTC datetime."""
        return datetime.now(UTC)


@contextmanager
def folder(name: str) -> Iterator[Path]:
    """Yield a new folder that the sessions' users may pass through, and remove it afterwards."""
    made = Path(tempfile.mkdtemp(prefix=f"slipway-bench-{name}-"))
    made.chmod(0o711)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def installed(
    place: Path, stand_in: StandIn, *, settings: Mapping[str, str] | None = None, runtime: str = "standalone"
) -> Iterator[Installation]:
    """Yield a running spawner: gunicorn with SQLite and its tasks in the same process, told of a hook's secret."""
    data = place / f"spawner-{secrets.token_hex(3)}"
    secret = place / "hook-secret"
    secret.write_text(HOOK_SECRET, encoding="utf-8")
    secret.chmod(0o600)
    made = install(
        data=data,
        stand_in=stand_in,
        database_url=f"sqlite:///{data}/slipway.db",
        root=place / "standalone",
        settings={
            "GITLAB__WEBHOOK_SECRET_FILE": str(secret),
            "SESSIONS__RUNTIME": runtime,
            "LOG__LEVEL": "WARNING",
            **(settings or {}),
        },
    )
    paths = [str(Path(__file__).parents[2]), str(memory_runtime.entry_point(place / "runtimes"))]
    made.environment = {**made.environment, "PYTHONPATH": os.pathsep.join(paths)}
    try:
        made.start()
        yield made
    finally:
        made.stop()


def add_hook(stand_in: StandIn, project: ProjectHandle, installation: Installation) -> None:
    """Have the stand-in tell the spawner of the project's jobs and pipelines."""
    body = {
        "url": f"{installation.url}/hooks/gitlab",
        "token": HOOK_SECRET,
        "push_events": False,
        "pipeline_events": True,
        "job_events": True,
    }
    stand_in.api("POST", f"/projects/{project.id}/hooks", user=project.owner, body=body)


class Rows:
    """The rows of a running spawner, for putting there what launches of many people would have left."""

    def __init__(self, installation: Installation) -> None:
        told = installation.environment
        keys = Path(told["SPAWNER_SECRETS__KEY_FILE"]).read_bytes().split()
        engine = open_engine(told["SPAWNER_DATABASE__URL"])
        self._engine = engine
        self._forge_url = told["SPAWNER_GITLAB__URL"]
        self._instance = told["SPAWNER_SESSIONS__INSTANCE"]
        self._runtime = told["SPAWNER_SESSIONS__RUNTIME"]
        self.sessions = SessionRows(engine, SystemClock())
        self.users = UserRows(engine, SystemClock(), keys)

    def close(self) -> None:
        """Close the database."""
        self._engine.dispose()

    def person(self, subject: int, username: str, *, token: str | None = None) -> User:
        """Put a person, with a grant that holds `token` where one is given."""
        user = User(
            id=user_id(self._forge_url, str(subject)),
            forge=_FORGE,
            subject=str(subject),
            username=username,
            name=username,
            email=f"{username}@example.com",
        )
        self.users.put(user)
        if token is not None:
            self.users.put_grant(Grant(user_id=user.id, forge=_FORGE, access_token=token, scopes=frozenset({"api"})))
        return user

    def of(self, handle: UserHandle) -> UserId:
        """Return the id that a person of the stand-in has here."""
        return user_id(self._forge_url, str(handle.id))

    def session(self, user: User, place: Project, sha: str, *, phase: Phase = Phase.RUNNING, age: int = 0) -> Session:
        """Return a session of a person, begun `age` seconds ago, with nothing to do."""
        at = datetime.now(UTC) - timedelta(seconds=age)
        namespace, _, slug = place.path.lower().rpartition("/")
        subject = SessionSubject(username=user.username, namespace=namespace, project=slug, branch="main", sha=sha)
        return Session(
            name=session_name(subject, hash_length=8),
            instance=self._instance,
            forge=_FORGE,
            user_id=user.id,
            username=user.username,
            project=place,
            branch="main",
            ref_kind=RefKind.BRANCH,
            sha=CommitSha(sha),
            request=LaunchRequest(),
            runtime=self._runtime,
            target=Target.RUNNING,
            phase=phase,
            phase_since=at,
            created_at=at,
            image_asked_at=at,
            launched_at=at if phase is Phase.RUNNING else None,
            workspace=f"workspace-{user.username}-{sha[:12]}",
            build_id=f"{_FORGE}/{place.id}/{sha}",
        )

    def add(self, sessions: Sequence[Session]) -> list[SessionName]:
        """Put sessions, each with its first event."""
        event = NewEvent(kind=EventKind.PHASE, message="Accepted.", data={"to": Phase.NEW.value})
        return [self.sessions.add(each, [event])[0].name for each in sessions]

    def touch(self, names: Sequence[SessionName]) -> None:
        """Raise the version of sessions, as a save of each would; nothing is woken."""
        statement = update(tables.sessions).where(tables.sessions.c.name.in_(names))
        with writing(self._engine) as connection:
            connection.execute(statement.values(version=tables.sessions.c.version + 1))

    def count(self, build: str, *phases: Phase) -> int:
        """Count the sessions of a build that are in one of the phases."""
        wanted = (tables.sessions.c.build_id == build, tables.sessions.c.phase.in_([phase.value for phase in phases]))
        with reading(self._engine) as connection:
            return connection.execute(select(func.count()).select_from(tables.sessions).where(*wanted)).scalar_one()

    def forget(self, sha: str) -> None:
        """Delete the sessions of a commit."""
        with writing(self._engine) as connection:
            connection.execute(delete(tables.sessions).where(tables.sessions.c.sha == sha))


def place_of(project: ProjectHandle, stand_in: StandIn) -> Project:
    """Return a project of the stand-in as a session keeps it."""
    registry = stand_in.registry_url.partition("://")[2]
    return Project(
        id=project.id,
        path=ProjectPath(project.path),
        name=project.path.rpartition("/")[2],
        default_branch="main",
        visibility=Visibility.PRIVATE,
        web_url=f"{stand_in.url}/{project.path}",
        git_url=project.http_url,
        registry_image=f"{registry}/{project.path.lower()}",
    )
