"""The small parts of the standalone runtime: people, checkouts, routes, records, folders, entry points.

Covers: pure functions and files. Leaves out: processes (the contract suite), environments (their own file).
"""

import os
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest

from spawner.agent.checkout import git_configuration
from spawner.errors import LaunchRefused, Misconfigured
from spawner.names import CommitSha, ProjectPath, SessionName, UserId
from spawner.ports import Address, Checkout, ImageKind, RefKind, Registry, WorkloadImage
from spawner.runtimes import default_environment, factory, names
from spawner.runtimes.planning import checkout_plan, is_name
from spawner.runtimes.routes import PortRoutes
from spawner.runtimes.standalone import create, images
from spawner.runtimes.standalone.launching import inherited, run_folder
from spawner.runtimes.standalone.people import People, id_range
from spawner.runtimes.standalone.records import Records


def test_the_runtime_is_found_by_its_name() -> None:
    """The entry point leads to `create`; another name is refused and says which there are."""
    assert "standalone" in names()
    assert factory("standalone") is create
    with pytest.raises(Misconfigured, match="kubernetes2") as caught:
        factory("kubernetes2")
    assert "standalone" in caught.value.remedy


def test_each_person_gets_one_id(tmp_path: Path) -> None:
    """Ids are given once, kept for ever and never shared, also when many ask at once."""
    people = People(folder=tmp_path, separates=True)
    with ThreadPoolExecutor(8) as threads:
        first = list(threads.map(lambda number: people.person(UserId(str(number % 4))), range(16)))

    assert first[:4] * 4 == first
    assert len({person.uid for person in first if person is not None}) == 4
    assert people.person(UserId("0")) in first
    assert stat.S_IMODE((tmp_path / "people.json").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("uid_map", "first", "last"),
    [("0 0 4294967295\n", 200_000, 1_199_999), ("0 1000 1\n1 100000 65535\n", 20_000, 59_999)],
    ids=["a machine", "a container with few ids"],
)
def test_ids_are_apart_from_accounts_and_from_other_folders(uid_map: str, first: int, last: int) -> None:
    """Ids lie where no account is and where the kernel knows them; two data folders have different ones."""
    one, other = id_range(Path("/data/one"), uid_map), id_range(Path("/data/other"), uid_map)

    assert first <= one.start < one.stop - 1 <= last
    assert set(one).isdisjoint(other)


def test_nobody_has_an_id_where_people_are_not_separated(tmp_path: Path) -> None:
    """An ordinary account has no ids to give."""
    assert People(folder=tmp_path, separates=False).person(UserId("7")) is None


def test_a_damaged_list_of_people_gives_no_ids(tmp_path: Path) -> None:
    """A list that cannot be read is an error, never an empty list: somebody's files would change hands."""
    (tmp_path / "people.json").write_text("{")

    with pytest.raises(Misconfigured, match=r"people\.json"):
        People(folder=tmp_path, separates=True).person(UserId("7"))


def _checkout(**changes: object) -> Checkout:
    fields: dict[str, object] = {
        "relay_url": "https://slipway.example/git/alice-1/group/sample.git",
        "replaces": ("https://gitlab.example/group/sample", "git@gitlab.example:group/sample"),
        "project": ProjectPath("group/sample"),
        "branch": "main",
        "ref_kind": RefKind.BRANCH,
        "sha": CommitSha("a" * 40),
        "author_name": "Alice",
        "author_email": "alice@example.org",
        **changes,
    }
    return Checkout(**fields)  # type: ignore[arg-type] # the fields' types are Checkout's own


def test_git_is_led_to_the_relay() -> None:
    """`origin` is the forge's own address; every form of it is rewritten; the credential goes below the relay only."""
    plan = checkout_plan(_checkout(), budget_seconds=10)

    relay = "https://slipway.example/git/alice-1/group/sample"
    assert plan.origin_url == "https://gitlab.example/group/sample.git"
    assert plan.rewrites == (
        (f"{relay}.git", "https://gitlab.example/group/sample.git"),
        (f"{relay}/", "https://gitlab.example/group/sample/"),
        (f"{relay}.git", "git@gitlab.example:group/sample.git"),
        (f"{relay}/", "git@gitlab.example:group/sample/"),
    )
    assert plan.relay_prefix == "https://slipway.example/git/alice-1/"
    assert not plan.is_tag
    assert checkout_plan(_checkout(ref_kind=RefKind.TAG), budget_seconds=10).is_tag


@pytest.mark.parametrize(
    ("address", "is_own"),
    [
        ("https://gitlab.example/group/sample.git", True),
        ("https://gitlab.example/group/sample/", True),
        ("git@gitlab.example:group/sample.git", True),
        ("https://gitlab.example/group/sample-data.git", False),
        ("https://gitlab.example/group/sample2", False),
        ("git@gitlab.example:group/sample-data.git", False),
        ("https://gitlab.example/group/other.git", False),
    ],
)
def test_git_leads_nothing_else_to_the_relay(tmp_path: Path, address: str, *, is_own: bool) -> None:
    """Git itself sends the project's addresses to the relay, and none of a project whose path begins with its own."""
    configuration = tmp_path / "gitconfig"
    configuration.write_text(git_configuration(checkout_plan(_checkout(), budget_seconds=10), "credential"))
    variables = {"PATH": os.environ["PATH"], "GIT_CONFIG_SYSTEM": str(configuration), "GIT_CONFIG_GLOBAL": os.devnull}
    asking = ["git", "ls-remote", "--get-url", address]
    done = subprocess.run(asking, cwd=tmp_path, env=variables, capture_output=True, text=True, check=True, timeout=30)

    told = done.stdout.strip()
    assert is_own == told.startswith("https://slipway.example/git/alice-1/group/sample")
    assert is_own or told == address


@pytest.mark.parametrize(
    ("state", "people_url", "programs_url"),
    [
        ({"listen_host": "127.0.0.1"}, "http://a.localhost:81/", "http://127.0.0.1:81/"),
        ({"listen_host": "0.0.0.0"}, "http://a.localhost:81/", "http://127.0.0.1:81/"),  # noqa: S104 - a value
        ({"listen_host": "::1"}, "http://a.localhost:81/", "http://[::1]:81/"),
        ({"listen_host": "::"}, "http://a.localhost:81/", "http://[::1]:81/"),
        ({"listen_host": "192.0.2.7"}, "http://a.localhost:81/", "http://192.0.2.7:81/"),
    ],
)
def test_addresses_follow_from_the_state(state: dict[str, object], people_url: str, programs_url: str) -> None:
    """Where a session answers is read from its saved state alone."""
    whole = {"port": 81, "public_host": "a.localhost", **state}
    address = PortRoutes().address(SessionName("a"), whole)

    assert address == Address(people_url=people_url, programs_url=programs_url, open_path="slipway/open")


def test_the_default_environment_is_pinned_by_its_lock() -> None:
    """The bundled lock has a digest of its own, and every package in it has hashes."""
    lock = default_environment.lock()
    packages = [line for line in lock.splitlines() if "==" in line and not line.startswith("#")]

    assert default_environment.reference() == f"builtin/default-environment@{default_environment.digest()}"
    assert {"jupyterlab", "ipykernel", "pip"} <= {line.partition("==")[0] for line in packages}
    assert lock.count("--hash=sha256:") >= len(packages)


def test_an_unknown_built_in_image_is_refused() -> None:
    """A reference to something that this release does not carry is refused by name."""
    image = WorkloadImage(reference="builtin/other@sha256:0", digest="sha256:0", kind=ImageKind.ENVIRONMENT)

    with pytest.raises(LaunchRefused, match="builtin/other"):
        images.digest_of(image)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("sample-1a2b3c4-0f", True), ("", False), ("..", False), ("a/b", False), (".a", False), ("a" * 101, False)],
)
def test_only_names_become_folders(text: str, expected: bool) -> None:  # noqa: FBT001 - a table's column
    """A text that would lead out of a folder, or hide in it, is no name."""
    assert is_name(text) is expected


def test_a_workload_cannot_name_a_folder_elsewhere(tmp_path: Path) -> None:
    """A workload's name that is none is refused before any file is touched."""
    with pytest.raises(LaunchRefused):
        Records(folder=tmp_path).of("../../etc")


def test_variables_with_a_password_are_not_handed_on() -> None:
    """Sessions get the machine's certificates and indexes, but no address that holds a password, and nothing else."""
    machine = {
        "PIP_INDEX_URL": "https://user:secret@index.example/simple",
        "UV_DEFAULT_INDEX": "https://index.example/simple",
        "SSL_CERT_FILE": "/etc/ssl/ca.pem",
        "SPAWNER_SECRETS__KEY_FILE": "/etc/key",
    }

    assert inherited(machine) == {
        "UV_DEFAULT_INDEX": "https://index.example/simple",
        "SSL_CERT_FILE": "/etc/ssl/ca.pem",
    }


def test_sockets_fit_into_their_folder(tmp_path: Path) -> None:
    """However long the data folder's path is, a kernel's socket fits into 107 bytes."""
    long = tmp_path / ("x" * 80)
    lengths = [len(str(run_folder(root))) + len("/kernel-") + 36 + len("-ipc-5") for root in (long, Path("/data"))]

    assert max(lengths) <= 107


def test_folders_are_private_where_people_are_not_separated(tmp_path: Path) -> None:
    """An ordinary account's folders are its own alone; creating twice changes nothing."""
    registry = cast("Registry", None)
    for _ in range(2):
        runtime = create(root=tmp_path / "data", instance="i", registry=registry, variables={}, separates_people=False)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in runtime.root.iterdir()}
    assert modes["workspaces"] == 0o700
    assert modes["workloads"] == 0o700
    assert stat.S_IMODE(runtime.root.stat().st_mode) == 0o700
