"""The plan: everything an agent is told, once, in one private file.

For: the runtime writes it, the agent reads it; nothing else passes between them but the words in files.
Promises: values only; what is secret in it (the session's credential) is printed nowhere.
Must not know: how a plan comes about.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

MARKER = "SLIPWAY_WORKLOAD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """The user id that a session runs under, where sessions have one of their own."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckoutPlan:
    """What Git has to do: exactly `sha`, from `origin_url`, which `rewrites` (to, from) lead to the relay.

    The credential is sent to URLs below `relay_prefix` and to no others.
    """

    origin_url: str
    relay_prefix: str
    rewrites: tuple[tuple[str, str], ...]
    branch: str
    is_tag: bool
    sha: str
    author_name: str
    author_email: str
    fetch_lfs: bool
    budget_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentPlan:
    """The shared environment below a session's own: `python` is the interpreter both run on.

    `project` is the folder of the checkout that holds a Python project to install editable, None when there is none.
    """

    path: str
    python: str
    version: str
    site_packages: str
    uv: str | None
    project: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePlan:
    """The container image around the agent: what is in it stays as it is, the agent only adds.

    The image's own `entrypoint` starts the server. The spawner answers at `spawner_socket`, which the agent opens
    to the session's programs at `spawner_port` of the container's loopback.
    """

    entrypoint: tuple[str, ...]
    spawner_socket: str
    spawner_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One session of one generation. Paths are absolute; descriptors are inherited from the spawner.

    Either `environment` says what the server runs on, and its port listens already (`listen_descriptor`); or `image`
    does, and the server opens its port itself.
    """

    instance: str
    workload: str
    generation: int
    session: str
    record_path: str
    workspace_path: str
    run_path: str
    checkout_name: str
    person: Person | None
    listen_host: str
    port: int
    listen_descriptor: int | None
    lock_descriptors: tuple[int, ...]
    public_host: str
    default_url: str
    environment: EnvironmentPlan | None
    image: ImagePlan | None = None
    checkout: CheckoutPlan
    variables: dict[str, str]
    report_url: str
    credential: str = field(repr=False)
    memory_bytes: int
    start_budget_seconds: float

    @property
    def record(self) -> Path:
        """The folder of this workload's record: the spawner's and the agent's, closed to the session."""
        return Path(self.record_path)

    @property
    def private(self) -> Path:
        """The folder of the session's private files, its own user's."""
        return Path(self.workspace_path) / ".slipway"

    @property
    def run(self) -> Path:
        """The folder of the session's sockets: short, because the path of a socket is (107 bytes, unix(7))."""
        return Path(self.run_path)

    @property
    def home(self) -> Path:
        """The session's home folder."""
        return Path(self.workspace_path) / "home"

    @property
    def checkout_path(self) -> Path:
        """Where the repository stands."""
        return Path(self.workspace_path) / "work" / self.checkout_name

    @property
    def own_environment(self) -> Path:
        """The session's thin environment."""
        return Path(self.workspace_path) / "environment"

    @property
    def marker(self) -> str:
        """What every process of this workload carries in its environment."""
        return f"{MARKER}={self.workload}"

    def dump(self) -> str:
        """Return the plan as JSON."""
        return json.dumps(asdict(self))


def load(text: str) -> Plan:
    """Return the plan that `dump` wrote; raises KeyError, TypeError or ValueError for anything else."""
    value = json.loads(text)
    checkout = value["checkout"]
    checkout["rewrites"] = tuple((str(to), str(origin)) for to, origin in checkout["rewrites"])
    value["checkout"] = CheckoutPlan(**checkout)
    value["environment"] = None if value["environment"] is None else EnvironmentPlan(**value["environment"])
    image = value.get("image")
    value["image"] = None if image is None else ImagePlan(**{**image, "entrypoint": tuple(image["entrypoint"])})
    value["person"] = None if value["person"] is None else Person(**value["person"])
    value["lock_descriptors"] = tuple(value["lock_descriptors"])
    return Plan(**value)
