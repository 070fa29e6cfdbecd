"""What a compiler says about a text, through `ctx.run_program`: compiles, does not, or cannot be said."""

from __future__ import annotations

import re
from collections.abc import Mapping

from labelers.languages import Language
from labelers.protocol import Context, Program, Ran
from labelers.types import Abstain, Score

_GAVE_UP = re.compile(
    r"out of memory|out of resources|memory exhausted|cannot allocate|can't allocate|bad_alloc|memory allocation|"
    r"OutOfMemory|not enough memory|insufficient memory|Could not reserve|StackOverflow|stack overflow|"
    r"resource temporarily unavailable|cannot fork|unable to create|failed to spawn|signal terminated program|"
    r"internal compiler error|compiler unexpectedly panicked|No space left|Too many open files|Killed",
    re.IGNORECASE,
)
"""The spellings of "it was not the text's fault" that gcc, javac, node, rustc, go and bash write and then exit with 1."""
_PATH = re.compile(r"(?:/[\w.+@~-]+)+/")
REASON_CHARS = 200
MAX_OUTPUT = 1 << 20
"""Warnings of ordinary code fit by far; a flood of them is undecided."""


def judged(
    language: Language, code: str, ctx: Context, *, timeout_s: float, headers: Mapping[str, bytes], lint: bool = False
) -> Score | Abstain:
    """1 when the compiler accepts the text, 0 when it refuses it; an abstention when it ended in any other way.

    Args:
        headers: files laid into the folder `include` beside the code.
        lint: the second run, with more warnings: 1 only when the compiler has nothing to say.
    """
    if language.is_silent(code):
        return Score(0.0, "there is no code: only blanks, comments, or statements that prepare for it")
    if "\0" in code:
        return Score(0.0, "a NUL character")
    try:
        content = code.encode("utf-8")
    except UnicodeEncodeError:
        return Score(0.0, "a lone surrogate: the text cannot be written as UTF-8")
    name, words = language.command(code)
    words = (*(language.lint if lint else language.quiet), *words)
    files = {name: content, **{f"include/{path}": header for path, header in headers.items()}}
    command = (language.program, *words)
    ran = ctx.run_program(Program(command, files, b"", timeout_s, language.memory_mb, MAX_OUTPUT))
    if lint and ran.ended == "exited":
        return Score(float(ran.exit_code == 0 and not ran.stderr.strip()))
    return _read(language, ran, name, code)


def _read(language: Language, ran: Ran, name: str, code: str) -> Score | Abstain:
    said = ran.stderr.decode("utf-8", "replace")
    match ran.ended:
        case "timeout":
            return Abstain("timeout", f"{language.program} had not finished after {ran.seconds:.1f} s")
        case "killed":
            return Abstain("crashed", f"{language.program} was killed")
        case "output":
            return Abstain("crashed", f"{language.program} wrote too much")
        case "exited" if ran.exit_code == 0:
            return Score(1.0, "it compiles")
    own = [line for line in said.splitlines() if not line.startswith((name, f"./{name}")) and line.strip() not in code]
    if ran.exit_code not in language.failed or _GAVE_UP.search("\n".join(own)):
        return Abstain("crashed", f"{language.program} gave up with exit code {ran.exit_code}: {shown(said)}")
    return Score(0.0, shown(said))


def shown(said: str) -> str:
    """The first line of a compiler's words that tells of an error: cut, escaped, without the folders in it."""
    lines = [line for line in said[: 1 << 16].splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"error|Error|unexpected|: line \d|:\d+:", line)]
    line = (telling or lines or ["the compiler does not say why"])[0]
    line = _PATH.sub("", line[: 4 * REASON_CHARS])
    return "".join(c if c.isprintable() else "?" for c in line)[:REASON_CHARS]
