"""The Docker daemon, asked through Docker's own library; the only module that imports it.

For: the runtime.
Promises: nothing is connected before it is needed; "not there" is None where it is expected; every other trouble is
one of our errors, in a sentence; no configuration of the account that runs us is read for a pull; a call takes at
most `CALL_SECONDS`, but for a pull, which its caller's time limits.
Must not know: workloads, sessions.
Source: Docker Engine API 1.41 (20.10) and newer.
"""

import io
import queue
import socket
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, NotFound

from spawner.errors import LaunchRefused, RuntimeUnavailable, foreign
from spawner.ports import Login

CALL_SECONDS = 30.0
_PULL_LOOK_SECONDS = 1.0
_CONFLICT = 409
_FIRST_SERVER_ERROR = 500
Event = Mapping[str, Any]


class PullFailed(Exception):
    """A pull that the daemon gave up, in its words."""


class Taken(Exception):
    """A name, or a port, that somebody else has already."""


class Daemon:
    """One daemon; for threads."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._lock = threading.Lock()
        self._client: docker.APIClient | None = None

    @contextmanager
    def _asked(self) -> Iterator[docker.APIClient]:
        """Lend the client; raises our errors for the library's."""
        try:
            with self._lock:
                if self._client is None:
                    self._knock()
                    self._client = docker.APIClient(base_url=self.address, version="auto", timeout=CALL_SECONDS)
            yield self._client
        except APIError as exc:
            raise self._told(exc) from exc
        except (DockerException, requests.RequestException, OSError) as exc:
            raise RuntimeUnavailable(
                f"Docker cannot be asked at {self.address}: {foreign(exc)}",
                remedy="Start Docker, or correct SPAWNER_DOCKER__HOST; the spawner's account must be let in.",
            ) from exc

    def _knock(self) -> None:
        """Raise OSError when nobody listens: the library would leave its socket open."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
            door.settimeout(CALL_SECONDS)
            door.connect(self.address.removeprefix("unix://"))

    @staticmethod
    def _told(error: APIError) -> Exception:
        said, status = foreign(error.explanation or error), error.status_code or 0
        if status == _CONFLICT or "already allocated" in said or "already in use" in said:
            return Taken(said)
        if status >= _FIRST_SERVER_ERROR:
            return RuntimeUnavailable(f"Docker could not do it: {said}")
        return LaunchRefused(f"Docker refuses: {said}", remedy="Tell whoever runs this service.")

    def version(self) -> str:
        """Return the daemon's version."""
        with self._asked() as client:
            return str(client.version()["Version"])

    def information(self) -> Mapping[str, Any]:
        """Return what the daemon says of itself (`docker info`)."""
        with self._asked() as client:
            found: Mapping[str, Any] = client.info()
            return found

    # ------------------------------------------------------------ images

    def image(self, reference: str) -> Mapping[str, Any] | None:
        """Return an image's description, or None when it is not here."""
        with self._asked() as client:
            try:
                found: Mapping[str, Any] = client.inspect_image(reference)
            except NotFound:
                return None
            return found

    def pull(self, reference: str, login: Login | None, *, within_seconds: float) -> Iterator[Event | None]:
        """Yield the events of a pull as they come, and None each second without one.

        Raises PullFailed in the daemon's words, RuntimeUnavailable when the time is over.
        """
        events: queue.SimpleQueue[Event | Exception | None] = queue.SimpleQueue()
        threading.Thread(target=self._pull, args=(reference, login, events), name="pull", daemon=True).start()
        deadline = time.monotonic() + within_seconds
        while True:
            try:
                event = events.get(timeout=_PULL_LOOK_SECONDS)
            except queue.Empty:
                event = {}
            if event is None:
                return
            if isinstance(event, Exception):
                raise event
            if time.monotonic() > deadline:
                raise RuntimeUnavailable("The image is still being pulled.")
            yield event or None

    def _pull(self, reference: str, login: Login | None, events: "queue.SimpleQueue[Event | Exception | None]") -> None:
        name, _, digest = reference.partition("@")
        # An empty one, and not none, which would have the library read ~/.docker/config.json.
        auth = {} if login is None else {"username": login.username, "password": login.password}
        try:
            with self._asked() as client:
                try:
                    for event in client.pull(name, tag=digest, stream=True, decode=True, auth_config=auth):
                        events.put(PullFailed(str(event["error"])) if "error" in event else event)
                except APIError as exc:
                    events.put(PullFailed(str(exc.explanation or exc)))
        except Exception as exc:  # noqa: BLE001 - handed to the thread that waits for it
            events.put(exc)
        events.put(None)

    # ------------------------------------------------------------ networks and volumes

    def network(self, name: str) -> Mapping[str, Any] | None:
        """Return a network's description, or None when there is none of exactly that name."""
        with self._asked() as client:
            return next((each for each in client.networks(names=[name]) if each["Name"] == name), None)

    def create_network(self, name: str, *, options: Mapping[str, str], labels: Mapping[str, str]) -> None:
        """Make a bridge; raises Taken when somebody was quicker."""
        with self._asked() as client:
            client.create_network(
                name, driver="bridge", options=dict(options), labels=dict(labels), check_duplicate=True
            )

    def create_volume(self, name: str, *, labels: Mapping[str, str]) -> None:
        """Make a volume; a no-op when it is there."""
        with self._asked() as client:
            client.create_volume(name, labels=dict(labels))

    def remove_volume(self, name: str) -> None:
        """Remove a volume and what it holds; a no-op when it is gone; raises Taken while a container has it."""
        with self._asked() as client:
            try:
                client.remove_volume(name)
            except NotFound:
                return

    # ------------------------------------------------------------ containers

    def containers(self, label: str) -> list[Mapping[str, Any]]:
        """Return every container with a label (`name=value`), in one call, whatever its state."""
        with self._asked() as client:
            found: list[Mapping[str, Any]] = client.containers(all=True, filters={"label": label})
            return found

    def container(self, name: str) -> Mapping[str, Any] | None:
        """Return a container's description, or None when it is gone."""
        with self._asked() as client:
            try:
                found: Mapping[str, Any] = client.inspect_container(name)
            except NotFound:
                return None
            return found

    def create_container(self, name: str, body: Mapping[str, Any]) -> None:
        """Make a container from the API's own body; raises Taken when the name is used."""
        with self._asked() as client:
            client.create_container_from_config(dict(body), name)

    def put_files(self, name: str, archive: bytes) -> None:
        """Unpack a tar archive at a container's root, volumes included."""
        with self._asked() as client:
            client.put_archive(name, "/", archive)

    def file(self, name: str, path: str) -> bytes | None:
        """Return a small file of a container, or None when there is none, or something else in its place."""
        with self._asked() as client:
            try:
                pieces, _ = client.get_archive(name, path)
                content = b"".join(pieces)
            except NotFound:
                return None
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            member = archive.next()
            held = archive.extractfile(member) if member is not None and member.isreg() else None
            return None if held is None else held.read()

    def start(self, name: str) -> None:
        """Start a container; raises Taken when its port is used."""
        with self._asked() as client:
            client.start(name)

    def signal(self, name: str, number: str) -> None:
        """Send a signal to a container's first process; a no-op when it does not run."""
        with self._asked() as client:
            try:
                client.kill(name, number)
            except NotFound:
                return
            except APIError as exc:
                if exc.status_code != _CONFLICT:
                    raise

    def remove(self, name: str) -> None:
        """Remove a container that does not run; a no-op when it is gone, or being removed."""
        with self._asked() as client:
            try:
                client.remove_container(name, v=True)  # with the volumes that its image declares
            except NotFound:
                return
            except APIError as exc:
                if exc.status_code != _CONFLICT:
                    raise

    def usage(self, name: str) -> Mapping[str, Any]:
        """Return the kernel's counters of a container, read once; empty when it is gone."""
        with self._asked() as client:
            try:
                found: Mapping[str, Any] = client.stats(name, stream=False, one_shot=True)
            except NotFound:
                return {}
            return found

    def output(self, name: str, *, max_lines: int) -> bytes | None:
        """Return the last lines a container printed, or None when it is gone."""
        with self._asked() as client:
            try:
                printed: bytes = client.logs(name, stdout=True, stderr=True, tail=max_lines)
            except NotFound:
                return None
            return printed
