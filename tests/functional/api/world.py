"""A whole spawner in one process, with a forge, a registry and a runtime whose every answer a test decides.

For: tests of the edges. The services, the store (SQLite), the dispatcher and the app are the real ones; the forge,
registry and runtime are small real implementations of their ports (the adapters have suites of their own).
"""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from flask import Flask
from sqlalchemy import Engine

from spawner.context import EdgeOptions, ForgeAddress
from spawner.errors import Forbidden, ForgeUnavailable, ProjectNotFound, TokenRejected
from spawner.http import create_app
from spawner.images.badges import Badges
from spawner.images.finding import ImageFinder
from spawner.images.model import BuildPolicy, Policy
from spawner.images.service import ImageService, ImageSettings
from spawner.images.standing import Standings
from spawner.names import SHORT_SHA_LENGTH, CommitSha, ProjectPath, SessionName, UserId
from spawner.ports import (
    AccessLevel,
    Address,
    BuildJob,
    Commit,
    CommitBuilds,
    Credential,
    CredentialKind,
    Entrance,
    EnvironmentKey,
    ForgeUser,
    GitAnswer,
    GitRequest,
    Health,
    ImageKind,
    JobStatus,
    Login,
    LogLine,
    MergeRequest,
    NumberedPage,
    Observation,
    Owned,
    Pipeline,
    Progress,
    Project,
    ProjectKey,
    Ref,
    RefKind,
    RegistryImage,
    Shown,
    State,
    Visibility,
    Workload,
)
from spawner.services import Services
from spawner.sessions.access import Access
from spawner.sessions.agents import AgentService
from spawner.sessions.checkout import CheckoutPlan
from spawner.sessions.inventory import Inventory
from spawner.sessions.options import GIGABYTE, ResourceClass
from spawner.sessions.reconcile import Reconciler, SessionSettings
from spawner.sessions.service import SessionService
from spawner.sessions.waiters import SessionWaiters
from spawner.store.builds import BuildRows
from spawner.store.sessions import SessionRows
from spawner.store.users import UserRows
from spawner.tasks.inprocess import InProcessDispatcher, Pace
from spawner.users.oauth import JobClaims, OAuthTokens, TokenInfo
from spawner.users.service import UserRules, UserService

T = TypeVar("T")

PUBLIC_URL = "http://slipway.test"
FORGE_URL = "https://gitlab.test"
REGISTRY = "registry.test"
KEY = b"0123456789abcdefghijklmnopqrstuvwxyz-world"
SHA = CommitSha("172a784d465a7bd45bacc165df2b64a591ac6b18")
OLD_SHA = CommitSha("a" * 40)
HOOK_SECRET = "hook-secret-of-the-tests"
SIGNING_KEY = "whsec_" + base64.b64encode(b"signing-key-of-the-tests-32-bytes").decode()
NOBODY = ForgeUser(id=0, username="", name="", email="")
CLASSES = (
    ResourceClass(id=1, name="small", cpu_cores=0.5, memory_bytes=2 * GIGABYTE, is_default=True),
    ResourceClass(id=2, name="large", cpu_cores=2, memory_bytes=8 * GIGABYTE, max_storage_bytes=100 * GIGABYTE),
    ResourceClass(id=3, name="gpu", cpu_cores=4, memory_bytes=16 * GIGABYTE, gpu_count=1),
)


class WorldClock:
    """The real time, and what a test let pass besides."""

    def __init__(self) -> None:
        self.passed = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.passed


def _is_shown(visibility: Visibility, person: ForgeUser) -> bool:
    """Say whether the forge shows a project to somebody who is no member of it."""
    return visibility is Visibility.PUBLIC or (visibility is Visibility.INTERNAL and person is not NOBODY)


@dataclass
class WorldProject:
    """A project of the forge: who may what, and what is in it."""

    project: Project
    members: dict[int, int] = field(default_factory=dict)
    branches: dict[str, CommitSha] = field(default_factory=dict)
    commits: dict[CommitSha, Commit] = field(default_factory=dict)
    merge_requests: dict[CommitSha, MergeRequest] = field(default_factory=dict)
    jobs: dict[CommitSha, list[BuildJob]] = field(default_factory=dict)
    logs: dict[int, bytes] = field(default_factory=dict)
    pages: dict[NumberedPage, Shown] = field(default_factory=dict)


class WorldForge:
    """A forge in memory: projects, people by token, jobs; Git answers what a test put there."""

    def __init__(self) -> None:
        self.people: dict[str, ForgeUser] = {}
        self.projects: dict[int, WorldProject] = {}
        self.is_down = False
        self.blocked: set[str] = set()
        self.asked = 0
        self.git_requests: list[tuple[str | None, str, GitRequest, bytes]] = []
        self.git_answer = GitAnswer(status=200, headers={}, body=iter(()))

    def _who(self, credential: Credential) -> ForgeUser:
        self.asked += 1
        if self.is_down:
            raise ForgeUnavailable("GitLab is away.", remedy="Wait a moment.")
        if credential.token in self.blocked:
            raise Forbidden("GitLab has blocked this person.")
        if credential.kind is CredentialKind.NONE:
            return NOBODY
        if credential.token not in self.people:
            raise TokenRejected("GitLab does not know this token.")
        return self.people[credential.token]

    def _open(self, credential: Credential, wanted: ProjectKey) -> WorldProject:
        person = self._who(credential)
        for each in self.projects.values():
            is_it = wanted in {each.project.id, each.project.path} or (
                isinstance(wanted, str) and wanted.lower() == each.project.path.lower()
            )
            if is_it and (person.id in each.members or _is_shown(each.project.visibility, person)):
                return each
        raise ProjectNotFound(f"There is no project {wanted}, or you may not see it.")

    def user(self, credential: Credential) -> ForgeUser:
        return self._who(credential)

    def scopes(self, credential: Credential) -> frozenset[str]:
        self._who(credential)
        return frozenset({"api"})

    def project(self, credential: Credential, project: ProjectKey) -> Project:
        return self._open(credential, project).project

    def access_level(self, credential: Credential, project: ProjectKey, user_id: int) -> int:
        return self._open(credential, project).members.get(user_id, AccessLevel.NONE)

    def commit(self, credential: Credential, project: ProjectKey, revision: str) -> Commit | None:
        found = self._open(credential, project)
        sha = found.branches.get(revision, CommitSha(revision))
        short = (
            each for name, each in found.commits.items() if len(revision) >= SHORT_SHA_LENGTH and name.startswith(sha)
        )
        return found.commits.get(sha) or next(short, None)

    def refs_of(self, credential: Credential, project: ProjectKey, sha: CommitSha) -> Sequence[Ref]:
        found = self._open(credential, project)
        if sha not in found.commits or sha in found.merge_requests:
            return ()
        return [Ref(kind=RefKind.BRANCH, name=name, sha=head) for name, head in found.branches.items()]

    def open_merge_request(self, credential: Credential, project: ProjectKey, sha: CommitSha) -> MergeRequest | None:
        return self._open(credential, project).merge_requests.get(sha)

    def shown(self, credential: Credential, project: ProjectKey, page: NumberedPage) -> Shown | None:
        return self._open(credential, project).pages.get(page)

    def ref(self, credential: Credential, project: ProjectKey, name: str) -> Ref | None:
        found = self._open(credential, project)
        head = found.branches.get(name)
        return None if head is None else Ref(kind=RefKind.BRANCH, name=name, sha=head)

    def first_parents(
        self, credential: Credential, project_id: int, sha: CommitSha, *, limit: int
    ) -> Sequence[CommitSha]:
        del sha, limit
        self._open(credential, project_id)
        return ()

    def builds(self, credential: Credential, project_id: int, sha: CommitSha, *, job_name: str) -> CommitBuilds:
        del job_name
        jobs = tuple(self._open(credential, project_id).jobs.get(sha, ()))
        pipelines = tuple(
            Pipeline(id=job.pipeline_id, status="running", source="push", ref=job.ref, web_url="", created_at=None)
            for job in jobs
        )
        return CommitBuilds(pipelines=pipelines, jobs=jobs)

    def job(self, credential: Credential, project_id: int, job_id: int) -> BuildJob | None:
        jobs = self._open(credential, project_id).jobs.values()
        return next((job for several in jobs for job in several if job.id == job_id), None)

    def job_log(self, credential: Credential, project_id: int, job_id: int) -> bytes:
        return self._open(credential, project_id).logs.get(job_id, b"")

    def play(self, credential: Credential, project_id: int, job_id: int) -> None:
        raise NotImplementedError

    def retry(self, credential: Credential, project_id: int, job_id: int) -> None:
        raise NotImplementedError

    def create_pipeline(self, credential: Credential, project_id: int, ref: str) -> Pipeline:
        raise NotImplementedError

    def environment_keys(self, credential: Credential, project: Project, sha: CommitSha) -> Sequence[EnvironmentKey]:
        del project, sha
        self._who(credential)
        return ()

    @contextmanager
    def git(self, credential: Credential | None, project: ProjectPath, request: GitRequest) -> Iterator[GitAnswer]:
        body = b"".join(request.body) if request.body is not None else b""
        self.git_requests.append((credential.token if credential else None, project, request, body))
        yield self.git_answer


class WorldRegistry:
    """A registry in memory."""

    def __init__(self) -> None:
        self.images: dict[str, RegistryImage] = {}

    def put(self, reference: str, labels: Mapping[str, str] | None = None) -> RegistryImage:
        name, _, tag = reference.rpartition(":")
        image = RegistryImage(name=name, digest=f"sha256:{abs(hash(tag)):064x}"[:71], labels=labels or {})
        self.images[reference] = image
        return image

    def find(self, reference: str, credential: Credential | None) -> RegistryImage | None:
        del credential
        return self.images.get(reference)

    def tags(self, name: str, credential: Credential | None) -> Sequence[str]:
        del credential
        return [each.rpartition(":")[2] for each in self.images if each.startswith(f"{name}:")]

    def manifest(self, reference: str, credential: Credential | None) -> bytes:
        raise NotImplementedError

    def login(self, reference: str, credential: Credential | None) -> Login | None:
        """Know nobody."""
        raise NotImplementedError(reference, credential)

    def save_blob(
        self, reference: str, digest: str, target: Path, *, largest_bytes: int, credential: Credential | None
    ) -> None:
        raise NotImplementedError

    def layers(self, reference: str, credential: Credential | None) -> Sequence[bytes]:
        del reference, credential
        return ()


class WorldRuntime:
    """A runtime whose workloads are entries of a dictionary: what a test says of one is what is observed."""

    name = "standalone"
    image_kinds = frozenset({ImageKind.ENVIRONMENT})
    own_variables = frozenset({"HOME", "PATH"})

    def __init__(self) -> None:
        self.health: dict[str, Observation] = {}
        self.credentials: dict[SessionName, str] = {}
        self.workloads: dict[SessionName, Workload] = {}
        self.lines: list[LogLine] = []
        self.warnings: tuple[str, ...] = ()
        self.workspaces: set[str] = set()
        self.admitted: list[UserId] = []
        self.lingers = False  # a stop takes until this is over
        self.before_removal: Callable[[str], None] = lambda _: None

    def admit(self, user_id: UserId, username: str) -> tuple[str, ...]:
        del user_id, username
        return self.warnings

    def release(self, user_id: UserId) -> None:
        if user_id in self.admitted:
            self.admitted.remove(user_id)

    def start(self, workload: Workload) -> Iterator[Progress]:
        self.workloads[workload.session] = workload
        self.workspaces.add(workload.workspace)
        self.health.setdefault(workload.name, Observation(health=Health.STARTING))
        yield Progress(message="Checking the commit out.", state={"workload": workload.name})
        yield Progress(message="Starting Jupyter.", state={"workload": workload.name})

    def observe(self, states: Sequence[State]) -> Sequence[Observation]:
        return [self.health.get(state["workload"], Observation(health=Health.GONE)) for state in states]

    def stop(self, state: State, *, grace_seconds: float) -> None:
        del grace_seconds
        if not self.lingers:
            self.health.pop(state["workload"], None)

    def logs(self, state: State, *, max_lines: int) -> Iterator[LogLine]:
        del state
        yield from self.lines[-max_lines:] if max_lines else ()

    def inventory(self) -> Iterator[Owned]:
        yield from ()

    def remove_workspace(self, workspace: str) -> None:
        self.before_removal(workspace)
        self.workspaces.discard(workspace)

    def address(self, session: SessionName, state: State) -> Address | None:
        if state.get("workload") not in self.health:
            return None
        return Address(
            people_url=f"http://{session}.localhost:4567/",
            programs_url="http://127.0.0.1:4567/",
            open_path="slipway/open",
        )


class WorldDoors:
    """Doors that let everybody in who has a one-time URL, and remember which."""

    def __init__(self) -> None:
        self.urls: list[str] = []

    def enter(self, url: str) -> Entrance:
        self.urls.append(url)
        return Entrance(base_url=url.partition("slipway/open")[0], token="session-token")


class WorldOAuth:
    """The forge's OAuth side: a code is a person's name, and after a dot a scope; `api` where none is named."""

    client_id = "slipway-tests"

    def __init__(self, forge: WorldForge) -> None:
        self._forge = forge

    def authorization_url(
        self, *, redirect_uri: str, state: str, verifier: str, more: frozenset[str] = frozenset()
    ) -> str:
        del verifier
        scopes = "+".join(["read_api", *more])
        return f"{FORGE_URL}/oauth/authorize?redirect_uri={redirect_uri}&state={state}&scope={scopes}"

    def exchange(self, *, code: str, redirect_uri: str, verifier: str) -> OAuthTokens:
        del redirect_uri, verifier
        name, _, scope = code.partition(".")
        token = f"oauth-{name}"
        if token not in self._forge.people:
            raise TokenRejected("GitLab does not know this code.")
        return OAuthTokens(access_token=token, scopes=frozenset({scope or "api"}))

    def refresh(self, *, refresh_token: str) -> OAuthTokens:
        raise TokenRejected(refresh_token)

    def inspect(self, token: str) -> TokenInfo | None:
        del token
        return None


class WorldJobs:
    """The forge's signature under a CI job's token: `<header>.<claims>.signed` is one, anything else is refused."""

    issuer = FORGE_URL

    def token(self, user_id: int, project_id: int) -> str:
        claims = json.dumps({"iss": FORGE_URL, "user_id": user_id, "project_id": project_id}).encode()
        return f"e30.{base64.urlsafe_b64encode(claims).rstrip(b'=').decode()}.signed"

    def read(self, token: str, now: datetime) -> JobClaims:
        del now
        _, claims, signature = token.split(".")
        if signature != "signed":
            raise TokenRejected("GitLab did not sign it.")
        found = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
        return JobClaims(subject=str(found["user_id"]), project_id=found["project_id"], job_id="1")


@dataclass
class World:
    """Everything, put together."""

    forge: WorldForge
    registry: WorldRegistry
    runtime: WorldRuntime
    services: Services
    app: Flask
    dispatcher: InProcessDispatcher
    clock: WorldClock
    rows: SessionRows

    def add_person(self, username: str, *, is_admin: bool = False) -> str:
        """Add a person; their bearer token is `token-<username>`."""
        number = 100 + len(self.forge.people)
        person = ForgeUser(
            id=number, username=username, name=username.title(), email=f"{username}@people.test", is_admin=is_admin
        )
        for prefix in ("token", "oauth"):
            self.forge.people[f"{prefix}-{username}"] = person
        return f"token-{username}"

    def sign_in(self, username: str) -> None:
        """Have a person signed in by browser."""
        users = self.services.users
        _, begun = users.begin_sign_in(redirect_uri=f"{PUBLIC_URL}/login/callback", return_to="/")
        users.finish_sign_in(code=username, state=begun.state, sign_in=begun)

    def add_project(
        self, path: str = "grp/proj", *, members: Mapping[str, int], visibility: Visibility = Visibility.PRIVATE
    ) -> WorldProject:
        """Add a project with two commits, the newer at the head of `main` and `feature/x`."""
        number = len(self.forge.projects) + 42
        project = Project(
            id=number,
            path=ProjectPath(path),
            name=path.rpartition("/")[2],
            default_branch="main",
            visibility=visibility,
            web_url=f"{FORGE_URL}/{path}",
            git_url=f"{FORGE_URL}/{path}.git",
            registry_image=f"{REGISTRY}/{path.lower()}",
        )
        commits = {
            sha: Commit(
                sha=sha,
                title=title,
                author_name="Ada Lovelace",
                committed_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
                web_url=f"{FORGE_URL}/{path}/-/commit/{sha}",
                parents=(),
            )
            for sha, title in ((SHA, "Plot the weather"), (OLD_SHA, "Begin"))
        }
        levels = {self.forge.people[f"token-{name}"].id: level for name, level in members.items()}
        added = WorldProject(project=project, members=levels, branches={"main": SHA, "feature/x": SHA}, commits=commits)
        self.forge.projects[number] = added
        return added

    def move_project(self, project: WorldProject, path: str) -> None:
        """Give a project another path; the old one is free for another."""
        project.project = replace(
            project.project, path=ProjectPath(path), web_url=f"{FORGE_URL}/{path}", git_url=f"{FORGE_URL}/{path}.git"
        )

    def add_image(self, path: str = "grp/proj", sha: str = SHA) -> RegistryImage:
        """Push the commit's own environment image."""
        return self.registry.put(
            f"{REGISTRY}/{path}:{sha}-environment",
            {"io.slipway.kind": "environment", "io.slipway.environment-key": "k"},
        )

    def add_job(self, project: WorldProject, status: JobStatus, sha: CommitSha = SHA, log: bytes = b"") -> BuildJob:
        """Add or replace the commit's build job."""
        now = datetime.now(UTC)
        job = BuildJob(
            id=900,
            name="image_build",
            status=status,
            status_text=status.value,
            failure_reason="script_failure" if status is JobStatus.FAILED else None,
            allow_failure=False,
            web_url=f"{FORGE_URL}/{project.project.path}/-/jobs/900",
            ref="main",
            pipeline_id=800,
            created_at=now,
            started_at=now,
            finished_at=now if status in {JobStatus.FAILED, JobStatus.SUCCESS} else None,
        )
        project.jobs[sha] = [job]
        project.logs[job.id] = log
        return job

    def be_ready(self, session: SessionName) -> None:
        """Let the session's workload answer, and say so as its agent would."""
        workload = self.until(lambda: self.runtime.workloads.get(session))
        self.runtime.health[workload.name] = Observation(health=Health.READY, memory_bytes=350_000_000, cpu_cores=0.12)
        from spawner.sessions.agents import Report  # noqa: PLC0415 - one use

        self.services.agents.report(workload.credential, Report(event="ready"))

    def settle(self, name: SessionName) -> None:
        """Wait until nobody is at a session."""
        claim = self.until(lambda: self.rows.claim(name, holder="tests", seconds=5))
        while not self.rows.release(claim):
            claim = self.until(lambda: self.rows.claim(name, holder="tests", seconds=5))

    def until(self, look: Callable[[], T | None], *, seconds: float = 10.0) -> T:
        """Return what `look` returns once it is something; fails after `seconds`."""
        end = time.monotonic() + seconds
        while True:
            found = look()
            if found:
                return found
            if time.monotonic() > end:
                message = "what was waited for did not come"
                raise AssertionError(message)
            threading.Event().wait(0.01)


def make_world(engine: Engine, *, options: EdgeOptions | None = None) -> World:
    """Put a spawner together over a migrated database; its dispatcher is not started."""
    clock = WorldClock()
    forge, registry, runtime = WorldForge(), WorldRegistry(), WorldRuntime()
    dispatcher = InProcessDispatcher(Pace(threads=2, sweep_seconds=0.1))
    rows = SessionRows(engine, clock)
    users = UserService(
        store=UserRows(engine, clock, [KEY]),
        forge=forge,
        oauth=WorldOAuth(forge),
        jobs=WorldJobs(),
        clock=clock,
        keys=[KEY],
        rules=UserRules(forge="default", forge_url=FORGE_URL),
    )
    images = ImageService(
        forge=forge,
        registry=registry,
        builds=BuildRows(engine),
        waiters=SessionWaiters(sessions=rows, users=users, dispatcher=dispatcher, runtimes={"standalone": runtime}),
        dispatcher=dispatcher,
        clock=clock,
        settings=ImageSettings(
            defaults={ImageKind.ENVIRONMENT: f"{REGISTRY}/slipway/default:1"},
            policy=Policy(build=BuildPolicy.WAIT, grace_seconds=30),
        ),
    )
    settings = SessionSettings(
        instance="tests",
        default_runtime="standalone",
        report_url=f"{PUBLIC_URL}/api/slipway/v1/agent",
        relay_url=f"{PUBLIC_URL}/git",
        classes=CLASSES,
    )
    access = Access(users=users, forge=forge, clock=clock)
    reconciler = Reconciler(
        sessions=rows,
        images=images,
        users=users,
        runtimes={"standalone": runtime},
        dispatcher=dispatcher,
        clock=clock,
        settings=settings,
        checkouts=CheckoutPlan(relay_url=f"{PUBLIC_URL}/git"),
        access=access,
    )
    sessions = SessionService(
        sessions=rows,
        images=images,
        users=users,
        forge=forge,
        runtimes={"standalone": runtime},
        routes={"standalone": runtime},
        dispatcher=dispatcher,
        clock=clock,
        settings=settings,
        reconciler=reconciler,
        access=access,
        inventory=Inventory(sessions=rows, runtimes={"standalone": runtime}, clock=clock),
    )
    services = Services(
        sessions=sessions,
        agents=AgentService(sessions=rows, users=users, access=access, dispatcher=dispatcher),
        images=images,
        badges=Badges(
            forge=forge,
            standings=Standings(
                forge=forge,
                finder=ImageFinder(forge=forge, registry=registry, clock=clock, defaults={}, max_age_days=30),
                build_job="image_build",
                accepts=runtime.image_kinds,
            ),
            clock=clock,
            forge_name="default",
            looks_per_minute=60,
        ),
        users=users,
        forge=forge,
        doors=WorldDoors(),
        dispatcher=dispatcher,
        clock=clock,
    )
    chosen = options or world_options()
    app = create_app(services, replace(chosen, announcements=dispatcher.announcements))
    registry.put(f"{REGISTRY}/slipway/default:1", {"io.slipway.kind": "environment"})
    return World(
        forge=forge,
        registry=registry,
        runtime=runtime,
        services=services,
        app=app,
        dispatcher=dispatcher,
        clock=clock,
        rows=rows,
    )


def world_options() -> EdgeOptions:
    """Return the options that most tests use."""
    return EdgeOptions(
        public_url=PUBLIC_URL,
        cookie_keys=("a-key-of-the-tests-that-signs-cookies",),
        forges=(ForgeAddress(name="default", web_url=FORGE_URL),),
        announcements=InProcessDispatcher().announcements,
        viewer_limit=4,
        hook_secrets=(HOOK_SECRET, SIGNING_KEY),
    )
