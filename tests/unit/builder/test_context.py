"""The environment key of containers.

Covered: edits that must and must not change the key of a Dockerfile's image, for every form of source and ignore rule;
which Dockerfile and which ignore file count; links, submodules, attributes; what counts as everything; the other
stacks; golden keys; properties over random commits; what is looked at in a large repository.
Left out: how a Dockerfile's text is read (test_dockerfile), staging (test_stage), real builds (test_real_builds).
"""

from __future__ import annotations

import fnmatch
import posixpath
import time
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pytest
from e2b_dockerfile_utils import PatternMatcher
from hypothesis import given
from hypothesis import strategies as st

from builder.entries import Entry, EntryType, Kind
from builder.errors import NoRecipeError, ProjectError
from builder.key import Key, control_files, environment_key
from tests.unit.builder.commits import EXECUTABLE, LINK, SUBMODULE, Files, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.snapshot import Memory

BASE = f"FROM base@sha256:{'1' * 64}\n"
ONE: Files = {"Dockerfile": f"{BASE}COPY a.txt /x/\n", "a.txt": "a", "b.txt": "b", "notes.ipynb": "{}"}
GLOB: Files = {"Dockerfile": f"{BASE}COPY src/*.py data/[ab]?.csv /x/\n", "src/a.py": "a", "src/b.md": "b",
               "src/deep/c.py": "c", "data/a1.csv": "1", "data/c1.csv": "1"}  # fmt: skip
FOLDER: Files = {"Dockerfile": f"{BASE}COPY src /x/\n", "src/a.py": "a", "src/deep/b.py": "b", "other/c.py": "c"}
ALL: Files = {"Dockerfile": f"{BASE}COPY . /x\n", ".dockerignore": "*.ipynb\ndata\n!data/keep\n**/cache\n",
              "a.ipynb": "{}", "deep/b.ipynb": "{}", "data/x.csv": "1", "data/keep/y.csv": "2",
              "src/a.py": "a", "src/cache/b": "c"}  # fmt: skip
FILE_OR_FOLDER: Files = {"Dockerfile": f"{BASE}COPY . /x\n", ".dockerignore": "*\n!a/b\n", "a": "1"}
MOUNT: Files = {
    "Dockerfile": f"{BASE}RUN --mount=type=bind,source=conf,target=/c make -C /c\n",
    "conf/a": "a",
    "b": "b",
}
STAGES: Files = {"Dockerfile": f"FROM base AS one\nCOPY one.txt /x\n{BASE}COPY --from=one /x /y\n", "one.txt": "1",
                 "x": "no input"}  # fmt: skip
ARGUMENT: Files = {"Dockerfile": f"{BASE}ARG D=one\nCOPY $D /x\n", "one/a": "1", "two/a": "2",
                   "slipway.toml": '[image]\narguments = { D = "two" }\n'}  # fmt: skip
LINKED: Files = {
    "Dockerfile": f"{BASE}COPY link.txt dir/ /x/\n",
    "link.txt": f"{LINK}real/a.txt",
    "real/a.txt": "a",
    "real/b.txt": "b",
    "dir/c": f"{LINK}../far",
    "far": "f",
}
ELSEWHERE: Files = {
    "slipway.toml": '[image]\ndockerfile = "ci/Image"\ncontext = "app"\n',
    "ci/Image": f"{BASE}COPY . /x\n",
    "app/a.py": "a",
    "b.py": "b",
    "Dockerfile": "FROM other\n",
}
OWN_RULES: Files = {**ALL, "Dockerfile.dockerignore": "src\n", ".containerignore": "deep\n"}
OWN_IGNORE: Files = {**ELSEWHERE, "ci/Image.dockerignore": "*.md\n.*\n", "app/x.md": ""}
HEREDOC: Files = {"Dockerfile": f"{BASE}RUN <<EOF\nCOPY secret /\nEOF\nCOPY a /x\n", "a": "a", "secret": "s"}
ADDED: Files = {"Dockerfile": f"{BASE}ADD a.tar https://example.com/b /x/\n", "a.tar": "t", "b": "b"}

SAME: list[tuple[str, Files, Files]] = [
    ("a file that is not copied", ONE, {"b.txt": "c"}),
    ("a notebook", ONE, {"notes.ipynb": "{1}"}),
    ("a comment in the Dockerfile", ONE, {"Dockerfile": f"# why\n{BASE}\n# what\nCOPY a.txt /x/\n"}),
    ("a wrapped line", ONE, {"Dockerfile": f"{BASE}COPY \\\n  # this\na.txt /x/\n"}),
    ("how a session starts", ONE, {"slipway.toml": '[session]\ndefault_url = "/lab"\n'}),
    ("requirements that are not copied", ONE, {"requirements.txt": "six\n"}),
    ("what no pattern fits", GLOB, {"src/b.md": "c", "data/c1.csv": "2", "src/deep/c.py": "d", "data/a12.csv": ""}),
    ("another folder", FOLDER, {"other/c.py": "d"}),
    ("an ignored notebook", ALL, {"a.ipynb": "{1}"}),
    ("an ignored folder", ALL, {"data/x.csv": "2", "data/new.csv": "3"}),
    ("an ignored name, deep", ALL, {"src/cache/b": "d", "cache": "x"}),
    ("a hidden file where a rule shows what is in a folder", FILE_OR_FOLDER, {"a": "2"}),
    ("another file beside a mount", MOUNT, {"b": "c"}),
    ("what a stage does not copy", STAGES, {"x": "y", "y": "z"}),
    ("the default that an argument replaces", ARGUMENT, {"one/a": "3"}),
    ("a neighbour of a link's target", LINKED, {"real/b.txt": "c"}),
    ("what a link in a copied folder points to", LINKED, {"far": "g"}),
    ("another Dockerfile", ELSEWHERE, {"Dockerfile": "FROM another\n", "b.py": "c"}),
    ("a comment in the Dockerfile's own ignore file", OWN_IGNORE, {"ci/Image.dockerignore": "# why\n*.md\n.*\n"}),
    ("an ignore file that does not apply", OWN_IGNORE, {".dockerignore": "app\n", "app/.containerignore": "x\n"}),
    ("what a heredoc names", HEREDOC, {"secret": "t"}),
    ("what an address names", ADDED, {"b": "c"}),
]
OTHER: list[tuple[str, Files, Files]] = [
    ("the file that is copied", ONE, {"a.txt": "b"}),
    ("its executable bit", ONE, {"a.txt": f"{EXECUTABLE}a"}),
    ("a file that becomes a link", ONE, {"a.txt": f"{LINK}b.txt"}),
    ("attributes above it", ONE, {".gitattributes": "*.txt eol=crlf\n"}),
    ("an instruction", ONE, {"Dockerfile": f"{BASE}COPY a.txt /y/\n"}),
    ("the base", ONE, {"Dockerfile": "FROM other\nCOPY a.txt /x/\n"}),
    ("an argument of the build", ONE, {"slipway.toml": '[image]\narguments = { A = "1" }\n'}),
    ("a directive", ONE, {"Dockerfile": f"# syntax=docker/dockerfile:1\n{BASE}COPY a.txt /x/\n"}),
    ("a Dockerfile that comes before", ONE, {"binder/Dockerfile": f"{BASE}COPY a.txt /x/\n"}),
    ("rules that come", ONE, {".dockerignore": "b.txt\n"}),
    ("what a pattern fits", GLOB, {"src/a.py": "b"}),
    ("a new file that a pattern fits", GLOB, {"src/z.py": "z"}),
    ("a new file that a set fits", GLOB, {"data/b9.csv": ""}),
    ("a file of a copied folder", FOLDER, {"src/a.py": "b"}),
    ("a deep one", FOLDER, {"src/deep/b.py": "c"}),
    ("a new one", FOLDER, {"src/deep/new/d": ""}),
    ("a submodule in it", FOLDER, {"src/sub": f"{SUBMODULE}{'1' * 40}"}),
    ("attributes in it", FOLDER, {"src/deep/.gitattributes": "*.py -text\n"}),
    ("a file that is not ignored", ALL, {"src/a.py": "b"}),
    ("a file that a negation shows", ALL, {"data/keep/y.csv": "3"}),
    ("a notebook where the rule does not reach", ALL, {"deep/b.ipynb": "{1}"}),
    ("a rule", ALL, {".dockerignore": "*.ipynb\ndata\n"}),
    ("the ignore file that is copied itself", ALL, {".dockerignore": f"# x\n{ALL['.dockerignore']!s}"}),
    ("a file of a mounted folder", MOUNT, {"conf/a": "b"}),
    ("a file of an earlier stage", STAGES, {"one.txt": "2"}),
    ("a file that an argument names", ARGUMENT, {"two/a": "3"}),
    ("the argument", ARGUMENT, {"slipway.toml": '[image]\narguments = { D = "one" }\n'}),
    ("what a link points to", LINKED, {"real/a.txt": "b"}),
    ("a link", LINKED, {"link.txt": f"{LINK}real/b.txt"}),
    ("a link in a copied folder", LINKED, {"dir/c": f"{LINK}../near"}),
    ("a file of a context elsewhere", ELSEWHERE, {"app/a.py": "b"}),
    ("a Dockerfile elsewhere", ELSEWHERE, {"ci/Image": f"{BASE}COPY . /y\n"}),
    ("the Dockerfile's own rules", OWN_RULES, {"Dockerfile.dockerignore": "src\ndeep\n"}),
    ("a file that only other rules hide", OWN_RULES, {"deep/b.ipynb": "{2}"}),
    ("a heredoc", HEREDOC, {"Dockerfile": f"{BASE}RUN <<EOF\nCOPY other /\nEOF\nCOPY a /x\n"}),
    ("an archive", ADDED, {"a.tar": "u"}),
]  # fmt: skip


def _key(files: Files) -> Key:
    table = Table(files=files)
    return environment_key(table.tree, table.read, kind=Kind.CONTAINER)


@pytest.mark.parametrize(("before", "edit"), [row[1:] for row in SAME], ids=[row[0] for row in SAME])
def test_an_edit_that_the_build_cannot_see_keeps_the_key(before: Files, edit: Files) -> None:
    """An edit of what no instruction reads, or of decoration, changes nothing of the key."""
    assert _key(before).everything is None
    assert _key({**before, **edit}).digest == _key(before).digest


@pytest.mark.parametrize(("before", "edit"), [row[1:] for row in OTHER], ids=[row[0] for row in OTHER])
def test_an_edit_that_the_build_can_see_changes_the_key(before: Files, edit: Files) -> None:
    """An edit of anything that the build can read, or of what decides that, changes the key."""
    assert _key({**before, **edit}).digest != _key(before).digest


INPUTS: list[tuple[Files, list[str]]] = [
    (ONE, ["Dockerfile", "a.txt"]),
    (GLOB, ["Dockerfile", "data/a1.csv", "src/a.py"]),
    (FOLDER, ["Dockerfile", "src"]),
    (ALL, [".dockerignore", "Dockerfile", "data", "deep", "src"]),
    (LINKED, ["Dockerfile", "dir", "link.txt", "real/a.txt"]),
    (ELSEWHERE, ["app/a.py", "ci/Image"]),
    (
        OWN_RULES,
        [".containerignore", ".dockerignore", "Dockerfile", "Dockerfile.dockerignore", "a.ipynb", "data", "deep"],
    ),
]


@pytest.mark.parametrize(("files", "paths"), INPUTS)
def test_the_inputs_are_named(files: Files, paths: list[str]) -> None:
    """The key names the Dockerfile, its ignore file, and what its sources reach."""
    assert [one.path for one in _key(files).inputs] == paths


GOLDEN = [
    ("one", ONE, "abd1b40b0a3dd71db1ba71fe6faa0979cabc503a032c1cabb6640eb1753f92ff"),
    ("all", ALL, "4835a334360d63da8b113be05f9ad03f68ff9652eee34e3be9b9bebb35c25620"),
    ("argument", ARGUMENT, "9097d0b6a2e02283896f118da2d5bd8e22159e937e13ee7e358a79a51c5d21e9"),
]


@pytest.mark.parametrize(("files", "digest"), [row[1:] for row in GOLDEN], ids=[row[0] for row in GOLDEN])
def test_golden_keys_stay(files: Files, digest: str) -> None:
    """A key once given is given for ever, or every image ever built would be unknown."""
    assert _key(files).digest == digest


def test_what_cannot_be_known_counts_as_everything_that_is_not_ignored() -> None:
    """Where a source is not known, all of the context counts, less what the rules hide, and the reason is said."""
    files = {**ALL, "Dockerfile": f"{BASE}COPY $HOME/x /x\n"}
    found = _key(files)
    assert found.everything is not None
    assert "variable" in found.everything
    assert _key({**files, "new/file": ""}).digest != found.digest
    assert _key({**files, "a.ipynb": "{2}"}).digest == found.digest


def test_paths_say_what_an_unknown_source_reads() -> None:
    """With [image] paths, what it names counts with the sources that are known, and nothing else."""
    files = {
        **ONE,
        "Dockerfile": f"{BASE}COPY $HOME/x /x\nCOPY a.txt /\n",
        "slipway.toml": '[image]\npaths = ["b.txt"]\n',
    }
    found = _key(files)
    assert (found.everything, [one.path for one in found.inputs]) == (None, ["Dockerfile", "a.txt", "b.txt"])
    assert _key({**files, "notes.ipynb": "{1}"}).digest == found.digest


@pytest.mark.parametrize("rules", ["[\n", "a**b\n", "!\n"])
def test_rules_that_are_not_understood_hide_nothing(rules: str) -> None:
    """An ignore file that is malformed counts as everything, in words."""
    found = _key({**ALL, ".dockerignore": rules})
    assert found.everything is not None
    assert ".dockerignore is not understood" in found.everything
    assert _key({**ALL, ".dockerignore": rules, "a.ipynb": "{2}"}).digest != found.digest


def test_a_source_inside_a_submodule_counts_by_its_commit() -> None:
    """A file that lies in a submodule counts as the submodule's commit, with .gitmodules."""
    files: Files = {"Dockerfile": f"{BASE}COPY sub/a /x\n", "sub": f"{SUBMODULE}{'1' * 40}", ".gitmodules": "x"}
    assert [one.path for one in _key(files).inputs] == [".gitmodules", "Dockerfile", "sub"]
    assert _key({**files, "sub": f"{SUBMODULE}{'2' * 40}"}).digest != _key(files).digest


def test_a_link_out_of_the_context_leads_nowhere() -> None:
    """A link that leaves the context's folder counts, and what it points to does not."""
    files: Files = {"slipway.toml": '[image]\ncontext = "app"\n', "Dockerfile": f"{BASE}COPY a /x\n",
                    "app/a": f"{LINK}../secret", "secret": "s"}  # fmt: skip
    assert [one.path for one in _key(files).inputs] == ["Dockerfile", "app/a"]


def test_a_hidden_link_is_no_source() -> None:
    """A link that the rules hide leads nowhere, although its target is not hidden."""
    files: Files = {"Dockerfile": f"{BASE}COPY a /x\n", "a": f"{LINK}b", "b": "b", ".dockerignore": "a\n"}
    assert [one.path for one in _key(files).inputs] == [".dockerignore", "Dockerfile"]


def test_a_recipe_that_is_named_goes_before_a_dockerfile() -> None:
    """`[image] recipe = "python"` builds from the Python files although a Dockerfile is there."""
    files = {**ONE, "requirements.txt": "six\n", "slipway.toml": '[image]\nrecipe = "python"\n'}
    assert _key(files).recipe_name == "python-1"


def test_a_dockerfile_that_is_not_there_is_refused_by_name() -> None:
    """A slipway.toml that names a Dockerfile the commit has not is an error in words."""
    with pytest.raises(NoRecipeError, match="ci/Image"):
        _key({"slipway.toml": '[image]\ndockerfile = "ci/Image"\n', "Dockerfile": BASE})


@pytest.mark.parametrize(
    ("text", "said"),
    [('dockerfile = "../a"', "dockerfile"), ('context = "/a"', "context"), ("arguments = { A = 1 }", "arguments"),
     ('arguments = "A=1"', "arguments")],
)  # fmt: skip
def test_settings_of_a_dockerfile_are_refused_by_name(text: str, said: str) -> None:
    """What slipway.toml says about a Dockerfile must lie in the repository, and be text."""
    with pytest.raises(ProjectError, match=said):
        _key({**ONE, "slipway.toml": f"[image]\n{text}\n"})


CONDA = "name: a\ndependencies:\n  - numpy\n  - pip:\n    - -r more.txt\n"
STACKS: list[tuple[str, Files, str, list[str], bool]] = [
    (
        "conda",
        {"environment.yml": CONDA, "more.txt": "six # x\n", "x": ""},
        "repo2docker-1",
        ["environment.yml", "more.txt"],
        False,
    ),
    (
        "conda and system packages",
        {"environment.yml": "dependencies: [numpy]\n", "apt.txt": "vim\n", "start": "#!/bin/sh\n"},
        "repo2docker-1",
        ["apt.txt", "environment.yml", "start"],
        False,
    ),
    (
        "conda that installs the repository",
        {"environment.yml": "dependencies: [{pip: ['-e .']}]\n", "x": ""},
        "repo2docker-1",
        ["environment.yml", "x"],
        True,
    ),
    (
        "R",
        {"install.R": "x", "runtime.txt": "r-4.3-2024-01-01\n"},
        "repo2docker-1",
        ["install.R", "runtime.txt"],
        False,
    ),
    ("R by its date", {"runtime.txt": "r-4.3-2024-01-01\n"}, "repo2docker-1", ["runtime.txt"], False),
    ("a package of R", {"DESCRIPTION": "Package: a\n", "R/a.R": ""}, "repo2docker-1", ["DESCRIPTION", "R"], True),
    (
        "R with a lock",
        {"DESCRIPTION": "", "install.R": "", "renv.lock": "{}"},
        "repo2docker-1",
        ["DESCRIPTION", "install.R", "renv.lock"],
        False,
    ),
    (
        "Julia",
        {"Project.toml": "[deps]\n", "Manifest.toml": "", "a.jl": ""},
        "repo2docker-1",
        ["Manifest.toml", "Project.toml"],
        False,
    ),
    (
        "a package of Julia",
        {"Project.toml": 'name = "A"\nuuid = "1"\n[deps]\n', "src/A.jl": ""},
        "repo2docker-1",
        ["Project.toml", "src"],
        True,
    ),
    (
        "what a postBuild reads is not known",
        {"requirements.txt": "six\n", "postBuild": "x", "y": ""},
        "python-1",
        ["postBuild", "requirements.txt", "y"],
        True,
    ),
    (
        "Python",
        {"requirements.txt": "six\n", "apt.txt": "vim\n", "y": ""},
        "python-1",
        ["apt.txt", "requirements.txt"],
        False,
    ),
]


@pytest.mark.parametrize(
    ("files", "recipe", "paths", "is_all"), [row[1:] for row in STACKS], ids=[row[0] for row in STACKS]
)
def test_other_stacks_name_their_inputs(files: Files, recipe: str, paths: list[str], is_all: bool) -> None:  # noqa: FBT001
    """Without a Dockerfile, each stack counts what its recipe reads, and everything where code of the commit runs."""
    found = _key(files)
    assert (found.recipe_name, [one.path for one in found.inputs]) == (recipe, paths)
    assert (found.everything is not None) is is_all


def test_a_conda_environment_counts_by_what_it_declares() -> None:
    """A comment, the environment's name, or a comment in a file that its pip section names, build nothing."""
    files: Files = {"environment.yml": CONDA, "more.txt": "six\n"}
    edited = {"environment.yml": f"# x\n{CONDA.replace('name: a', 'name: b')}", "more.txt": "# y\nsix\n"}
    assert _key({**files, **edited}).digest == _key(files).digest
    assert _key({**files, "more.txt": "attrs\n"}).digest != _key(files).digest


_NAMES = st.sampled_from(["a.py", "b.md", "c.ipynb", "src/a.py", "src/b.md", "src/deep/c.py", "data/d.csv", "data/e/f"])
_SOURCES = st.sampled_from(
    [".", "src", "*.py", "src/*", "*/*.md", "data/e", "a.py", "sr[a-c]/a.py", "src/deep/../a.py"]
)
_RULES = st.sampled_from(
    ["!a.py/x", "*.md", "src", "!src/a.py", "**/*.md", "data/*", "!data/e", "*", "!*.py", "/src/deep"]
)
_CHANGES = st.dictionaries(_NAMES, st.sampled_from(["1", "2", None]), max_size=3)


@given(
    files=st.dictionaries(_NAMES, st.sampled_from(["1", "2"]), max_size=6),
    sources=st.lists(_SOURCES, min_size=1, max_size=3),
    rules=st.lists(_RULES, max_size=3),
    changes=_CHANGES,
)
def test_equal_keys_are_equal_contexts(
    files: dict[str, str], sources: list[str], rules: list[str], changes: dict[str, str | None]
) -> None:
    """Two commits have one key exactly when a plain reading of Docker's documentation gives one context for both."""
    around = {"Dockerfile": f"{BASE}COPY {' '.join(sources)} /x/\n", ".dockerignore": "\n".join(rules)}
    one: Files = {**files, **around}
    two: Files = {path: text for path, text in {**one, **changes}.items() if text is not None}
    is_equal = _readable(one, sources, rules) == _readable(two, sources, rules)
    assert (_key(one).digest == _key(two).digest) is is_equal


def _readable(files: Files, sources: list[str], rules: list[str]) -> set[tuple[str, str]]:
    """Say what an engine can read, path by path, with another matcher of ignore rules."""
    hidden = PatternMatcher(rules).matches
    shown = {path: str(files[path]) for path in files if not hidden(path)}
    folders = {str(parent) for path in files for parent in PurePosixPath(path).parents} - {"."}
    shown |= {path: "" for path in folders if not hidden(path) or any(one.startswith(f"{path}/") for one in shown)}
    return {(path, text) for path, text in shown.items() if any(_reaches(source, path) for source in sources)}


def _reaches(source: str, path: str) -> bool:
    pattern = [] if source == "." else posixpath.normpath(source).split("/")
    steps = path.split("/")[: len(pattern)]
    return len(steps) == len(pattern) and all(map(fnmatch.fnmatchcase, steps, pattern))


def test_files_to_read_first_are_named() -> None:
    """A blobless cache is told of the Dockerfile and the ignore files, also where slipway.toml names another."""
    for files, paths in (
        (ALL, {"Dockerfile", ".dockerignore"}),
        (ELSEWHERE, {"slipway.toml", "Dockerfile"}),
        ({**ELSEWHERE, "ci/Dockerfile.gpu": "", "ci/Dockerfile.gpu.dockerignore": "", "app/.dockerignore": ""},
         {"slipway.toml", "Dockerfile", "ci/Dockerfile.gpu", "ci/Dockerfile.gpu.dockerignore", "app/.dockerignore"}),
    ):  # fmt: skip
        table = Table(files=files)
        assert set(control_files(table.tree, table.read)) == paths


def _large(files: Files, *, count: int) -> tuple[Table, dict[str, list[Entry]], list[str]]:
    """A commit with many files in `data/`; its listing by directory, and the directories looked at."""
    blobs = [Entry(name=f"f{n:05}", mode="100644", type=EntryType.BLOB, sha="1" * 40) for n in range(count)]
    table = Table(files={**files, "data/seed": ""})
    return table, {"data": blobs}, []


@pytest.mark.parametrize(
    ("rules", "is_entered"),
    [("data\n", False), ("*.md\n!README.md\n", False), ("src/*.pyc\n", False), ("**/*.pyc\n", True)],
)
def test_a_key_looks_only_where_an_input_can_lie(rules: str, is_entered: bool) -> None:  # noqa: FBT001 - a table's column
    """With 20,000 files in a folder that no rule reaches into, the folder is not listed and a key takes under 5 ms."""
    files: Files = {"Dockerfile": f"{BASE}COPY . /x\n", ".dockerignore": rules, "src/a.py": ""}
    table, large, looked = _large(files, count=20_000)

    def tree(directory: str) -> Sequence[Entry]:
        looked.append(directory)
        return large.get(directory) or table.tree(directory)

    memory: Memory = {}
    seconds = []
    for _ in range(5 if is_entered else 15):
        began = time.process_time()
        environment_key(tree, table.read, kind=Kind.CONTAINER, memory=memory)
        seconds.append(time.process_time() - began)
    assert ("data" in looked) is is_entered
    assert min(seconds) < (0.5 if is_entered else 0.005)


HOSTILE: list[tuple[str, Files]] = [
    ("a link in a circle", {"Dockerfile": f"{BASE}COPY a /x\n", "a": f"{LINK}b", "b": f"{LINK}a"}),
    ("a Dockerfile that is a link in a circle", {"binder/Dockerfile": f"{LINK}Dockerfile", "Dockerfile": BASE}),
    ("no text", {"Dockerfile": b"\xff\xfe\x00"}),
    ("an empty one", {"Dockerfile": ""}),
    ("ignore rules that are no text", {"Dockerfile": f"{BASE}COPY . /\n", ".dockerignore": b"\xff"}),
    ("a name that is no text", {"Dockerfile": f"{BASE}COPY . /\n", "\udcff": "", ".dockerignore": "**/x\n"}),
    ("a pointer", {"Dockerfile": "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 1\n"}),
    ("a folder in a circle", {"Dockerfile": f"{BASE}COPY */*/*/*/*/*/*/*/*/*/* /\n", "a": f"{LINK}.", "b": f"{LINK}."}),
    ("deep folders", {"Dockerfile": f"{BASE}COPY . /\n", ".dockerignore": "**/x\n", "d/" * 600 + "x": ""}),
]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("files", [row[1] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_hostile_commits_have_a_key_too(files: Files) -> None:
    """Whatever a commit holds, its container key is computed, in bounded time and without an error."""
    assert len(_key(files).digest) == 64
