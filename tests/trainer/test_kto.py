"""`python -m trainer kto`: completions that are good or bad by themselves, as the pipeline exports them."""

from __future__ import annotations

import json
from array import array
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from pipeline.pairing.candidates import COLUMNS  # noqa: E402
from tests.trainer.conftest import pair_row  # noqa: E402
from trainer.config import KtoOptions  # noqa: E402
from trainer.data import Encoded  # noqa: E402
from trainer.errors import UsageError  # noqa: E402
from trainer.kto import KtoObjective, read_rated, run, with_strangers  # noqa: E402
from trainer.model import load  # noqa: E402
from trainer.ranks import Ranks  # noqa: E402
from trainer.reference import score  # noqa: E402


def rows(count: int = 20) -> list[dict[str, Any]]:
    """Of every prompt a good or a bad completion: no two rows are a pair."""
    pairs = [pair_row(n) for n in range(count)]
    sides = ["chosen" if n % 3 else "rejected" for n in range(count)]
    return [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row, side in zip(pairs, sides, strict=True)
    ]


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """The file as `pipeline export --as kto` writes it."""
    path = tmp_path / "kto.parquet"
    pq.write_table(pa.Table.from_pylist(rows(), schema=COLUMNS["kto"]), path)
    return path


def asked(data: Path, model: Path, out: Path, **changes: Any) -> KtoOptions:
    settings: dict[str, Any] = {
        "device": "cpu",
        "tensorboard": False,
        "lr": 1e-3,
        "warmup": 0.0,
        "batch_completions": 10,
    }
    return KtoOptions(data=(str(data),), model=str(model), out=str(out), **settings | changes)


def test_good_completions_go_up_and_bad_ones_down(exported: Path, model: Path, tmp_path: Path) -> None:
    result = run(asked(exported, model, tmp_path / "out", epochs=4, eval_data=(str(exported),)))
    log = [json.loads(line) for line in (tmp_path / "out/log.jsonl").read_text().splitlines()]
    assert log[0]["loss"] == pytest.approx(0.5, abs=1e-4)  # nothing has moved yet
    assert result["eval_loss"] < 0.5
    assert log[-1]["good_shift"] > 0 > log[-1]["bad_shift"]
    assert (tmp_path / "out/model.safetensors").exists()


def test_a_step_is_the_same_however_it_is_cut_into_micro_batches(exported: Path, model: Path, tmp_path: Path) -> None:
    logs = []
    for tokens in (64, 4096):
        out = tmp_path / str(tokens)
        run(asked(exported, model, out, epochs=2, micro_batch_tokens=tokens))
        logs.append([json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()])
    assert logs[0] == pytest.approx(logs[1], abs=1e-5)


def test_the_kl_is_the_mean_shift_of_other_prompts_completions(exported: Path, model: Path, tmp_path: Path) -> None:
    options = asked(exported, model, tmp_path)
    loaded = load(options)
    rated = read_rated(options.data, loaded, options, "refused.jsonl")
    known = score(loaded, rated.pairs, options, Ranks())
    moved = {name: (own, stranger - 0.1 * i) for i, (name, (own, stranger)) in enumerate(sorted(known.items()))}
    objective = KtoObjective(rated, moved, loaded, options)
    objective.begin(loaded.model, [([0, 1], True), ([5], True), ([9], False)], Ranks())
    assert objective.kl.item() == pytest.approx(0.2, abs=1e-4)


def test_a_label_that_is_no_label_is_refused_and_one_kind_alone_is_an_error(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in [*rows(6), rows(1)[0] | {"label": "yes"}]))
    options = asked(path, model, tmp_path)
    loaded = load(options)
    rated = read_rated(options.data, loaded, options, "refused.jsonl")
    assert dict(rated.refused.counts) == {"its label is neither true nor false": 1}
    path.write_text("\n".join(json.dumps(row | {"label": True}) for row in rows(6)))
    with pytest.raises(UsageError, match=r"6 of 6 rows .* are good"):
        read_rated(options.data, loaded, options, "refused.jsonl")


def test_without_another_prompt_it_says_what_it_lacks() -> None:
    def ids(*tokens: int) -> Any:
        return array("i", tokens)

    alone = [("a", Encoded(ids(1, 2), ids(3))), ("b", Encoded(ids(1, 2), ids(4)))]
    with pytest.raises(UsageError, match="another prompt"):
        with_strangers(alone, 256)
    far = [*alone, ("c", Encoded(ids(5), ids(6, 7)))]
    assert [list(pair.rejected) for pair in with_strangers(far, 256)] == [[6, 7], [6, 7], [3]]
