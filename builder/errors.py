"""What can go wrong while an image is named, keyed, built or stored.

Every message is a sentence for the person at the screen: what happened, to which thing, what to do. The exit
code of the command line hangs on the class (`builder.cli` holds the one table); the spawner maps the same
classes to its own tree. No message carries a secret, and foreign text is capped.

    BuilderError
    ├── UsageError              the request itself cannot be understood
    ├── ProjectError            the commit says something that cannot be followed (slipway.toml, runtime.txt, …)
    │   └── NoRecipeError       the commit declares nothing that a recipe for this kind can build
    ├── CommitNotFoundError     this repository has no such commit
    ├── GitError                Git could not be asked; may work later
    ├── BuildFailedError        a step of the build failed
    ├── FullError               the machine that builds has no room left; may work on another, or later
    ├── FormatError             an image is not the environment image it claims to be
    └── RegistryError
        ├── UnauthorizedError   the registry refuses this person
        ├── UnavailableError    the registry cannot be asked now; may work later
        └── RefusedError        the registry answered, and said no
            └── LostError       it has lost a part of an image that it still names
"""

from __future__ import annotations

FOREIGN_TEXT_CHARACTERS = 256


class BuilderError(Exception):
    """Anything that ends a command with a sentence."""


class UsageError(BuilderError):
    """The request cannot be understood, or lacks a part."""


class ProjectError(BuilderError):
    """The commit says something that cannot be followed."""


class NoRecipeError(ProjectError):
    """The commit declares nothing that a recipe for the wanted kind can build."""


class CommitNotFoundError(BuilderError):
    """The repository does not hold the commit."""


class GitError(BuilderError):
    """Git could not be asked; the same question may be answered later."""


class BuildFailedError(BuilderError):
    """A step of the build failed.

    `step` is the instruction, where there is one; `tail` holds its last lines, `is_shown` if they were passed on.
    """

    def __init__(self, message: str, *, tail: str = "", step: str = "", is_shown: bool = False) -> None:
        super().__init__(message)
        self.tail = tail
        self.step = step
        self.is_shown = is_shown


class FullError(BuilderError):
    """The machine that builds has no room left; `tail` holds the last lines before, `is_shown` as above."""

    def __init__(self, message: str, *, tail: str = "", is_shown: bool = False) -> None:
        super().__init__(message)
        self.tail = tail
        self.is_shown = is_shown


class FormatError(BuilderError):
    """An image is not the environment image that it claims to be."""


class RegistryError(BuilderError):
    """The registry did not do what it was asked."""


class UnauthorizedError(RegistryError):
    """The registry refuses whoever asks."""


class UnavailableError(RegistryError):
    """The registry cannot be asked now; "cannot be asked" never means "does not exist"."""

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class RefusedError(RegistryError):
    """The registry understood the request and said no."""


class LostError(RefusedError):
    """The registry has lost a part of an image that it still names."""


def capped(text: str) -> str:
    """Foreign text fit for a message: one line, at most 256 characters."""
    line = " ".join(text.split())
    return line if len(line) <= FOREIGN_TEXT_CHARACTERS else line[: FOREIGN_TEXT_CHARACTERS - 1] + "…"
