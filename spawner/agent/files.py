"""Small private files, written whole or not at all.

For: the agent's words to a spawner that was away, and the records of the standalone runtime.
Promises: a reader never sees half a file; mode 0600 unless told otherwise, from the first byte on.
Must not know: what is in them.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_whole(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Replace a file in one step; the folder must exist."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, mode)
        file.write(text)
    draft.replace(path)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a private JSON file in one step."""
    write_whole(path, json.dumps(value, sort_keys=True))


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object a file holds, or None when there is none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
