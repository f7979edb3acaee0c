"""Finds, packs and unpacks what jobs leave for later: zip archives and gzipped reports.

Promises: nothing outside the project's folder is packed, and nothing is unpacked outside it; file modes and
links are kept.
Must not know: HTTP.
"""

import glob
import gzip
import shutil
import stat
import subprocess
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from spawner.testing.gitlab.runner.job import ArtifactRule, filled

_GIT_SECONDS = 60


def matching_files(rule: ArtifactRule, folder: Path, *, values: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return the paths that a rule names, relative to the folder and sorted, and the patterns that name none."""
    found: set[str] = set()
    missing = []
    for pattern in rule.paths:
        matched = _glob(_inside(filled(pattern, values), folder), folder)
        if not matched:
            missing.append(pattern)
        found.update(matched)
    if rule.untracked:
        found.update(_untracked(folder))
    for pattern in rule.exclude:
        found.difference_update(_glob(_inside(filled(pattern, values), folder), folder, descend=False))
    return sorted(found), missing


def pack(rule: ArtifactRule, folder: Path, names: Sequence[str], *, target: Path) -> str:
    """Write the named files into `target` in the rule's format, and return the name to upload it under.

    A gzip holds one member per file, one after the other, as the server expects of reports.
    """
    label = (Path(rule.name).name or ("artifacts" if rule.type == "archive" else rule.type)).replace('"', "")
    match rule.format:
        case "zip":
            _zip(folder, names, target=target)
            return f"{label}.zip"
        case "gzip":
            with target.open("wb") as out:
                for name in names:
                    _add_gzip_member(folder / name, out)
            return f"{label}.gz"
        case _:
            shutil.copyfile(folder / names[0], target)
            return Path(names[0]).name


def unpack(archive: Path, folder: Path) -> int:
    """Unpack an archive into the folder and return how many files it held; entries that lead outside are left out.

    Raises:
        zipfile.BadZipFile: it is no archive.
    """
    count = 0
    root = folder.resolve()
    with zipfile.ZipFile(archive) as opened:
        for entry in opened.infolist():
            target = folder / entry.filename
            if not target.parent.resolve().is_relative_to(root) or ".." in Path(entry.filename).parts:
                continue
            mode = entry.external_attr >> 16
            if stat.S_ISLNK(mode):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.unlink(missing_ok=True)
                target.symlink_to(opened.read(entry).decode())
            else:
                opened.extract(entry, folder)
                if stat.S_IMODE(mode) and not entry.is_dir():
                    target.chmod(stat.S_IMODE(mode))
            count += not entry.is_dir()
    return count


def _inside(pattern: str, folder: Path) -> str:
    pattern = pattern.removeprefix("./")
    return str(Path(pattern).relative_to(folder)) if Path(pattern).is_relative_to(folder) else pattern


def _glob(pattern: str, folder: Path, *, descend: bool = True) -> set[str]:
    if not pattern or Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        return set()
    found = glob.glob(pattern.rstrip("/"), root_dir=folder, recursive=True, include_hidden=True)  # noqa: PTH207 - Path.glob has no hidden files before 3.13
    names: set[str] = set()
    for name in found:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            names.update(str(below.relative_to(folder)) for below in path.rglob("*") if descend and _is_file(below))
        elif _is_file(path):
            names.add(name)
    return {name for name in names if Path(name).parts[0] != ".git"}


def _is_file(path: Path) -> bool:
    return path.is_symlink() or path.is_file()


def _untracked(folder: Path) -> list[str]:
    listed = subprocess.run(
        ["git", "-C", str(folder), "ls-files", "--others", "-z"], capture_output=True, timeout=_GIT_SECONDS, check=True
    )
    return [name for name in listed.stdout.decode().split("\0") if name]


def _zip(folder: Path, names: Sequence[str], *, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
        for name in names:
            path = folder / name
            if path.is_symlink():
                entry = zipfile.ZipInfo(name)
                entry.create_system = 3  # Unix, so that the mode below is read
                entry.external_attr = (stat.S_IFLNK | 0o777) << 16
                archive.writestr(entry, str(path.readlink()))
            else:
                archive.write(path, name)


def _add_gzip_member(path: Path, out: BinaryIO) -> None:
    with (
        path.open("rb") as file,
        gzip.GzipFile(filename=path.name, mode="wb", fileobj=out, mtime=int(path.stat().st_mtime)) as member,
    ):
        shutil.copyfileobj(file, member)
