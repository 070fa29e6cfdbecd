"""The shipped prompts: distinct, on one side of the split each, and what the families make again."""

from __future__ import annotations

import json
import platform
import random
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from data import corpus, make
from data.families import FAMILIES, stdlib
from labelers import discovery
from labelers.types import Abstain, Candidate, Completion, Prompt

ROOT = Path(__file__).resolve().parents[2]
LABELERS: dict[str, tuple[str, dict[str, Any]]] = {
    "functions": ("compiles", {}),
    "records": ("json_schema", {}),
    "estimates": ("regression", {"error": "relative", "tolerance": 0.2}),
    "texts": ("format", {}),
    "stdlib": ("compiles", {"before": "target", "extract": "whole"}),
}


def shipped(split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ROOT / "data" / "prompts" / f"{split}.jsonl").read_text("utf-8").splitlines()]


@cache
def labeler_of(family: str) -> Any:
    return discovery.build(*LABELERS[family])


def passes(family: str, row: tuple[str, Any], answer: str) -> bool:
    labeler = labeler_of(family)
    prompt = Prompt.of(*row)
    [score] = labeler.score([Candidate(prompt, Completion.of(prompt, answer))], None)
    assert not isinstance(score, Abstain), score
    return bool(score.value >= labeler.pass_at)


def same_library(rows: list[dict[str, Any]]) -> bool:
    """Whether this Python's library is the one that the rows were cut from."""
    return all(row["origin"].startswith(f"cpython {platform.python_version()} ") for row in rows if "origin" in row)


@pytest.mark.parametrize(("split", "per_family"), make.PER_FAMILY.items())
def test_the_shipped_rows_are_those_that_the_families_make(split: corpus.Split, per_family: int) -> None:
    rows, made = shipped(split), corpus.prompt_rows(split, per_family)
    if not same_library(rows):  # another patch release: its library has other functions
        rows, made = ([row for row in side if row["family"] != "stdlib"] for side in (rows, made))
    assert rows == made


def test_every_family_has_its_share_of_distinct_prompts() -> None:
    for split, per_family in make.PER_FAMILY.items():
        rows = shipped(split)
        assert len({row["prompt"] for row in rows}) == len(rows)
        assert Counter(row["family"] for row in rows) == dict.fromkeys(FAMILIES, per_family)


def test_no_prompt_is_on_both_sides() -> None:
    assert not {row["prompt"] for row in shipped("train")} & {row["prompt"] for row in shipped("heldout")}
    for split in make.PER_FAMILY:
        assert {corpus.split_of(row["prompt"]) for row in shipped(split)} == {split}


def test_the_ids_that_the_pipeline_gives_are_distinct() -> None:
    rows = shipped("train") + shipped("heldout")
    assert len({Prompt.of(row["prompt"], row["target"]).id for row in rows}) == len(rows)


def test_held_out_prompts_are_never_in_the_corpus() -> None:
    held = {row["prompt"] for row in shipped("heldout")}
    documents = corpus.documents(scale=0.02)
    assert len(documents) > 1000
    assert {corpus.split_of(document["prompt"]) for document in documents} == {"train"}
    assert not held & {document["prompt"] for document in documents}


def test_the_same_seed_gives_the_same_corpus_and_another_seed_another() -> None:
    first, again, other = (corpus.documents(seed, scale=0.002) for seed in (0, 0, 1))
    assert json.dumps(first) == json.dumps(again)
    assert json.dumps(first) != json.dumps(other)


@pytest.mark.parametrize("family", FAMILIES)
def test_good_answers_pass_and_bad_ones_fail(family: str) -> None:
    rng = random.Random(f"answers {family}")
    for _ in range(150):
        task = FAMILIES[family](rng)
        row = (task.prompt, task.target)
        assert passes(family, row, task.good), task
        assert not passes(family, row, task.bad), task


@pytest.mark.parametrize("family", ["functions", "stdlib"])
@pytest.mark.parametrize("answer", ["", "    pass", "    ...", "\n"])
def test_an_empty_or_pass_only_answer_does_not_win(family: str, answer: str) -> None:
    task = FAMILIES[family](random.Random(3))
    assert not passes(family, (task.prompt, task.target), answer)


def test_a_function_from_the_library_is_cut_in_one_place_only() -> None:
    shown = [cut.shown for cut in stdlib.cuts()]
    assert len(shown) == len(set(shown)) > 3000
