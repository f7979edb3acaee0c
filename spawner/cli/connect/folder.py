"""The folder of an installation's settings: an environment file and the secrets that it names.

For: `spawner connect` fills it, `spawner serve` reads it through the environment. Promises: secrets are made from the
system's randomness and are readable by their owner alone from the moment they exist; what is there already is never
changed; a setting that says something else than is wanted is said, not overwritten.
Must not know: GitLab.
"""

import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spawner.cli.exits import CommandFailed

ENVIRONMENT_FILE = "environment"
_SECRET_BYTES = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsFolder:
    """One folder; with `is_dry` nothing is written."""

    path: Path
    is_dry: bool = False

    @property
    def environment(self) -> Path:
        """The file with the settings, for a shell or a service manager."""
        return self.path / ENVIRONMENT_FILE

    def has(self, name: str) -> bool:
        """Say whether there is a file of that name."""
        return (self.path / name).exists()

    def secret(self, name: str) -> str:
        """Return the secret in a file, made now where there is none."""
        path = self.path / name
        if not path.exists():
            self.keep(name, secrets.token_urlsafe(_SECRET_BYTES))
        if self.is_dry and not path.exists():
            return ""
        return self._read(path).strip()

    def keep(self, name: str, content: str) -> None:
        """Write a secret file, whole and for its owner alone."""
        if self.is_dry:
            return
        self._made()
        partial = self.path / f"{name}.partial"
        partial.unlink(missing_ok=True)
        partial.touch(mode=0o600)
        partial.write_text(content + "\n", encoding="utf-8")
        partial.replace(self.path / name)

    def settings(self) -> Mapping[str, str]:
        """Return what the environment file sets; empty where there is none."""
        if not self.environment.exists():
            return {}
        found = {}
        for line in self._read(self.environment).splitlines():
            name, is_setting, value = line.strip().removeprefix("export ").partition("=")
            if is_setting and not name.startswith("#"):
                found[name] = " ".join(shlex.split(value, comments=False)) if value else ""
        return found

    def add(self, wanted: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Add settings that the file lacks; return the names that were added, and those that say something else."""
        there = self.settings()
        missing = {name: value for name, value in wanted.items() if name not in there}
        other = tuple(name for name, value in wanted.items() if name in there and there[name] != value)
        if missing and not self.is_dry:
            self._made()
            before = self._read(self.environment).rstrip("\n") if self.environment.exists() else ""
            lines = [
                *([before] if before else []),
                *(f"{name}={shlex.quote(value)}" for name, value in missing.items()),
            ]
            self.keep(ENVIRONMENT_FILE, "\n".join(lines))
        return tuple(missing), other

    def _made(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise CommandFailed(
                f"The folder {self.path} cannot be made: {error.strerror}.", remedy="Name another with --folder."
            ) from error

    def _read(self, path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise CommandFailed(f"{path} cannot be read ({type(error).__name__}).") from error
