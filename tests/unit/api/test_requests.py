"""From a launch body to a command: units, classes, defaults.

Covered: every unit, which class wins, which twin wins, storage. Left out: what the services check.
"""

from typing import Any

import pytest

from spawner.api.requests import amount_bytes, cores, launch_command
from spawner.api.schemas import FieldErrors, LaunchBody
from spawner.errors import ResourcesUnavailable
from tests.functional.api.world import CLASSES, world_options

LEAST = {"namespace": "Grp/Sub", "project": "Proj", "commit_sha": "a" * 40}


def _command(**extra: Any) -> Any:
    return launch_command(LaunchBody.model_validate({**LEAST, **extra}), CLASSES, world_options())


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, 0), (0.5, 0.5), ("0.5", 0.5), ("500m", 0.5), ("2", 2.0)],
)
def test_cores(text: float | str | None, expected: float) -> None:
    """Cores are numbers or thousandths."""
    assert expected == cores(text, "f")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, 0),
        (1000, 1000),
        ("1G", 10**9),
        ("512Mi", 512 * 2**20),
        ("1.5g", 1_500_000_000),
        ("2GB", 2 * 10**9),
        ("1KiB", 1024),
        ("7b", 7),
        ("1e", 10**18),
    ],
)
def test_amount(text: float | str | None, expected: int) -> None:
    """Amounts are bytes, or decimal and binary units in any case."""
    assert expected == amount_bytes(text, "f")


@pytest.mark.parametrize("text", ["", "G", "-1G", "1 X", "1GG", "1" * 400])
def test_bad_amount(text: str) -> None:
    """An amount that does not parse names its field."""
    with pytest.raises(FieldErrors) as caught:
        amount_bytes(text, "serverOptions.mem_request")
    assert str(caught.value.detail).startswith("Field 'serverOptions.mem_request' has errors: ")


def test_negative_cores() -> None:
    """Less than nothing cannot be asked for."""
    with pytest.raises(FieldErrors):
        cores(-1, "f")


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({}, 1),
        ({"resource_class_id": 2}, 2),
        ({"resource_class_id": 99}, 99),
        ({"serverOptions": {"cpu_request": 1}}, 2),
        ({"serverOptions": {"mem_request": "2G", "cpu_request": "500m"}}, 1),
        ({"serverOptions": {"gpu_request": 1}}, 3),
        ({"serverOptions": {"gpu_request": 1}, "resource_class_id": 1}, 1),
    ],
)
def test_class(extra: dict[str, Any], expected: int) -> None:
    """A class's id wins; legacy options take the smallest class that fits; else the default."""
    assert expected == _command(**extra).request.resource_class_id


def test_no_class_fits() -> None:
    """Legacy options that no class fits are refused."""
    with pytest.raises(ResourcesUnavailable):
        _command(serverOptions={"cpu_request": 1000})


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({}, "/lab"),
        ({"default_url": "/tree"}, "/tree"),
        ({"serverOptions": {"defaultUrl": "/tree"}}, "/tree"),
        ({"serverOptions": {"defaultUrl": "/tree"}, "default_url": "/lab"}, "/lab"),
    ],
)
def test_default_url(extra: dict[str, Any], expected: str) -> None:
    """The top-level twin wins over the one inside."""
    assert expected == _command(**extra).request.default_url


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({}, 1.0),
        ({"storage": 5}, 5.0),
        ({"storage": None}, 1.0),
        ({"serverOptions": {"disk_request": "5G"}}, 5.0),
        ({"serverOptions": {"disk_request": "0.1G"}}, 1.0),
        ({"serverOptions": {"disk_request": "5G"}, "storage": 2}, 2.0),
    ],
)
def test_storage(extra: dict[str, Any], expected: float) -> None:
    """Storage is gigabytes, or the legacy disk request, at least one."""
    assert expected == _command(**extra).request.storage_gigabytes


def test_names_are_lower_case() -> None:
    """Namespace and project are compared without case; the branch and the SHA are not."""
    command = _command(branch="Main")
    assert (command.project, command.branch, command.sha) == ("grp/sub/proj", "Main", "a" * 40)
