"""One running stand-in: its addresses, its keys, its store; the thing every part is given.

Promises: `open_instance` makes the data folder (private to its owner) and keys at the first start and finds them at
the next.
Must not know: routes.
"""

from __future__ import annotations

import hashlib
import queue
import secrets
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from spawner.testing.gitlab.repository import Repository
from spawner.testing.gitlab.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from spawner.testing.gitlab.letters import Letter
    from spawner.testing.gitlab.records import Project

VERSION = "18.5.0"
REVISION = "5d1b2ce0fd9"
_KEY_BITS = 2048
_TARGETS_KEPT = 20_000


@dataclass(slots=True, kw_only=True)
class Switches:
    """What belongs to this process only."""

    may_pick_user: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    project_counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # project id, client, route
    targets: deque[str] = field(default_factory=lambda: deque(maxlen=_TARGETS_KEPT))
    rates: Counter[tuple[int, str]] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Times after which things end, in seconds, and what there is: GitLab's own values by default."""

    token_life_seconds: int = 7200
    stuck_seconds: float = 3600.0
    abandoned_seconds: float = 3600.0
    hook_seconds: float = 10.0
    calls_per_hour: int = 1_000_000
    is_premium: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """Everything the parts share."""

    data: Path
    url: str
    registry_url: str
    store: Store
    key: rsa.RSAPrivateKey
    secret: bytes
    limits: Limits
    switches: Switches
    outbox: queue.SimpleQueue[Letter]

    @property
    def registry_host(self) -> str:
        """Host and port of the registry, as they stand in an image reference."""
        return self.registry_url.split("://", 1)[-1]

    def repository(self, project: Project) -> Repository:
        """Return a project's repository."""
        return Repository(self.data / "repositories" / f"{project.id}.git")


def now() -> datetime:
    """Return the present time."""
    return datetime.now(UTC)


def digest(secret: str) -> str:
    """Return what is kept of a token."""
    return hashlib.sha256(secret.encode()).hexdigest()


def open_instance(*, data: Path, url: str, registry_url: str, limits: Limits) -> Instance:
    """Open the data folder, making it and its keys when they are not there."""
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    for folder in ("repositories", "traces", "artifacts", "lfs", "registry"):
        (data / folder).mkdir(exist_ok=True)
    return Instance(
        data=data,
        url=url.rstrip("/"),
        registry_url=registry_url.rstrip("/"),
        store=Store(data / "gitlab.sqlite3"),
        key=_signing_key(data / "signing.pem"),
        secret=_kept(data / "secret", secrets.token_hex(32).encode()),
        limits=limits,
        switches=Switches(),
        outbox=queue.SimpleQueue(),
    )


def _signing_key(path: Path) -> rsa.RSAPrivateKey:
    fresh = b""
    if not path.exists():
        fresh = rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    key = serialization.load_pem_private_key(_kept(path, fresh), password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError(f"{path} holds no RSA key. Remove it; a new one is made at the next start.")
    return key


def _kept(path: Path, fresh: bytes) -> bytes:
    if not path.exists():
        partial = path.with_suffix(".partial")
        partial.touch(mode=0o600)
        partial.write_bytes(fresh)
        partial.rename(path)
    return path.read_bytes()
