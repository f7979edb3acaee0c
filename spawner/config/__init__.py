"""Settings: the one place that reads the environment.

For: entry points call `load`; `spawner.wiring` passes values down; `reference` writes the page of the docs.
Promises: a name is `SPAWNER_<GROUP>__<FIELD>`; one that is not known is refused with the nearest known name; a
secret comes from a file (`…_FILE`) and never from a value or a URL; an empty, short or well-known secret is
refused; every field says what it is and its unit. Nothing is read at import.
Must not know: who uses a value.
"""

from spawner.config.groups import (
    API,
    HTTP,
    Database,
    Dispatching,
    Fallback,
    Forge,
    Images,
    Limits,
    Log,
    LogForm,
    LogLevel,
    PatchStatus,
    Redis,
    Registry,
    ResourceClass,
    Resources,
    Secrets,
    Sessions,
    Standalone,
    Tasks,
)
from spawner.config.loading import load, refuse_unknown
from spawner.config.names import reference
from spawner.config.secret_files import make_key_file, read_keys, read_secret
from spawner.config.settings import DEFAULT_FORGE, PREFIX, Settings

__all__ = [
    "API",
    "DEFAULT_FORGE",
    "HTTP",
    "PREFIX",
    "Database",
    "Dispatching",
    "Fallback",
    "Forge",
    "Images",
    "Limits",
    "Log",
    "LogForm",
    "LogLevel",
    "PatchStatus",
    "Redis",
    "Registry",
    "ResourceClass",
    "Resources",
    "Secrets",
    "Sessions",
    "Settings",
    "Standalone",
    "Tasks",
    "load",
    "make_key_file",
    "read_keys",
    "read_secret",
    "reference",
    "refuse_unknown",
]
