"""What a command says when something outside it fails.

Covered: the system, servers, programs, from `--json` too; a folder that cannot be made. Left out: our own errors
(test_client).
"""

import json
import subprocess
from pathlib import Path

import pytest
import requests

from spawner.cli.exits import ExitCode, explained
from tests.unit.cli.conftest import Run

ASKED = requests.Request("GET", "http://ada:secret@h.test:81/p?token=secret").prepare()


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (PermissionError(13, "Permission denied", "/a/b"), ExitCode.FAILED, "/a/b: Permission denied."),
        (OSError(99, "Cannot assign requested address"), ExitCode.FAILED, "The system says: Cannot assign"),
        (TimeoutError("timed out"), ExitCode.FAILED, "The system says: timed out."),
        (requests.ConnectionError(request=ASKED), ExitCode.UNAVAILABLE, "http://h.test:81 cannot be reached"),
        (requests.ReadTimeout(), ExitCode.UNAVAILABLE, "A server cannot be reached (ReadTimeout)."),
        (subprocess.TimeoutExpired(["/usr/bin/git", "secret"], 60), ExitCode.FAILED, "git did not end within 60 s."),
        (
            subprocess.CalledProcessError(3, "git", stderr=b"no room\n"),
            ExitCode.FAILED,
            "git ended with code 3. no room",
        ),
    ],
)
def test_a_sentence(capsys: pytest.CaptureFixture[str], error: Exception, code: ExitCode, sentence: str) -> None:
    """Each is a sentence without a stack or a secret, an exit code, and with --json one document."""
    with pytest.raises(SystemExit) as ended, explained(as_json=True):
        raise error
    printed = capsys.readouterr()
    assert ended.value.code == code
    assert printed.err.startswith(f"spawner: {sentence}")
    assert "secret" not in printed.err + printed.out
    assert json.loads(printed.out)["error"]["code"] == code


def test_a_folder_that_cannot_be_made(run: Run, tmp_path: Path) -> None:
    """A demo in a folder that cannot be made says which."""
    (tmp_path / "file").touch()
    ended = run("demo", "--check", "--json", "--port", "0", "--data", str(tmp_path / "file" / "below"))
    assert ended.code == ExitCode.FAILED
    assert "below: Not a directory" in ended.err
    assert ended.document["error"]["code"] == ExitCode.FAILED
