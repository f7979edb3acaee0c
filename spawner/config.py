"""Settings: the one place that reads the environment.

For: entry points call `load`; `spawner.wiring` passes values down; `reference` writes the page of the docs.
Promises: a name is `SPAWNER_<GROUP>__<FIELD>`; one that is not known is refused with the nearest known name; a
secret comes from a file (`…_FILE`) and never from a value or a URL; an empty, short or well-known secret is
refused; every field says what it is and its unit. Nothing is read at import.
Must not know: who uses a value.
"""

import difflib
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from spawner.errors import Misconfigured

PREFIX = "SPAWNER_"
DEFAULT_FORGE = "default"
SHORTEST_KEY = 32  # characters of a line of the key file
GIGABYTE = 1_000_000_000

# Secrets of tutorials and examples; compared in lower case without punctuation.
_WELL_KNOWN = frozenset({"changeme", "secret", "password", "default", "example", "test", "admin", "replaceme", "todo"})


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


class SharedOrigin(StrEnum):
    """Whether sessions of one person may share an origin."""

    REFUSED = "refused"
    ACCEPTED = "accepted"


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


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]
Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


class _Group(BaseModel):
    """One group of settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True)


class Database(_Group):
    """Where everything is kept."""

    url: str = "sqlite:///slipway.db"
    """`sqlite:///<file>` (one machine) or `postgresql://<user>@<host>[:port]/<database>`; without a password."""
    password_file: Path | None = None
    """File with PostgreSQL's password."""

    @field_validator("url")
    @classmethod
    def _has_no_password(cls, url: str) -> str:
        return _without_password(url, "SPAWNER_DATABASE__PASSWORD_FILE")


class Redis(_Group):
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


class HTTP(_Group):
    """The web server."""

    public_url: str = "http://127.0.0.1:8000"
    """The URL at which people reach the spawner, without a path; cookies are `__Host-` where it is https."""
    prefix: str = ""
    """Path put in front of every address, e.g. `/slipway`; empty for none."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 picks a free one."""
    threads: Annotated[int, Field(ge=9)] = 32
    """Threads that answer requests; event streams use at most this less eight, then 503."""
    trusted_proxies: Count = 0
    """How many proxies in front of the spawner may be believed about `X-Forwarded-*`."""

    @field_validator("public_url")
    @classmethod
    def _is_origin(cls, url: str) -> str:
        parts = urlsplit(url.rstrip("/"))
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path or parts.query or parts.username:
            raise ValueError("give scheme, host and port alone, e.g. https://slipway.example.org")
        return url.rstrip("/")

    @field_validator("prefix")
    @classmethod
    def _is_path(cls, prefix: str) -> str:
        if prefix and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", prefix.rstrip("/")):
            raise ValueError("give a path such as /slipway, or nothing")
        return prefix.rstrip("/")


class Forge(_Group):
    """A GitLab. `SPAWNER_GITLAB__…` is the one called `default`; `SPAWNER_FORGES__<NAME>__…` names others."""

    url: str = ""
    """Its URL, e.g. `https://gitlab.example.org`."""
    client_id: str = ""
    """The OAuth application's id."""
    client_secret_file: Path | None = None
    """File with the OAuth application's secret; none for a public application (PKCE alone)."""
    accepted_client_ids: Words = ()
    """Other applications whose OAuth tokens are accepted as bearers, by id, separated by commas."""
    webhook_secret_file: Path | None = None
    """File with the secret that project hooks send as `X-Gitlab-Token`; without it hooks are refused."""
    ca_file: Path | None = None
    """Certificates (PEM) to check it against, besides the system's."""
    timeout_seconds: Seconds = 10.0
    """How long one call may take, in seconds."""

    @field_validator("url")
    @classmethod
    def _is_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if url and (parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query):
            raise ValueError("give an http or https URL without credentials")
        return url.rstrip("/")


class Registry(_Group):
    """The registries images may come from."""

    allowed_hosts: Words = ()
    """`host[:port]` of registries allowed besides each GitLab's own, separated by commas."""
    plain_hosts: Words = ()
    """`host[:port]` of registries spoken to over http, separated by commas; loopback needs no mention."""
    timeout_seconds: Seconds = 10.0
    """How long one call may take, in seconds."""


class Secrets(_Group):
    """The keys that sign and encrypt."""

    key_file: Path | None = None
    """File with one key per line, 32 characters or more each: the first writes, all read. Part of every backup."""


class Sessions(_Group):
    """The life of a session."""

    runtime: str = "standalone"
    """The runtime of a launch that names none."""
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
    default_url: str = "/lab"
    """Where a session opens unless the launch says otherwise."""
    url_choices: Words = ("/lab", "/tree")
    """The addresses offered as `defaultUrl`, separated by commas."""


class Images(_Group):
    """How an image is found, waited for, and replaced."""

    build_job: str = "image_build"
    """Name of the CI job that builds a commit's image."""
    default_container: str = ""
    """Container image used when a commit has none; empty for none."""
    default_environment: str = ""
    """Environment image used when a commit has none; empty for the one that ships."""
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
    trust_tags: bool = False
    """Use an image whose tag was moved outside CI; otherwise it is flagged and left."""


class API(_Group):
    """The compatible HTTP interface."""

    patch_status: PatchStatus = PatchStatus.OK
    """What a successful PATCH answers: 200 with the session, or 204, as clients before 1.21 expect."""


class Gateway(_Group):
    """The gateway in front of container sessions; the standalone runtime gives each session a port of its own."""

    shared_origin: SharedOrigin = SharedOrigin.REFUSED
    """`accepted` lets a person's sessions share one origin: each notebook's script can then read them all."""


class Limits(_Group):
    """What a single request or person may take."""

    body_bytes: Count = 1_000_000
    """Largest JSON body, in bytes."""
    log_bytes: Count = 4_000_000
    """Largest build log that is kept, in bytes; the middle of a longer one is left out."""
    environment_image_bytes: Count = 4_000_000
    """Largest environment image that is read, in bytes: a lock file, not wheels."""
    control_file_bytes: Count = 4_000_000
    """Largest file of a repository that is read to compute a key, in bytes."""
    launches_per_minute: Count = 60
    """Launches of one person within a minute; 0 for no limit."""
    token_days: Annotated[int, Field(ge=1)] = 365
    """Longest life of one of our own tokens, in days."""
    login_hours: Seconds = 24 * 7.0
    """Life of a browser's sign-in, in hours."""


class ResourceClass(_Group):
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


class Resources(_Group):
    """What a session may be given."""

    classes: tuple[ResourceClass, ...] = (
        ResourceClass(id=1, name="small", cpu_cores=1.0, memory_gigabytes=2.0, is_default=True),
    )
    """The resource classes, as a JSON list of objects with the fields named below."""

    @field_validator("classes")
    @classmethod
    def _are_distinct(cls, classes: tuple[ResourceClass, ...]) -> tuple[ResourceClass, ...]:
        if not classes or len({each.id for each in classes}) != len(classes):
            raise ValueError("give at least one class, and each an id of its own")
        return classes


class Standalone(_Group):
    """The runtime `standalone`: sessions as processes of this machine."""

    root: Path = Path("slipway-data")
    """Folder for environments, workspaces and records of processes."""
    host: str = "127.0.0.1"
    """Address on which sessions listen."""
    serves_people: str = "{name}.localhost"
    """Host name of a session's own origin; `{name}` is the session's name."""


class Tasks(_Group):
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


class Log(_Group):
    """What is written to standard error."""

    level: LogLevel = LogLevel.INFO
    """`DEBUG`, `INFO`, `WARNING` or `ERROR`."""
    form: LogForm = LogForm.AUTO
    """`console`, `json`, or `auto`: console on a terminal, JSON elsewhere."""


class Settings(BaseSettings):
    """Everything that can be set, by group."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_nested_max_split=2,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    database: Database = Database()
    redis: Redis = Redis()
    http: HTTP = HTTP()
    gitlab: Forge = Forge()
    forges: dict[str, Forge] = Field(default_factory=dict)
    registry: Registry = Registry()
    secrets: Secrets = Secrets()
    sessions: Sessions = Sessions()
    images: Images = Images()
    api: API = API()
    gateway: Gateway = Gateway()
    limits: Limits = Limits()
    resources: Resources = Resources()
    standalone: Standalone = Standalone()
    tasks: Tasks = Tasks()
    log: Log = Log()

    @model_validator(mode="after")
    def _is_whole(self) -> "Settings":
        if DEFAULT_FORGE in self.forges:
            raise ValueError(
                "the forge called 'default' is set by SPAWNER_GITLAB__…, not by SPAWNER_FORGES__DEFAULT__…"
            )
        for name, forge in self.forges.items():
            if not forge.url:
                raise ValueError(f"the forge '{name}' has no URL: set SPAWNER_FORGES__{name.upper()}__URL")
        if self.tasks.dispatcher is Dispatching.CELERY and self.redis.url is None:
            raise ValueError("the dispatcher 'celery' needs SPAWNER_REDIS__URL")
        return self

    def forge_table(self) -> Mapping[str, Forge]:
        """Return every forge that has a URL, by name; `SPAWNER_GITLAB__…` is called `default`."""
        default = {DEFAULT_FORGE: self.gitlab} if self.gitlab.url else {}
        return {**default, **self.forges}


# ---------------------------------------------------------------- loading


def load(**groups: Any) -> Settings:
    """Return the settings of the environment; `groups` (values by group) win over it.

    Raises Misconfigured: an unknown name, a value that does not fit. No message repeats a value.
    """
    refuse_unknown(os.environ)
    try:
        return Settings(**groups)
    except ValidationError as error:
        problems = "; ".join(_problem(each["loc"], each["msg"]) for each in error.errors(include_input=False))
        raise Misconfigured(
            f"The settings do not fit: {problems}.", remedy="docs/reference/configuration.md lists every setting."
        ) from None


def refuse_unknown(environment: Mapping[str, str]) -> None:
    """Raise Misconfigured for a `SPAWNER_` name that is no setting, suggesting the nearest that is."""
    known = {name for name, *_ in _fields()}
    patterns = [re.compile(re.escape(name).replace("<NAME>", "[A-Z0-9-]+")) for name in known]
    for name in sorted(environment):
        upper = name.upper()
        if not upper.startswith(PREFIX) or any(pattern.fullmatch(upper) for pattern in patterns):
            continue
        near = difflib.get_close_matches(upper, known, n=1)
        remedy = f"Did you mean {near[0]}?" if near else "docs/reference/configuration.md lists every setting."
        raise Misconfigured(f"There is no setting {name}.", remedy=remedy)


def read_secret(path: Path, *, setting: str) -> str:
    """Return a secret file's content without surrounding white space; `setting` is named in errors.

    Raises Misconfigured: a file that cannot be read, an empty or a well-known secret.
    """
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise Misconfigured(
            f"{setting} names {path}, which cannot be read: {reason}.", remedy="Write the secret into that file."
        ) from None
    if not secret or re.sub(r"[^a-z]", "", secret.lower()) in _WELL_KNOWN:
        raise Misconfigured(
            f"{setting} names {path}, which holds no secret of its own.", remedy="Write a real secret into that file."
        )
    return secret


def read_keys(path: Path) -> tuple[bytes, ...]:
    """Return the key file's lines, the writing key first; raises Misconfigured."""
    text = read_secret(path, setting="SPAWNER_SECRETS__KEY_FILE")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for number, line in enumerate(lines, start=1):
        # Eight different characters are few even for a passphrase; fewer is a placeholder.
        if len(line) < SHORTEST_KEY or len(set(line)) < 8:  # noqa: PLR2004 - see above
            raise Misconfigured(
                f"Line {number} of the key file {path} is no key: it is too short or repeats itself.",
                remedy="Write 32 or more random characters on each line, e.g. from `openssl rand -base64 48`.",
            )
    return tuple(line.encode() for line in lines)


def make_key_file(path: Path) -> None:
    """Write a key file with one random key, mode 0600; a no-op when it is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_urlsafe(48) + "\n")


def _without_password(url: str, instead: str) -> str:
    if urlsplit(url).password:
        raise ValueError(f"no password in a URL: put it into a file and name that in {instead}")
    return url


def _problem(location: tuple[int | str, ...], message: str) -> str:
    name = PREFIX + "__".join(str(part).upper() for part in location) if location else "together"
    return f"{name}: {message.removeprefix('Value error, ')}"


# ---------------------------------------------------------------- the reference page


def _fields() -> Iterator[tuple[str, str, str, str]]:
    """Yield (name, default, description, type) of every setting."""
    for group_name, group_field in Settings.model_fields.items():
        group, is_table = _group(group_field.annotation)
        prefix = f"{PREFIX}{group_name.upper()}__" + ("<NAME>__" if is_table else "")
        for name, field in group.model_fields.items():
            yield f"{prefix}{name.upper()}", _shown(field.default), field.description or "", _type(field.annotation)


def _group(annotation: Any) -> tuple[type[_Group], bool]:
    """Return the group that an annotation names, and whether it is a table of such groups by name."""
    is_table = get_origin(annotation) is dict
    return (get_args(annotation)[1] if is_table else annotation), is_table


def _shown(default: object) -> str:
    if default is None or default in ((), "") or default is PydanticUndefined:
        return "-"
    match default:
        case StrEnum() | IntEnum():
            text = str(default.value)
        case bool():
            text = str(default).lower()
        case float():
            text = f"{default:g}"
        case tuple():
            text = ",".join(
                each.model_dump_json(exclude_defaults=True) if isinstance(each, BaseModel) else str(each)
                for each in default
            )
        case _:
            text = str(default)
    return f"`{text}`"


def _type(annotation: Any) -> str:
    if isinstance(annotation, type) and issubclass(annotation, StrEnum | IntEnum):
        return ", ".join(f"`{each.value}`" for each in annotation)
    names = {str: "text", int: "whole number", float: "number", bool: "`true`, `false`", Path: "file or folder"}
    members = [each for each in (get_args(annotation) or (annotation,)) if each is not type(None)]
    if get_origin(annotation) is tuple:
        return "list" if members[0] is str else "JSON list"
    return names.get(members[0], "text")


def reference() -> str:
    """Return the reference page of every setting, as Markdown."""
    lines = [
        "# Configuration",
        "",
        "Generated from `spawner/config.py`. Every setting is a variable of the environment.",
        "An unknown name is refused.",
        "A secret is never a value: the settings ending in `_FILE` name the file that holds it.",
    ]
    fields = list(_fields())
    for group_name, group_field in Settings.model_fields.items():
        group, is_table = _group(group_field.annotation)
        if is_table:
            continue  # its fields are those of `gitlab`, whose text says so
        lines += ["", f"## {group_name}", "", " ".join((group.__doc__ or "").split()), "", *_HEAD]
        prefix = f"{PREFIX}{group_name.upper()}__"
        lines += [_line(name, *rest) for name, *rest in fields if name.startswith(prefix)]
    lines += ["", "### Fields of a resource class", "", *_HEAD]
    for name, field in ResourceClass.model_fields.items():
        lines.append(_line(name, _shown(field.default), field.description or "", _type(field.annotation)))
    return "\n".join(lines) + "\n"


_HEAD = ("| setting | default | type | meaning |", "| --- | --- | --- | --- |")


def _line(name: str, default: str, description: str, kind: str) -> str:
    return f"| `{name}` | {default} | {kind} | {' '.join(description.split())} |"
