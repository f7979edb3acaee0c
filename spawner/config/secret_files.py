"""Secrets, which come from files and from nowhere else.

Promises: an empty, short or well-known secret is refused; no message repeats one.
Must not know: what a secret is for.
"""

import os
import re
import secrets
from pathlib import Path

from spawner.errors import Misconfigured

SHORTEST_KEY = 32  # characters of a line of the key file

# Secrets of tutorials and examples; compared in lower case without punctuation.
_WELL_KNOWN = frozenset({"changeme", "secret", "password", "default", "example", "test", "admin", "replaceme", "todo"})


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
