"""A prompt's target as tests: the formats that published data sets have, read into questions and right answers."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labelers.types import Prompt
from labelers.unit_test_asserts import Case, NotApart, cases_of, imported


class NoTests(Exception):
    """The target holds no tests that can be read."""


@dataclass(frozen=True)
class Plan:
    """What to do with a completion.

    Args:
        head: code that the completion continues or relies on, run first.
        setup: code of the tests that the expressions need, run after the completion.
        cases: questions for one process.
        runs: (stdin, expected stdout): one process each; then there are no cases.
        entry_point: the function that is asked for, where the target names it.
    """

    head: str = ""
    setup: str = ""
    cases: tuple[Case, ...] = ()
    runs: tuple[tuple[str, str], ...] = ()
    entry_point: str = ""


def plan_of(prompt: Prompt) -> Plan:
    """The tests in a prompt's target.

    Raises:
        NoTests: it is of no known format.
        NotApart: a test is of a kind that cannot be judged outside of the completion's process.
    """
    target = prompt.target
    if isinstance(target, str):
        target = {"test": target} if "def check(" in target else {"test_list": [target]}
    if isinstance(target, Sequence):
        key = "test_list" if all(isinstance(each, str) for each in target) else "tests"
        target = {key: list(target)}
    if not isinstance(target, Mapping):
        raise NoTests("the prompt's target holds no tests")
    try:
        plan = _read(target)
    except (KeyError, TypeError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise NoTests(f"the target cannot be read as tests: {type(error).__name__}: {error}"[:200]) from error
    if not plan.cases and not plan.runs:
        raise NoTests("the target holds no test")
    return plan


def _read(target: Mapping[str, Any]) -> Plan:
    if "test" in target:
        return _humaneval(target)
    if "test_list" in target:
        return _mbpp(target)
    if "inputs" in target and "outputs" in target:
        return _apps(target)
    if "tests" in target:
        return _plain(target)
    raise NoTests(
        f"the target has none of test, test_list, inputs and outputs, tests; it has {sorted(target)[:8]}"[:200]
    )


def _humaneval(target: Mapping[str, Any]) -> Plan:
    """`check(candidate)`, taken apart; or a text of asserts."""
    tree = ast.parse(target["test"])
    entry_point = str(target.get("entry_point", ""))
    check = next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "check"), None)
    if check is None:
        return Plan(str(target.get("prompt", "")), _imports(tree), tuple(cases_of(tree.body)), entry_point=entry_point)
    if not entry_point.isidentifier():
        raise NoTests("the target has check(candidate), but entry_point names no function")
    (candidate,) = check.args.args
    names = {candidate.arg: ast.Name(entry_point, ast.Load())}
    others = [node for node in tree.body if node is not check and not _is_metadata(node)]
    library = imported(tree.body)
    loose = [node for node in others if not _calls_check(node)]
    cases = [*cases_of(loose, names), *cases_of(check.body, names, library)]
    return Plan(str(target.get("prompt", "")), _imports(tree), tuple(cases), entry_point=entry_point)


def _is_metadata(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "METADATA"


def _calls_check(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and ast.unparse(node).startswith("check(")


def _imports(tree: ast.Module) -> str:
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join(ast.unparse(node) for node in found)


def _mbpp(target: Mapping[str, Any]) -> Plan:
    tests = target["test_list"]
    setup = "\n".join([str(target.get("test_setup_code") or ""), *map(str, target.get("test_imports") or ())])
    trees = [ast.parse(test) for test in tests]
    library = imported(ast.parse(setup).body)
    cases = [case for tree in trees for case in cases_of(tree.body, None, library)]
    return Plan(str(target.get("prompt_code", "")), "\n".join([setup, *map(_imports, trees)]), tuple(cases))


def _apps(target: Mapping[str, Any]) -> Plan:
    pairs = list(zip(target["inputs"], target["outputs"], strict=True))
    name = target.get("fn_name")
    if not name:
        return Plan(runs=tuple((_text(given), _text(expected)) for given, expected in pairs))
    if not str(name).isidentifier():
        raise NoTests(f"fn_name is {name!r:.40}, which names no function")
    return Plan(
        cases=tuple(_called(str(name), list(args), expected) for args, expected in pairs), entry_point=str(name)
    )


def _plain(target: Mapping[str, Any]) -> Plan:
    name, cases, runs = str(target.get("entry_point", "")), list[Case](), list[tuple[str, str]]()
    for test in target["tests"]:
        expected = test["expected"] if "expected" in test else test["output"]
        if "call" in test:
            ast.parse(test["call"], mode="eval")
            cases.append(_equal(str(test["call"]), expected))
        elif "args" in test:
            if not name.isidentifier():
                raise NoTests("a test has args, but entry_point names no function")
            cases.append(_called(name, list(test["args"]), expected))
        else:
            runs.append((_text(test["input"]), _text(expected)))
    if cases and runs:
        raise NotApart("tests by call beside tests by standard input")
    return Plan(cases=tuple(cases), runs=tuple(runs), entry_point=name)


def _called(name: str, args: list[Any], expected: Any) -> Case:
    return _equal(f"{name}({', '.join(map(repr, args))})", expected)


def _equal(call: str, expected: Any) -> Case:
    """A call's value against a JSON value, which has no tuples: they count as lists."""
    wanted = _as_json(expected)
    return Case((call,), lambda values: bool(_as_json(values[0]) == wanted), f"{call} == {expected!r}"[:80])


def _as_json(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_as_json(each) for each in value]
    if isinstance(value, Mapping):
        return {str(k) if type(k) is int else k: _as_json(v) for k, v in value.items()}
    return value


def _text(value: Any) -> str:
    """Standard input or output as text; some sets write it as a list of lines."""
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def same_output(written: str, expected: str) -> bool:
    """Whether two outputs are equal but for blanks at the ends of lines and of the text."""
    return re.sub(r"[ \t\r]+$", "", written, flags=re.MULTILINE).strip() == (
        re.sub(r"[ \t\r]+$", "", expected, flags=re.MULTILINE).strip()
    )
