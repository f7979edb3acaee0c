"""What a project's `.gitlab-ci.yml` becomes so that its commits get images; pure.

Promises: what is there stays, byte for byte, and the job is added below; a file that cannot be understood is refused
with the reason; a file that has the job, or includes it, is left alone.
Must not know: GitLab, who asks.
"""

import yaml

from builder.starter import CI_FILE, CI_TEXT
from spawner.errors import InvalidInput

DEFAULT_STAGES = ("build", "test", "deploy")  # GitLab's own, where a file names none
_INCLUDED_AS = ("image-build.gitlab-ci.yml", "/image_build@")
_STAGE = "  stage: build\n"


def with_build_job(existing: str | None, *, build_job: str) -> str | None:
    """Return the file with the build job in it; None where it has one. InvalidInput for what is no CI file."""
    job = CI_TEXT.replace("\nimage_build:", f"\n{build_job}:")
    if existing is None or not existing.strip():
        return job
    if any(word in existing for word in _INCLUDED_AS):
        return None
    names, stages = _understood(existing)
    if build_job in names:
        return None
    if "build" not in stages:
        job = job.replace(_STAGE, f"  stage: {stages[0]}\n")
    return f"{existing.rstrip()}\n\n{job}"


def _understood(text: str) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return a CI file's top-level names and its stages, without constructing anything: GitLab has tags of its own."""
    try:
        documents = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise InvalidInput(f"{CI_FILE} does not parse as YAML.") from error
    root = documents[-1] if documents else None
    if not isinstance(root, yaml.MappingNode):
        raise InvalidInput(f"{CI_FILE} is no mapping of jobs.")
    found = {str(key.value): value for key, value in root.value}
    stages = found.get("stages")
    if not isinstance(stages, yaml.SequenceNode) or not stages.value:
        return frozenset(found), DEFAULT_STAGES
    return frozenset(found), tuple(str(stage.value) for stage in stages.value)
