"""The reference's log-probabilities: computed once, cached by everything that changes them, or the sampler's after a check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import pyarrow as pa
import pyarrow.parquet as pq

from trainer.model import model_hash

from .conftest import pair_row, write_dataset


def scored(trainer: Any, data: Path, model: Path, out: Path) -> dict[str, tuple[float, float]]:
    """What `logps` writes."""
    code, result, _ = trainer("logps", "--data", data, "--model", model, "--out", out)
    assert code == 0
    rows = pq.read_table(result["out"]).to_pylist()
    return {row["pair_id"]: (row["logp_chosen"], row["logp_rejected"]) for row in rows}


def write_sampler(data: Path, rows: list[dict[str, Any]]) -> None:
    folder = data / "sampler_logps"
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")


def sampler_rows(logps: dict[str, tuple[float, float]], digest: str, shift: float = 0.0) -> list[dict[str, Any]]:
    return [
        {
            "pair_id": name,
            "logp_chosen": c + shift,
            "logp_rejected": r,
            "model_hash_chosen": digest,
            "model_hash_rejected": digest,
        }
        for name, (c, r) in logps.items()
    ]


def dpo(trainer: Any, data: Path, model: Path, out: Path, *more: object) -> tuple[int, dict[str, Any], str]:
    result: tuple[int, dict[str, Any], str] = trainer(
        "dpo", "--data", data, "--model", model, "--out", out, "--batch-pairs", 10, "--no-tensorboard", *more
    )
    return result


def test_logps_writes_one_row_a_pair(trainer: Any, dataset: Path, model: Path, tmp_path: Path) -> None:
    logps = scored(trainer, dataset, model, tmp_path / "side.parquet")
    assert set(logps) == {pair_row(n)["pair_id"] for n in range(20)}
    assert all(value < 0 for pair in logps.values() for value in pair)


def test_the_cache_is_beside_the_dataset_and_used_again(
    trainer: Any, dataset: Path, model: Path, tmp_path: Path
) -> None:
    code, first, said = dpo(trainer, dataset, model, tmp_path / "a")
    assert code == 0
    assert "policy against reference at step 0" in said
    files = list((dataset.parent / "reference_logps").glob("*.parquet"))
    assert len(files) == 1
    _, second, said = dpo(trainer, dataset, model, tmp_path / "b")
    assert "log-probs read from" in said
    assert second["loss"] == first["loss"]


@pytest.mark.parametrize("change", ["model", "data", "dtype"])
def test_what_changes_the_numbers_changes_the_cache(
    trainer: Any, dataset: Path, model: Path, other_model: Path, tmp_path: Path, change: str
) -> None:
    cache = tmp_path / "cache"
    dpo(trainer, dataset, model, tmp_path / "a", "--cache", cache)
    data = write_dataset(tmp_path / "more", [pair_row(n) for n in range(21)]) if change == "data" else dataset
    start = other_model if change == "model" else model
    dtype = "bfloat16" if change == "dtype" else "float32"
    code, _, said = dpo(trainer, data, start, tmp_path / "b", "--cache", cache, "--dtype", dtype)
    assert code == 0
    assert "log-probs read from" not in said
    assert len(list(cache.glob("*.parquet"))) == 2


def test_a_damaged_cache_is_made_anew(trainer: Any, dataset: Path, model: Path, tmp_path: Path) -> None:
    dpo(trainer, dataset, model, tmp_path / "a")
    (path,) = (dataset.parent / "reference_logps").glob("*.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    code, _, said = dpo(trainer, dataset, model, tmp_path / "b")
    assert code == 0
    assert "cached in" in said


def test_the_sampler_serves_where_its_model_is_ours_and_the_rest_is_computed(
    trainer: Any, dataset: Path, model: Path, tmp_path: Path
) -> None:
    rows = sampler_rows(scored(trainer, dataset, model, tmp_path / "side.parquet"), model_hash(str(model)))
    rows[0]["logp_chosen"] = None
    rows[1]["model_hash_rejected"] = "0" * 32
    write_sampler(dataset, rows[:-1])
    code, result, said = dpo(trainer, dataset, model, tmp_path / "out", "--reference", "sampler")
    assert code == 0
    assert "17 pairs from the sampler, 3 to compute" in said
    _, computed, _ = dpo(trainer, dataset, model, tmp_path / "other")
    assert result["loss"] == pytest.approx(computed["loss"], abs=1e-6)


def test_a_sampler_that_disagrees_with_the_model_stops_the_run(
    trainer: Any, dataset: Path, model: Path, tmp_path: Path
) -> None:
    logps = scored(trainer, dataset, model, tmp_path / "side.parquet")
    write_sampler(dataset, sampler_rows(logps, model_hash(str(model)), shift=3.0))
    code, _, said = dpo(trainer, dataset, model, tmp_path / "out", "--reference", "sampler")
    assert code == 1
    assert "sampler against this model's forward pass: they differ by" in said
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_dataset_without_sampler_logps_is_named(trainer: Any, dataset: Path, model: Path, tmp_path: Path) -> None:
    code, _, said = dpo(trainer, dataset, model, tmp_path / "out", "--reference", "sampler")
    assert code == 2
    assert "has no sampler_logps" in said


def test_the_reference_may_be_another_model_than_the_one_that_training_starts_from(
    trainer: Any, dataset: Path, model: Path, other_model: Path, tmp_path: Path
) -> None:
    words = ("dpo", "--data", dataset, "--model", model, "--device", "cpu", "--no-tensorboard", "--max-steps", 1)
    code, result, said = trainer(*words, "--out", tmp_path / "other", "--reference-model", other_model)
    assert code == 0, said
    assert f"policy against {other_model} at step 0" in said
    assert abs(result["chosen_shift"]) > 1e-2  # already at the first step the policy is not the reference
    _, same, _ = trainer(*words, "--out", tmp_path / "same", "--reference-model", model)
    assert abs(same["chosen_shift"]) < 1e-4
