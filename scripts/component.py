"""Writes the CI template as a component project: a folder that somebody pushes to their GitLab.

For: `scripts/release`. Promises: files in one folder, made from the template alone; defaults that are set are held to
what the template allows, and everything else of it stays as it is, word for word.
Must not know: any GitLab.
Source: https://docs.gitlab.com/ci/components/ (18.x).
"""

import argparse
import re
import shutil
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from scripts.reference import ROOT, TEMPLATE, input_table

COMPONENT = "image_build"
_PIPELINE = """\
# Publishes each version: https://docs.gitlab.com/ci/components/#publish-a-new-release
# The job's image, or the machine of its runner, needs GitLab's command `glab`.
release:
  rules:
    - if: $CI_COMMIT_TAG =~ /^\\d+\\.\\d+\\.\\d+$/
  script:
    - echo "Publishing $CI_COMMIT_TAG"
  release:
    tag_name: $CI_COMMIT_TAG
    description: The build job of Slipway $CI_COMMIT_TAG
"""
_README = """\
# The build job of Slipway as a component

Push this folder to a project of your GitLab that everybody may read, switch on *CI/CD Catalog project* in its settings
if your GitLab has a catalog, and push the tag `{version}`. A project then needs these lines in its `.gitlab-ci.yml`:

```yaml
include:
  - component: $CI_SERVER_FQDN/<path of this project>/{component}@{version}
```

{inputs}
"""


class WrongDefaultError(Exception):
    """A default that the template does not allow; the message names it."""


def with_defaults(template: str, defaults: Mapping[str, str]) -> str:
    """Return the template with other defaults; WrongDefaultError for what it does not have or allow."""
    declared = inputs_of(template)
    for name, value in defaults.items():
        told = declared.get(name)
        if told is None:
            raise WrongDefaultError(f"The template has no input “{name}”; it has {', '.join(declared)}.")
        if told.get("type") == "array":
            written = f"[{', '.join(map(_quoted, value.split()))}]"
        else:
            _hold(name, value, told)
            written = _quoted(value)
        before, place, after = re.split(
            rf"(?m)^(    {name}:\n(?:      .*\n)*?      default: ).*$", template, maxsplit=1
        )
        template = f"{before}{place}{written}{after}"
    return template


def inputs_of(template: str) -> dict[str, dict[str, Any]]:
    """Return the inputs that the template declares, by name."""
    found: dict[str, dict[str, Any]] = next(yaml.safe_load_all(template))["spec"]["inputs"]
    return found


def _hold(name: str, value: str, told: Mapping[str, Any]) -> None:
    if value not in told.get("options", (value,)):
        raise WrongDefaultError(f"“{name}” is one of {', '.join(told['options'])}.")
    if not re.fullmatch(told.get("regex", ".*"), value):
        raise WrongDefaultError(f"“{name}” has to look like {told['regex']}.")


def _quoted(text: str) -> str:
    return yaml.safe_dump(text, default_style='"', width=10**6).strip()


def write(folder: Path, *, version: str, defaults: Mapping[str, str]) -> Sequence[Path]:
    """Write the project into a folder, over what an earlier call wrote; return the files."""
    template = with_defaults(TEMPLATE.read_text(encoding="utf-8"), defaults)
    inputs = "\n".join(input_table(inputs_of(template)))
    readme = _README.format(version=version, component=COMPONENT, inputs=inputs)
    texts = {f"templates/{COMPONENT}.yml": template, "README.md": readme, ".gitlab-ci.yml": _PIPELINE}
    written = []
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return [*written, Path(shutil.copy(ROOT / "LICENSE", folder / "LICENSE"))]


def main(arguments: Sequence[str]) -> int:
    """Write the project and name its files; 2 for a default that cannot be."""
    parser = argparse.ArgumentParser(prog="scripts/release", description=str(__doc__).partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where to write; it may exist")
    parser.add_argument("--default", action="append", default=[], metavar="NAME=VALUE", help="another default; repeat")
    asked = parser.parse_args(arguments)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    try:
        defaults = dict(pair.split("=", 1) for pair in asked.default)
        written = write(asked.folder, version=version, defaults=defaults)
    except WrongDefaultError as error:
        print(f"scripts/release: {error}", file=sys.stderr)
        return 2
    except ValueError:
        print("scripts/release: a default is NAME=VALUE.", file=sys.stderr)
        return 2
    for path in written:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
