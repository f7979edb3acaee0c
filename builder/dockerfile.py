"""What a Dockerfile reads from its build context, as far as its text tells.

Pure. The text is parsed by `e2b-dockerfile-utils`, a port of BuildKit's own parser and word lexer, so that directives,
continuations, heredocs, quoting and the JSON form are read as BuildKit reads them
(https://docs.docker.com/reference/dockerfile/, BuildKit 0.2x). `reads` follows every stage, resolves variables with
what the file and `[image] arguments` declare, and lists the sources of COPY, ADD and RUN --mount=type=bind. It
promises to err on one side: where a source cannot be known, `everything` says why, and all of the context counts. A
heredoc, a `--from=`, an address are no sources; what may move under a fixed commit is listed. It must not know Git,
keys or which files exist.

Foreign input: lengths are bounded, and expansions that could take long are "not known".
"""

from __future__ import annotations

import csv
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from e2b_dockerfile_utils import ShellLex, parse_dockerfile_ast, parse_heredoc

from builder import requirements
from builder.errors import capped

if TYPE_CHECKING:
    from e2b_dockerfile_utils import DockerfileAst, DockerfileInstruction

LARGEST_DOCKERFILE_BYTES = 256 * 1024  # a guess, far above real ones
LONGEST_LINE_CHARACTERS = 60_000  # BuildKit's parser stops at 65,535 bytes
LONGEST_DIRECTIVE_CHARACTERS = 1000  # the parser's pattern takes long over longer ones
LONGEST_VALUE_CHARACTERS = 4096  # of a variable; they can double with every line
_DIRECTIVES = frozenset({"syntax", "escape", "check"})
_FRONTEND = re.compile(r"(docker\.io/)?docker/dockerfile(-upstream)?([:@].*)?")
_LONG_EXPANSION = re.compile(r"\$\{\w*[#%/]")  # ${name#pattern} and its like
_COPY_FLAGS = frozenset({
    "from", "chown", "chmod", "link", "parents", "exclude", "checksum", "keep-git-dir", "unpack",
})  # fmt: skip
_REMOTE = ("http://", "https://", "ftp://", "git://", "ssh://", "git@")
_MOUNTS_WITHOUT_CONTEXT = frozenset({"cache", "tmpfs", "secret", "ssh"})
_OF_THE_MACHINE = frozenset({"BUILDPLATFORM", "BUILDOS", "BUILDARCH", "BUILDVARIANT", "PATH"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One path that an instruction reads, relative to the context (`.` is all of it); a pattern, or to be taken so."""

    path: str
    is_pattern: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """What a Dockerfile reads: the sources that are known, in order; why that is not all, if so; what may move."""

    sources: tuple[Source, ...]
    everything: str | None
    mutable: tuple[str, ...]


class _UnknownError(Exception):
    """Something that decides what is read cannot be known; the message says what."""


def declared_instructions(text: str) -> str:
    """Return a Dockerfile without comments, blank lines and line wraps. ValueError where that is not understood."""
    ast = _parsed(text)
    lines = list(_directives(text))
    for one in ast.instructions:
        lines.append(one.original)
        lines += [f"{heredoc.content}{heredoc.name}" for heredoc in one.heredocs]
    canonical = "".join(f"{line}\n" for line in lines)
    if _meaning(_parsed(canonical)) != _meaning(ast):
        raise ValueError("its instructions are not understood one by one")
    return canonical


def reads(text: str, *, arguments: Mapping[str, str], platform: str) -> Reads:
    """Follow a Dockerfile; `platform` is `os/arch[/variant]`, `arguments` are those the build is given."""
    follower = _Follower(arguments=arguments, platform=platform)
    reasons: list[str] = []
    try:
        ast = _parsed(text)
    except ValueError as error:
        return Reads(sources=(), everything=f"the Dockerfile is not understood: {capped(str(error))}", mutable=())
    follower.escape = ast.escape_token
    steps: list[str | DockerfileInstruction] = [*_directives(text), *ast.instructions]
    for step in steps:
        try:
            follower.follow(step)
        except (_UnknownError, ValueError, csv.Error) as error:
            reasons.append(capped(str(error)))
    return Reads(
        sources=tuple(dict.fromkeys(follower.sources)),
        everything=reasons[0] if reasons else None,
        mutable=tuple(dict.fromkeys(follower.mutable)),
    )


def _parsed(text: str) -> DockerfileAst:
    if len(text) > LARGEST_DOCKERFILE_BYTES:
        raise ValueError(f"larger than {LARGEST_DOCKERFILE_BYTES} bytes")
    if text.startswith("#!") or "\0" in text:
        raise ValueError("it is no plain Dockerfile")
    for line in text.split("\n"):
        is_long = len(line) > (LONGEST_DIRECTIVE_CHARACTERS if line.startswith("#") else LONGEST_LINE_CHARACTERS)
        if is_long:
            raise ValueError("it has a line too long to be read")
    try:
        ast = parse_dockerfile_ast(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if any(len(one.original) > LONGEST_LINE_CHARACTERS for one in ast.instructions):
        raise ValueError("it has an instruction too long to be read")
    return ast


def _directives(text: str) -> Iterator[str]:
    """Yield the parser directives, which may only stand at the top."""
    for line in text.removeprefix("\ufeff").split("\n"):
        name, separator, _ = line.strip().removeprefix("#").partition("=")
        if not line.strip().startswith("#") or not separator or name.strip().lower() not in _DIRECTIVES:
            return
        yield line.strip()


def _meaning(ast: DockerfileAst) -> object:
    return ast.escape_token, [
        (one.name, one.original, one.flags, one.args, one.json, one.heredocs) for one in ast.instructions
    ]


@dataclass(slots=True, kw_only=True)
class _Stage:
    """The variables of a stage, None where one is set to what is not known; `is_closed`: no base image sets others."""

    is_closed: bool
    values: dict[str, str | None] = field(default_factory=dict)  # ENV, which wins
    arguments: dict[str, str | None] = field(default_factory=dict)


class _Variables(Mapping[str, str]):
    """The variables of a stage as the lexer asks for them; notes what was asked for and is not known."""

    def __init__(self, stage: _Stage) -> None:
        self._known = {**stage.arguments, **stage.values}
        self._is_closed = stage.is_closed
        self.unknown: str | None = None

    def __getitem__(self, name: str) -> str:
        value = self._known.get(name)
        is_unset = self._is_closed and name not in self._known
        if value is None and (not is_unset or name in _OF_THE_MACHINE or name.lower().endswith("_proxy")):
            self.unknown = name
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


class _Follower:
    """Goes through the instructions, stage by stage."""

    def __init__(self, *, arguments: Mapping[str, str], platform: str) -> None:
        self.escape = "\\"
        self.sources: list[Source] = []
        self.mutable: list[str] = []
        self._given = arguments
        system, _, rest = platform.partition("/")
        machine, _, variant = rest.partition("/")
        self._automatic = {
            "TARGETPLATFORM": platform, "TARGETOS": system, "TARGETARCH": machine, "TARGETVARIANT": variant,
        }  # fmt: skip
        self._global = _Stage(is_closed=True, arguments=dict(self._automatic))
        self._stage = self._global
        self._stages: dict[str, _Stage] = {}  # those with a name

    def follow(self, step: DockerfileInstruction | str) -> None:
        """Take one instruction or directive into account. _UnknownError if what it reads cannot be known."""
        if isinstance(step, str):
            self._take_directive(step)
        else:
            self._take(step)

    def _take_directive(self, line: str) -> None:
        """Refuse the language of another frontend, and note a frontend that may move."""
        name, _, value = line.removeprefix("#").partition("=")
        if name.strip().lower() == "syntax":
            if not _FRONTEND.fullmatch(value.strip()):
                raise _UnknownError(f"the Dockerfile is in another language ({value.strip()})")
            self._note_image(value.strip())

    def _take(self, instruction: DockerfileInstruction) -> None:
        match instruction.name:
            case "FROM":
                self._begin(instruction)
            case "ARG":
                for word in instruction.args:
                    self._declare(word)
            case "ENV":
                self._set(instruction.args)
            case "COPY" | "ADD":
                self._copy(instruction)
            case "RUN":
                for flag in instruction.flags:
                    self._mount(flag)
            case "ONBUILD":
                self._later(instruction.original)

    def _begin(self, instruction: DockerfileInstruction) -> None:
        if not instruction.args:
            raise _UnknownError("a FROM names no image")
        written = instruction.args[0]
        image = self._expanded(written, self._global)
        base = self._stages.get((image or "").lower())
        if base is not None:
            stage = _Stage(is_closed=base.is_closed, values=dict(base.values), arguments=dict(base.arguments))
        else:
            stage = _Stage(is_closed=image == "scratch")
            self._note_image(image or written)
            if (image or written).split("@")[0].endswith("onbuild"):
                raise _UnknownError(f"the image {image or written} reads the context by ONBUILD")
        self._stage = stage
        if len(instruction.args) > 2 and instruction.args[1].lower() == "as":  # noqa: PLR2004 - FROM image AS name
            self._stages[instruction.args[2].lower()] = stage

    def _note_image(self, image: str) -> None:
        is_stage = image.isdigit() or image.lower() in self._stages
        if image != "scratch" and "@sha256:" not in image and not is_stage:
            self.mutable.append(f"{image} is a tag, and may come to name another image (an @sha256: digest pins it)")

    def _declare(self, word: str) -> None:
        """Follow ARG: what the build is given, else the default, else what was declared before the first FROM."""
        name, separator, default = word.partition("=")
        if name in self._given:
            self._stage.arguments[name] = self._given[name]
        elif separator:
            self._stage.arguments[name] = self._bounded(default)
        elif name in self._global.arguments:
            self._stage.arguments[name] = self._global.arguments[name]

    def _set(self, args: list[str]) -> None:
        """Follow ENV; every value is resolved with what held before the instruction."""
        found = [(self._expanded(args[at]), self._bounded(args[at + 1])) for at in range(0, len(args) - 1, 3)]
        for name, value in found:
            if name is None:
                raise _UnknownError("an ENV sets a variable whose name is not known")
            self._stage.values[name] = value

    def _copy(self, instruction: DockerfileInstruction) -> None:
        flags = dict(_flag(flag) for flag in instruction.flags)
        for name in flags.keys() - _COPY_FLAGS:
            raise _UnknownError(f"{instruction.name} has an option --{name} that is not known here")
        origin = flags.get("from")
        if origin is not None and origin:
            if "$" in origin:
                raise _UnknownError(f"{instruction.name} --from={origin} depends on a variable")
            self._note_image(origin)
            return
        if len(instruction.args) < 2:  # noqa: PLR2004 - a source and where it goes
            raise _UnknownError(f"{instruction.original} names no source and place")
        for word in instruction.args[:-1]:
            is_heredoc = not instruction.json and word.lstrip("0123456789").startswith("<<") and parse_heredoc(word)
            if not is_heredoc:
                self._read(instruction.name, word, has_checksum="checksum" in flags)

    def _read(self, instruction: str, word: str, *, has_checksum: bool) -> None:
        path = self._expanded(word)
        shown = path if path is not None else word
        if instruction == "ADD" and shown.lower().startswith(_REMOTE):
            if not has_checksum and not requirements.is_fixed_address(shown) and not _is_fixed_git(shown):
                self.mutable.append(f"ADD {_without_secret(shown)} is fetched anew by each build")
            return
        if path is None:
            raise _UnknownError(f"{instruction} {word} depends on a variable that the Dockerfile does not set")
        self._add(path, is_pattern=True)

    def _add(self, path: str, *, is_pattern: bool) -> None:
        inside = posixpath.normpath(f"/{path}").lstrip("/") or "."
        if inside.split("/", 1)[0] == ".git":
            raise _UnknownError(f"the Dockerfile reads {inside}, and that follows from the whole history")
        self.sources.append(Source(path=inside, is_pattern=is_pattern))

    def _mount(self, flag: str) -> None:
        """Follow RUN --mount: a bind mount without `from` shows a part of the context."""
        name, value = _flag(flag)
        if name in {"network", "security", "device"}:
            return
        if name != "mount":
            raise _UnknownError(f"RUN has an option --{name} that is not known here")
        words = next(iter(csv.reader([value])), [])
        options = {key.strip().lower(): text for key, _, text in (word.partition("=") for word in words)}
        kind, origin = options.get("type", "bind").lower(), options.get("from")
        if "$" in kind or (origin is not None and "$" in origin):
            raise _UnknownError(f"RUN --mount={value} depends on a variable")
        if origin:
            self._note_image(origin)
            return
        if kind in _MOUNTS_WITHOUT_CONTEXT:
            return
        path = self._expanded(options.get("source", options.get("src", "")))
        if kind != "bind" or path is None:
            raise _UnknownError(f"what RUN --mount={value} shows is not known")
        self._add(path, is_pattern=False)

    def _later(self, original: str) -> None:
        """Follow ONBUILD, which a later stage of the same file may set off, with variables of its own."""
        rest = original.split(None, 1)[1:]
        if len(rest) != 1 or "<<" in rest[0] or "$" in rest[0]:
            raise _UnknownError("an ONBUILD instruction is not understood")
        for instruction in _parsed(f"# escape={self.escape}\n{rest[0]}\n").instructions:
            if instruction.name in {"FROM", "ONBUILD", "ARG", "ENV"}:
                raise _UnknownError("an ONBUILD instruction is not understood")
            self._take(instruction)

    def _bounded(self, word: str) -> str | None:
        value = self._expanded(word)
        return value if value is not None and len(value) <= LONGEST_VALUE_CHARACTERS else None

    def _expanded(self, word: str, stage: _Stage | None = None) -> str | None:
        """Resolve a word's variables and quotes as BuildKit does; None if a variable is not known."""
        if _LONG_EXPANSION.search(word):
            return None
        variables = _Variables(stage or self._stage)
        lexer = ShellLex(self.escape, env=variables, skip_unset_env=False)
        found = lexer.process_word(word)
        return None if variables.unknown is not None else found


def _flag(flag: str) -> tuple[str, str]:
    name, _, value = flag.removeprefix("--").partition("=")
    return name.lower(), value


def _is_fixed_git(address: str) -> bool:
    """Tell whether a Git address names a full commit: `…#<40 hex>[:folder]`."""
    return bool(re.search(r"#[0-9a-f]{40}(:|$)", address))


def _without_secret(address: str) -> str:
    return re.sub(r"//[^/@]*@", "//", address)
