"""Supervised fine-tuning learns, from any of the row layouts, and scores what it should."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")


def rows_file(path: Path, count: int = 40) -> Path:
    rows = []
    for n in range(count):
        asked, answered = f"Say {n}", f"It is {n}."
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        rows.append(
            [
                {"messages": turns},
                {"prompt": asked, "completion": answered},
                {"prompt": turns[:1], "completion": turns[1:]},
            ][n % 3]
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_loss_falls_from_random_weights(trainer: Any, model: Path, tmp_path: Path, dtype: str) -> None:
    data, out = rows_file(tmp_path / "rows.jsonl"), tmp_path / "out"
    code, result, _ = trainer(
        "sft", "--data", data, "--model", model, "--out", out, "--init", "random", "--lr", 1e-2, "--epochs", 8,
        "--batch-tokens", 300, "--micro-batch-tokens", 128, "--dtype", dtype, "--no-tensorboard",
    )  # fmt: skip
    assert code == 0
    assert result["items"] == 8 * 40
    assert losses(out)[0] > 4
    assert losses(out)[-1] < 2


def test_the_three_row_layouts_are_one(trainer: Any, model: Path, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = [{"messages": turns}, {"prompt": "a", "completion": "b"}, {"prompt": turns[:1], "completion": turns[1:]}]
    found = []
    for number, row in enumerate(rows):
        (tmp_path / f"{number}.jsonl").write_text(json.dumps(row))
        out = tmp_path / f"out{number}"
        assert trainer("sft", "--data", tmp_path / f"{number}.jsonl", "--model", model, "--out", out)[0] == 0
        found.append(losses(out)[0])
    assert found[0] == found[1] == found[2]


def test_only_the_completion_is_scored_unless_asked(trainer: Any, model: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps({"prompt": "abc", "completion": "de"}))
    common = ("sft", "--data", tmp_path / "x.jsonl", "--model", model, "--no-tensorboard")
    _, part, _ = trainer(*common, "--out", tmp_path / "a")
    _, whole, _ = trainer(*common, "--out", tmp_path / "b", "--no-completion-only")
    assert part["scored_tokens"] == 3  # d, e and the end token
    assert whole["scored_tokens"] == part["tokens"] - 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "x"}', 'line 1 has neither "messages"'),
        ("{broken", "line 1: Expecting"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "line 1: its last message is not the assistant's"),
        ('{"prompt": "x", "completion": ""}', "no rows left"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(trainer: Any, model: Path, tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "x.jsonl").write_text(line)
    code, _, said = trainer("sft", "--data", tmp_path / "x.jsonl", "--model", model, "--out", tmp_path / "out")
    assert code == 2
    assert message in said
