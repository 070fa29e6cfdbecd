"""Whole runs of replayed completions, in this process and its worker pool."""

from __future__ import annotations

import json
import multiprocessing
import re
import time
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest

from pipeline.errors import BrokenLabeler, Busy, ConfigError
from pipeline.publishing.versions import manifests
from pipeline.run import locked, run
from pipeline.schema import PAIRS


def pair_files(folder: Path) -> dict[str, bytes]:
    return {f"{p.parent.name}/{p.name}": p.read_bytes() for p in sorted(folder.glob("pairs-*/*.parquet"))}


def test_a_run_ends_in_a_dataset_that_datasets_opens(replayed, tmp_path):
    finished = run(replayed(), tmp_path / "runs")
    pairs = datasets.load_dataset(str(finished.folder / "dataset"), split="train")
    assert pairs.num_rows == finished.rows == 8
    assert set(pairs.column_names) == set(PAIRS.names)
    assert all("x)" in row["chosen"][0]["content"] and "x:" in row["rejected"][0]["content"] for row in pairs)
    logps = datasets.load_dataset(str(finished.folder / "dataset"), "sampler_logps", split="train")
    assert logps["pair_id"] == pairs["pair_id"]


def test_the_summary_counts_what_happened(replayed, tmp_path):
    family = run(replayed(), tmp_path / "runs").families[0]
    assert (family.name, family.prompts, family.completions, family.pairs) == ("code", 4, 16, 8)
    assert family.pass_rate == 0.5


def test_a_second_run_makes_nothing_and_no_new_version(replayed, tmp_path):
    first = run(replayed(), tmp_path / "runs")
    times = {p: p.stat().st_mtime_ns for p in first.folder.rglob("*.parquet")}
    second = run(replayed(), tmp_path / "runs")
    assert (second.version.number, second.version.is_new) == (1, False)
    assert {p: p.stat().st_mtime_ns for p in first.folder.rglob("*.parquet")} == times


def test_two_undisturbed_runs_give_the_same_pair_bytes(replayed, tmp_path):
    first = run(replayed(), tmp_path / "one")
    second = run(replayed(), tmp_path / "two")
    assert pair_files(first.folder) == pair_files(second.folder)


def test_new_prompts_cost_only_themselves_and_make_a_new_version(replayed, tmp_path):
    first = run(replayed(n_prompts=4), tmp_path / "runs")
    times = {p: p.stat().st_mtime_ns for p in first.folder.glob("*-*/*.parquet") if "completions" not in str(p)}
    config = replayed(n_prompts=6)
    second = run(config, tmp_path / "runs")
    assert (second.version.number, second.rows) == (2, 12)
    assert len(list((first.folder / "prompts").glob("*.parquet"))) == 3
    assert all(p.stat().st_mtime_ns == t for p, t in times.items())


def test_another_pair_rule_leaves_completions_and_labels_alone(replayed, tmp_path):
    first = run(replayed(), tmp_path / "runs")
    kept = {p: p.stat().st_mtime_ns for p in first.folder.glob("[cl]*/*.parquet")}
    second = run(replayed("pairs.max_per_prompt=1"), tmp_path / "runs")
    assert (second.version.number, second.rows) == (2, 4)
    assert kept == {p: p.stat().st_mtime_ns for p in first.folder.glob("[cl]*/*.parquet")}
    assert [m["rows"] for m in manifests(first.folder)] == [8, 4]


def test_a_lost_receipt_remakes_that_shard_alone_with_the_same_bytes(replayed, tmp_path):
    folder = run(replayed(), tmp_path / "runs").folder
    before = pair_files(folder)
    labels = sorted(folder.glob("labels-*/*.json"))
    labels[0].unlink()
    kept = labels[1].stat().st_mtime_ns
    run(replayed(), tmp_path / "runs")
    assert pair_files(folder) == before
    assert labels[1].stat().st_mtime_ns == kept
    assert labels[0].exists()


def test_a_damaged_shard_is_moved_aside_and_made_again(replayed, tmp_path, capsys):
    folder = run(replayed(), tmp_path / "runs").folder
    before = pair_files(folder)
    shard = next(iter(sorted(folder.glob("completions-*/*.parquet"))))
    shard.write_bytes(shard.read_bytes()[:-100] + b"\0" * 100)
    for receipt in folder.glob("labels-*/*.json"):
        receipt.unlink()
    finished = run(replayed(), tmp_path / "runs")
    assert (finished.failed, finished.rows) == ({}, 8)
    assert pair_files(folder) == before
    assert f"warning: {shard.relative_to(folder)}: has the SHA-256" in capsys.readouterr().err


def test_a_second_run_on_the_same_folder_is_told_so_and_loses_nothing(replayed, tmp_path):
    config = replayed()
    with locked(tmp_path / "runs" / config.name), pytest.raises(Busy, match="another run holds this folder"):
        run(config, tmp_path / "runs")
    assert run(config, tmp_path / "runs").rows == 8


def _hold(folder: str, ready) -> None:
    with locked(Path(folder)):
        ready.set()
        time.sleep(60)


def test_the_lock_dies_with_its_owner(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    owner = context.Process(target=_hold, args=(str(tmp_path), ready))
    owner.start()
    assert ready.wait(30)
    with pytest.raises(Busy), locked(tmp_path):
        pass
    owner.kill()
    owner.join()
    with locked(tmp_path):
        pass


PLUGIN = """
from dataclasses import dataclass
from labelers.types import Abstain, Example, Needs, Prompt, Score

@dataclass(frozen=True)
class Mine:
    limit: int = 30
    name, version, needs = "mine", "1", Needs()
    examples = [Example(Prompt.of("p"), better="x", worse="x" * 100)]
    def score(self, batch, ctx):
        BODY
"""


def plugin(tmp_path: Path, body: str) -> str:
    (tmp_path / "mine.py").write_text(PLUGIN.replace("BODY", body))
    return f'use = "{tmp_path / "mine.py"}:Mine"'


def test_a_labeler_in_a_file_of_the_users_works(replayed, tmp_path):
    labeler = plugin(tmp_path, "return [Score(float(-len(c.completion.text))) for c in batch]")
    finished = run(replayed(labeler=labeler), tmp_path / "runs")
    assert finished.rows > 0
    pair = pq.read_table(finished.folder / "dataset" / "data").to_pylist()[0]
    assert pair["labelers"] == ["Mine"]
    assert len(pair["chosen"][0]["content"]) < len(pair["rejected"][0]["content"])


def test_an_edited_plugin_relabels_and_does_not_resample(replayed, tmp_path):
    run(
        replayed(labeler=plugin(tmp_path, "return [Score(float(-len(c.completion.text))) for c in batch]")),
        tmp_path / "r",
    )
    finished = run(
        replayed(labeler=plugin(tmp_path, "return [Score(float(len(c.completion.text))) for c in batch]")),
        tmp_path / "r",
    )
    assert len(list(finished.folder.glob("labels-*"))) == 2
    assert len(list(finished.folder.glob("completions-*"))) == 1


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return [Score(1.0)]", r"mine \(mine\.py:10\): gave 1 labels for 8 items; hint"),
        ("return [1.0 for c in batch]", r"mine\.py:10.*hint: return Score"),
        ("raise RuntimeError('my bug')", r"abstained on 8 of 8 .*RuntimeError: my bug at mine\.py:11; hint"),
        ("return [Abstain('unavailable', 'no server') for c in batch]", "no server"),
    ],
)
def test_a_broken_plugin_stops_the_run_and_says_how(replayed, tmp_path, body, says):
    config = replayed(n_prompts=12, shard_size=6, labeler=plugin(tmp_path, body))
    with pytest.raises(BrokenLabeler, match=re.sub(r"\b8\b", r"\\d+", says)):
        run(config, tmp_path / "runs")


def test_a_plugin_that_does_not_load_names_file_and_line(replayed, tmp_path):
    labeler = plugin(tmp_path, "return [")
    with pytest.raises(ConfigError, match=r"mine\.py.*\d+"):
        replayed(labeler=labeler)


def test_a_labeler_that_ends_its_process_costs_those_items_only(replayed, tmp_path):
    body = (
        "import os\n"
        "        if any('function 0' in c.prompt.messages[0].content for c in batch): os._exit(3)\n"
        "        return [Score(float(len(c.completion.text))) for c in batch]"
    )
    finished = run(replayed(n_prompts=6, labeler=plugin(tmp_path, body)), tmp_path / "runs")
    assert finished.failed == {}
    labels = [row for shard in finished.folder.glob("labels-*/*.parquet") for row in pq.read_table(shard).to_pylist()]
    assert [row["abstain"] for row in labels].count(None) == 20
    crashed = [row["reason"] for row in labels if row["abstain"]]
    assert crashed == ["the labeler ended its process with exit code 3"] * 4


def test_prompts_that_left_the_file_leave_the_next_version(replayed, tmp_path):
    run(replayed(n_prompts=4), tmp_path / "runs")
    second = run(replayed("prompts.limit=1"), tmp_path / "runs")
    assert second.rows == 2


def test_the_card_and_manifest_state_what_made_the_data(replayed, tmp_path):
    finished = run(replayed("dataset.license=cc0-1.0"), tmp_path / "runs")
    card = (finished.folder / "dataset" / "README.md").read_text()
    for said in ("license: cc0-1.0", "8 preference pairs", "compiles", "load_dataset", "max_per_prompt 4", "people"):
        assert said in card
    manifest = manifests(finished.folder)[0]
    assert manifest["rows"] == 8
    assert manifest["lineage"]["labelers"]["compiles"]["version"]
    assert all(len(shard["sha256"]) == 64 for shard in manifest["shards"])


def test_a_labeler_that_selects_no_prompt_leaves_them_counted(replayed, tmp_path):
    finished = run(replayed("labelers.0.where={family='poems'}"), tmp_path / "runs")
    assert finished.rows == 0
    assert finished.families[0].dropped == {"prompt without a labeler": 4}


def test_datasets_never_serves_another_version_from_its_cache(replayed, tmp_path):
    rows = []
    for settings in ((), ("pairs.max_per_prompt=1",), ("prompts.limit=1",)):
        dataset = run(replayed(*settings), tmp_path / "runs").folder / "dataset"
        rows.append(
            [datasets.load_dataset(str(dataset), c, split="train").num_rows for c in ("default", "sampler_logps")]
        )
    assert rows == [[8, 8], [4, 4], [2, 2]]


def test_without_a_pair_nothing_is_published_and_the_version_before_stays(replayed, tmp_path):
    first = run(replayed(), tmp_path / "runs")
    second = run(replayed("pairs.min_margin=5"), tmp_path / "runs")
    assert (second.version, second.rows) == (None, 0)
    assert datasets.load_dataset(str(first.folder / "dataset"), split="train").num_rows == 8
    assert [p.name for p in (first.folder / "versions").iterdir() if p.is_dir()] == ["0001"]


def test_the_resolved_config_is_stored_with_the_run(replayed, tmp_path):
    folder = run(replayed("sources.0.n=3"), tmp_path / "runs").folder
    assert json.loads((folder / "config.json").read_text())["sources"][0]["n"] == 3
