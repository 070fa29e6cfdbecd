"""The audit of rows: each way in which a pair can be spoiled fails its check and is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.auditing.defects import Truth, unlabelled
from pipeline.storage.shards import read_shard, write_shard
from tests.pipeline.audited import HONEST, Runs, answered, one, same_text, spoil


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def same_but_blanks(rows: list[dict[str, Any]]) -> None:
    rows[0]["rejected"] = [{"role": "assistant", "content": f"  {rows[0]['chosen'][0]['content']}\n"}]


def other_prompt(rows: list[dict[str, Any]]) -> None:
    rows[0]["prompt"] = rows[-1]["prompt"]


def shifted_prompts(rows: list[dict[str, Any]]) -> None:
    ids = [row["prompt_id"] for row in rows]
    for row, other in zip(rows, [*ids[1:], ids[0]], strict=True):
        row["prompt_id"] = other


def swapped(rows: list[dict[str, Any]]) -> None:
    row = rows[0]
    for name in ("{}", "{}_id", "source_{}"):
        a, b = name.format("chosen"), name.format("rejected")
        row[a], row[b] = row[b], row[a]


def wrong_margin(rows: list[dict[str, Any]]) -> None:
    rows[0]["margin"] = 5.0


def rejected_is_better(rows: list[dict[str, Any]]) -> None:
    rows[0]["score_chosen"], rows[0]["score_rejected"] = 0.0, 1.0
    rows[0]["margin"] = -1.0


def other_id(rows: list[dict[str, Any]]) -> None:
    rows[0]["pair_id"] = "0" * 32


def other_text(rows: list[dict[str, Any]]) -> None:
    rows[0]["chosen"] = [{"role": "assistant", "content": "good, but nobody said it"}]


def twice(rows: list[dict[str, Any]]) -> None:
    rows.append(rows[0])


def other_labeler(rows: list[dict[str, Any]]) -> None:
    rows[0]["labelers"] = ["nobody"]


def other_version(rows: list[dict[str, Any]]) -> None:
    rows[0]["labeler_versions"] = ["0"]


@pytest.mark.parametrize(
    ("edit", "check"),
    [
        (same_text, "chosen is rejected"),
        (same_but_blanks, "chosen is rejected"),
        (other_prompt, "prompt"),
        (shifted_prompts, "prompt"),
        (swapped, "labels"),
        (wrong_margin, "margin"),
        (rejected_is_better, "margin"),
        (other_id, "ids"),
        (other_text, "ids"),
        (twice, "ids"),
        (other_labeler, "labels"),
        (other_version, "labels"),
    ],
)
def test_a_spoiled_row_fails_its_check_and_is_named(runs: Runs, edit: Any, check: str) -> None:
    folder = runs.make(HONEST, answered(10)).folder
    spoil(folder, edit)
    finding = one(folder, check)
    assert finding.state == "FAIL"
    assert finding.rows
    assert finding.rows[0] in finding.seen


def test_a_published_row_that_is_not_the_shards_is_found(runs: Runs) -> None:
    folder = runs.make(HONEST, answered(10)).folder
    spoil(folder, other_text)
    assert one(folder, "published").state == "FAIL"


def test_a_label_that_changed_after_pairing_is_found(runs: Runs) -> None:
    folder = runs.make(HONEST, answered(10)).folder
    shard = sorted(folder.glob("labels-*/*.parquet"))[0]
    table_ = read_shard(shard)
    flipped = [{**row, "value": 1.0 - row["value"]} for row in table_.to_pylist()]
    write_shard(shard, pa.Table.from_pylist(flipped, table_.schema))
    assert one(folder, "labels").state == "FAIL"
    assert one(folder, "canary: again").state == "FAIL"


def test_an_abstained_chosen_is_found(runs: Runs) -> None:
    folder = runs.make(HONEST, answered(10)).folder
    shard = sorted(folder.glob("labels-*/*.parquet"))[0]
    table_ = read_shard(shard)
    rows = [{**row, "value": None, "abstain": "timeout"} for row in table_.to_pylist()]
    write_shard(shard, pa.Table.from_pylist(rows, table_.schema))
    assert "abstained on chosen" in one(folder, "labels").seen


def test_a_chosen_that_was_cut_off_is_found(runs: Runs) -> None:
    folder = runs.make(HONEST, answered(10)).folder
    shard = sorted(folder.glob("completions-*/*.parquet"))[0]
    table_ = read_shard(shard)
    rows = [{**row, "finish_reason": "length"} for row in table_.to_pylist()]
    write_shard(shard, pa.Table.from_pylist(rows, table_.schema))
    assert one(folder, "truncated").state == "FAIL"


# One labeler after the other: what the first one decided was perhaps never compared.


def cascade(*, asked: bool, values: tuple[float, float]) -> str | None:
    label = {"abstain": None, "labeler_version": "1", "prompt_id": "p"}
    labels = {("first", side): {**label, "value": value} for side, value in zip("cr", values, strict=True)}
    verdicts = frozenset({("judge", "1", "c"), ("judge", "1", "r")} if asked else {("judge", "1", "c")})
    truth = Truth({}, {}, labels, verdicts, frozenset(), frozenset({"judge"}), {})
    pair = {
        "prompt_id": "p", "chosen_id": "c", "rejected_id": "r", "labelers": ["first", "judge"],
        "labeler_versions": ["1", "1"], "strategy": "best_vs_worst",
    }  # fmt: skip
    return unlabelled(pair, truth)


@pytest.mark.parametrize(("asked", "values"), [(True, (1.0, 1.0)), (False, (1.0, 0.0)), (True, (1.0, 0.0))])
def test_a_pair_of_a_cascade_needs_no_verdict_where_the_first_labeler_decided(
    asked: bool, values: tuple[float, float]
) -> None:
    assert cascade(asked=asked, values=values) is None
