"""The other data sets of a run's candidates."""

from __future__ import annotations

import itertools

import datasets
import pytest

from pipeline.errors import ConfigError
from pipeline.pairing.candidates import export_candidates
from pipeline.run import run


@pytest.mark.parametrize(
    ("kind", "n_rows", "columns"),
    [
        ("kto", 16, {"prompt", "completion", "label"}),
        ("reward", 8, {"prompt", "chosen", "rejected", "margin"}),
        ("sft", 4, {"prompt", "completion"}),
        ("groups", 4, {"prompt", "completions"}),
    ],
)
def test_each_kind_opens_as_a_dataset_of_all_candidates(replayed, tmp_path, kind, n_rows, columns):
    finished = run(replayed(), tmp_path / "runs")
    n, folder = export_candidates(finished.folder, kind, tmp_path / "out")
    rows = datasets.load_dataset(str(folder), split="train")
    assert (n, rows.num_rows, set(rows.column_names)) == (n_rows, n_rows, columns)
    if kind == "kto":
        assert sorted(rows["label"]) == [False] * 8 + [True] * 8


def test_neighbouring_rows_of_kto_are_of_different_prompts_as_trls_kl_estimate_needs(replayed, tmp_path):
    finished = run(replayed(), tmp_path / "runs")
    _, folder = export_candidates(finished.folder, "kto", tmp_path / "out")
    prompts = [row["prompt"][0]["content"] for row in datasets.load_dataset(str(folder), split="train")]
    assert all(one != other for one, other in itertools.pairwise(prompts))


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="one of kto, reward"):
        export_candidates(tmp_path, "ppo", tmp_path / "out")
