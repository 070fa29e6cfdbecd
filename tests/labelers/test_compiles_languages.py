"""Does code of other languages compile? The verdicts, silence, hostile texts, stages, and what stays undecided."""

# ruff: noqa: E501  one text is one line

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import pytest

from labelers.compile_examples import BETTER_AND_WORSE
from labelers.compilers import shown
from labelers.discovery import build
from labelers.errors import OptionError
from labelers.languages import LANGUAGES, Compiled
from labelers.programs import Launcher
from labelers.protocol import Program, Ran
from labelers.types import Abstain, Candidate, Completion, Needs, Prompt, Score
from tests.labelers.running import judge, left_running, opened

COMPILED: tuple[Compiled, ...] = get_args(Compiled)


@pytest.fixture(scope="module")
def launchers() -> Iterator[dict[str, Launcher]]:
    """One launcher for each language whose compiler is here."""
    found: dict[str, Launcher] = {}
    here = {name: language for name, language in LANGUAGES.items() if shutil.which(language.program)}
    gnu = {name for name in here if name in ("c", "cpp", "bash")}
    with ExitStack() as stack:
        for names in (gnu, set(here) - gnu):
            needs = Needs(programs=("python3", *{here[name].program for name in names}))
            found.update(dict.fromkeys(names, stack.enter_context(opened(needs))))
        yield found


def ask(launchers: dict[str, Launcher], language: str, text: str, **options: Any) -> Score | Abstain:
    if language not in launchers:
        pytest.skip(f"{LANGUAGES[language].program} is not installed")  # type: ignore[index]
    return judge(launchers[language], "compiles", text, language=language, **options)


def value_of(answer: Score | Abstain) -> float | str:
    return answer.value if isinstance(answer, Score) else answer.kind


RIGHT = {
    "c": [
        "#include <stdio.h>\nint main(void) { puts(\"hi\"); return 0; }",
        "Here it is:\n```c\nint x;\n```\nDone.",
        "/* c */ // d\nint f(int a) { return a; }",
    ],
    "cpp": ["#include <vector>\nint main() { std::vector<int> v{1}; return v[0]; }", "template <class T> T f(T a) { return a; }"],
    "javascript": ["console.log(1)", "import fs from 'fs';\nexport const a = 1;", "async function f() { await g(); }", "#!/usr/bin/env node\nf()"],
    "java": ["public class Big { public static void main(String[] a) { System.out.println(1); } }", "record P(int x) {}"],
    "go": ["package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println(1) }"],
    "rust": ["fn main() { println!(\"{}\", 1); }", "pub struct P { pub x: i32 }"],
    "bash": ["for i in 1 2; do echo $i; done", "f() { echo 1; }\nf"],
}  # fmt: skip
WRONG = {
    "c": ["int main(void) { return x; }", "int f( {", "int f(void) { g(); return 0; }", "#include \"nothing.h\"\nint x;", "#error out of memory\nint x;", "#if 0\n"],
    "cpp": ["int main() { return x; }", "template <class T> T f(T a) { return a }", "static_assert(false, \"out of memory\");"],
    "javascript": ["let a; let a;", "function f( {", "const a;", "I think that this is it."],
    "java": ["class A { int f() { return \"a\"; } }", "class A {", "int add(int a) { return a; }"],
    "go": ["package main\n\nimport \"os\"\n\nfunc main() {}", "package main\n\nfunc main() { x := 1 }", "func main() {"],
    "rust": ["fn f() -> i32 { \"a\" }", "fn f( {", "fn f() { let a = String::new(); drop(a); drop(a); }"],
    "bash": ["for i in 1 2; do echo $i", "if true; then", "echo $(", "case x in"],
}  # fmt: skip
SILENT = {
    "c": ["", " \n\t", "// a\n/* b */", "#include <stdio.h>\n#define X 1\\\n 2\n// c", "#if 0\nint x;\n#endif", ";;", "/* never closed"],
    "cpp": ["", "// using std\n", "#pragma once\n"],
    "javascript": ["", "// a\n/* b */;", "'use strict';", "#!/usr/bin/env node\n// x", "{}"],
    "java": ["", "// a", "package a;\nimport java.util.List;\n/* b */"],
    "go": ["", "package main\n// a", "package main\nimport \"fmt\"\n", "package main\nimport (\n\t\"fmt\"\n)\n"],
    "rust": ["", "// a\n/// b", "use std::fs;\n", "#![allow(dead_code)]\n// x"],
    "bash": ["", "# a\n\n# b", "#!/bin/bash\n: \n"],
}  # fmt: skip


@pytest.mark.parametrize(("language", "text"), [(k, t) for k, texts in RIGHT.items() for t in texts])
def test_code_that_compiles_scores_1(launchers: dict[str, Launcher], language: str, text: str) -> None:
    answer = ask(launchers, language, text)
    assert value_of(answer) == 1, answer


@pytest.mark.parametrize(("language", "text"), [(k, t) for k, texts in WRONG.items() for t in texts])
def test_code_that_does_not_compile_scores_0(launchers: dict[str, Launcher], language: str, text: str) -> None:
    answer = ask(launchers, language, text)
    assert value_of(answer) == 0, answer


@pytest.mark.parametrize(("language", "text"), [(k, t) for k, texts in SILENT.items() for t in texts])
def test_silence_does_not_pass(launchers: dict[str, Launcher], language: str, text: str) -> None:
    assert value_of(ask(launchers, language, text)) == 0


@pytest.mark.parametrize("language", [*COMPILED, "sql", "python"])
def test_each_language_ranks_its_examples_right(launchers: dict[str, Launcher], language: str) -> None:
    for _, better, worse in BETTER_AND_WORSE[language]:
        anyone = launchers | {language: next(iter(launchers.values()))} if language in ("sql", "python") else launchers
        assert (value_of(ask(anyone, language, better)), value_of(ask(anyone, language, worse))) == (1, 0)


HOSTILE = {
    "a NUL": "int x\0;",
    "only NUL": "\0",
    "a lone surrogate": "x = '\ud800'",
    "10 MB in a line": "a" * 10_000_000,
    "1 MB in a line": "a" * 1_000_000,
    "deep brackets": "(" * 100_000,
    "deep braces": "{" * 50_000 + "}" * 50_000,
    "a million digits": "int x = " + "9" * 500_000 + ";",
    "escape codes": "\x1b]0;title\x07\x1b[31m red",
    "a byte order mark": "\ufeff",
    "fake fences": "```\n```\n~~~",
    "SystemExit": "raise SystemExit(0)",
}  # fmt: skip


ACCEPTED = {
    ("bash", "1 MB in a line"),
    ("bash", "escape codes"),
    ("bash", "a million digits"),
    ("javascript", "1 MB in a line"),
    ("c", "a million digits"),
    ("cpp", "a million digits"),
}
"""A long name is a name; gcc takes a number that is too large, with a warning."""


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("language", [*COMPILED, "sql"])
def test_a_hostile_text_never_passes_and_leaves_nothing(
    launchers: dict[str, Launcher], language: str, name: str
) -> None:
    if language == "bash" and name == "SystemExit":
        pytest.skip("`raise SystemExit(0)` is a syntax error there too, by chance")
    anyone = launchers | {"sql": next(iter(launchers.values()))}
    started = time.monotonic()
    answer = ask(anyone, language, HOSTILE[name])
    if (language, name) not in ACCEPTED:
        assert value_of(answer) != 1, answer
    assert answer.reason.isprintable()
    limit_s = LANGUAGES[language].timeout_s if language in LANGUAGES else 2.0  # type: ignore[index]
    assert time.monotonic() - started < limit_s + 20
    assert left_running(next(iter(launchers.values()))) == []


C_BOMBS = {
    "a device": '#include "/dev/zero"\nint x;',
    "a random device": '#include "/dev/urandom"\nint x;',
    "the password file": '#include "/etc/passwd"\nint x;',
    "the shadow file, next": '#include_next "/etc/shadow"\nint x;',
    "a file of this process": '#include "/proc/self/environ"\nint x;',
    "itself": '#include "code.c"\nint x;',
    "embed": '#if __has_embed("/etc/passwd")\n#error it is there\n#endif\n#embed "/etc/passwd"\nint x = 1 +;',
    "macro bomb": "#define A B B B B B B B B B B\n#define B C C C C C C C C C C\n#define C D D D D D D D D D D\n#define D E E E E E E E E E E\n#define E F F F F F F F F F F\n#define F G G G G G G G G G G\n#define G H H H H H H H H H H\n#define H 1,\nint x[] = { A A };",
    "deep nesting": "int x = " + "(" * 200_000 + "1" + ")" * 200_000 + ";",
    "deep pointers": "int " + "*" * 300_000 + "p;",
    "a plugin by pragma": '#pragma GCC plugin "/tmp/x.so"\nint x = ;',
    "another file's name": '#line 1 "/etc/shadow"\nint x = ;',
    "message with escapes": '#pragma message "\x1b[31mred"\nint x = ;',
    "unknown directive": "#\x1b[31m\nint x = ;",
}  # fmt: skip


@pytest.mark.parametrize("bomb", C_BOMBS)
def test_a_bomb_in_c_does_not_pass_and_quotes_no_file(launchers: dict[str, Launcher], bomb: str) -> None:
    started = time.monotonic()
    answer = ask(launchers, "c", C_BOMBS[bomb])
    assert value_of(answer) != 1, answer
    assert "root:" not in answer.reason
    assert "/" not in answer.reason.replace("</", "")
    assert answer.reason.isprintable()
    assert time.monotonic() - started < 30
    assert left_running(launchers["c"]) == []


def test_a_file_is_not_even_there_to_be_asked_for(launchers: dict[str, Launcher]) -> None:
    for path in ("/etc/passwd", "/dev/zero", "/work/main/README.md", str(Path(__file__))):
        code = f'#if __has_include("{path}")\n#error it is there\n#endif\nint x;'
        assert value_of(ask(launchers, "c", code)) == 1, path


CPP_BOMBS = {
    "templates": "template <int N> struct A { static constexpr int v = A<N - 1>::v + A<N - 2>::v; };\nint x = A<100000>::v;",
    "constexpr": "constexpr int f(int n) { return n < 2 ? n : f(n - 1) + f(n - 2); }\nconstexpr int x = f(60);",
    "doubling types": "template <class T, class U> struct P {};\n" + "template <int N> struct B { typedef P<typename B<N-1>::t, typename B<N-1>::t> t; };\ntemplate <> struct B<0> { typedef int t; };\nB<899>::t x; int y = x;",
}  # fmt: skip


@pytest.mark.parametrize("bomb", CPP_BOMBS)
def test_a_bomb_in_cpp_does_not_pass(launchers: dict[str, Launcher], bomb: str) -> None:
    started = time.monotonic()
    answer = ask(launchers, "cpp", CPP_BOMBS[bomb])
    assert value_of(answer) != 1, answer
    assert time.monotonic() - started < 30


OTHER_BOMBS = [
    ("rust", "fn f() { include!(\"/etc/passwd\"); }"),
    ("rust", "const S: &str = include_str!(\"/etc/passwd\");"),
    ("rust", "macro_rules! m { ($($t:tt)*) => { m!($($t)* $($t)*); } }\nm!(a);"),
    ("rust", "const fn f(n: u64) -> u64 { let mut i = 0; while i < n { i += 1; } i }\npub const X: u64 = f(1 << 60);"),
    ("java", "class A { int x = " + "(" * 5_000 + "1" + ")" * 5_000 + "; int y = z; }"),
    ("java", "class A { String s = " + " + ".join(['"a"'] * 6_000) + "; int y = z; }"),
    ("javascript", "(" * 100_000 + ")" * 100_000),
    ("javascript", "`${" * 20_000),
    ("bash", "$(" * 20_000),
    ("bash", "if true; then\n" * 20_000),
    ("go", "package main\nimport _ \"embed\"\n//go:embed /etc/passwd\nvar s string\nfunc main() {}"),
]  # fmt: skip


@pytest.mark.parametrize(("language", "text"), OTHER_BOMBS)
def test_a_bomb_in_another_language_does_not_pass(launchers: dict[str, Launcher], language: str, text: str) -> None:
    answer = ask(launchers, language, text, timeout_s=2.0)
    assert value_of(answer) != 1, answer
    assert "root:" not in answer.reason
    assert left_running(launchers[language]) == []


class Ends:
    """A context whose compiler ends as told."""

    def __init__(self, ran: Ran) -> None:
        self.ran = ran

    def run_program(self, program: Program) -> Ran:
        return self.ran


@pytest.mark.parametrize(
    ("ran", "expected"),
    [
        (Ran("timeout", seconds=2.0), "timeout"),
        (Ran("killed"), "crashed"),
        (Ran("output"), "crashed"),
        (Ran("exited", 4, stderr=b"code.c:1: internal compiler error: Segmentation fault"), "crashed"),
        (Ran("exited", 127), "crashed"),
        (Ran("exited", 1, stderr=b"cc1: out of memory allocating 65536 bytes"), "crashed"),
        (Ran("exited", 1, stderr=b"gcc: fatal error: Killed signal terminated program cc1"), "crashed"),
        (Ran("exited", 1, stderr=b"virtual memory exhausted: Cannot allocate memory"), "crashed"),
        (
            Ran("exited", 1, stderr=b"gcc: fatal error: cannot execute 'cc1': vfork: Resource temporarily unavailable"),
            "crashed",
        ),
        (Ran("exited", 1, stderr=b"code.c:1:2: error: #error out of memory"), 0.0),
        (Ran("exited", 1, stderr=b""), 0.0),
        (Ran("exited", 0, stderr=b"cc1: out of memory"), 1.0),
    ],
)
def test_how_a_compiler_ended_decides_what_is_known(ran: Ran, expected: float | str) -> None:
    prompt = Prompt.of("?")
    labeler: Any = build("compiles", {"language": "c"})
    (answer,) = labeler.score([Candidate(prompt, Completion.of(prompt, "int x;"))], Ends(ran))
    assert value_of(answer) == expected


def test_a_diagnostic_is_one_short_printable_line_without_folders() -> None:
    said = "In file included from x\n/home/me/secret/code.c:1:2: error: \x1b[31m\u202e" + "x" * 900
    assert shown(said) == "code.c:1:2: error: ?[31m?" + "x" * 175


STAGES = [
    ("python", "'never closed", 0.0), ("python", "def f(:", 1.0), ("python", "return 1", 2.0), ("python", "import os\nx = f()", 3.0),
    ("python", "def f(a):\n    return a + 1\n\n\nprint(f(1))", 4.0), ("c", "int f( {", 0.0), ("c", "int f(int a) { int b; return a; }", 3.0),
    ("c", "int f(int a) { return a; }", 4.0), ("cpp", "int f(int a) { return 1; }", 3.0), ("javascript", "f()", 3.0),
    ("sql", "SELECT (", 1.0), ("sql", "SELECT 'a", 0.0), ("sql", "SELECT 1", 3.0),
]  # fmt: skip


@pytest.mark.parametrize(("language", "text", "stage"), STAGES)
def test_stages_say_how_far_it_got(launchers: dict[str, Launcher], language: str, text: str, stage: float) -> None:
    anyone = launchers | dict.fromkeys(("sql", "python"), next(iter(launchers.values())))
    assert value_of(ask(anyone, language, text, score_as="stage")) == stage


def test_include_shows_one_folder_of_headers(launchers: dict[str, Launcher], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.h").write_text("typedef int own;\n")
    code = '#include "mine/own.h"\n#include <mine/own.h>\nown x;'
    assert value_of(ask(launchers, "c", code)) == 0
    assert value_of(ask(launchers, "c", code, include=str(tmp_path))) == 1
    labeler: Any = build("compiles", {"language": "c", "include": str(tmp_path)})
    assert labeler.reads == [tmp_path / "mine" / "own.h"]


SQL = [
    ("", "SELECT a, count(*) FROM t GROUP BY a HAVING count(*) > 1;", 1.0), ("", "CREATE TABLE t (a int); INSERT INTO t VALUES (1);", 1.0),
    ("", "WITH a AS (SELECT 1 AS x) SELECT * FROM a", 1.0), ("", "UPDATE t SET a = 1 WHERE b = 2", 1.0), ("", "SELECT FROM t", 0.0),
    ("", "SELEC a FROM t", 0.0), ("", "SELECT * FROM", 0.0), ("", "hello world", 0.0), ("", "a", 0.0), ("", "42", 0.0), ("", "", 0.0),
    ("", "-- nothing\n/* at all */ ;", 0.0), ("postgres", "SELECT a::int, b ->> 'x' FROM t", 1.0), ("mysql", "SELECT `a` FROM `t` LIMIT 1, 2", 1.0),
    ("", "SELECT 1" + "+1" * 400, 1.0), ("", "SELECT " + "(" * 3000 + "1" + ")" * 3000, "not_applicable"),
    ("", "SELECT " + "1," * 200_000 + "1", "not_applicable"),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "text", "expected"), SQL)
def test_sql_is_held_to_statements_of_the_dialect(
    ask_alone: Any, dialect: str, text: str, expected: float | str
) -> None:
    assert ask_alone("compiles", text, language="sql", dialect=dialect) == expected


@pytest.fixture
def ask_alone(value: Any) -> Any:
    """Without a launcher: nothing but Python is needed."""
    return value


def test_sql_of_many_operators_is_undecided_or_judged_in_time(ask_alone: Any) -> None:
    started = time.process_time()
    assert ask_alone("compiles", "SELECT " + "a+" * 49_000 + "a", language="sql") != 0.0
    assert time.process_time() - started < 4


@pytest.mark.parametrize(
    "options",
    [{"language": "c", "dialect": "mysql"}, {"language": "sql", "dialect": "klingon"}, {"timeout_s": -1.0},
     {"include": "/nowhere", "language": "c"}, {"include": "/tmp"}],
)  # fmt: skip
def test_an_option_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        build("compiles", options)


@pytest.mark.parametrize("language", [*COMPILED, "sql", "python"])
def test_the_needs_name_the_compiler(language: str) -> None:
    labeler: Any = build("compiles", {"language": language})
    expected = (LANGUAGES[language].program,) if language in LANGUAGES else ()  # type: ignore[index]
    assert labeler.needs == Needs(programs=expected)
