"""A cascade asks its later labelers only about what the earlier one left open, and pairs come of both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Config, load
from pipeline.errors import ConfigError
from pipeline.pairing.cascade import settled
from pipeline.rows import read_rows
from pipeline.run import run
from tests.pipeline.conftest import BAD, GOOD, write_jsonl

MIXED, ALL_GOOD, ALL_BAD = "mixed", "all good", "all bad"
TEXTS = {
    MIXED: [f"{GOOD}  # one", f"{GOOD} + 2222", BAD, f"{BAD}  # so many words more"],
    ALL_GOOD: [GOOD, f"{GOOD}  # so many words more than the other one has"],
    ALL_BAD: [BAD, f"{BAD}  # so many words more than the other one has"],
}
PLUGIN = '''
from dataclasses import dataclass

from labelers.types import Completion, Example, Needs, Prompt, Verdict


@dataclass(frozen=True)
class Shorter:
    """Prefers the shorter one."""

    name, version, needs, symmetric = "shorter", "1", Needs(), True
    examples = (Example(Prompt.of("x"), better="a", worse="aaa"),)

    def compare(self, batch, ctx):
        return [Verdict("a" if len(q.a.text) < len(q.b.text) else "b") for q in batch]
'''


@pytest.fixture
def cascade(tmp_path: Path) -> Callable[..., Config]:
    """compiles, and then `second` about the prompts that compiles left open; one prompt a shard."""

    def make(second: str, *settings: str) -> Config:
        (tmp_path / "shorter.py").write_text(PLUGIN)
        write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": name} for name in TEXTS])
        write_jsonl(tmp_path / "texts.jsonl", [{"prompt": n, "completion": texts} for n, texts in TEXTS.items()])
        (tmp_path / "config.toml").write_text(
            f"""
            name = "cascade"
            [prompts]
            path = "prompts.jsonl"
            shard_size = 2
            [[sources]]
            name = "people"
            engine = {{ use = "replay", path = "texts.jsonl" }}
            [[labelers]]
            use = "compiles"
            [[labelers]]
            name = "second"
            after = "compiles"
            {second}
            [pairs]
            combine = "lexicographic"
            [audit]
            enforce = false
            """
        )
        return load(tmp_path / "config.toml", settings)

    return make


def rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [row.values for path in sorted(folder.glob(f"{kind}-*/*.parquet")) for row in read_rows(str(path))]


def prompts_of(folder: Path) -> dict[str, str]:
    """Prompt id -> which prompt it is."""
    return {row["prompt_id"]: row["messages"][-1]["content"] for row in rows(folder, "prompts")} or {
        row.values["prompt_id"]: row.values["messages"][-1]["content"]
        for path in (folder / "prompts").glob("*.parquet")
        for row in read_rows(str(path))
    }


SECOND = {
    "labels-second": 'use = "length"',
    "comparisons-second": 'use = "./shorter.py:Shorter"',
}


@pytest.mark.parametrize("kind", SECOND)
def test_the_later_labeler_is_asked_only_where_the_earlier_one_judged_alike(
    cascade: Callable[..., Config], tmp_path: Path, kind: str
) -> None:
    finished = run(cascade(SECOND[kind]), tmp_path / "runs")
    names = prompts_of(finished.folder)
    assert {names[row["prompt_id"]] for row in rows(finished.folder, "labels-compiles")} == set(TEXTS)
    assert {names[row["prompt_id"]] for row in rows(finished.folder, kind)} == {ALL_GOOD, ALL_BAD}


@pytest.mark.parametrize("kind", SECOND)
def test_each_prompt_is_paired_by_the_labeler_that_told_its_completions_apart(
    cascade: Callable[..., Config], tmp_path: Path, kind: str
) -> None:
    finished = run(cascade(SECOND[kind]), tmp_path / "runs")
    names = prompts_of(finished.folder)
    pairs = rows(finished.folder, "pairs")
    assert {names[pair["prompt_id"]] for pair in pairs} == set(TEXTS)
    for pair in pairs:
        chosen, rejected = pair["chosen"][0]["content"], pair["rejected"][0]["content"]
        if names[pair["prompt_id"]] == MIXED:
            assert chosen.startswith(GOOD)
            assert rejected.startswith(BAD)
        else:
            assert len(chosen) < len(rejected)


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        (['labelers.1.after="regression"'], "hint: compiles"),
        (['labelers.0.after="compiles"'], "hint: there is none"),
        (['pairs.combine="sum"'], 'hint: pairs.combine = "lexicographic"'),
    ],
)
def test_a_cascade_that_cannot_work_is_refused(cascade: Callable[..., Config], settings: list[str], hint: str) -> None:
    with pytest.raises(ConfigError, match="after") as raised:
        cascade(SECOND["labels-second"], *settings)
    assert hint in str(raised.value)


def test_without_labels_nothing_is_settled() -> None:
    assert settled([], None) == set()
