"""What this machine knows about package indexes and certificates, as secrets that a build's steps may read.

A step that wants them says `RUN --mount=type=secret,id=slipway-index . /run/secrets/slipway-index && …`: they are
there while it runs, and in no layer, no history and no argument. It promises that a machine without settings of its
own gives none. The variables are pip's and uv's own (https://pip.pypa.io/en/stable/topics/configuration/,
https://docs.astral.sh/uv/configuration/environment/).
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

INDEX_SECRET = "slipway-index"  # noqa: S105 - a name
CERTIFICATES_SECRET = "slipway-ca"  # noqa: S105 - a name
LARGEST_SECRET_BYTES = 500 * 1024  # BuildKit takes no larger one
_CERTIFICATES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def build_secrets(folder: Path) -> Mapping[str, Path]:
    """Write this machine's settings into an existing private folder; the files by the secrets' ids."""
    settings = _indexes()
    found: dict[str, Path] = {}
    certificates = next((path for name in _CERTIFICATES if (path := os.environ.get(name))), None)
    if certificates and Path(certificates).is_file() and Path(certificates).stat().st_size <= LARGEST_SECRET_BYTES:
        found[CERTIFICATES_SECRET] = Path(certificates)
        names = (*_CERTIFICATES, "GIT_SSL_CAINFO")
        settings |= dict.fromkeys(names, f"/run/secrets/{CERTIFICATES_SECRET}")
    if settings:
        file = folder / INDEX_SECRET
        file.touch(mode=0o600)
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in sorted(settings.items())]
        file.write_text("".join(lines), encoding="utf-8")
        found[INDEX_SECRET] = file
    return found


def _indexes() -> dict[str, str]:
    """Say to pip and to uv what either was told."""
    default = _first("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
    extra = _first("UV_INDEX", "UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL")
    settings: dict[str, str] = {}
    if default:
        settings |= {"UV_DEFAULT_INDEX": default, "PIP_INDEX_URL": default}
    if extra:
        settings |= {"UV_INDEX": extra, "PIP_EXTRA_INDEX_URL": extra}
    return settings


def _first(*names: str) -> str | None:
    return next((value for name in names if (value := os.environ.get(name))), None)
