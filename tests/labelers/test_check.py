"""`labelers.testing.check` finds each broken promise, and nothing in the labelers that are built in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from labelers import programs
from labelers.cli import _NoModel
from labelers.discovery import BUILTIN, LabelerSpec
from labelers.nasty import nasty_texts
from labelers.sandbox import Limits, lent, opened
from labelers.testing import ScriptedEngine, check, speed
from labelers.types import Abstain, Candidate, Example, Needs, Prompt, Score

_EXAMPLE = Example(Prompt.of("Say hi"), better="hi", worse="x" * 200)


@dataclass(frozen=True)
class Short:
    name, version, needs, examples = "short", "1", Needs(), (_EXAMPLE,)

    def score(self, batch: Any, ctx: Any) -> Any:
        return [self.one(c.completion.text) for c in batch]

    def one(self, text: str) -> Any:
        return Score(float(len(text) <= 100))


@pytest.mark.parametrize("name", BUILTIN)
def test_a_builtin_labeler_keeps_the_contract(name: str) -> None:
    spec = LabelerSpec(name)
    labeler, limits = spec.build(), Limits(allow=frozenset({"sandbox"}))
    if problem := programs.missing(labeler.needs):
        pytest.skip(problem)
    with lent(_NoModel, name, labeler.needs) as tools, opened(spec, tools, limits) as worker:
        assert check(labeler, spec=spec, worker=worker) == []


def rules(labeler: Any, **kwargs: Any) -> set[str]:
    return {finding.rule for finding in check(labeler, **kwargs)}


def test_a_right_labeler_has_no_findings() -> None:
    assert rules(Short()) == set()


@dataclass(frozen=True)
class Upside(Short):
    def one(self, text: str) -> Any:
        return Score(float(len(text)))


@dataclass(frozen=True)
class Raises(Short):
    def one(self, text: str) -> Any:
        return Score(float(len(text.encode()) <= 100))


@dataclass(frozen=True)
class WrongType(Short):
    def one(self, text: str) -> Any:
        return 1.0


@dataclass(frozen=True)
class Ranks(Short):
    def score(self, batch: Any, ctx: Any) -> Any:
        return [Score(float(len(c.completion.text) <= 100) + len(batch)) for c in batch]


@dataclass(frozen=True)
class ByPlace(Short):
    def score(self, batch: Any, ctx: Any) -> Any:
        return [Score(float(i)) for i, _ in enumerate(batch)]


@dataclass(frozen=True)
class Drops(Short):
    def score(self, batch: Any, ctx: Any) -> Any:
        return [self.one(c.completion.text) for c in batch if c.completion.text]


@dataclass(frozen=True)
class Moody(Short):
    def one(self, text: str) -> Any:
        _calls.append(1)
        return Score(float(len(_calls)))


@dataclass(frozen=True)
class NoExamples(Short):
    examples = ()


@dataclass(frozen=True)
class Abstains(Short):
    def one(self, text: str) -> Any:
        return Abstain("not_applicable")


@dataclass(frozen=True)
class Invents(Short):
    needs = Needs(engine=True)

    def score(self, batch: list[Candidate], ctx: Any) -> Any:
        return [Score(float(reply == "yes")) for reply in ctx.generate([[] for _ in batch])]


_calls: list[int] = []


@pytest.mark.parametrize(
    ("labeler", "rule"),
    [
        (Upside(), "ranks its examples right"),
        (Abstains(), "ranks its examples right"),
        (Raises(), "answers every text"),
        (WrongType(), "answers with scores, verdicts or abstentions"),
        (Drops(), "answers with scores, verdicts or abstentions"),
        (Ranks(), "a batch and single texts get the same answers"),
        (ByPlace(), "the order of a batch does not matter"),
        (Moody(), "answers the same twice"),
        (NoExamples(), "has examples"),
        (Invents(), "abstains when the model gives no reply"),
        (object(), "has the shape of a labeler"),
    ],
)
def test_each_broken_rule_is_found(labeler: Any, rule: str) -> None:
    assert rule in rules(labeler)


def test_what_cannot_be_pickled_is_found() -> None:
    @dataclass(frozen=True)
    class Local(Short):
        pass

    assert "can go to a worker process" in rules(Local())


def test_a_scripted_engine_answers_with_its_function() -> None:
    assert ScriptedEngine(lambda chat: "hi").generate([[], []]) == ["hi", "hi"]
    assert ScriptedEngine().generate([[]]) == [None]


def test_speed_is_measured_on_the_examples() -> None:
    assert speed(Short(), seconds=0.01) > 0


def test_nasty_texts_have_what_breaks_parsers() -> None:
    texts = nasty_texts()
    assert {"empty", "NUL", "lone surrogate", "deep brackets", "long line", "fake verdicts"} <= set(texts)
    assert all(len(text) <= 1_000_000 for text in texts.values())


# Through the command, as an author meets it.

PLUGIN = '''
import os
from dataclasses import dataclass
from labelers.types import Abstain, Example, Needs, Prompt, Score

@dataclass(frozen=True)
class Mine:
    """Prefers short completions."""
    name, version, needs = "mine", "1", Needs()
    examples = [Example(Prompt.of("p"), better="x", worse="x" * 100), Example(Prompt.of("q"), better="y", worse="y" * 100)]

    def one(self, c):
        return Score(-float(len(c.completion.text)))

    def score(self, batch, ctx):
        BODY
'''
HONEST = "return [self.one(c) for c in batch]"


def checked(tmp_path: Path, body: str, *arguments: str) -> tuple[int, str]:
    (tmp_path / "mine.py").write_text(PLUGIN.replace("BODY", body))
    command = [sys.executable, "-m", "labelers", "check", "./mine.py:Mine", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_command_passes_an_honest_plugin_and_prints_its_speed(tmp_path: Path) -> None:
    code, said = checked(tmp_path, HONEST)
    assert code == 0, said
    assert "keeps the contract" in said
    assert "per second" in said


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ("return [self.one(c) for c in batch][::-1]", "get the same answers"),
        ("return sorted((self.one(c) for c in batch), key=lambda s: s.value)", "get the same answers"),
        (
            "return [self.one(c) for c in batch][:-1] if len(batch) > 3 else [self.one(c) for c in batch]",
            r"gave \d+ labels for \d+ items",
        ),
        ("return [self.one(c) for c in batch] + [Score(0.0)]", "gave 2 labels for 1 items"),
        ("return [Score(float('nan')) for c in batch]", "nan"),
        ("return [Score(float('inf')) for c in batch]", "inf"),
        (
            "found = [self.one(c) for c in batch]; [object.__setattr__(s, 'value', float('nan')) for s in found]; return found",
            "is no label|not finite",
        ),
        (
            "return [Score(float(hash(c.completion.text) % 97 - len(c.completion.text) * 100)) for c in batch]",
            "another process",
        ),
        ("open('was-here', 'w'); return [self.one(c) for c in batch]", "was-here"),
        (
            "try:\n            open('was-here', 'w')\n        except OSError:\n            e = 1\n"
            "        return [self.one(c) for c in batch]",
            "writes nowhere but scratch: it tried to write to 'was-here'",
        ),
        (
            "try:\n            os.mkdir('was-here')\n        except OSError:\n            e = 1\n"
            "        return [self.one(c) for c in batch]",
            "writes nowhere but scratch: it tried to os.mkdir",
        ),
        ("os._exit(0)", "exit code 0"),
    ],
)
def test_the_command_fails_a_plugin_that_lies_and_says_why(tmp_path: Path, lie: str, said: str) -> None:
    code, printed = checked(tmp_path, lie)
    assert code == 1, printed
    assert re.search(said, printed), printed
