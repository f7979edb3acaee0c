"""The shell runner against a server that plays the protocol's other side, with real Git and real processes.

Covered: a job's whole way, failure, exit codes, live logs, resending (416, 412), keep-alive, cancel in both
ways, timeouts, after_script, artifacts, dotenv, dependencies, the job's environment, masked values, left-over
processes, orderly ends. Left out: submodules, LFS and the `cache` keyword, which this runner does not do.
"""

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Response

from tests.unit.testing.runner.conftest import (
    DEADLINE_SECONDS,
    JOB_TOKEN,
    Server,
    basic,
    dumped,
    gunzipped,
    until,
    unzipped,
)

SECRET = "s3cret-value/with+signs"


def processes_with(mark: str) -> list[int]:
    """Return the processes whose arguments or environment hold a mark."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and int(path.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark.encode() in (path / "cmdline").read_bytes() + (path / "environ").read_bytes():
                    found.append(int(path.name))
    return found


def plain(text: str) -> str:
    """Return a log without colours and section marks."""
    return re.sub(r"section_(start|end):\d+:\w+\r|\x1b\[[0-9;]*[mK]", "", text)


def test_a_job_goes_its_whole_way(server: Server) -> None:
    """The commit is checked out, the script runs, its log comes in sections, success is reported with a checksum."""
    job = server.add(
        "cat README", "git rev-parse HEAD", "echo $GREETING", variables={"GREETING": "hi $WHO", "WHO": "you"}
    )
    server.run_one()
    assert job.final is not None
    assert (job.final["state"], job.final["exit_code"]) == ("success", 0)
    script = plain(job.text).partition('Executing "step_script" stage of the job script\n')[2]
    assert script == (
        f"$ cat README\nhello\n$ git rev-parse HEAD\n{server.sha}\n$ echo $GREETING\nhi you\nJob succeeded\n"
    )
    assert re.findall(r"section_start:\d+:(\w+)\r\x1b\[0K", job.text) == [
        "prepare_executor",
        "prepare_script",
        "get_sources",
        "step_script",
    ]
    assert not list((server.folder / "runner" / "builds").iterdir())


@pytest.mark.parametrize(
    ("script", "exit_code", "seen", "unseen"),
    [
        (["echo one", "exit 7", "echo two"], 7, "one", "\ntwo\n"),
        (["false | true", "echo two"], 1, "$ false | true", "\ntwo\n"),
        (["kill -9 $$"], 137, "kill", "zzz"),
        (["no-such-command-here"], 127, "not found", "zzz"),
        (["echo 'a\nb'\nexit 3"], 3, "# collapsed multi-line command", "zzz"),
    ],
)
def test_a_failing_script_tells_its_exit_code(
    server: Server, script: list[str], exit_code: int, seen: str, unseen: str
) -> None:
    """The first command that fails ends the job as script_failure with its exit code; after_script still runs."""
    job = server.add(*script, after=["echo after=$CI_JOB_STATUS"])
    server.run_one()
    assert job.final is not None
    ended = (job.final["state"], job.final["failure_reason"], job.final["exit_code"])
    assert ("failed", "script_failure", exit_code) == ended
    text = plain(job.text)
    assert seen in text
    assert unseen not in text
    assert "after=failed" in text
    assert f"ERROR: Job failed: exit code {exit_code}\n" in text


def test_the_log_comes_while_the_job_runs(server: Server) -> None:
    """A line is at the server while the script still waits; silence is filled with `state: running`."""
    gate = server.folder / "gate"
    job = server.add("printf 'half a line'", f"until test -e {gate}; do sleep 0.05; done", "echo done")
    server.run("--once")
    until(lambda: "half a line" in job.text, what="the log's first half")
    until(lambda: job.keep_alives > 0, what="a keep-alive")
    assert job.final is None
    gate.touch()
    assert job.ended.wait(DEADLINE_SECONDS)
    spans = [tuple(map(int, span.split("-"))) for _, span, _ in job.pieces]
    assert [start for start, _ in spans] == [0, *(end + 1 for _, end in spans[:-1])]


def test_a_lost_log_is_sent_on_from_where_the_server_is(server: Server) -> None:
    """After 416 the runner goes on from the size that the server names, and the log is whole."""
    gate = server.folder / "gate"
    job = server.add("echo first", f"until test -e {gate}; do sleep 0.05; done", "echo second")
    server.run("--once")
    until(lambda: "\nfirst\n" in plain(job.text), what="the first line")
    del job.log[10:]
    gate.touch()
    assert job.ended.wait(DEADLINE_SECONDS)
    whole = plain(job.text)
    assert (whole.count("\nfirst\n"), whole.count("\nsecond\n"), job.refusals) == (1, 1, [416])


def test_a_damaged_log_is_sent_again(server: Server) -> None:
    """After 412 the runner sends the whole log once more."""
    gate = server.folder / "gate"
    job = server.add("echo first", f"until test -e {gate}; do sleep 0.05; done")
    server.run("--once")
    until(lambda: "\nfirst\n" in plain(job.text), what="the first line")
    job.log[:7] = b"damaged"
    gate.touch()
    assert job.ended.wait(DEADLINE_SECONDS)
    assert (job.text[:12], job.refusals) == ("Running with", [412])


def test_a_cancel_lets_after_script_run(server: Server) -> None:
    """`Job-Status: canceling` ends the script and all it started, then after_script runs as `canceled`."""
    mark = f"mark-{server.folder.name}-cancel"
    job = server.add(
        f"(setsid nohup bash -c 'trap \"\" TERM; exec -a {mark} sleep 600' &) ; echo begun; sleep 600",
        after=["echo after=$CI_JOB_STATUS"],
    )
    server.run("--once")
    until(lambda: "begun" in job.text and processes_with(mark), what="the script's begin")
    job.status = "canceling"
    assert job.ended.wait(DEADLINE_SECONDS)
    assert job.final is not None
    assert job.final["state"] == "failed"
    assert "after=canceled" in plain(job.text)
    assert processes_with(mark) == []


@pytest.mark.parametrize("status", ["canceled", "failed"])
def test_a_job_that_is_gone_is_dropped(server: Server, status: str) -> None:
    """`Job-Status: canceled` or `failed` ends the job at once: no after_script, no report, no process."""
    mark = f"mark-{server.folder.name}-gone"
    after = server.folder / "after"
    job = server.add(f"exec -a {mark} sleep 600", after=[f"touch {after}"])
    runner = server.run("--once")
    until(lambda: processes_with(mark), what="the script")
    job.status = status
    assert runner.wait(DEADLINE_SECONDS) == 0
    assert (job.final, after.exists(), processes_with(mark)) == (None, False, [])


def test_a_job_has_its_time(server: Server) -> None:
    """A job longer than its timeout ends as job_execution_timeout, without after_script."""
    job = server.add("echo begun", "sleep 600", after=["echo after"], runner_info={"timeout": 1})
    server.run_one()
    assert job.final is not None
    assert (job.final["state"], job.final["failure_reason"]) == ("failed", "job_execution_timeout")
    assert "execution took longer than 1s seconds" in job.text
    assert "Running after_script" not in job.text


def test_nothing_outlives_a_job(server: Server) -> None:
    """A daemon that left its session and closed its output is gone when the job has ended well."""
    mark = f"mark-{server.folder.name}-daemon"
    job = server.add(
        f"setsid bash -c '(trap \"\" TERM HUP; exec -a {mark} sleep 600) </dev/null >/dev/null 2>&1 & disown'",
        "echo over",
    )
    server.run_one()
    assert job.final is not None
    assert job.final["state"] == "success"
    assert processes_with(mark) == []


def test_a_job_sees_nothing_of_the_runner(server: Server) -> None:
    """A script gets PATH, HOME, LANG and what was named; no token is in arguments, Git's settings or the remote."""
    job = server.add(
        "env | cut -d= -f1 | sort | paste -sd,",
        "git remote -v; cat .git/config; cat /proc/*/cmdline | tr '\\0' ' '; ls -A ..",
    )
    given = {"SPAWNER_SECRET": "runner-only", "UV_CACHE_DIR": "/tmp/uv", "LANG": "C.UTF-8"}
    server.run_one("--inherit", "UV_CACHE_DIR", environment=given)
    names = re.search(r"paste -sd,\n(\S+)\n", plain(job.text))
    assert names is not None
    own = {"PATH", "HOME", "LANG", "UV_CACHE_DIR", "PWD", "SHLVL", "OLDPWD", "_", "TMPDIR", "CI_JOB_TOKEN"}
    told = {f"CI_{name}" for name in ("BUILDS_DIR", "JOB_STATUS", "PROJECT_DIR", "SERVER", "RUNNER_VERSION")}
    assert set(names[1].split(",")) == own | told | {"CI_RUNNER_EXECUTABLE_ARCH"}
    assert f"origin\t{server.url}/grp/proj.git (fetch)" in job.text
    for hidden in (JOB_TOKEN, basic("gitlab-ci-token", JOB_TOKEN), "runner-only", "[MASKED]"):
        assert hidden not in job.text
    assert set(server.git_logins) == {"gitlab-ci-token"}


def test_masked_values_do_not_appear(server: Server) -> None:
    """Masked values, the job's token and tokens with known prefixes are hidden, in one piece or cut in two."""
    row = {"key": "SECRET", "value": SECRET, "masked": True}
    job = server.add(
        "echo whole $SECRET $CI_JOB_TOKEN glpat-abcdefgh12345678 end",
        "printf 'cut %s' ${SECRET:0:9}; sleep 0.7; echo ${SECRET:9} end",
        rows=[row],
    )
    server.run_one()
    text = plain(job.text)
    assert "\nwhole [MASKED] [MASKED] [MASKED] end\n" in text
    assert "\ncut [MASKED] end\n" in text
    for hidden in (SECRET, JOB_TOKEN, "abcdefgh12345678"):
        assert hidden not in text


def test_file_and_raw_variables(server: Server) -> None:
    """A file variable becomes a path to its value, a raw one is not filled in, and `$$` becomes one dollar sign."""
    rows = [
        {"key": "FILE", "value": "in the file", "file": True},
        {"key": "RAW", "value": "$FILE", "raw": True},
        {"key": "DOLLAR", "value": "$$FILE"},
        {"key": "TWICE", "value": "${ONCE}!"},
        {"key": "ONCE", "value": "$RAW"},
    ]
    job = server.add('cat "$FILE"; echo; stat -c %a "$FILE"; env | grep -E "^(RAW|DOLLAR|TWICE)=" | sort', rows=rows)
    server.run_one()
    assert "\nin the file\n600\nDOLLAR=$FILE\nRAW=$FILE\nTWICE=$FILE!\n" in plain(job.text)


def test_artifacts_go_up(server: Server) -> None:
    """Paths, globs, folders and exclusions are zipped with modes and links; a dotenv report goes up as gzip."""
    rules = [
        {
            "name": "out", "paths": ["out/", "$WHAT", "**/deep/*.log", "../outside"], "exclude": ["out/**/*.tmp"],
            "artifact_type": "archive", "artifact_format": "zip", "expire_in": "1 week",
        },
        {
            "name": ".env", "paths": ["build.env"], "artifact_type": "dotenv", "artifact_format": "gzip",
            "when": "always",
        },
    ]  # fmt: skip
    job = server.add(
        "mkdir -p out/.hidden a/deep; echo 1 > out/run; chmod 755 out/run",
        "echo 2 > out/.hidden/x; echo 3 > out/y.tmp; ln -s run out/link",
        "echo 4 > a/deep/b.log; echo IMAGE_KEY=abc > build.env; echo out > ../outside; echo 5 > extra",
        variables={"WHAT": "ext*"},
        artifacts=rules,
    )
    server.run_one()
    name, content, query = job.uploads["archive"]
    expected = {
        "a/deep/b.log": b"4\n", "extra": b"5\n", "out/.hidden/x": b"2\n", "out/link": b"run", "out/run": b"1\n"
    }  # fmt: skip
    assert ("out.zip", expected) == (name, unzipped(content))
    assert query == {"artifact_format": "zip", "artifact_type": "archive", "expire_in": "1 week"}
    assert (job.uploads["dotenv"][0], gunzipped(job.uploads["dotenv"][1])) == (".env.gz", b"IMAGE_KEY=abc\n")
    assert "WARNING: ../outside: no matching files" in job.text


@pytest.mark.parametrize(
    ("command", "uploaded"), [("true", ["always", "on_success"]), ("false", ["always", "on_failure"])]
)
def test_artifacts_go_up_when_they_are_asked_for(server: Server, command: str, uploaded: list[str]) -> None:
    """`when` decides whether a success, a failure or both leave the artifact."""
    rules = [
        {"paths": ["README"], "artifact_type": when, "artifact_format": "gzip", "when": when}
        for when in ("always", "on_success", "on_failure")
    ]
    job = server.add(command, artifacts=rules)
    server.run_one()
    assert uploaded == sorted(job.uploads)


def test_earlier_artifacts_come_down(server: Server) -> None:
    """The archives of dependencies are unpacked into the project, with modes and links, before the script."""
    maker = server.add(
        "mkdir d; echo hi > d/tool; chmod 755 d/tool; ln -s tool d/link",
        artifacts=[{"paths": ["d"], "artifact_type": "archive", "artifact_format": "zip"}],
    )
    server.run_one()
    server.archives[7] = maker.uploads["archive"][1]
    dependency = {"id": 7, "token": "dependency-7", "name": "maker", "artifacts_file": {"filename": "a.zip", "size": 1}}
    job = server.add("stat -c '%a %N' d/tool d/link; cat d/link", dependencies=[dependency])
    server.run_one()
    assert "755 'd/tool'\n777 'd/link' -> 'tool'\nhi\n" in plain(job.text)
    lost = server.add("echo never", dependencies=[{**dependency, "id": 8, "token": "dependency-8"}])
    server.run_one()
    assert lost.final is not None
    assert (lost.final["state"], lost.final["failure_reason"]) == ("failed", "runner_system_failure")


@pytest.mark.parametrize(
    "change",
    [{"sha": "0" * 40, "refspecs": ["+" + "0" * 40 + ":refs/pipelines/1"]}, {"repo_url": "http://127.0.0.1:9/x"}],
)
def test_a_commit_that_cannot_be_fetched(server: Server, change: dict[str, object]) -> None:
    """When Git cannot bring the commit, the job fails as the runner's failure and Git's own words are in the log."""
    job = server.add("echo never")
    job.document["git_info"].update(change)
    server.run_one()
    assert job.final is not None
    assert job.final["failure_reason"] == "runner_system_failure"
    assert "fatal: " in job.text
    assert "Getting the source failed" in job.text


def test_no_checkout_is_made_where_none_is_wanted(server: Server) -> None:
    """`GIT_STRATEGY: none` gives an empty folder."""
    job = server.add("ls -A | wc -l", variables={"GIT_STRATEGY": "none"})
    server.run_one()
    assert "wc -l\n0\n" in plain(job.text)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_in_trouble_is_asked_again(server: Server, status: int) -> None:
    """Answers of 429 and 5xx are tried again at once and do no harm to the job."""
    job = server.add("echo fine")
    server.trouble += [lambda: Response("down", status=status)] * 2
    server.run_one()
    assert job.final is not None
    assert job.final["state"] == "success"


def test_the_mark_of_the_last_answer_comes_back(server: Server) -> None:
    """`X-GitLab-Last-Update` is echoed as `last_update`, with the same system id, and features are told."""
    runner = server.run()
    until(lambda: len(server.asked) > 2, what="three questions")
    runner.terminate()
    assert runner.wait(DEADLINE_SECONDS) == 0
    assert [asked["last_update"] for asked in server.asked[:3]] == ["", "mark-0", "mark-0"]
    assert len({asked["system_id"] for asked in server.asked}) == 1
    assert "cancel_gracefully" in dumped(server.asked[0]["info"]["features"])


def test_two_jobs_run_side_by_side(server: Server) -> None:
    """With a concurrency of two, each of two jobs can wait for the other."""
    one, two = server.folder / "one", server.folder / "two"
    wait = "touch {}; until test -e {}; do sleep 0.05; done"
    jobs = [server.add(wait.format(one, two)), server.add(wait.format(two, one))]
    server.run("--concurrency", "2")
    assert all(job.ended.wait(DEADLINE_SECONDS) for job in jobs)
    assert [job.status for job in jobs] == ["success", "success"]


@pytest.fixture
def sleeping(server: Server) -> Iterator[tuple[Server, str]]:
    """Yield a server whose runner runs a job that sleeps, and the mark of its process."""
    mark = f"mark-{server.folder.name}-sleeps"
    server.add(f"exec -a {mark} sleep 600", after=["echo after"])
    server.run()
    until(lambda: processes_with(mark), what="the script")
    yield server, mark
    assert processes_with(mark) == []


def test_sigterm_ends_running_jobs_in_order(sleeping: tuple[Server, str]) -> None:
    """SIGTERM reports running jobs as the runner's failure, leaves no process and no folder, and exits 0."""
    server, _ = sleeping
    server.runners[0].send_signal(signal.SIGTERM)
    assert server.runners[0].wait(DEADLINE_SECONDS) == 0
    final = server.jobs[100].final
    assert final is not None
    assert (final["state"], final["failure_reason"]) == ("failed", "runner_system_failure")
    assert not list((server.folder / "runner" / "builds").iterdir())


def test_a_killed_runner_leaves_no_process(sleeping: tuple[Server, str]) -> None:
    """When the runner itself is killed, its jobs' processes end, and the next runner clears the folder."""
    server, mark = sleeping
    server.runners[0].kill()
    server.runners[0].wait(DEADLINE_SECONDS)
    until(lambda: not processes_with(mark), what="the end of the job's processes")
    job = server.add("ls $CI_BUILDS_DIR/..")
    server.run_one()
    assert "\n101\nJob succeeded" in plain(job.text)


def test_sigquit_lets_jobs_end(server: Server) -> None:
    """SIGQUIT takes no new job, lets the running one end, and exits 0."""
    gate = server.folder / "gate"
    job = server.add("echo begun", f"until test -e {gate}; do sleep 0.05; done")
    runner = server.run()
    until(lambda: "begun" in job.text, what="the job's begin")
    runner.send_signal(signal.SIGQUIT)
    left = server.add("echo never")
    gate.touch()
    assert runner.wait(DEADLINE_SECONDS) == 0
    assert (job.status, left.pieces) == ("success", [])


def test_a_token_that_is_refused_is_told(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    """A wrong token ends the runner with 1 and a sentence; the token is not in it."""
    server.trouble.append(lambda: Response("403 Forbidden", status=403))
    assert server.run("--once").wait(DEADLINE_SECONDS) == 1
    said = capfd.readouterr().err
    assert "would not verify this runner: 403" in said
    assert "glrt-test" not in said


def test_two_runners_do_not_share_a_folder(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    """A second runner on the same folder ends at once with 1 and says why."""
    first = server.run()
    until(lambda: server.asked, what="the first runner")
    assert server.run("--once").wait(DEADLINE_SECONDS) == 1
    assert "Another runner works in" in capfd.readouterr().err
    first.terminate()
    assert first.wait(DEADLINE_SECONDS) == 0


def test_a_server_that_was_away_gets_the_end(server: Server) -> None:
    """A job whose server answers nothing for a while is reported, log and all, when the server is back."""
    gate = server.folder / "gate"
    job = server.add("echo begun", f"until test -e {gate}; do sleep 0.05; done", "echo ended")
    server.run("--once")
    until(lambda: "begun" in job.text, what="the job's begin")
    server.trouble += [lambda: Response("down", status=502)] * 12
    gate.touch()
    assert job.ended.wait(DEADLINE_SECONDS)
    assert job.final is not None
    assert job.final["state"] == "success"
    assert "ended" in plain(job.text)
