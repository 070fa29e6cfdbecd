"""What other people's code and scripts hold on to. A change here is a change for them: say so in CHANGELOG.md."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args

import pytest

from labelers import protocol, types
from pipeline import errors, schema
from pipeline.publishing.layouts import LAYOUTS

ROOT = Path(__file__).parents[2]

VALUES = {
    "Message": ["role", "content"],
    "Prompt": ["id", "messages", "target", "metadata"],
    "Completion": ["id", "prompt_id", "text", "finish_reason", "source", "n_tokens"],
    "Score": ["value", "reason"],
    "Verdict": ["prefers", "reason"],
    "Abstain": ["kind", "reason"],
    "Candidate": ["prompt", "completion"],
    "Comparison": ["prompt", "a", "b"],
    "Example": ["prompt", "better", "worse"],
    "Needs": ["cpus", "gpus", "memory_gb", "programs", "sandbox", "network", "engine"],
}
"""What a labeler's author builds and reads: class -> its fields, in order."""

SETS = {
    "Role": ("system", "user", "assistant", "tool"),
    "FinishReason": ("stop", "length", "error"),
    "AbstainKind": ("not_applicable", "unparsable", "timeout", "unavailable", "crashed"),
    "Preference": ("a", "b", "tie"),
}

EXIT_CODES = {
    "PipelineError": 1,
    "ConfigError": 2,
    "EnvironmentLacks": 3,
    "BelowGate": 4,
    "BudgetSpent": 4,
    "Busy": 75,
}
"""What a scheduler reads."""

# One word per thing; these are the words that other systems use for the same things.
OTHER_WORDS = {"instruction", "query", "rating", "grader", "evaluator", "gold", "utterance"}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_keeps_its_fields_and_stays_frozen(name: str) -> None:
    cls = getattr(types, name)
    assert is_dataclass(cls)
    assert [each.name for each in fields(cls)] == VALUES[name]
    assert cls.__dataclass_params__.frozen


@pytest.mark.parametrize("name", SETS)
def test_a_closed_set_keeps_its_members(name: str) -> None:
    assert get_args(getattr(types, name)) == SETS[name]


def test_a_labelers_method_keeps_its_arguments() -> None:
    assert list(inspect.signature(protocol.PointwiseLabeler.score).parameters) == ["self", "batch", "ctx"]
    assert list(inspect.signature(protocol.PairwiseLabeler.compare).parameters) == ["self", "batch", "ctx"]


@pytest.mark.parametrize("name", EXIT_CODES)
def test_an_error_keeps_its_exit_code(name: str) -> None:
    assert getattr(errors, name).exit_code == EXIT_CODES[name]


def test_the_trainer_leaves_with_the_same_codes() -> None:
    from trainer import errors as trainer_errors

    codes = [trainer_errors.TrainerError, trainer_errors.UsageError, trainer_errors.EnvironmentProblem]
    assert [each.exit_code for each in codes] == [1, 2, 3]


def test_the_tables_keep_their_names() -> None:
    assert list(schema.TABLES) == ["prompts", "completions", "labels", "comparisons", "pairs", "sampler_logps"]


def test_the_layouts_keep_their_names() -> None:
    assert LAYOUTS == ("trl", "axolotl", "openrlhf", "llama-factory", "torchtune", "open-instruct", "nemo-rl")


@pytest.mark.parametrize("package", ["labelers", "pipeline", "trainer"])
def test_one_word_stands_for_one_thing(package: str) -> None:
    wrong = []
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    pass
                case ast.arg(arg=name) | ast.AnnAssign(target=ast.Name(id=name)):
                    pass
                case _:
                    continue
            words = set(re.findall(r"[a-z]+", re.sub(r"([A-Z])", r"_\1", name).lower()))
            if words & OTHER_WORDS:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
    assert wrong == []
