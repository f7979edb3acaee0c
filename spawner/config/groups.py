"""Every setting: its group, its type, its default, its unit.

For: `Settings` holds one value of each group; the docstring under a field is its text in the reference.
Promises: frozen; a URL with a password is refused; an error never repeats a value.
Must not know: the environment, files.
"""

import json
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic_settings import NoDecode


class Dispatching(StrEnum):
    """Who runs tasks."""

    INPROCESS = "inprocess"
    CELERY = "celery"


class Fallback(StrEnum):
    """Where a launch goes when there is no image."""

    DEFAULT = "default"
    ANCESTOR = "ancestor"
    FAIL = "fail"


class PatchStatus(IntEnum):
    """What a successful PATCH answers."""

    OK = 200
    NO_CONTENT = 204


class LogForm(StrEnum):
    """How a log line is written."""

    AUTO = "auto"
    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    """The least important event that is logged."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


def _words(value: object) -> object:
    """Split text at commas and white space."""
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


def _json(value: object) -> object:
    """Read text as JSON; raises ValueError without repeating it."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"this is no JSON: {error.msg} at character {error.pos}") from None


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]
Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


class Group(BaseModel):
    """One group of settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True)


class Database(Group):
    """Where everything is kept."""

    url: str = "sqlite:///slipway.db"
    """`sqlite:///<file>` (one machine) or `postgresql://<user>@<host>[:port]/<database>`; without a password."""
    password_file: Path | None = None
    """File with PostgreSQL's password."""

    @field_validator("url")
    @classmethod
    def _has_no_password(cls, url: str) -> str:
        return _without_password(url, "SPAWNER_DATABASE__PASSWORD_FILE")


class Redis(Group):
    """Wake-ups between processes; needed by the dispatcher `celery` alone. Losing it costs seconds, no session."""

    url: str | None = None
    """`redis://<host>[:port]/<number>` or `rediss://…`; without a password."""
    password_file: Path | None = None
    """File with Redis's password."""
    timeout_seconds: Seconds = 1.0
    """How long a wake-up may take, in seconds; a Redis that hangs costs this much and no more."""

    @field_validator("url")
    @classmethod
    def _has_no_password(cls, url: str | None) -> str | None:
        return None if url is None else _without_password(url, "SPAWNER_REDIS__PASSWORD_FILE")


class HTTP(Group):
    """The web server."""

    public_url: str = "http://127.0.0.1:8000"
    """The URL at which people reach the spawner, a host name of its own: no path; cookies are `__Host-` if https."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 picks a free one."""
    threads: Annotated[int, Field(ge=9)] = 32
    """Threads that answer requests; event streams use at most this less eight, then 503."""
    renku_headers: bool = False
    """Take the header `Renku-Auth-Git-Credentials` of Renku's gateway: the GitLab token in it counts like a bearer, so
    name the gateway's OAuth application in `SPAWNER_GITLAB__ACCEPTED_CLIENT_IDS`."""
    trusted_proxies: Count = 0
    """How many proxies in front of the spawner may be believed about `X-Forwarded-*`."""

    @field_validator("public_url")
    @classmethod
    def _is_origin(cls, url: str) -> str:
        parts = urlsplit(url.rstrip("/"))
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path or parts.query or parts.username:
            raise ValueError("give scheme, host and port alone, e.g. https://slipway.example.org")
        return url.rstrip("/")


class Forge(Group):
    """The GitLab whose people sign in and whose projects are launched."""

    url: str = ""
    """Its URL, e.g. `https://gitlab.example.org`."""
    client_id: str = ""
    """The OAuth application's id."""
    client_secret_file: Path | None = None
    """File with the OAuth application's secret; none for a public application (PKCE alone)."""
    scopes: Words = ("openid", "profile", "read_api", "read_repository", "write_repository", "read_registry")
    """What a sign-in asks for; the application must have each. It should have `api` too, which is asked for when
    somebody has a commit built."""
    accepted_client_ids: Words = ()
    """Other applications whose OAuth tokens are accepted as bearers, by id, separated by commas."""
    webhook_secret_file: Path | None = None
    """File with what proves a hook: its secret token, or its signing token (`whsec_…`); one per line, any will do, so
    that one can be replaced by another. Without it hooks are refused."""
    status_token_file: Path | None = None
    """File with a token (scope `api`, Developer in its projects) that puts a launch link on built commits; or none."""
    hooks_token_file: Path | None = None
    """File with a token (scope `read_api`; maintainer or owner of the projects) to look whether GitLab still sends our
    hooks: it switches one off after four failures. Without it nobody looks."""
    ca_file: Path | None = None
    """Certificates (PEM) to check it against, besides the system's."""
    timeout_seconds: Seconds = 10.0
    """How long one call may take, in seconds."""

    @field_validator("scopes")
    @classmethod
    def _may_read(cls, scopes: tuple[str, ...]) -> tuple[str, ...]:
        if not {"api", "read_api"} & set(scopes):
            raise ValueError("name read_api, or api, among them: without it GitLab shows no project")
        return scopes

    @field_validator("url")
    @classmethod
    def _is_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if url and (parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query):
            raise ValueError("give an http or https URL without credentials")
        return url.rstrip("/")


class Registry(Group):
    """The registries images may come from."""

    allowed_hosts: Words = ()
    """`host[:port]` of registries allowed besides GitLab's own, separated by commas; https, but for loopback."""
    timeout_seconds: Seconds = 10.0
    """How long one call may take, in seconds."""


class Secrets(Group):
    """The keys that sign and encrypt."""

    key_file: Path | None = None
    """File with one key per line, 32 characters or more each: the first writes, all read. Part of every backup."""


class Sessions(Group):
    """The life of a session."""

    runtime: str = "standalone"
    """The runtime of a launch that names none."""
    more_runtimes: Words = ()
    """Runtimes that a launch may name besides (`runtime`), separated by commas."""
    instance: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,19}$")] = "slipway"
    """This installation's name; everything created outside bears it."""
    start_budget_seconds: Seconds = 120.0
    """From asking the runtime to the first answer, in seconds; then the session fails with a reason."""
    stop_grace_seconds: Seconds = 10.0
    """How long a session's server may take to end before it is killed, in seconds."""
    retention_days: Annotated[float, Field(ge=0)] = 7.0
    """How long an ended session's workspace is kept, in days."""
    observe_seconds: Seconds = 10.0
    """How often a running session is looked at, in seconds, besides what its agent tells."""
    restarts_limit: Count = 3
    """How often a session is restarted within the window before it fails."""
    restarts_window_seconds: Seconds = 600.0
    """The window of `restarts_limit`, in seconds."""
    access_check_seconds: Seconds = 900.0
    """How often a running session's right to its project is checked again, in seconds."""
    prepare_default_image: bool = True
    """Have the default image at hand from the start on, so that the first launch that needs it does not wait."""
    default_url: str = "/lab"
    """Where a session opens unless the launch says otherwise."""
    url_choices: Words = ("/lab", "/tree")
    """The addresses offered as `defaultUrl`, separated by commas."""


class Images(Group):
    """How an image is found, waited for, and replaced."""

    build_job: str = "image_build"
    """Name of the CI job that builds a commit's image."""
    default_container: str = ""
    """Container image used when a commit has none; empty for none. Its registry counts as allowed."""
    default_environment: str = ""
    """Environment image used when a commit has none; empty for the one that ships. Its registry counts as allowed."""
    fallback: Fallback = Fallback.DEFAULT
    """Where a launch goes when there is no image: `default`, `ancestor` or `fail`."""
    grace_seconds: Annotated[float, Field(ge=0)] = 30.0
    """How long a pipeline may take to appear after a push, in seconds."""
    queue_budget_seconds: Seconds = 300.0
    """How long a build may wait for a runner, in seconds."""
    build_budget_seconds: Seconds = 3600.0
    """How long a build may run, in seconds."""
    registry_budget_seconds: Seconds = 60.0
    """How long a registry that cannot be asked is waited for, in seconds."""
    push_lag_seconds: Annotated[float, Field(ge=0)] = 15.0
    """How long an image may take to appear after its job succeeded, in seconds."""
    environment_max_age_days: Count = 30
    """Age in days from which a reused image is flagged; 0 for never."""
    pull_token_days: Annotated[int, Field(ge=0, le=365)] = 0
    """Life in days of the deploy tokens that container images are fetched with, made in a project as a maintainer of it
    launches, signed in with the scope `api`; 0 makes none, and each image is fetched with the person's own sign-in."""


class API(Group):
    """The compatible HTTP interface."""

    patch_status: PatchStatus = PatchStatus.OK
    """What a successful PATCH answers: 200 with the session, or 204, as clients before 1.21 expect."""


class Limits(Group):
    """What a single request or person may take."""

    body_bytes: Count = 1_000_000
    """Largest JSON body, in bytes."""
    launches_per_minute: Count = 60
    """Launches of one person within any 60 seconds, then 429; 0 for no limit. Each web process counts its own."""
    unknown_tokens_per_minute: Annotated[int, Field(ge=1)] = 100
    """Tokens nobody has shown before that GitLab is asked about within a minute, in all and at most 20 of one address;
    then 429. GitLab may ban the spawner's address after 300 that it does not know. Each web process counts its own."""
    badge_looks_per_minute: Count = 60
    """How often the badges of all projects may ask GitLab within a minute; 0 for badges without a state."""
    token_days: Annotated[int, Field(ge=1, le=36_500)] = 365
    """Longest life of one of our own tokens, in days."""
    login_hours: Seconds = 24 * 7.0
    """Life of a browser's sign-in, in hours."""


class ResourceClass(Group):
    """One choice of resources, as people see it."""

    id: int
    """Its number in the API."""
    name: str
    """What people see."""
    cpu_cores: Annotated[float, Field(ge=0)] = 0.0
    """Cores; 0 is not limited."""
    memory_gigabytes: Annotated[float, Field(ge=0)] = 0.0
    """Memory in gigabytes (10^9 bytes); 0 is not limited."""
    gpu_count: Count = 0
    """Graphics processors."""
    default_storage_gigabytes: Annotated[float, Field(gt=0)] = 1.0
    """Storage that is suggested, in gigabytes."""
    max_storage_gigabytes: Annotated[float, Field(gt=0)] = 20.0
    """Most storage that may be asked for, in gigabytes."""
    is_default: bool = False
    """Whether a launch that names none gets it; the first one otherwise."""


class Resources(Group):
    """What a session may be given."""

    classes: Annotated[tuple[ResourceClass, ...], NoDecode, BeforeValidator(_json)] = (
        ResourceClass(id=1, name="small", cpu_cores=1.0, memory_gigabytes=2.0, is_default=True),
    )
    """The resource classes, as a JSON list of objects with the fields named below."""

    @field_validator("classes")
    @classmethod
    def _are_distinct(cls, classes: tuple[ResourceClass, ...]) -> tuple[ResourceClass, ...]:
        if not classes or len({each.id for each in classes}) != len(classes):
            raise ValueError("give at least one class, and each an id of its own")
        return classes


class Standalone(Group):
    """The runtime `standalone`: sessions as processes of this machine."""

    root: Path = Path("slipway-data")
    """Folder for environments, workspaces and records of processes."""
    host: str = "127.0.0.1"
    """Address on which sessions listen; people's browsers must reach it."""
    serves_people: Annotated[str, Field(pattern=r"^\{name\}(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+$")] = "{name}.localhost"
    """Host name of a session's own origin, `{name}` being the session's name; browsers must find it at `host`."""


class Docker(Group):
    """The runtime `docker`: sessions as containers of this machine."""

    host: Annotated[str, Field(pattern=r"^unix://.+$")] = "unix:///var/run/docker.sock"
    """Docker's address: a socket of this machine, because containers are given folders of it."""
    root: Path = Path("slipway-docker")
    """Folder for what containers are given and for the logs of those that ended; Docker must see it at that path."""
    network: str = ""
    """Network of all sessions, which keeps them apart; made if it is not there. Empty: `slipway-` and the instance."""
    processes_limit: Annotated[int, Field(ge=64)] = 2048
    """Most processes and threads of one session."""


class Tasks(Group):
    """Who does the work behind a request."""

    dispatcher: Dispatching = Dispatching.INPROCESS
    """`inprocess` (threads of the web process) or `celery` (workers of their own, woken through Redis)."""
    threads: Annotated[int, Field(ge=1)] = 8
    """Tasks that the web process runs at a time (`inprocess`)."""
    processes: Annotated[int, Field(ge=1)] = 4
    """Processes of one `spawner worker` (`celery`)."""
    sweep_seconds: Seconds = 0.5
    """How often due sessions and builds are looked for, in seconds; a lost wake-up costs this much."""
    housekeeping_seconds: Seconds = 60.0
    """How often leftovers are looked for, in seconds."""
    limit_seconds: Seconds = 300.0
    """The longest that one task may run, in seconds, before its worker is replaced (`celery`)."""


class Log(Group):
    """What is written to standard error."""

    level: LogLevel = LogLevel.INFO
    """`DEBUG`, `INFO`, `WARNING` or `ERROR`."""
    form: LogForm = LogForm.AUTO
    """`console`, `json`, or `auto`: console on a terminal, JSON elsewhere."""


def _without_password(url: str, instead: str) -> str:
    if urlsplit(url).password:
        raise ValueError(f"no password in a URL: put it into a file and name that in {instead}")
    return url
