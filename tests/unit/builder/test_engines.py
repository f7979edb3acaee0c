"""What engines share, where no engine is needed: logins, the words of failures, which base was it, what is present.

Left out: the engines themselves (tests/contract/engine).
"""

from __future__ import annotations

import base64
import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from builder.engines.choosing import choose
from builder.engines.containers import (
    Ran,
    Workplace,
    base_digest,
    build_failure,
    own_environment,
    push_failure,
    run,
    silent,
    write_authentication,
)
from builder.errors import (
    BuilderError,
    BuildFailedError,
    FullError,
    RefusedError,
    UnauthorizedError,
    UnavailableError,
    UsageError,
)
from builder.oci import Credentials

if TYPE_CHECKING:
    from pathlib import Path

OTHER = {"auths": {"registry.example.org": {"auth": "b3RoZXI="}}}


def _written(folder: Path, credentials: Credentials | None) -> dict[str, Any]:
    path = folder / "auth.json"
    place = Workplace(folder=folder, registry="registry.example.com", credentials=credentials, say=silent)
    write_authentication(path, place)
    assert path.stat().st_mode & 0o077 == 0
    document: dict[str, Any] = json.loads(path.read_text())
    return document


@pytest.mark.parametrize("where", ["variable", "docker", "file"])
def test_logins_are_put_together_in_a_private_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """The machine's logins, wherever they are kept, and the job's; a store that would be asked instead is left out."""
    text = json.dumps({**OTHER, "credsStore": "desktop", "plugins": {}})
    (tmp_path / "config.json").write_text(text if where == "docker" else "{}")
    (tmp_path / "containers.json").write_text(text)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_AUTH_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    if where == "variable":
        monkeypatch.setenv("DOCKER_AUTH_CONFIG", text)
    if where == "file":
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "containers.json"))
    own = {"registry.example.com": {"auth": base64.b64encode(b"ada:secret").decode()}}
    assert _written(tmp_path, Credentials(username="ada", password="secret")) == {"auths": OTHER["auths"] | own}
    assert _written(tmp_path, None) == {**OTHER, "credsStore": "desktop"}


def test_an_engine_sees_no_secret_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job's tokens are not in the environment of what it starts."""
    for name in ("CI_REGISTRY_PASSWORD", "CI_JOB_TOKEN", "DOCKER_AUTH_CONFIG"):
        monkeypatch.setenv(name, "canary")
    assert "canary" not in own_environment(TMPDIR="/somewhere").values()
    assert own_environment(TMPDIR="/somewhere")["TMPDIR"] == "/somewhere"


@pytest.mark.parametrize(
    ("lines", "step", "expected"),
    [
        (["permission denied"], "RUN x", BuildFailedError),
        (["dd: No space left on device"], "RUN x", FullError),
        (
            ["error: pull access denied, repository does not exist or may require authorization"],
            None,
            UnauthorizedError,
        ),
        (["dial tcp: lookup registry.example.org: no such host"], None, UnavailableError),
        (["Dockerfile parse error line 1: unknown instruction: RUNN"], None, BuildFailedError),
    ],
)
def test_a_failed_build_says_whose_fault_it_is(
    lines: list[str], step: str | None, expected: type[BuilderError]
) -> None:
    """A step's own words are the project's fault; a refusal, an absence and a full disk are not."""
    found = build_failure(Ran(code=1, lines=tuple(lines)), step=step, last_words=lines[-1], is_shown=True)
    assert type(found) is expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("denied: requested access to the resource is denied", UnauthorizedError),
        ("unauthorized: authentication required", UnauthorizedError),
        ("write /var/tmp/x: no space left on device", FullError),
        ("dial tcp 127.0.0.1:9: connect: connection refused", UnavailableError),
        ("received unexpected HTTP status: 503 Service Unavailable", UnavailableError),
        ("manifest invalid", RefusedError),
    ],
)
def test_a_failed_push_says_why(line: str, expected: type[BuilderError]) -> None:
    """Refused, full and away are told apart."""
    assert type(push_failure(Ran(code=1, lines=(line,)), "registry.example.com/a:b")) is expected


@pytest.mark.parametrize(
    ("pulled", "dockerfile", "expected"),
    [
        ({"docker.io/library/python:3.12": "sha256:a"}, "FROM python:3.12\n", "sha256:a"),
        ({"a:1": "sha256:a", "b:1": "sha256:b"}, "FROM a:1 AS make\nFROM b:1\nCOPY --from=make /x /x\n", "sha256:b"),
        (
            {"a:1": "sha256:a", "b:1": "sha256:b"},
            "FROM b:1 AS make\nFROM a:1 AS base\nFROM --platform=x base\n",
            "sha256:a",
        ),
        ({"a:1": "sha256:a", "b:1": "sha256:b"}, "FROM b:1\nARG x\nFROM $x\n", ""),
        ({}, "FROM scratch\n", ""),
    ],
)
def test_the_base_is_what_the_last_stage_lies_on(pulled: dict[str, str], dockerfile: str, expected: str) -> None:
    """Stages are followed by name; what cannot be known is empty."""
    assert base_digest(pulled, dockerfile) == expected


def test_a_program_is_ended_when_its_time_is_up() -> None:
    """With all that it started."""
    began = time.monotonic()
    ran = run(["sh", "-c", "echo begun; sleep 60 & wait"], dict(os.environ), silent, seconds=0.3)
    assert (ran.lines, ran.code) == (("begun",), -9)
    assert time.monotonic() - began < 30


def test_a_machine_without_an_engine_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first that is present is chosen; where none is, that is a sentence."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="No buildah and no docker"):
        choose(None)
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho Docker version 20.10.24\n")
    docker.chmod(0o755)
    assert choose(None) == "docker"
    docker.write_text('#!/bin/sh\n[ "$1" != buildx ] || exit 1\necho Docker version 28.2.2\n')
    with pytest.raises(UsageError):
        choose("docker")
    (tmp_path / "buildah").write_text("")
    (tmp_path / "buildah").chmod(0o755)
    assert choose(None) == "buildah"
