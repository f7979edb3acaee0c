"""The smallest wheels there are, made on the spot, so that tests install without an index.

Source of the format: PEP 427.
"""

import hashlib
import zipfile
from pathlib import Path


def make_wheel(folder: Path, name: str, version: str, *, more: str = "", pth: str = "") -> Path:
    """Write a wheel with one module of that name, and a `.pth` where given; the same content gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    information = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n{more}",
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{information}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if pth:
        files[f"{name}.pth"] = pth
    record = "".join(f"{file},,\n" for file in (*files, f"{information}/RECORD"))
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in {**files, f"{information}/RECORD": record}.items():
            archive.writestr(zipfile.ZipInfo(file, (2026, 1, 1, 0, 0, 0)), text)
    path.chmod(0o644)
    return path


def locked(*wheels: Path) -> str:
    """Return a lock of wheels: versions with hashes."""
    lines = []
    for wheel in wheels:
        name, version = wheel.name.split("-")[:2]
        lines.append(f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    return "".join(lines)
