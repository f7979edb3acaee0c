"""Loading: the one module that reads the environment.

Promises: an unknown name is refused with the nearest known one; no message repeats a value.
Must not know: who uses a value.
"""

import difflib
import os
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from spawner.config.names import fields
from spawner.config.settings import PREFIX, Settings
from spawner.errors import Misconfigured


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
    known = {name for name, *_ in fields()}
    for name in sorted(environment):
        upper = name.upper()
        if not upper.startswith(PREFIX) or upper in known:
            continue
        near = difflib.get_close_matches(upper, known, n=1)
        remedy = f"Did you mean {near[0]}?" if near else "docs/reference/configuration.md lists every setting."
        raise Misconfigured(f"There is no setting {name}.", remedy=remedy)


def _problem(location: tuple[int | str, ...], message: str) -> str:
    name = PREFIX + "__".join(str(part).upper() for part in location) if location else "together"
    return f"{name}: {message.removeprefix('Value error, ')}"
