"""Does the code in a completion compile? It is never executed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from labelers import compilers, python_code, python_lint, sql
from labelers.compile_examples import BETTER_AND_WORSE
from labelers.fences import Extract, extract
from labelers.languages import LANGUAGES, Language
from labelers.protocol import Context
from labelers.types import Abstain, Candidate, Example, Needs, Prompt, Score

Name = Literal["python", "c", "cpp", "javascript", "java", "go", "rust", "bash", "sql"]
Outcome = Score | Abstain

_TAGS = {"python": ("python", "py", "python3", "py3"), "sql": ("sql", *sql.DIALECTS, "postgresql")}
_TOKENISES, _PARSES, _COMPILES, _CLEAN = 1.0, 2.0, 3.0, 4.0
_MAX_INCLUDE_BYTES = 1 << 20


@dataclass(frozen=True)
class Compiles:
    """Prefers completions whose code compiles (score 1) to those whose code does not (score 0).

    ## What it prefers
    The code is taken out of the completion (`extract`), put behind other text if wanted (`before`), and given to a
    compiler that only checks it: Python's own `compile()`, `gcc` and `g++ -fsyntax-only`, `node --check`, `javac`,
    `go build`, `rustc --emit metadata`, `bash -n`, sqlglot. Nothing is executed. Silence does not pass: code that is
    empty, or only blanks, comments and statements that prepare for others (includes, imports), scores 0; so do, in
    Python, docstrings, `...`, `pass`, empty definitions and expressions without a call.

    ## Why
    Code that does not compile is wrong without any doubt, and finding out costs milliseconds, no model and no tests.
    `compile()` and not `ast.parse()`: that one accepts `return` outside a function and 19 other errors.

    ## Example
    `def add(a, b): return a + b` scores 1; `def add(a, b) return a + b` scores 0 with `line 1: expected ':'`.
    For sets whose prompt is the head of a function (HumanEval), set `before = "prompt"` and `extract = "whole"`.
    `score_as = "stage"` says how far it got: 1 it falls into tokens, 2 it parses, 3 it compiles, 4 it also lints clean
    (pyflakes; gcc and g++ `-Wall -Wextra`). Without 1 and 2 for compiled languages, without 4 for those but Python, C, C++.

    ## Known problems
    - Which version? The installed one; Python: the one that runs the labeler. C is gnu17, C++ gnu++20, Rust 2021.
    - Compilers see the system's headers and libraries and the code, no other file, and no package. C: a function that is
      not declared is an error, as from gcc 14 on. Java: the file is named after the public class, else `Main.java`, and
      methods without a class do not compile. JavaScript: a line that begins with `import` or `export` makes it a module.
      Rust is compiled as a library, so `main` may be missing. `bash -n` accepts most prose.
    - C and C++: code between `#ifdef` and `#endif` that is never compiled counts as code (`#if 0` does not).
    - A compiler that crashes, runs out of memory or over `timeout_s` is an abstention. A template bomb is one, too.
    - Python source that may hang or crash the compiler is not judged (abstains): over 200,000 tokens, 15 nested
      comprehensions, `finally` bodies that multiply, thousands of functions or of fields in an f-string; see
      python_code.py for the measurements. MemoryError and RecursionError of the compiler abstain as `crashed`.
    - SQL beyond 100,000 characters, or a statement that sqlglot skips (it calls them commands), is an abstention.
    - Text put before the code that does not itself compile makes every completion fail.
    """

    language: Name = "python"
    """The programming language."""
    dialect: str = ""
    """For SQL: postgres, mysql, sqlite, tsql, bigquery, ...; empty is standard SQL."""
    extract: Extract = "auto"
    """Where the code is: `auto` the first fenced block, else the whole text; `whole`; `fenced` (no block scores 0)."""
    before: Literal["nothing", "prompt", "target"] = "nothing"
    """The text that the completion continues, put before the code: the last user message, or the prompt's target."""
    include: Path | None = None
    """For C and C++: a folder of headers that the code may include besides the system's; at most 1 MiB."""
    score_as: Literal["pass", "stage"] = "pass"
    """`pass` 1 or 0; `stage` how far it got, 0 to 4."""
    timeout_s: float = 0.0
    """Seconds for one compiler; 0 takes the language's own: 2, C++ and Rust 5, Java 10, Go 30."""
    max_chars: int = 1_048_576
    """Longer code is not judged: 1 MiB, the size cap in isolation.md, layer L0."""

    _headers: ClassVar[Mapping[str, bytes]] = {}

    name = "compiles"
    version = "2"

    def __post_init__(self) -> None:
        if self.max_chars < 1:
            raise ValueError(f"max_chars is {self.max_chars}; hint: at least 1")
        if not 0 <= self.timeout_s <= 600:
            raise ValueError(f"timeout_s is {self.timeout_s}; hint: 0 for the language's own, at most 600")
        if self.dialect and (self.language != "sql" or self.dialect not in sql.DIALECTS):
            raise ValueError(f"dialect is {self.dialect!r}; hint: for language = sql, one of {', '.join(sql.DIALECTS)}")
        if self.include is not None:
            if self.language not in ("c", "cpp"):
                raise ValueError("include is for c and cpp")
            object.__setattr__(self, "_headers", _headers_in(self.include))

    @property
    def needs(self) -> Needs:
        """The language's compiler; nothing for Python and SQL."""
        language = self._compiled()
        return Needs(programs=(language.program,)) if language else Needs()

    @property
    def examples(self) -> Sequence[Example]:
        """Two for Python, one for each other language."""
        return [Example(Prompt.of(p), better=b, worse=w) for p, b, w in BETTER_AND_WORSE[self.language]]

    @property
    def pass_at(self) -> float:
        """It compiles."""
        return _COMPILES if self.score_as == "stage" else 1.0

    @property
    def reads(self) -> list[Path]:
        """The headers, for the fingerprint."""
        return [] if self.include is None else [self.include / name for name in sorted(self._headers)]

    def _compiled(self) -> Language | None:
        return None if self.language == "python" or self.language == "sql" else LANGUAGES[self.language]

    def score(self, batch: Sequence[Candidate], ctx: Context) -> Sequence[Outcome]:
        return [self._judge(candidate, ctx) for candidate in batch]

    def _judge(self, candidate: Candidate, ctx: Context) -> Outcome:
        before = self._text_before(candidate.prompt)
        if isinstance(before, Abstain):
            return before
        code = extract(candidate.completion.text, self.extract, self._tags())
        if code is None:
            return Score(0.0, "there is no fenced block")
        if len(before) + len(code) > self.max_chars:
            return Abstain(
                "not_applicable", f"{len(before) + len(code)} characters, more than max_chars={self.max_chars}"
            )
        match self.language:
            case "python":
                return _judge_python(before, code, stages=self.score_as == "stage")
            case "sql":
                return self._judge_sql(before + code)
            case _:
                return self._judge_compiled(LANGUAGES[self.language], before, code, ctx)

    def _tags(self) -> tuple[str, ...]:
        language = self._compiled()
        return language.tags if language else _TAGS[self.language]

    def _judge_compiled(self, language: Language, before: str, code: str, ctx: Context) -> Outcome:
        if language.is_silent(code):
            return Score(0.0, "there is no code: only blanks, comments, or statements that prepare for it")
        timeout_s = self.timeout_s or language.timeout_s
        first = compilers.judged(language, before + code, ctx, timeout_s=timeout_s, headers=self._headers)
        if self.score_as == "pass" or isinstance(first, Abstain) or not first.value:
            return first
        if not language.lint:
            return Score(_COMPILES, first.reason)
        lint = compilers.judged(language, before + code, ctx, timeout_s=timeout_s, headers=self._headers, lint=True)
        if isinstance(lint, Abstain):
            return lint
        return Score(_CLEAN, "it lints clean") if lint.value else Score(_COMPILES, "it compiles, with warnings")

    def _judge_sql(self, code: str) -> Outcome:
        found = sql.judged(code, self.dialect)
        if self.score_as == "pass" or isinstance(found, Abstain):
            return found
        if found.value:
            return Score(_COMPILES, found.reason)
        return Score(_TOKENISES if sql.tokenises(code, self.dialect) else 0.0, found.reason)

    def _text_before(self, prompt: Prompt) -> str | Abstain:
        match self.before:
            case "nothing":
                return ""
            case "prompt":
                texts = [m.content for m in prompt.messages if m.role == "user"]
                return texts[-1] if texts else Abstain("not_applicable", "before=prompt, but there is no user message")
            case "target":
                if prompt.target is None:
                    return Abstain("not_applicable", "before=target, but the prompt has no target")
                if not isinstance(prompt.target, str):
                    return Abstain("unparsable", "before=target, but the target is not text")
                return prompt.target


def _headers_in(folder: Path) -> dict[str, bytes]:
    """Relative name to content of every file below a folder. Raises: ValueError."""
    if not folder.is_dir():
        raise ValueError(f"include is {folder}, which is no folder")
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.resolve().is_relative_to(folder.resolve())
    )
    if sum(path.stat().st_size for path in files) > _MAX_INCLUDE_BYTES:
        raise ValueError(f"include is {folder}, which holds more than {_MAX_INCLUDE_BYTES} bytes")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _judge_python(before: str, code: str, *, stages: bool) -> Outcome:
    """1 when `before` + `code` compiles and `code` adds a statement that does something; with stages, how far it got."""
    before, code = _unix_newlines(before), _unix_newlines(code)
    source = before + code
    if not code.strip():
        return Score(0.0, "there is no code")
    if "\0" in source:
        return Score(0.0, "a NUL character, which Python source cannot contain")
    try:
        boundary = (before.count("\n") + 1, len(before.rpartition("\n")[2].encode()))
        tree = python_code.compiled(source) if stages else None
        says = python_code.says_something(tree, boundary) if tree else python_code.does_something(source, boundary)
    except UnicodeEncodeError:
        return Score(0.0, "a lone surrogate: the text cannot be written as UTF-8")
    except SyntaxError as error:
        return Score(python_code.stage(source) if stages else 0.0, f"line {error.lineno}: {error.msg}")
    except python_code.TooHard as error:
        return Abstain("not_applicable", f"not given to the compiler: {error}")
    except (MemoryError, RecursionError) as error:
        return Abstain("crashed", f"the compiler gave up: {type(error).__name__}")
    if not says:
        return Score(0.0, "it compiles, but does nothing: only comments, docstrings, `...`, `pass` or bare expressions")
    if tree is None:
        return Score(1.0, "it compiles")
    complaints = python_lint.complaints(tree)
    return Score(_COMPILES, f"it compiles; {complaints[0]}") if complaints else Score(_CLEAN, "it lints clean")


def _unix_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
