"""Every error a person or a program may meet, in one tree.

For: services and adapters raise these; `spawner.http` maps each class to a status and a code, in one table.
Promises: a message says what happened, to which thing; `remedy` says what to do; neither holds a secret.
Must not know: HTTP, Flask, or any library an adapter wraps.

    SpawnerError
    ├── PermanentError                     a person must do something
    │   ├── InvalidInput                   the request cannot be followed
    │   │   ├── ImageUnparsable            an image reference that does not parse
    │   │   ├── EnvironmentOverridden      a variable the service sets itself
    │   │   ├── ResourcesUnavailable       no such resource class, or more storage than it has
    │   │   └── NameTooLong                a user name that fits no name of ours
    │   ├── MalformedRequest               a body that is not JSON
    │   ├── SignInRequired                 nobody is signed in
    │   │   └── TokenRejected              the token is unknown, expired or revoked
    │   ├── Forbidden                      known, but not allowed
    │   │   ├── MissingScope               the token lacks a scope
    │   │   ├── RequestForged              a cross-site request, or a stale form
    │   │   └── SecondPerson               this machine's account admits one person at a time
    │   ├── NotFound                       no such thing, or none that this person may see
    │   │   ├── SessionNotFound
    │   │   ├── ProjectNotFound
    │   │   ├── RevisionNotFound           branch, tag or commit
    │   │   └── BuildNotFound
    │   ├── Conflict                       true, but not now
    │   ├── HibernationUnavailable         this runtime keeps no sleeping sessions
    │   ├── ImageUnavailable               no rung of the ladder holds
    │   ├── LaunchRefused                  the runtime will never start this workload
    │   └── Misconfigured                  a setting is missing or wrong
    └── TemporaryError                     will be tried again after `retry_after_seconds`
        ├── ForgeUnavailable               GitLab is down, slow or answers nonsense
        ├── RateLimited                    GitLab asks for patience, or we do
        ├── RegistryUnavailable            the registry cannot be asked
        │   └── RegistryRefused            … by this person
        ├── RuntimeUnavailable             the runtime cannot be asked
        ├── StoreUnavailable               the database cannot be asked
        └── TooManyViewers                 no thread is left for another event stream
"""

FOREIGN_TEXT_LIMIT = 256  # characters kept of any text that another system wrote


def foreign(text: object, *, limit: int = FOREIGN_TEXT_LIMIT) -> str:
    """Return another system's text as one printable line of at most `limit` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


class SpawnerError(Exception):
    """Something a person can be told: a sentence and what to do about it."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class PermanentError(SpawnerError):
    """Trying again changes nothing; a person must."""


class InvalidInput(PermanentError):
    """A request that is well-formed and cannot be followed; `detail` names the fields."""

    def __init__(self, message: str, *, remedy: str = "", detail: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.detail = detail


class ImageUnparsable(InvalidInput):
    """An image reference that does not parse."""


class EnvironmentOverridden(InvalidInput):
    """An environment variable that the service sets itself."""


class ResourcesUnavailable(InvalidInput):
    """No such resource class, or more storage than the class has."""


class NameTooLong(InvalidInput):
    """A user name that fits no name of ours."""


class MalformedRequest(PermanentError):
    """A body that is not what its content type says."""


class SignInRequired(PermanentError):
    """Nobody is signed in."""


class TokenRejected(SignInRequired):
    """A token that is unknown, expired or revoked."""


class Forbidden(PermanentError):
    """A known person without the right."""


class MissingScope(Forbidden):
    """A token that lacks a scope; the message names it."""


class RequestForged(Forbidden):
    """A state-changing request that did not come from a page of ours."""


class SecondPerson(Forbidden):
    """A second person where sessions run on one person's account."""


class NotFound(PermanentError):
    """No such thing, or none that this person may see: the two are never told apart."""


class SessionNotFound(NotFound):
    """No such session for this person."""


class ProjectNotFound(NotFound):
    """No such project for this person."""


class RevisionNotFound(NotFound):
    """No such branch, tag or commit in that project."""


class BuildNotFound(NotFound):
    """No such build for this person."""


class Conflict(PermanentError):
    """A true request at the wrong time."""


class HibernationUnavailable(PermanentError):
    """Hibernation asked of a service that has none."""


class ImageUnavailable(PermanentError):
    """No image can be had for this commit."""


class LaunchRefused(PermanentError):
    """A workload that the runtime will never start; the message says why."""


class Misconfigured(PermanentError):
    """A setting that is missing or wrong; the message names it."""


class TemporaryError(SpawnerError):
    """Will be tried again, not before `retry_after_seconds`."""

    def __init__(self, message: str, *, remedy: str = "", retry_after_seconds: float = 5.0) -> None:
        super().__init__(message, remedy=remedy)
        self.retry_after_seconds = retry_after_seconds


class ForgeUnavailable(TemporaryError):
    """GitLab is down, slow, or answers what is no answer."""


class RateLimited(TemporaryError):
    """Somebody asks for patience."""


class RegistryUnavailable(TemporaryError):
    """The registry cannot be asked; never the same as "no such image"."""


class RegistryRefused(RegistryUnavailable):
    """GitLab's registry refuses this person: whether there is such an image, they may not know."""


class RuntimeUnavailable(TemporaryError):
    """The runtime cannot be asked."""


class StoreUnavailable(TemporaryError):
    """The database cannot be asked."""


class TooManyViewers(TemporaryError):
    """No thread is left for another event stream."""
