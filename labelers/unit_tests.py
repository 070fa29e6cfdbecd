"""Does the code in a completion pass the prompt's tests? It is run, in the sandbox; what is right is known only outside of it."""

from __future__ import annotations

import marshal
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from labelers.fences import Extract, extract
from labelers.protocol import Context, Program, Ran
from labelers.types import Abstain, Candidate, Example, Needs, Prompt, Score
from labelers.unit_test_asserts import Case, NotApart
from labelers.unit_test_targets import NoTests, Plan, plan_of, same_output
from labelers.unit_test_values import Reply, Unreadable, replies

_CHILD = Path(__file__).with_name("unit_test_child.py").read_bytes()
_MAX_RUNS = 50
_TAGS = ("python", "py", "python3", "py3")
_EXAMPLES = (
    Example(
        Prompt.of("Write add(a, b).", target=["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]),
        better="```python\ndef add(a, b):\n    return a + b\n```",
        worse="```python\ndef add(a, b):\n    return a - b\n```",
    ),
    Example(
        Prompt.of("Double the number you read.", target={"inputs": ["2\n", "5\n"], "outputs": ["4\n", "10\n"]}),
        better="print(int(input()) * 2)",
        worse="print(4)",
    ),
)


@dataclass(frozen=True)
class Tests:
    """Prefers completions that pass more of the prompt's tests (the fraction passed, 0 to 1).

    ## What it prefers
    The code is run in the sandbox, once for all tests of functions, once for each test by standard input. The right
    answers never enter the sandbox: of `assert f(3) == 9` the process is asked for `f(3)`, and the comparison is made
    outside, on a value of builtin types. What is printed, an exit code, a patched harness prove nothing. Code that
    crashes or runs out of time fails the tests that it has not answered.

    The prompt's target holds the tests, in one of these formats:
    - HumanEval: `{"prompt": ..., "test": "def check(candidate): ...", "entry_point": "f"}`
    - MBPP: `["assert f(3) == 9", ...]` or `{"test_list": [...], "test_setup_code": ""}`
    - APPS: `{"inputs": ["3\\n"], "outputs": ["9\\n"]}`, with `fn_name` arguments and values instead of texts
    - plain: `{"tests": [{"call": "f(3)", "expected": 9}, {"input": "3\\n", "expected": "9\\n"}]}`, also
      `{"args": [3], "expected": 9}` with `entry_point` beside `tests`

    ## Why
    Passing tests is the strongest machine-made label for code: pairs by tests gave +4.8 % on HumanEval and MBPP (field notes).

    ## Example
    For `["assert add(1, 2) == 3"]`, `def add(a, b): return a + b` scores 1, `def add(a, b): raise SystemExit(0)` scores 0.

    ## Known problems
    - It runs untrusted code: off unless the run's config allows `sandbox`, and only in bubblewrap with Landlock.
    - A test that cannot be taken apart (random inputs, `try`, helper functions of the test) is an abstention
      (not_applicable): `for` over literals, `abs(f(x) - y) < eps`, `math.isclose`, `len`, `in`, `is`, `not`, `and`, `or` can.
    - A value of a class of the completion's own equals nothing; subclasses of int, str, list are such values.
    - Only the standard library is there; no network, no new processes (threads are allowed), 64 MiB of files.
    - Outputs on stdout are compared without blanks at ends of lines; numbers in them are compared as text.
    - A completion that tells from the inputs what is tested passes: few tests are weak tests.
    """

    extract: Extract = "auto"
    """Where the code is: `auto` the first fenced block, else the whole text; `whole`; `fenced` (no block scores 0)."""
    score_as: Literal["fraction", "all"] = "fraction"
    """`fraction` of the tests that pass; `all`: 1 when all pass, else 0."""
    before: Literal["auto", "nothing", "prompt"] = "auto"
    """The code that the completion continues: `auto` the target's `prompt`; `prompt` the last user message; `nothing`."""
    timeout_s: float = 3.0
    """Seconds for one process, on the wall clock. Source: HumanEval's own harness."""
    memory_mb: int = 1024
    """Address space of one process, in 2^20 bytes."""
    max_chars: int = 262_144
    """Longer code is not judged."""

    name = "tests"
    version = "1"
    needs = Needs(sandbox=True, programs=("python3",))
    examples = _EXAMPLES
    pass_at = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s <= 600:
            raise ValueError(f"timeout_s is {self.timeout_s}; hint: more than 0, at most 600")
        if not 64 <= self.memory_mb <= 65536:
            raise ValueError(f"memory_mb is {self.memory_mb}; hint: 64 to 65536")

    def score(self, batch: Sequence[Candidate], ctx: Context) -> Sequence[Score | Abstain]:
        return [self._judge(candidate, ctx) for candidate in batch]

    def _judge(self, candidate: Candidate, ctx: Context) -> Score | Abstain:
        try:
            plan = plan_of(candidate.prompt)
        except NoTests as error:
            return Abstain("unparsable" if candidate.prompt.target is not None else "not_applicable", str(error))
        except NotApart as error:
            return Abstain(
                "not_applicable", f"a test cannot be judged outside of the completion's process: {error}"[:200]
            )
        if len(plan.runs) > _MAX_RUNS:
            return Abstain("not_applicable", f"{len(plan.runs)} tests by standard input, more than {_MAX_RUNS}")
        code = extract(candidate.completion.text, self.extract, _TAGS)
        if code is None:
            return Score(0.0, "there is no fenced block")
        if len(code) > self.max_chars:
            return Abstain("not_applicable", f"{len(code)} characters, more than max_chars={self.max_chars}")
        sources = self._sources(plan, candidate.prompt, code)
        try:
            contents = [source.encode("utf-8") for source, _ in sources]
        except UnicodeEncodeError:
            return Score(0.0, "a lone surrogate: the text cannot be written as UTF-8")
        if not code.strip():
            return Score(0.0, "there is no code")
        return self._run_all(plan, b"\n".join(contents), ctx) if plan.runs else self._ask_all(plan, sources, ctx)

    def _sources(self, plan: Plan, prompt: Prompt, code: str) -> list[tuple[str, bool]]:
        """The texts to execute, in order, and whether each must run through."""
        head = plan.head if self.before == "auto" else ""
        if self.before == "prompt":
            texts = [message.content for message in prompt.messages if message.role == "user"]
            head = texts[-1] if texts else ""
        defines = re.search(rf"^\s*(?:async\s+)?def\s+{re.escape(plan.entry_point)}\b", code, re.MULTILINE)
        if head and not (plan.entry_point and defines):
            return [(head + code, True), (plan.setup, False)]
        return [(head, False), (code, True), (plan.setup, False)] if head else [(code, True), (plan.setup, False)]

    def _ask_all(self, plan: Plan, sources: list[tuple[str, bool]], ctx: Context) -> Score | Abstain:
        asked = [expression for case in plan.cases for expression in case.expressions]
        order = marshal.dumps({"sources": sources, "expressions": asked})
        program = Program(
            ("python3", "-s", "-S", "-P", "tests.py"),
            {"tests.py": _CHILD},
            order,
            self.timeout_s,
            self.memory_mb,
            1 << 20,
        )
        ran = ctx.run_program(program)
        if undecided := self._undecided(ran):
            return undecided
        try:
            found, broken = replies(ran.stdout)
        except Unreadable as error:
            return Score(0.0, f"the completion's process wrote what is no value: {error}")
        if broken is not None:
            return Score(0.0, f"the code does not run: {broken}"[:200])
        return self._counted([_passes(case, part) for case, part in _shared_out(plan.cases, found)], _ending(ran))

    def _run_all(self, plan: Plan, code: bytes, ctx: Context) -> Score | Abstain:
        problems: list[str | None] = []
        for given, expected in plan.runs:
            stdin = given.encode("utf-8", "replace")
            ran = ctx.run_program(
                Program(
                    ("python3", "-s", "-P", "main.py"),
                    {"main.py": code},
                    stdin,
                    self.timeout_s,
                    self.memory_mb,
                    1 << 20,
                )
            )
            if undecided := self._undecided(ran):
                return undecided
            if ran.ended != "exited" or ran.exit_code != 0:
                problems.append(f"{_ending(ran)}: {_last_line(ran.stderr)}")
            else:
                right = same_output(ran.stdout.decode("utf-8", "replace"), expected)
                problems.append(None if right else f"for the input {given[:30]!r} it wrote something else")
            if ran.ended == "timeout" and self.score_as == "all":
                break
        return self._counted(problems, "")

    def _undecided(self, ran: Ran) -> Abstain | None:
        """The harness's own failures: the sandbox died, or did not answer in time."""
        if ran.ended == "timeout" and ran.seconds < self.timeout_s:
            return Abstain("timeout", "the sandbox did not answer")
        if ran.ended == "killed" and ran.seconds == 0:
            return Abstain("crashed", "the sandbox died")
        if ran.ended == "exited" and ran.stderr.startswith(b"the launcher could not start it"):
            return Abstain("crashed", _last_line(ran.stderr))
        return None

    def _counted(self, problems: list[str | None], ending: str) -> Score:
        passed = sum(problem is None for problem in problems)
        first = next((problem for problem in problems if problem is not None), "")
        reason = (
            f"{passed} of {len(problems)} tests pass"
            + (f"; {first}" if first else "")
            + (f"; {ending}" if ending else "")
        )
        value = passed / len(problems) if self.score_as == "fraction" else float(passed == len(problems))
        return Score(value, "".join(c if c.isprintable() else "?" for c in reason)[:300])


def _shared_out(cases: Sequence[Case], found: list[Reply]) -> list[tuple[Case, list[Reply]]]:
    """Each case with the replies to its own expressions; fewer where the process ended before."""
    shared, position = [], 0
    for case in cases:
        n = len(case.expressions)
        shared.append((case, found[position : position + n]))
        position += n
    return shared


def _passes(case: Case, found: list[Reply]) -> str | None:
    """None, or why the case does not pass."""
    if len(found) < len(case.expressions):
        return f"no answer to {case.expressions[0][:60]}"
    if failed := next((reply for reply in found if reply.error is not None), None):
        return f"{case.text}: {failed.error}"
    try:
        return None if case.holds([reply.value for reply in found]) else f"not {case.text}"
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError, MemoryError) as error:
        return f"{case.text}: {type(error).__name__}"


def _ending(ran: Ran) -> str:
    match ran.ended:
        case "timeout":
            return f"it had not finished after {ran.seconds:.1f} s"
        case "killed":
            return "it was killed: out of memory, or a crash"
        case "output":
            return "it wrote too much"
        case "exited":
            return f"it ended with exit code {ran.exit_code}" if ran.exit_code else ""


def _last_line(text: bytes) -> str:
    lines = [line for line in text.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1][:120] if lines else "no message"
