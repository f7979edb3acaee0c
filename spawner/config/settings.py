"""The settings as a whole.

Promises: what does not go together is refused.
Must not know: how they are loaded, who uses a value.
"""

from collections.abc import Mapping

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from spawner.config.groups import (
    API,
    HTTP,
    Database,
    Dispatching,
    Forge,
    Gateway,
    Images,
    Limits,
    Log,
    Redis,
    Registry,
    Resources,
    Secrets,
    Sessions,
    Standalone,
    Tasks,
)

PREFIX = "SPAWNER_"
DEFAULT_FORGE = "default"


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
