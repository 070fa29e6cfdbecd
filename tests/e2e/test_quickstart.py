from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest

from tests.e2e.conftest import MODEL, run_cli

pytestmark = pytest.mark.e2e


def rows(folder: Path, pattern: str) -> list[dict]:
    return [row for file in sorted(folder.glob(pattern)) for row in pq.ParquetFile(file).read().to_pylist()]


def test_the_quick_start_ends_with_a_table_a_pair_and_the_next_command(quick_run):
    said = (quick_run.parent / "stdout").read_text()
    for part in ("functions", "records", "estimates", "texts", "stdlib", "pass rate", "chosen", "rejected"):
        assert part in said
    assert f"next     python -m trainer dpo --data {quick_run / 'dataset'} --model {MODEL}" in said


def test_every_prompt_has_its_completions_with_ids_seed_and_log_probability(quick_run):
    completions = rows(quick_run, "completions-*/*.parquet")
    assert len(completions) == 40 * 12
    assert len({c["completion_id"] for c in completions}) == len(completions)
    assert len({c["seed"] for c in completions}) == len(completions)
    for c in completions:
        assert c["error"] is None
        assert c["logp"] < 0
        assert len(c["token_ids"]) == c["n_tokens"] > 0
        assert (c["temperature"], c["finish_reason"] in ("stop", "length")) == (1.0, True)
        assert c["model_hash"]
        assert c["tokenizer_hash"]
        assert c["template_hash"]


def test_the_stored_ids_are_the_text_and_end_with_the_end_token(quick_run):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    for pair in datasets.load_dataset(str(quick_run / "dataset"), split="train"):
        for side in ("chosen", "rejected"):
            assert tokenizer.decode(pair[f"{side}_token_ids"], skip_special_tokens=True) == pair[side][0]["content"]
        assert pair["chosen_token_ids"][-1] == tokenizer.eos_token_id
        text = tokenizer.apply_chat_template(pair["prompt"], tokenize=False, add_generation_prompt=True)
        assert tokenizer.encode(text, add_special_tokens=False) == pair["prompt_token_ids"]
        assert pair["prompt_token_ids"].count(tokenizer.bos_token_id) == 1


def test_every_pair_is_what_the_labels_say(quick_run):
    labels = {row["completion_id"]: row for row in rows(quick_run, "labels-*/*.parquet")}
    completions = {row["completion_id"]: row for row in rows(quick_run, "completions-*/*.parquet")}
    pairs = rows(quick_run / "dataset", "data/*.parquet")
    assert len(pairs) > 40
    for pair in pairs:
        chosen, rejected = labels[pair["chosen_id"]], labels[pair["rejected_id"]]
        assert chosen["value"] > rejected["value"]
        assert pair["margin"] == pytest.approx(chosen["value"] - rejected["value"])
        assert completions[pair["chosen_id"]]["text"] == pair["chosen"][0]["content"] != pair["rejected"][0]["content"]
        assert (
            completions[pair["chosen_id"]]["prompt_id"]
            == completions[pair["rejected_id"]]["prompt_id"]
            == pair["prompt_id"]
        )
        assert completions[pair["chosen_id"]]["finish_reason"] == "stop"


def test_running_again_starts_no_engine_and_changes_nothing(quick_run):
    before = {p: p.stat().st_mtime_ns for p in quick_run.rglob("*.parquet")}
    settings = ("--limit", "40", "--set", "prompts.shard_size=10", "--root", quick_run.parent)
    done = run_cli("pipeline", "run", *settings, "--json")
    assert json.loads(done.stdout)["is_new"] is False
    assert {p: p.stat().st_mtime_ns for p in quick_run.rglob("*.parquet")} == before


def test_another_labeler_relabels_without_sampling(quick_run, tmp_path):
    shutil.copytree(quick_run, tmp_path / "quickstart", symlinks=True)
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from dataclasses import dataclass\n"
        "from labelers.types import Example, Needs, Prompt, Score\n\n\n"
        "@dataclass(frozen=True)\n"
        "class Mine:\n"
        '    """Prefers short completions."""\n\n'
        '    name, version, needs = "mine", "1", Needs()\n'
        '    examples = [Example(Prompt.of("p"), better="x", worse="xxx")]\n\n'
        "    def score(self, batch, ctx):\n"
        "        return [Score(-float(len(c.completion.text))) for c in batch]\n"
    )
    settings = ("--limit", "40", "--set", "prompts.shard_size=10", "--root", tmp_path)
    run_cli(
        "pipeline", "run", *settings, "--set", f"labelers.0.use={mine}:Mine", "--set", "sources.0.engine.max_num_seqs=1"
    )
    assert len(list((tmp_path / "quickstart").glob("completions-*"))) == 1
    assert any("Mine" in row["labelers"] for row in rows(tmp_path / "quickstart" / "dataset", "data/*.parquet"))


def test_trl_trains_two_steps_on_the_dataset_as_it_is(quick_run, tmp_path):
    script = (
        "import sys, datasets, trl\n"
        "rows = datasets.load_dataset(sys.argv[1], split='train')\n"
        "args = trl.DPOConfig(output_dir=sys.argv[3], max_steps=2, use_cpu=True, bf16=False, report_to='none',"
        " per_device_train_batch_size=4, save_strategy='no')\n"
        "trainer = trl.DPOTrainer(sys.argv[2], args=args, train_dataset=rows)\n"
        "print('steps', trainer.train().global_step)\n"
    )
    arguments = (str(quick_run / "dataset"), str(MODEL), str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=840, check=False
    )
    assert "steps 2" in done.stdout, done.stderr[-3000:]


def test_the_trainer_takes_the_dataset_and_vllm_takes_the_policy(quick_run, tmp_path):
    policy = tmp_path / "policy"
    run_cli(
        *("trainer", "dpo", "--data", quick_run / "dataset", "--model", MODEL, "--out", policy),
        *("--lr", "1e-4", "--epochs", "1", "--reference", "sampler"),
    )
    settings = ("--limit", "5", "--set", "name=after", "--set", f"sources.0.engine.model={policy}", "--root", tmp_path)
    done = run_cli("pipeline", "run", *settings, "--json")
    assert json.loads(done.stdout)["families"]
    before, after = (
        {c["model_hash"] for c in rows(f, "completions-*/*.parquet")} for f in (quick_run, tmp_path / "after")
    )
    assert before.isdisjoint(after)
