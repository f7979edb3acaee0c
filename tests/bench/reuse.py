"""The bench `reuse`: how many commits of a history launch without a build, and what their keys cost.

For: `scripts/bench reuse`. Promises: the oracle is byte for byte (a commit whose environment files have appeared in
that history before); a reuse is wrong where the earlier commit of the same key declares another environment, which is
known from how the history was made; some commits are launched for real, to see the share there too.
Must not know: how a key is made.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from builder.errors import NoRecipeError
from builder.key import environment_key, environment_keys
from builder.tags import environment_tag
from builder.trees import GitTree
from spawner.gitlab.trees import KeyCache
from spawner.names import CommitSha
from spawner.ports import Credential, CredentialKind
from spawner.testing.gitlab.client import ProjectHandle
from spawner.testing.gitlab.standin import StandIn
from tests.bench import memory_runtime, public, stage
from tests.bench.ci import PIPELINE, push_image
from tests.bench.figures import Report, Row
from tests.bench.histories import ENVIRONMENT_FILES, History, generated, samples
from tests.installation import Client

if TYPE_CHECKING:
    from builder.entries import Entry
    from builder.snapshot import Memory

T = TypeVar("T")
NAME = "reuse"
JOB = "commits that launch without a build"
COMMITS = 300  # of each generated history
LAUNCHED = 30  # of one of them, for real
KEY_MILLISECONDS = 5.0
_ORACLES = ", ".join(sorted(ENVIRONMENT_FILES))


def measure(place: Path, runs: int) -> Report:
    """Measure the shares of reuse and the cost of keys, then launch a part of a history."""
    rows: list[Row] = []
    wrong = 0
    times: list[float] = []
    process_times: list[float] = []
    histories = [*samples(place / "histories"), *generated(place / "histories", commits=COMMITS)]
    for history in histories:
        keys = [_keys_of(history, made.sha, times, process_times) for made in history.commits]
        wrong += _wrong(history, keys)
        rows.append(_share(history, keys))
    public_times: list[float] = []
    for recorded in public.public():
        row, wrong_here = _recorded(recorded, public_times)
        rows.append(row)
        wrong += wrong_here
    rows.append(
        Row(name="reuse of another environment", unit="commits", ours=(float(wrong),), target="none", met=wrong == 0)
    )
    kept, launched = _launched(place, next(one for one in histories if one.commits[LAUNCHED:]), runs)
    rows += [
        launched,
        _cost("key of a commit, its tree in memory", times, is_target=True),
        _cost("the same, of the public histories", public_times, is_target=True),
        _cost("the same, read by Git from a repository at hand", process_times, is_target=False),
        _cost("the same, kept by its SHA", kept, is_target=True),
    ]
    notes = (
        f"Generated histories have {COMMITS} commits; what changes, and how often, is a guess at real projects.",
        f"The oracle: commits whose files, byte for byte, have appeared in that history before: {_ORACLES}.",
        *(f"{choice.name}: {choice.origin}, {choice.kind}. {choice.reason}" for choice in public.CHOICES),
        "Public histories were chosen, and committed, before any was measured.",
        "With a Dockerfile, the oracle's files are the Dockerfile and what its COPY and ADD name.",
    )
    return Report(name=NAME, job=JOB, rows=tuple(rows), notes=notes)


def _cost(name: str, milliseconds: Sequence[float], *, is_target: bool) -> Row:
    return Row(
        name=name,
        unit="ms",
        ours=tuple(milliseconds),
        target=f"< {KEY_MILLISECONDS:.0f} ms" if is_target else "",
        met=statistics.median(milliseconds) < KEY_MILLISECONDS if is_target else None,
    )


# ---------------------------------------------------------------- keys


def _keys_of(history: History, sha: str, times: list[float], process_times: list[float]) -> frozenset[str]:
    """Return a commit's keys, and note what they cost: read by Git, and with everything in memory."""
    began = time.perf_counter()
    with GitTree(history.git_dir, sha) as files:
        found = environment_keys(files.tree, files.read)
        process_times.append((time.perf_counter() - began) * 1000)
        trees: dict[str, tuple[Entry, ...]] = {}
        contents: dict[str, bytes] = {}
        tree, read = _remembering(files.tree, trees), _remembering(files.read, contents)
        environment_keys(tree, read)
        began = time.perf_counter()
        again = environment_keys(tree, read)
        times.append((time.perf_counter() - began) * 1000)
    assert [key.digest for key in found] == [key.digest for key in again]
    return frozenset(key.digest for key in found)


def _remembering(ask: Callable[[str], T], known: dict[str, T]) -> Callable[[str], T]:
    def answer(path: str) -> T:
        if path not in known:
            known[path] = ask(path)
        return known[path]

    return answer


def _recorded(history: public.Recorded, times: list[float]) -> tuple[Row, int]:
    """Return a public history's share beside the oracle's, and how many of its reuses are wrong."""
    memory: Memory = {}
    declared: dict[str, str] = {}
    seen: set[tuple[tuple[str, str], ...]] = set()
    ours = oracle = same = wrong = count = 0
    for number in range(len(history.commits)):
        commit = history.at(number)
        try:
            digest = environment_key(commit.tree, commit.read, kind=history.choice.kind, memory=memory).digest
        except NoRecipeError:
            continue  # it declares nothing that could be reused
        began = time.perf_counter()
        environment_key(commit.tree, commit.read, kind=history.choice.kind, memory=memory)
        times.append((time.perf_counter() - began) * 1000)
        files, declares = commit.files(), commit.declares()
        count += 1
        oracle += files in seen
        ours += digest in declared
        same += digest in declared and files not in seen
        wrong += declared.setdefault(digest, declares) != declares
        seen.add(files)
    return _beside(f"public: {history.choice.name}", count, ours, oracle, same), wrong


def _share(history: History, keys: Sequence[frozenset[str]]) -> Row:
    """Return the share of commits whose key was there before, beside the oracle's."""
    ours = oracle = same = 0
    seen_keys: set[str] = set()
    seen_files: set[tuple[tuple[str, str], ...]] = set()
    for made, found in zip(history.commits, keys, strict=True):
        files = _environment_files(history, made.sha)
        is_known, is_reused = files in seen_files, bool(found & seen_keys)
        oracle += is_known
        ours += is_reused
        same += is_reused and not is_known
        seen_files.add(files)
        seen_keys |= found
    return _beside(history.name, len(history.commits), ours, oracle, same)


def _beside(name: str, count: int, ours: int, oracle: int, same: int) -> Row:
    return Row(
        name=f"{name}, {count} commits",
        unit="%",
        ours=(100 * ours / count,),
        beside=(100 * oracle / count,),
        beside_what="the oracle",
        target="≥ the oracle",
        met=ours >= oracle,
        note=f"{same} of {count - oracle} commits with changed files declare what was there before",
    )


def _environment_files(history: History, sha: str) -> tuple[tuple[str, str], ...]:
    with GitTree(history.git_dir, sha) as files:
        return tuple((entry.name, entry.sha) for entry in files.tree("") if entry.name in ENVIRONMENT_FILES)


def _wrong(history: History, keys: Sequence[frozenset[str]]) -> int:
    declared: dict[str, str] = {}
    wrong = 0
    for made, found in zip(history.commits, keys, strict=True):
        for key in found:
            wrong += declared.setdefault(key, made.declares) != made.declares
    return wrong


# ---------------------------------------------------------------- for real


def _launched(place: Path, history: History, runs: int) -> tuple[list[float], Row]:
    """Launch the first commits of a history with no runner; return what kept keys cost, and the shares."""
    with (
        StandIn.start(data=place / "gitlab", runner=False) as stand_in,
        stage.installed(
            place, stand_in, runtime=memory_runtime.NAME, settings={"SESSIONS__OBSERVE_SECONDS": "600"}
        ) as installation,
    ):
        alice = stand_in.add_user("alice")
        project = stand_in.add_project("alice/history", owner=alice)
        cache = KeyCache(place / "keys", url=stand_in.url)
        client = installation.client(alice)
        reused = expected = 0
        built: set[frozenset[str]] = set()
        kept: list[float] = []
        for made in history.commits[:LAUNCHED]:
            sha, keys = _pushed(stand_in, project, history, made.sha, cache)
            is_reused = _source(client, project, sha) == "environment"
            reused += is_reused
            expected += keys in built
            if not is_reused:
                for key in keys:
                    push_image(stand_in, project, sha, tag=environment_tag(key), key=key)
                built.add(keys)
            kept += list(_kept_times(cache, stand_in, project, sha, runs))
    row = Row(
        name=f"launched for real: {history.name}, its first {LAUNCHED}",
        unit="%",
        ours=(100 * reused / LAUNCHED,),
        beside=(100 * expected / LAUNCHED,),
        beside_what="commits whose key had an image",
        target="the same",
        met=reused == expected,
    )
    return kept, row


def _pushed(
    stand_in: StandIn, project: ProjectHandle, history: History, sha: str, cache: KeyCache
) -> tuple[str, frozenset[str]]:
    """Push a commit's files, with a pipeline that nobody runs; return the new commit and its keys."""
    with GitTree(history.git_dir, sha) as files:
        listed: dict[str, str | bytes | None] = {
            path: files.read(path)
            for path in ("README.md", "analysis/main.ipynb", *sorted(ENVIRONMENT_FILES))
            if files.entry(path) is not None
        }
    made = stand_in.commit(project, {**listed, ".gitlab-ci.yml": PIPELINE})
    credential = Credential(forge="default", token=project.owner.token, kind=CredentialKind.PERSONAL)
    found = cache.keys(credential, stage.place_of(project, stand_in), CommitSha(made))
    return made, frozenset(key.key for key in found if key.kind.value == "environment")


def _source(client: Client, project: ProjectHandle, sha: str) -> str:
    """Launch a commit; return the source of its image, or empty when it waits; and stop it."""
    name = client.launch(project, sha)["name"]
    server = client.reaches(name, "WAITING", "STARTING", "RUNNING", seconds=30)
    image = server["slipway"]["image"]
    client.stop(name)
    return "" if image is None else str(image["source"])


def _kept_times(cache: KeyCache, stand_in: StandIn, project: ProjectHandle, sha: str, runs: int) -> Iterator[float]:
    credential = Credential(forge="default", token="not asked", kind=CredentialKind.PERSONAL)
    place = stage.place_of(project, stand_in)
    for _ in range(runs):
        began = time.perf_counter()
        cache.keys(credential, place, CommitSha(sha))
        yield (time.perf_counter() - began) * 1000
