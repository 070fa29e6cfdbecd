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
from tests.trainer.runs import alarms, interrupt_at, log, same, timeless  # noqa: E402
from trainer.config import KtoOptions  # noqa: E402
from trainer.data import Encoded  # noqa: E402
from trainer.errors import UsageError  # noqa: E402
from trainer.kto import KtoObjective, read_rated, run, with_strangers  # noqa: E402
from trainer.model import load  # noqa: E402
from trainer.ranks import Ranks  # noqa: E402
from trainer.reference import score  # noqa: E402


def rows(count: int = 20, first: int = 0) -> list[dict[str, Any]]:
    """Of every prompt a good or a bad completion: no two rows are a pair."""
    pairs = [pair_row(n) for n in range(first, first + count)]
    sides = ["chosen" if n % 3 else "rejected" for n in range(count)]
    return [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row, side in zip(pairs, sides, strict=True)
    ]


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """The file as `pipeline export --as kto` writes it."""
    return written(tmp_path / "kto.parquet", rows())


def written(path: Path, content: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(content, schema=COLUMNS["kto"]), path)
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
    lines = log(tmp_path / "out")
    assert lines[0]["loss"] == pytest.approx(0.5, abs=1e-4)  # nothing has moved yet
    assert result["eval_loss"] < 0.5
    assert lines[-1]["good_shift"] > 0 > lines[-1]["bad_shift"]
    assert (tmp_path / "out/model.safetensors").exists()


def test_a_step_is_the_same_however_it_is_cut_into_micro_batches(exported: Path, model: Path, tmp_path: Path) -> None:
    logs = []
    for tokens in (64, 4096):
        out = tmp_path / str(tokens)
        run(asked(exported, model, out, epochs=2, micro_batch_tokens=tokens))
        logs.append([line["loss"] for line in log(out)])
    assert logs[0] == pytest.approx(logs[1], abs=1e-5)


def test_z_is_the_mean_shift_of_other_prompts_completions(exported: Path, model: Path, tmp_path: Path) -> None:
    options = asked(exported, model, tmp_path)
    loaded = load(options)
    rated = read_rated(options.data, loaded, options, "refused.jsonl")
    known = score(loaded, rated.pairs, options, Ranks())
    moved = {name: (own, stranger - 0.1 * i) for i, (name, (own, stranger)) in enumerate(sorted(known.items()))}
    objective = KtoObjective(rated, moved, loaded, options)
    objective.begin(loaded.model, [([0, 1], True), ([5], True), ([9], False)], Ranks())
    assert objective.stranger_shift.item() == pytest.approx(0.2, abs=1e-4)


def test_a_label_that_is_no_label_is_refused_and_one_kind_alone_is_an_error(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in [*rows(6), rows(1)[0] | {"label": "yes"}]))
    options = asked(path, model, tmp_path)
    loaded = load(options)
    rated = read_rated(options.data, loaded, options, "refused.jsonl")
    assert rated.found.refused == {"its label is neither true nor false": 1}
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


def main_kto(trainer: Any, data: Path, model: Path, out: Path, *more: object) -> tuple[int, dict[str, Any], str]:
    """A short run from the command line: 20 rows are 8 steps."""
    common = ["kto", "--data", data, "--model", model, "--out", out, "--device", "cpu", "--no-tensorboard"]
    settings = ["--lr", "1e-3", "--batch-completions", 6, "--epochs", 2, "--micro-batch-tokens", 128]
    found: tuple[int, dict[str, Any], str] = trainer(*common, *settings, *more)
    return found


def test_the_reference_is_scored_once_and_read_again(trainer: Any, exported: Path, model: Path, tmp_path: Path) -> None:
    cache = ("--cache", tmp_path / "cache", "--max-steps", 2)
    code, first, said = main_kto(trainer, exported, model, tmp_path / "a", *cache)
    assert code == 0
    assert "reference log-probs of 20 rows cached in" in said
    assert "policy against reference at step 0" in said
    _, second, said = main_kto(trainer, exported, model, tmp_path / "b", *cache)
    assert "reference log-probs read from" in said
    assert second["loss"] == first["loss"]
    written(exported, rows(19))
    _, _, said = main_kto(trainer, exported, model, tmp_path / "c", *cache)
    assert "reference log-probs of 19 rows cached in" in said


def test_a_cache_of_other_numbers_than_the_policys_stops_the_run(
    trainer: Any, exported: Path, model: Path, tmp_path: Path
) -> None:
    cache = ("--cache", tmp_path / "cache", "--max-steps", 1)
    assert main_kto(trainer, exported, model, tmp_path / "a", *cache)[0] == 0
    (path,) = (tmp_path / "cache").glob("*.parquet")
    table = pq.read_table(path)
    moved = pa.array([value - 1.0 for value in table["logp_chosen"].to_pylist()])
    pq.write_table(table.set_column(1, "logp_chosen", moved), path)
    code, _, said = main_kto(trainer, exported, model, tmp_path / "b", *cache)
    assert code == 1
    assert "policy against reference at step 0: they differ by" in said


def test_another_model_may_be_the_reference(
    trainer: Any, exported: Path, model: Path, other_model: Path, tmp_path: Path
) -> None:
    other = ("--reference-model", other_model, "--max-steps", 1)
    code, moved, said = main_kto(trainer, exported, model, tmp_path / "other", *other)
    assert code == 0, said
    assert f"policy against {other_model} at step 0" in said
    assert min(abs(moved["good_shift"]), abs(moved["kl"]), abs(moved["stranger_shift"])) > 1e-2
    own = ("--reference-model", model, "--max-steps", 1)
    _, still, _ = main_kto(trainer, exported, model, tmp_path / "same", *own)
    assert max(abs(still["good_shift"]), abs(still["kl"]), abs(still["stranger_shift"])) < 1e-4


def test_the_base_under_an_adapter_is_the_reference_that_one_pass_would_give(
    trainer: Any, exported: Path, model: Path, tmp_path: Path
) -> None:
    adapter = ("--lora-rank", 4, "--lr", "1e-2")
    for reference in ("computed", "base"):
        out = tmp_path / reference
        assert main_kto(trainer, exported, model, out, *adapter, "--reference", reference)[0] == 0
    computed, base = (log(tmp_path / name) for name in ("computed", "base"))
    assert abs(computed[-1]["stranger_shift"]) > 1e-3  # it has moved
    for name in ("loss", "kl", "stranger_shift", "good_shift", "bad_shift"):
        assert [line[name] for line in base] == pytest.approx([line[name] for line in computed], abs=1e-4)
    assert not (tmp_path / "base/reference_logps").exists()
    code, _, said = main_kto(trainer, exported, model, tmp_path / "whole", "--reference", "base")
    assert code == 2
    assert "give --lora-rank or --adapter" in said


def test_an_interrupted_run_goes_on_to_the_same_weights_and_log(
    trainer: Any, exported: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--eval-data", written(tmp_path / "held.parquet", rows(9, first=40)), "--eval-every", 3)
    assert main_kto(trainer, exported, model, tmp_path / "whole", *more)[0] == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, step=4)
        assert main_kto(trainer, exported, model, tmp_path / "out", *more)[0] == 130
    code, result, said = main_kto(trainer, exported, model, tmp_path / "out", *more)
    assert (code, result["steps"]) == (0, 8)
    assert "step-00000005" in said
    assert same(tmp_path / "whole", tmp_path / "out")
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "out")


def test_held_out_numbers_are_those_of_the_same_rows_in_training(
    trainer: Any, exported: Path, model: Path, other_model: Path, tmp_path: Path
) -> None:
    still = ("--lr", 0, "--batch-completions", 20, "--max-steps", 1, "--reference-model", other_model)
    code, result, said = main_kto(trainer, exported, model, tmp_path / "out", "--eval-data", exported, *still)
    assert code == 0
    assert "the prompts of 20 held-out rows are trained on as well" in said
    for name in ("loss", "accuracy", "kl", "kl_per_token", "stranger_shift", "good_shift", "bad_shift_per_token"):
        assert result[f"eval_{name}"] == pytest.approx(result[name], abs=1e-5)
    assert 0 < result["accuracy"] < 1


def test_accuracy_counts_completions_on_their_labels_side_of_z(exported: Path, model: Path, tmp_path: Path) -> None:
    options = asked(exported, model, tmp_path)
    loaded = load(options)
    rated = read_rated(options.data, loaded, options, "refused.jsonl")
    known = score(loaded, rated.pairs, options, Ranks())
    good, bad = rated.good.index(True), rated.good.index(False)
    name = rated.found.pairs[bad].pair_id
    for moved, right in (
        (0.5, 1.0),
        (-0.5, 0.0),
    ):  # the bad one's log-prob is this much below, or above, the reference's
        shifted = known | {name: (known[name][0] + moved, known[name][1])}
        objective = KtoObjective(rated, shifted, loaded, options)
        column = list(objective.metrics).index("accuracy")
        assert objective.outcome(loaded.model, [bad]).metrics_BM[0, column].item() == right
        assert objective.outcome(loaded.model, [good]).losses_B.item() == pytest.approx(0.5, abs=1e-4)


FALLING = ("--lr", "0.03", "--warmup", "0", "--kto-desirable", "1e-4")  # the good ones go down with the bad


@pytest.mark.parametrize(("name", "option"), [("good_fall", "--good-fall"), ("kl", "--kl-limit")])
def test_a_limit_that_is_passed_is_warned_of_and_the_worst_rows_come_first(
    trainer: Any, exported: Path, model: Path, tmp_path: Path, name: str, option: str
) -> None:
    code, _, said = main_kto(trainer, exported, model, tmp_path / "out", *FALLING, option, "1e-4")
    assert code == 0
    found = [alarm for alarm in alarms(tmp_path / "out") if alarm["alarm"] == name]
    assert found
    assert f"most in {found[0]['ids'][0]}" in said
    assert main_kto(trainer, exported, model, tmp_path / "off", *FALLING, option, "0")[0] == 0
    assert name not in {alarm["alarm"] for alarm in alarms(tmp_path / "off")}


def test_a_limit_of_stop_on_stops_before_the_update(trainer: Any, exported: Path, model: Path, tmp_path: Path) -> None:
    limit = ("--good-fall", "1e-4", "--stop-on", "good_fall")
    code, _, said = main_kto(trainer, exported, model, tmp_path / "out", *FALLING, *limit)
    assert code == 4
    assert "the good completions' log-prob has fallen" in said
    assert not (tmp_path / "out" / "model.safetensors").exists()
