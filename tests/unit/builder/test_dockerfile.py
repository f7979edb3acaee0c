"""What a Dockerfile reads, by its text.

Covered: every form of source, variables and where they come from, stages, mounts, heredocs, ONBUILD, directives, what
may move, what counts as everything and why; the canonical text; the parser against BuildKit's own; hostile texts.
Left out: which files a source means (test_context), and what an engine really reads (test_real_builds).
"""

from __future__ import annotations

import contextlib
import time

import dockerfile as buildkit
import pytest
from e2b_dockerfile_utils import DockerfileSyntaxError, parse_dockerfile_ast
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.dockerfile import Reads, declared_instructions, reads

DIGEST = f"sha256:{'1' * 64}"
BASE = f"FROM base@{DIGEST}\n"


def _read(text: str, **arguments: str) -> Reads:
    return reads(text, arguments=arguments, platform="linux/arm64/v8")


SOURCES: list[tuple[str, str, list[str]]] = [
    ("one file", "COPY a.txt /x/", ["a.txt"]),
    ("several", "COPY a.txt ./b.txt c/ /x/", ["a.txt", "b.txt", "c"]),
    ("in lower case", "copy a.txt /x/", ["a.txt"]),
    ("all", "COPY . /x", ["."]),
    ("all, by a slash", "COPY / /x", ["."]),
    ("a root that is the context's", "COPY /a.txt /x", ["a.txt"]),
    ("up and away", "COPY ../../a.txt /x", ["a.txt"]),
    ("JSON", 'COPY ["a b.txt", "c", "/x/"]', ["a b.txt", "c"]),
    ("options", "COPY --chown=1:1 --chmod=755 --link a /x", ["a"]),
    ("parents", "COPY --parents a/b/*.txt /x", ["a/b/*.txt"]),
    ("excluded", "COPY --exclude=*.md docs /x", ["docs"]),
    ("from a stage", "COPY --from=0 a /x", []),
    ("from an image", f"COPY --from=other@{DIGEST} a /x", []),
    ("from nothing, which is the context", 'COPY --from="" a /x', ["a"]),
    ("add", "ADD a.tar.gz /x", ["a.tar.gz"]),
    ("wrapped", "COPY a \\\n  # not here\n\n  b \\\n  /x", ["a", "b"]),
    ("a heredoc", "COPY <<EOF /x\nCOPY secret /\nEOF", []),
    ("a heredoc and a file", "COPY a <<'one' <<-two /x\nCOPY b /\none\n\ttwo\n", ["a"]),
    ("a heredoc of a RUN", "RUN <<EOF\nCOPY secret /\nEOF\nCOPY a /", ["a"]),
    ("a bind mount", "RUN --mount=type=bind,source=a,target=/x ls", ["a"]),
    ("a bind mount by default", "RUN --mount=target=/x,src=a/b ls", ["a/b"]),
    ("a bind mount of all", "RUN --mount=type=bind,target=/x ls", ["."]),
    ("a bind mount from a stage", "RUN --mount=type=bind,from=one,source=a,target=/x ls", []),
    ("other mounts", "RUN --mount=type=cache,target=/c --mount=type=secret,id=s --mount=type=tmpfs,target=/t ls", []),
    ("two mounts", 'RUN --mount=source=a,target=/a --mount="type=bind,source=b,target=/b" ls', ["a", "b"]),
    ("an argument's default", "ARG D=src\nCOPY $D/a ${D}/b /x", ["src/a", "src/b"]),
    ("a variable", "ENV D=src E='b c'\nCOPY $D/a $E /x", ["src/a", "b c"]),
    ("a variable set before", "ENV D=src\nENV E=$D/b\nCOPY $D/a $E /x", ["src/a", "src/b"]),
    ("the old form of ENV", "ENV D a b\nCOPY $D /x", ["a b"]),
    ("ENV wins", "ENV D=one\nARG D=two\nCOPY $D /x", ["one"]),
    ("a default in place", "ARG D=\nCOPY ${D:-other} /x", ["other"]),
    ("an escaped dollar", r"COPY \$D /x", ["$D"]),
    ("the platform", "ARG TARGETARCH\nARG TARGETVARIANT\nCOPY bin-$TARGETARCH$TARGETVARIANT /x", ["bin-arm64v8"]),
    ("set off later", "ONBUILD COPY a /x\nONBUILD RUN --mount=source=b,target=/b ls\nONBUILD USER 1", ["a", "b"]),
    ("the destination's variables", "COPY a $HOME/x", ["a"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "paths"), [row[1:] for row in SOURCES], ids=[row[0] for row in SOURCES])
def test_sources_are_found(text: str, paths: list[str]) -> None:
    """Every path of the context that an instruction names is a source, and nothing else is."""
    found = _read(f"{BASE}{text}\n")
    assert (found.everything, [source.path for source in found.sources]) == (None, paths)


EVERYTHING: list[tuple[str, str, str]] = [
    ("a variable of the base image", f"{BASE}COPY $HOME/a /x", "depends on a variable"),
    ("a default for one", f"{BASE}COPY ${{X:-a}} /x", "depends on a variable"),
    ("ENV made of one", f"{BASE}ENV D=$HOME\nCOPY $D /x", "depends on a variable"),
    ("an argument without a value", f"{BASE}ARG D\nCOPY $D /x", "depends on a variable"),
    ("an argument of another stage", f"ARG D=a\n{BASE}COPY $D /x", "depends on a variable"),
    ("the machine that builds", f"{BASE}ARG BUILDARCH\nCOPY $BUILDARCH /x", "depends on a variable"),
    ("a pattern in a variable", f"{BASE}ARG D=abab\nCOPY ${{D#*a}} /x", "depends on a variable"),
    ("a value without end", f"{BASE}ARG D=aaaaaaaa\n" + "ENV D=$D$D\n" * 40 + "COPY $D /x", "depends on a variable"),
    ("a mount's variable", f"{BASE}RUN --mount=source=$X,target=/x ls", "is not known"),
    ("a mount from a variable", f"{BASE}RUN --mount=from=$X,target=/x ls", "depends on a variable"),
    ("an unknown mount", f"{BASE}RUN --mount=type=magic,target=/x ls", "is not known"),
    ("a stage by a variable", f"{BASE}COPY --from=$X a /x", "depends on a variable"),
    ("Git's own folder", f"{BASE}COPY .git/HEAD /x", ".git/HEAD"),
    ("Git's own folder, mounted", f"{BASE}RUN --mount=source=.git,target=/g git describe", ".git"),
    ("an option to come", f"{BASE}COPY --twice a /x", "--twice"),
    ("an option to come, of RUN", f"{BASE}RUN --look=a ls", "--look"),
    ("another language", f"# syntax=example.com/other:1\n{BASE}", "another language"),
    ("no instruction", f"{BASE}FETCH a /x", "not understood"),
    ("a heredoc without end", f"{BASE}COPY <<EOF /x\na", "not understood"),
    ("ONBUILD in the base", "FROM python:3-onbuild\n", "ONBUILD"),
    ("ONBUILD with variables", f"{BASE}ONBUILD COPY $X /x", "ONBUILD"),
    ("ONBUILD of a heredoc", f"{BASE}ONBUILD COPY <<EOF /x\nEOF", "not understood"),
    ("a script", f"#!/usr/bin/env docker\n{BASE}", "not understood"),
    ("a long line", f"{BASE}RUN {'x' * 70_000}\n", "not understood"),
    ("a FROM without an image", "FROM\n", "names no image"),
    ("no closing quote", f'{BASE}COPY "a /x', "names no source"),
]


@pytest.mark.parametrize(("text", "reason"), [row[1:] for row in EVERYTHING], ids=[row[0] for row in EVERYTHING])
def test_what_cannot_be_known_is_said(text: str, reason: str) -> None:
    """Where a source cannot be known, there is a sentence why, and nothing is guessed."""
    found = _read(text)
    assert found.everything is not None
    assert reason in found.everything


MUTABLE: list[tuple[str, str, list[str]]] = [
    ("a tag", "FROM python:3.12\n", ["python:3.12 is a tag"]),
    ("a digest", BASE, []),
    ("scratch", "FROM scratch\n", []),
    ("a stage", f"FROM base@{DIGEST} AS one\nFROM One\nCOPY --from=one a /x\nCOPY --from=0 a /x\n", []),
    ("an image in a variable", "ARG V=3\nFROM python:${V} AS one\n", ["python:3 is a tag"]),
    ("an image to copy from", f"{BASE}COPY --from=tools:1 a /x\n", ["tools:1 is a tag"]),
    ("an image to mount", f"{BASE}RUN --mount=from=tools:1,target=/x ls\n", ["tools:1 is a tag"]),
    ("the frontend", f"# syntax=docker/dockerfile:1\n{BASE}", ["docker/dockerfile:1 is a tag"]),
    ("an address", f"{BASE}ADD https://u:p@example.com/a /x\n", ["ADD https://example.com/a is fetched anew"]),
    ("a checked address", f"{BASE}ADD --checksum=sha256:aa https://example.com/a /x\n", []),
    ("a repository", f"{BASE}ADD git@example.com:a/b.git#main /x\n", ["fetched anew"]),
    ("a repository's commit", f"{BASE}ADD https://example.com/a.git#{'1' * 40} /x\n", []),
]


@pytest.mark.parametrize(("text", "notes"), [row[1:] for row in MUTABLE], ids=[row[0] for row in MUTABLE])
def test_what_may_move_is_said(text: str, notes: list[str]) -> None:
    """A tag or an address that no digest pins is named, without the secret in it."""
    found = _read(text)
    assert found.everything is None
    assert len(found.mutable) == len(notes)
    assert all(note in sentence for note, sentence in zip(notes, found.mutable, strict=True))


def test_arguments_given_to_the_build_win_where_they_are_declared() -> None:
    """`[image] arguments` beat a default, and mean nothing where no ARG declares them."""
    text = f"ARG D=one\n{BASE}ARG D\nARG E=x\nCOPY $D $E /x\n"
    assert [source.path for source in _read(text).sources] == ["one", "x"]
    assert [source.path for source in _read(text, D="two", E="y").sources] == ["two", "y"]
    assert _read(f"{BASE}COPY $D /x\n", D="two").everything is not None


def test_a_stage_inherits_the_variables_of_the_one_it_begins_from() -> None:
    """ENV and ARG go on in a stage that begins from another, and end where one begins from an image."""
    text = "FROM scratch AS one\nARG A=a\nENV B=b\nFROM one\nCOPY $A $B /x\nFROM other\nCOPY $A /y\n"
    found = _read(text)
    assert [source.path for source in found.sources] == ["a", "b"]
    assert found.everything is not None


def test_the_escape_directive_counts() -> None:
    """With a backtick as escape, lines wrap at backticks and backslashes are plain."""
    assert [source.path for source in _read("# escape=`\nFROM scratch\nCOPY a `\n b /x\n").sources] == ["a", "b"]


CANONICAL = """\
# syntax=docker/dockerfile:1
# escape=`
FROM scratch
RUN a &&   b
COPY <<EOF /x
# kept

EOF
"""


def test_the_canonical_text_has_no_decoration() -> None:
    """Comments, blank lines and wraps go; directives and heredocs stay as they are."""
    text = (
        "# syntax=docker/dockerfile:1\r\n# escape=`\n\n# a comment\n  FROM scratch\n"
        "RUN a && `\n# why\n  b\n\nCOPY <<EOF /x\n# kept\n\nEOF\n"
    )
    assert declared_instructions(text) == CANONICAL
    assert declared_instructions(CANONICAL) == CANONICAL


_PIECES = st.sampled_from([
    "FROM ", "COPY ", "RUN ", "ENV ", "ARG ", "ADD ", "LABEL ", "CMD ", "ONBUILD ", "a", "b=c", "--from=x ", "\\\n",
    "\\", "\n", "\n\n", "# c\n", " ", "\t", '"', "'", "[", "]", '["a", "b"]', "<<EOF", "EOF\n", "<<-'E' ", "$A", "${A}",
    "# escape=`\n", "`\n", "# syntax=x\n", "--mount=type=bind ", "é", "\r\n", "=",
])  # fmt: skip
_TEXTS = st.lists(_PIECES, max_size=25).map("".join)


@settings(max_examples=400)
@given(text=_TEXTS)
def test_the_canonical_text_means_the_same(text: str) -> None:
    """Whatever a Dockerfile says, its canonical text says too, to BuildKit's own parser, and is its own."""
    try:
        canonical = declared_instructions(text)
        before = buildkit.parse_string(text)
    except (ValueError, buildkit.GoParseError):
        return
    after = buildkit.parse_string(canonical)
    assert [_said(one) for one in after] == [_said(one) for one in before]
    assert declared_instructions(canonical) == canonical


def _said(command: buildkit.Command) -> tuple[object, ...]:
    heredocs = [(one.name, one.content) for one in command.heredocs]
    return command.cmd.upper(), command.json, command.flags, command.value, heredocs


@settings(max_examples=400)
@given(text=_TEXTS)
def test_the_parser_reads_what_buildkits_own_reads(text: str) -> None:
    """Instructions, options and heredocs are found where BuildKit's parser in Go finds them."""
    try:
        theirs = buildkit.parse_string(text)
    except buildkit.GoParseError:
        return
    try:
        ours = parse_dockerfile_ast(text)
    except DockerfileSyntaxError:
        return  # counts as everything
    assert [(one.name, tuple(one.flags)) for one in ours.instructions] == [
        (one.cmd.upper(), one.flags) for one in theirs
    ]
    assert [[(each.name, each.content) for each in one.heredocs] for one in ours.instructions] == [
        [(each.name, each.content) for each in one.heredocs] for one in theirs
    ]


HOSTILE = [
    "#" + "a=" + " " * 900 + "x",
    f"# syntax={'x ' * 400}y",
    f"{BASE}COPY {'${A:-' * 5000} /x",
    f"{BASE}ARG A={'a' * 4000}\nCOPY ${{A//{'*a' * 500}b/x}} /x",
    f"{BASE}RUN {chr(34) * 50_000}",
    f"{BASE}RUN \\\n" + "x \\\n" * 60_000,
    f"{BASE}COPY {'<<E ' * 5000} /x\n",
    f"{BASE}" + "ENV A=$A$A$A$A\n" * 5000 + "COPY $A /x",
    f"{BASE}COPY {'[' * 50_000}",
]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_take_little_time(text: str) -> None:
    """A Dockerfile made to be slow, or to break the parser, is followed in bounded time and without an error."""
    began = time.process_time()
    _read(text)
    with contextlib.suppress(ValueError):
        declared_instructions(text)
    assert time.process_time() - began < 2
