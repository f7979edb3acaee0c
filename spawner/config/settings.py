"""The settings as a whole.

Promises: what does not go together is refused.
Must not know: how they are loaded, who uses a value.
"""

from pydantic import model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from spawner.config.groups import (
    API,
    HTTP,
    Database,
    Dispatching,
    Docker,
    Forge,
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
        env_nested_max_split=1,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    database: Database = Database()
    redis: Redis = Redis()
    http: HTTP = HTTP()
    gitlab: Forge = Forge()
    registry: Registry = Registry()
    secrets: Secrets = Secrets()
    sessions: Sessions = Sessions()
    images: Images = Images()
    api: API = API()
    limits: Limits = Limits()
    resources: Resources = Resources()
    standalone: Standalone = Standalone()
    docker: Docker = Docker()
    tasks: Tasks = Tasks()
    log: Log = Log()

    @model_validator(mode="after")
    def _is_whole(self) -> "Settings":
        if self.tasks.dispatcher is Dispatching.CELERY and self.redis.url is None:
            raise ValueError("the dispatcher 'celery' needs SPAWNER_REDIS__URL")
        return self
