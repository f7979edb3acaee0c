"""Container images, pulled with progress.

For: the runtime.
Promises: an image is named by its digest; the registry's refusal keeps its meaning; a secret is only ever handed to
the daemon.
Must not know: workloads, settings.
"""

from collections.abc import Iterator, Mapping

from spawner.errors import ImageUnavailable, RegistryRefused, RegistryUnavailable, SpawnerError, foreign
from spawner.ports import Login, WorkloadImage
from spawner.runtimes.docker.daemon import Daemon, Event, PullFailed

_MEGABYTE = 1_000_000
_STEPS = 20  # a sentence is an event of the session, kept as long as it is
# In the words of registries, as the daemon passes them on (distribution's error codes, docker 20.10 to 28).
_REFUSALS = ("denied", "unauthorized", "authentication required", "no basic auth", "forbidden")
_ABSENCES = ("manifest unknown", "not found", "name unknown", "does not exist")


def pull(daemon: Daemon, image: WorkloadImage, login: Login | None, *, within_seconds: float) -> Iterator[str]:
    """Pull an image, and yield how far it is, in words, when that has changed and each second: somebody may give up.

    Raises ImageUnavailable, RegistryRefused, RegistryUnavailable, or RuntimeUnavailable when it takes too long.
    """
    layers: dict[str, tuple[int, int]] = {}
    done: set[str] = set()
    said = ""
    try:
        for event in daemon.pull(image.reference, login, within_seconds=within_seconds):
            if event is not None:
                count(event, layers, done)
            if (now := words(layers, done)) != said or event is None:
                said = now
                yield now
    except PullFailed as failure:
        raise told(image.reference, str(failure)) from failure


def count(event: Event, layers: dict[str, tuple[int, int]], done: set[str]) -> None:
    """Note one event: `{"id", "status", "progressDetail": {"current", "total"}}`."""
    layer, status = str(event.get("id", "")), str(event.get("status", ""))
    if status in {"Pulling fs layer", "Waiting", "Already exists"}:
        layers.setdefault(layer, (0, 0))
    if status == "Downloading":
        detail = event.get("progressDetail") or {}
        layers[layer] = (int(detail.get("current") or 0), int(detail.get("total") or 0))
    if status in {"Already exists", "Pull complete"}:
        done.add(layer)
        layers[layer] = (layers[layer][1],) * 2 if layer in layers else (0, 0)


def words(layers: Mapping[str, tuple[int, int]], done: set[str]) -> str:
    """Say how far a pull is."""
    if not layers:
        return "Pulling the image"
    current, total = (sum(part) for part in zip(*layers.values(), strict=True))
    step = max(_MEGABYTE, total // _STEPS)
    size = f", {current // step * step // _MEGABYTE} of {total // _MEGABYTE} MB" if total >= _MEGABYTE else ""
    return f"Pulling the image: {len(done)} of {len(layers)} layers{size}"


def told(reference: str, said: str) -> SpawnerError:
    """Return the error that a daemon's words about a failed pull mean."""
    lower = said.lower()
    if any(word in lower for word in _REFUSALS):
        return RegistryRefused(
            f"The registry does not let {foreign(reference)} be pulled: {foreign(said)}",
            remedy="Sign in again; your account needs the right to read this project's registry.",
        )
    if any(word in lower for word in _ABSENCES):
        return ImageUnavailable(f"The image {foreign(reference)} is gone.", remedy="Launch again to choose anew.")
    return RegistryUnavailable(
        f"Docker could not pull {foreign(reference)}: {foreign(said)}", remedy="It is tried again."
    )
