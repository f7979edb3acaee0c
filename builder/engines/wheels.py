"""Wheels that a session could not get by itself: fetched from where credentials are wanted, or built from source.

It promises that whatever an index named by hash is the file with that hash, that Git speaks over https, http and ssh
only, and that credentials go to the host they were given for. Building runs the packages' own code, which is why it
happens here, in the job, and never where sessions start.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from builder.errors import BuildFailedError, UnavailableError, capped
from builder.trees import git_environment

FETCH_SECONDS = (10.0, 120.0)  # to connect, and between two chunks
GIT_SECONDS = 600.0
_CHUNK_BYTES = 1 << 20

Build = Callable[[Path], None]
"""Build the wheel of a source folder or archive into the output folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A file at an address, with the hash it must have (None where nobody names one)."""

    url: str
    sha256: str | None

    @property
    def filename(self) -> str:
        """The file's name, without folders."""
        return unquote(urlsplit(self.url).path).rpartition("/")[2] or "download"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """A commit of another repository, and the folder in it that holds the package."""

    url: str
    commit: str
    subdirectory: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """A folder or archive among the staged files."""

    path: Path


Origin = Download | Checkout | Local


def make_wheel(name: str, origin: Origin, build: Build, *, indexes: Sequence[str], work: Path, output: Path) -> None:
    """Bring one package's wheel into the output folder. BuildFailedError or UnavailableError name the package."""
    place = work / f"source-{name}"
    match origin:
        case Download():
            place.mkdir()
            file = _fetched(name, origin, indexes, place)
            if file.suffix == ".whl":
                file.rename(output / file.name)
            else:
                build(file)
        case Checkout():
            _clone(name, origin, place)
            build(place / origin.subdirectory)
        case Local():
            if origin.path.suffix == ".whl":
                (output / origin.path.name).write_bytes(origin.path.read_bytes())
            else:
                build(origin.path)


class _NoCredentials(AuthBase):
    """Adds nothing, and keeps `requests` from adding anything of its own."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


def credentials_for(url: str, indexes: Sequence[str]) -> AuthBase:
    """Choose the credentials of the index on the same host; none for any other."""
    wanted = urlsplit(url)
    for index in indexes:
        parts = urlsplit(_expanded(index))
        if parts.username is not None and (parts.scheme, parts.hostname, parts.port) == (
            wanted.scheme, wanted.hostname, wanted.port,
        ):  # fmt: skip
            return HTTPBasicAuth(unquote(parts.username), unquote(parts.password or ""))
    return _NoCredentials()


def _expanded(url: str) -> str:
    """Fill in `${NAME}` from the environment, as pip and uv do in requirements files."""
    return re.sub(r"\$\{([A-Z0-9_]+)\}", lambda match: os.environ.get(match.group(1), match.group(0)), url)


def _fetched(name: str, origin: Download, indexes: Sequence[str], folder: Path) -> Path:
    target = folder / origin.filename
    hasher = hashlib.sha256()
    host = urlsplit(origin.url).hostname
    try:
        with requests.get(
            origin.url, auth=credentials_for(origin.url, indexes), timeout=FETCH_SECONDS, stream=True
        ) as answer:
            if not answer.ok:
                raise BuildFailedError(f"{host} answered {answer.status_code} when {name} was fetched from it.")
            with target.open("wb") as file:
                for chunk in answer.iter_content(_CHUNK_BYTES):
                    hasher.update(chunk)
                    file.write(chunk)
    except requests.RequestException as error:
        raise UnavailableError(f"{name} could not be fetched from {host}: try again later.") from error
    if origin.sha256 not in {None, hasher.hexdigest()}:
        raise BuildFailedError(f"{host} sent another file for {name} than its index names.")
    return target


def _clone(name: str, origin: Checkout, folder: Path) -> None:
    allowed: Mapping[str, str] = {"GIT_ALLOW_PROTOCOL": "https:http:ssh", "GIT_CONFIG_COUNT": "0"}
    if not re.fullmatch(r"[0-9a-f]{40}", origin.commit):
        raise BuildFailedError(f"{name} is locked to “{capped(origin.commit)}”, which is no commit.")
    for arguments in (
        ["clone", "--quiet", "--no-checkout", "--end-of-options", origin.url, str(folder)],
        ["-C", str(folder), "checkout", "--quiet", "--detach", origin.commit],
        ["-C", str(folder), "submodule", "--quiet", "update", "--init", "--recursive"],
    ):
        try:
            done = subprocess.run(
                ["git", *arguments], env=git_environment(allowed), capture_output=True, text=True, errors="replace",
                stdin=subprocess.DEVNULL, check=False, timeout=GIT_SECONDS,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise UnavailableError(f"Git took longer than {GIT_SECONDS:.0f} s to fetch {name}.") from error
        if done.returncode != 0:
            tail = re.sub(r"(https?://)[^/@\s]+@", r"\1", done.stderr.strip())
            raise BuildFailedError(f"Git could not fetch {name}.", tail=tail)
