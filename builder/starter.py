"""What `builder init` writes into a project that has no build job yet.

It promises to change nothing that is there. The job is the one of `gitlab-ci-templates/image-build.gitlab-ci.yml` with
its inputs at their defaults, without what only an included job needs; a test compares the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.detect import CONFIG_FOLDERS, is_input_name

if TYPE_CHECKING:
    from pathlib import Path

CI_FILE = ".gitlab-ci.yml"
REQUIREMENTS_FILE = "requirements.txt"
CI_TEXT = """\
# One image per commit: reused in seconds where the environment is known, built where it is not.
# It needs a runner that has the `builder` command; where that one has tags, add them: `tags: [slipway]`.
image_build:
  stage: build
  needs: []
  timeout: 1h
  interruptible: false
  retry:
    max: 1
    when:
      - runner_system_failure
      - stuck_or_timeout_failure
  rules:
    - if: $CI_PIPELINE_SOURCE == "push" && $CI_COMMIT_BRANCH && $CI_OPEN_MERGE_REQUESTS
      when: never
    - if: $CI_MERGE_REQUEST_IID || $CI_COMMIT_BRANCH || $CI_COMMIT_TAG
  script:
    - builder build
  artifacts:
    when: always
    paths:
      - slipway-report.json
    reports:
      dotenv: slipway.env
"""
_FOLDERS = frozenset(CONFIG_FOLDERS) - {""}
REQUIREMENTS_TEXT = """\
# What the notebooks of this project import, one package per line; pin a version with ==.
"""


def write(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Write the starter files; the names written, and those kept. Idempotent.

    A requirements file only where nothing is that a recipe reads: it would take the place of a `setup.py`.
    """
    wanted = {CI_FILE: CI_TEXT}
    kept = sorted(place.name for place in folder.iterdir() if is_input_name(place.name) or place.name in _FOLDERS)
    if not kept:
        wanted[REQUIREMENTS_FILE] = REQUIREMENTS_TEXT
    written = []
    for name, text in wanted.items():
        try:
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write(text)
            written.append(name)
        except FileExistsError:
            kept.append(name)
    return tuple(written), tuple(kept)
