"""What every engine does with a Dockerfile: build, reuse, refuse, fail, be ended, meet another job, keep secrets.

Covered besides: labels, tags, the numeric user, arguments, what is staged, a tag that was overwritten, a full disk.
Left out: the Python recipe (test_recipe), the key's rules (tests/unit/builder/test_key.py).
"""

import base64
import dataclasses
import gzip
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.cli import Exit
from builder.engines.choosing import EngineName, open_engine
from builder.engines.containers import CACHE_SUFFIX, Order, Workplace
from builder.engines.docker import find_docker
from builder.errors import BuildFailedError
from builder.tags import Label, environment_tag
from tests.containers.daemon import docker_daemon
from tests.containers.registry import PASSWORDS
from tests.contract.engine.conftest import Job
from tests.unit.builder.commits import await_true

SECRET = "s3cr3t-canary-7d1e"


def test_a_dockerfile_is_built_and_built_no_second_time(job: Job) -> None:
    """Tags, labels, user, base and report are as the contract says; a commit of the same inputs takes the image."""
    base = job.client.head("bases/tiny", "1")
    assert base is not None
    dockerfile = f"FROM {job.tiny}\nCOPY a.txt /a.txt\nRUN cp /a.txt /b.txt\nLABEL own=kept\nUSER worker\n"
    sha = job.repository.commit({"Dockerfile": dockerfile, "a.txt": "a"})
    assert job.run() == Exit.DONE
    report = job.report()
    tags = [environment_tag(report["key"]), sha, sha[:7]]
    assert (report["outcome"], report["engine"], report["tags"]) == ("built", job.engine, tags)
    assert {job.manifest(tag).digest for tag in tags} == {report["digest"]}
    configuration = job.configuration(sha)
    labels = configuration["Labels"]
    assert labels.pop(Label.CREATED).endswith("Z")
    assert {name: value for name, value in labels.items() if not name.startswith("io.buildah")} == {
        Label.REVISION: sha, Label.SOURCE: "https://gitlab.example.com/group/tides", Label.RECIPE: "dockerfile-2",
        Label.ENVIRONMENT_KEY: report["key"], Label.KIND: "container", Label.BASE_DIGEST: base.digest,
        Label.UID: "1234", "own": "kept",
    }  # fmt: skip
    assert configuration["User"] == "1234"
    assert report["base_digest"] == base.digest
    again = job.repository.commit({})
    assert job.run() == Exit.DONE
    second = job.report()
    assert (second["outcome"], second["digest"], second["tags"]) == ("reused", report["digest"], [again, again[:7]])
    assert job.manifest(again).digest == report["digest"]
    assert second["seconds"] < 10


def test_layers_are_taken_from_the_registry(job: Job) -> None:
    """A changed file builds anew from where it is copied; the steps before it are not run again."""
    dockerfile = f"FROM {job.tiny}\nRUN cat /proc/sys/kernel/random/uuid >/once\nCOPY a.txt /a.txt\n"
    first = job.repository.commit({"Dockerfile": dockerfile, "a.txt": "a"})
    assert job.run() == Exit.DONE
    second = job.repository.commit({"a.txt": "b"})
    assert job.run() == Exit.DONE
    layers = [[layer["digest"] for layer in job.manifest(sha).document()["layers"]] for sha in (first, second)]
    assert layers[0][:2] == layers[1][:2]
    assert layers[0][2] != layers[1][2]
    assert job.client.tags(f"{job.project}/{CACHE_SUFFIX}") != ()


def test_a_step_that_fails_is_named_with_its_lines(job: Job, capfd: pytest.CaptureFixture[str]) -> None:
    """Exit code 10; the step and what it said are in the report and on the screen, and nothing was pushed."""
    sha = job.repository.commit({"Dockerfile": f"FROM {job.tiny}\nRUN echo the tide is out && exit 3\n"})
    assert job.run() == Exit.BUILD_FAILED
    report = job.report()
    assert (report["outcome"], report["commit"], report["engine"]) == ("failed", sha, job.engine)
    assert "RUN echo the tide is out && exit 3" in report["step"]
    assert any(line.endswith("the tide is out") for line in report["log"])
    assert "the tide is out" in capfd.readouterr().err
    assert job.client.tags(job.project) == ()
    assert not (job.folder / "slipway.env").exists()


def test_a_registry_that_refuses_is_told_apart(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may pull and not push gets exit code 11."""
    monkeypatch.setenv("CI_REGISTRY_USER", "eve")
    monkeypatch.setenv("CI_REGISTRY_PASSWORD", "eve-secret")
    job.repository.commit({"Dockerfile": f"FROM {job.tiny}\n"})
    assert job.run() == Exit.REGISTRY_REFUSED
    assert job.report()["outcome"] == "failed"
    assert job.client.tags(job.project) == ()


def test_a_base_image_that_does_not_exist_fails_the_build(job: Job) -> None:
    """A wrong name in the commit is the commit's fault."""
    job.repository.commit({"Dockerfile": f"FROM {job.registry.address}/bases/none:1\n"})
    assert job.run() == Exit.BUILD_FAILED


def test_an_empty_commit_has_no_recipe(job: Job) -> None:
    """Exit code 12: nothing says what to build."""
    job.repository.commit({"README.md": ""})
    assert job.run() == Exit.NO_RECIPE


@pytest.mark.parametrize("user", ["", "USER root\n", "USER nobody-knows\n"])
def test_root_and_unknown_users_become_1000(job: Job, user: str, capfd: pytest.CaptureFixture[str]) -> None:
    """An image never ends as root, and that is said aloud."""
    sha = job.repository.commit({"Dockerfile": f"FROM {job.tiny}\n{user}"})
    assert job.run() == Exit.DONE
    assert job.configuration(sha)["User"] == "1000"
    assert "1000" in " ".join(job.report()["notes"])
    assert "1000" in capfd.readouterr().err


def test_arguments_come_from_the_commit_or_make_an_image_of_its_own(job: Job) -> None:
    """[image] arguments count and are shared; --build-arg pushes the commit's tags and no environment's."""
    dockerfile = f"FROM {job.tiny}\nARG tide=none\nENV TIDE=$tide\n"
    sha = job.repository.commit({"Dockerfile": dockerfile, "slipway.toml": '[image]\narguments = {tide = "low"}\n'})
    assert job.run("--build-arg", "tide=high") == Exit.DONE
    assert "TIDE=high" in job.configuration(sha)["Env"]
    assert job.report()["tags"] == [sha, sha[:7]]
    assert job.run() == Exit.DONE
    assert "TIDE=low" in job.configuration(sha)["Env"]
    assert job.report()["tags"][0].startswith("env-")


def test_no_secret_is_left_anywhere(job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A step reads the secret and the index's password; neither they nor the registry's are in any blob."""
    (tmp_path / "token").write_text(SECRET)
    monkeypatch.setenv("PIP_INDEX_URL", f"https://reader:{SECRET}@pypi.example.com/simple")
    dockerfile = (
        f"FROM {job.tiny}\nRUN --mount=type=secret,id=token --mount=type=secret,id=slipway-index \\\n"
        "    . /run/secrets/slipway-index && \\\n"
        '    case "$PIP_INDEX_URL" in *"$(cat /run/secrets/token)"*) ;; *) exit 1;; esac \\\n'
        '    && test -n "$UV_DEFAULT_INDEX" && echo done >/done\n'
    )
    job.repository.commit({"Dockerfile": dockerfile})
    assert job.run("--secret", f"token={tmp_path / 'token'}") == Exit.DONE
    wanted = [SECRET, "ada-secret"]
    wanted += [base64.b64encode(f"ada:{text}".encode()).decode() for text in wanted]
    for blob in _blobs(job.registry.storage):
        for text in wanted:
            assert text.encode() not in blob
    assert SECRET not in str(job.report())


def _blobs(storage: Path) -> Iterator[bytes]:
    """Read all that the registry stores, unpacked."""
    for path in storage.rglob("data"):
        content = path.read_bytes()
        yield gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


def test_only_what_the_key_counts_can_be_read(job: Job) -> None:
    """A file that the key does not count is not there to be copied: hidden, it is in no layer; overlooked, it fails."""
    dockerfile = f"FROM {job.tiny}\nCOPY . /all\nRUN ls -a /all >/listed\n"
    files = {"Dockerfile": dockerfile, "a.txt": "a", "poison.txt": "p", ".dockerignore": "poison.txt\n"}
    sha = job.repository.commit(files)
    job.build(sha, job.key(sha))
    last = str(job.manifest(sha).document()["layers"][-1]["digest"])
    listed = gzip.decompress(job.client.blob(job.project, last, largest_bytes=1 << 20))
    assert b"a.txt" in listed
    assert b"poison" not in listed
    sha = job.repository.commit(
        {"Dockerfile": f"FROM {job.tiny}\nCOPY a.txt /\nCOPY poison.txt /\n", ".dockerignore": ""}
    )
    whole = job.key(sha)
    assert whole.context is not None
    overlooking = dataclasses.replace(whole.context, sources=whole.context.sources[:1])
    with pytest.raises(BuildFailedError):
        job.build(sha, dataclasses.replace(whole, context=overlooking, digest="f" * 64))


def test_no_ignore_file_is_read(job: Job, tmp_path: Path) -> None:
    """The rules were applied while staging; one that lies in the folder does not count again."""
    context, work = tmp_path / "context", tmp_path / "work"
    for folder in (context, work):
        folder.mkdir()
    for name in (".dockerignore", ".containerignore", "Dockerfile.dockerignore"):
        (context / name).write_text("*\n")
    (context / "a.txt").write_text("a")
    place = Workplace(folder=work, registry=job.registry.address, credentials=None, say=lambda _: None)
    engine = open_engine(job.engine, place)
    try:
        output = tmp_path / "output"
        output.mkdir()
        engine.build(Order(dockerfile="FROM scratch\nCOPY a.txt /copied\n", context=context, output=output))
        assert (output / "copied").read_text() == "a"
    finally:
        engine.close()
    assert not work.exists()


def test_the_later_of_two_jobs_takes_the_earlier_ones_image(job: Job) -> None:
    """Two jobs build one key at once: who comes second tags the first one's image, and its own is nowhere."""
    dockerfile = f"FROM {job.tiny}\nRUN echo two-jobs && cat /proc/sys/kernel/random/uuid >/once\n"
    first = job.repository.commit({"Dockerfile": dockerfile})
    second = job.repository.commit({})
    winner: list[str] = []

    def say(line: str) -> None:
        if "two-jobs" in line and not winner:
            winner.append("")
            winner[0] = job.build(second, job.key(second)).digest

    report = job.build(first, job.key(first), say)
    tag = environment_tag(report.key.digest)
    assert (report.outcome, report.reason) == ("reused", f"another job built {tag} in the meantime")
    assert [report.digest] == winner
    assert {job.manifest(each).digest for each in (first, second, tag)} == set(winner)


def test_a_tag_that_was_overwritten_is_noticed(job: Job, capfd: pytest.CaptureFixture[str]) -> None:
    """An image that does not say that it is of the key is not taken for it; the report names what was built."""
    first = job.repository.commit({"Dockerfile": f"FROM {job.tiny}\nRUN echo ours >/ours\n"})
    assert job.run() == Exit.DONE
    report = job.report()
    foreign = job.client.manifest("bases/tiny", "1")
    assert foreign is not None
    layer = foreign.document()["layers"][0]["digest"]
    config = foreign.document()["config"]["digest"]
    for digest in (layer, config):
        assert job.client.mount(job.project, digest, source_repository="bases/tiny")
    job.client.put_manifest(job.project, report["tags"][0], foreign)
    second = job.repository.commit({})
    assert job.run() == Exit.DONE
    assert "changed from elsewhere" in capfd.readouterr().err
    assert job.report()["outcome"] == "built"
    assert job.manifest(second).digest == job.report()["digest"] != foreign.digest
    assert job.manifest(report["tags"][0]).digest == job.report()["digest"]
    assert job.manifest(first).digest == report["digest"]


def test_a_job_that_is_cancelled_leaves_nothing(job: Job) -> None:
    """SIGTERM in the middle of a step: no process, no mount, no folder, no name in a daemon, nothing pushed."""
    mark = f"{uuid.uuid4().int % 10**9 + 10**9}"
    job.repository.commit({"Dockerfile": f"FROM {job.tiny}\nRUN echo begins && sleep {mark}\n"})
    log = job.folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "builder.cli", "build", str(job.repository.path), "--engine", str(job.engine)],
            stdout=output, stderr=output, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
    try:
        await_true(lambda: _is_running(f"sleep\0{mark}"), "the step")
        assert not _is_running(PASSWORDS["ada"]), "a password is somebody's argument"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
    await_true(lambda: not _is_running(mark), "the step's end")
    assert str(job.temporary) not in Path("/proc/self/mountinfo").read_text()
    assert list(job.temporary.iterdir()) == []
    assert job.client.tags(job.project) == ()
    if job.engine is EngineName.DOCKER:
        names = subprocess.run(
            [str(find_docker()), "images", "--format", "{{.Repository}}"], check=True, capture_output=True, text=True
        )
        assert "slipway-build" not in names.stdout


def _is_running(mark: str) -> bool:
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (place / "cmdline").read_bytes():
                return True
        except OSError:
            continue
    return False


def test_a_full_disk_is_told_apart(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 7, "may work on another machine or later", and not the project's fault."""
    job.repository.commit({"Dockerfile": f"FROM {job.tiny}\nRUN dd if=/dev/zero of=/big bs=1M count=96\n"})
    if job.engine is EngineName.DOCKER:
        with docker_daemon(data_bytes=64 << 20) as daemon:
            monkeypatch.setenv("DOCKER_HOST", daemon.address)
            assert job.run() == Exit.UNAVAILABLE
    else:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(job.temporary)], check=True)
        try:
            assert job.run() == Exit.UNAVAILABLE
            assert list(job.temporary.iterdir()) == []
        finally:
            subprocess.run(["umount", "--lazy", str(job.temporary)], check=True)
    assert "disk" in job.report()["reason"]
