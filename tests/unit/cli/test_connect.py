"""The pure parts of connecting: the proposed CI file, the folder of settings.

Covered: no file, an empty one, one with the job, one that includes it, other stages, GitLab's own tags, what does not
parse; settings that are there. Left out: GitLab (tests/functional/test_connect.py).
"""

from pathlib import Path

import pytest
import yaml

from builder.starter import CI_TEXT
from spawner.cli.connect.folder import SettingsFolder
from spawner.cli.connect.proposal import with_build_job
from spawner.errors import InvalidInput


@pytest.mark.parametrize("existing", [None, "", "\n"])
def test_without_a_file_the_job_is_the_file(existing: str | None) -> None:
    """What `builder init` writes is proposed."""
    assert with_build_job(existing, build_job="image_build") == CI_TEXT


@pytest.mark.parametrize(
    "existing",
    [
        "image_build:\n  script: [make]\n",
        "include:\n  - project: group/templates\n    file: /image-build.gitlab-ci.yml\n",
        "include:\n  - component: $CI_SERVER_FQDN/group/slipway/image_build@1\n",
    ],
)
def test_a_file_that_has_the_job_is_left_alone(existing: str) -> None:
    """A job of that name, or an include of ours, is enough."""
    assert with_build_job(existing, build_job="image_build") is None


def test_a_file_keeps_what_it_has() -> None:
    """The job is added below, in a stage that the file has, and GitLab's own tags survive."""
    existing = "stages: [lint, ship]\nlint:\n  stage: lint\n  script: !reference [.all, script]\n"
    found = with_build_job(existing, build_job="make_image")
    assert found is not None
    assert found.startswith(existing)
    added = yaml.safe_load(found.removeprefix(existing))
    assert list(added) == ["make_image"]
    assert added["make_image"]["stage"] == "lint"


@pytest.mark.parametrize("existing", ["a: [", "- a list\n", "just words\n"])
def test_what_cannot_be_understood_is_refused(existing: str) -> None:
    """Nothing is proposed for a file that GitLab would refuse too."""
    with pytest.raises(InvalidInput):
        with_build_job(existing, build_job="image_build")


def test_settings_are_added_and_never_changed(tmp_path: Path) -> None:
    """A setting that says something else is told, the others are added below."""
    folder = SettingsFolder(path=tmp_path)
    folder.environment.write_text("# ours\nSPAWNER_A=1\nexport SPAWNER_B='two words'\n")
    assert folder.add({"SPAWNER_A": "2", "SPAWNER_B": "two words", "SPAWNER_C": "x y"}) == (
        ("SPAWNER_C",),
        ("SPAWNER_A",),
    )
    assert folder.settings() == {"SPAWNER_A": "1", "SPAWNER_B": "two words", "SPAWNER_C": "x y"}
    assert folder.environment.stat().st_mode & 0o777 == 0o600


def test_a_dry_folder_writes_nothing(tmp_path: Path) -> None:
    """Neither secrets nor settings are made."""
    folder = SettingsFolder(path=tmp_path / "new", is_dry=True)
    assert folder.secret("keys") == ""
    assert folder.add({"SPAWNER_A": "1"}) == (("SPAWNER_A",), ())
    assert not folder.path.exists()
