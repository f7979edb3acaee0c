"""The component project that `scripts/release` lays out.

Covered: its files, other defaults, defaults that cannot be, its own pipeline by GitLab's schema. Left out: using it
(test_image_build includes it as a component).
"""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scripts import component
from scripts.reference import TEMPLATE


def test_the_project_has_the_template_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without other defaults the component is the template, byte for byte; a second call writes the same."""
    for _ in range(2):
        assert component.main([str(tmp_path / "made")]) == 0
    files = {path.relative_to(tmp_path / "made") for path in (tmp_path / "made").rglob("*") if path.is_file()}
    assert {str(path) for path in files} == {"templates/image_build.yml", "README.md", ".gitlab-ci.yml", "LICENSE"}
    assert (tmp_path / "made/templates/image_build.yml").read_text() == TEMPLATE.read_text()
    assert str(tmp_path / "made/README.md") in capsys.readouterr().out


def test_a_gitlab_has_its_own_defaults() -> None:
    """Only the defaults named change, whatever characters they have, and a list is given with blanks."""
    wanted = {"spawner_url": "https://s.example.org:8443/a", "runner_tags": "docker slipway", "image": 'x:"1"\\g<1>'}
    text = component.with_defaults(TEMPLATE.read_text(), wanted)
    before, after = component.inputs_of(TEMPLATE.read_text()), component.inputs_of(text)
    changed = {name: after[name]["default"] for name in after if after[name] != before[name]}
    assert changed == wanted | {"runner_tags": ["docker", "slipway"]}
    assert text.partition("\n---\n")[2] == TEMPLATE.read_text().partition("\n---\n")[2]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("engine=kaniko", "“engine” is one of auto, environment"),
        ("spawner_url=ftp://x", "“spawner_url” has to look like"),
        ("colour=red", "no input “colour”"),
        ("engine", "NAME=VALUE"),
    ],
)
def test_a_default_that_cannot_be_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str, why: str
) -> None:
    """It is told by name, and nothing is written."""
    assert component.main([str(tmp_path / "made"), "--default", given]) == 2
    assert why in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_gitlabs_schema_accepts_the_projects_own_pipeline(tmp_path: Path) -> None:
    """The job that publishes a version is valid, and is there for version tags only."""
    component.write(tmp_path, version="1.2.3", defaults={})
    path = tmp_path / ".gitlab-ci.yml"
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.gitlab-ci", str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert yaml.safe_load(path.read_text())["release"]["rules"] == [{"if": r"$CI_COMMIT_TAG =~ /^\d+\.\d+\.\d+$/"}]
    assert "image_build@1.2.3" in (tmp_path / "README.md").read_text()
