"""The command line as a script sees it: exit codes, stdout for data, stderr for talk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.pairing.rules import RULES
from pipeline.run import locked
from pipeline.storage.shards import read_shard, receipt_of, write_shard
from tests.pipeline.conftest import write_replay

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(replayed, tmp_path) -> Path:
    replayed()
    return tmp_path / "config.toml"


def cli(*arguments, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=400, check=False, cwd=cwd, env={"PYTHONPATH": str(ROOT)}
    )


def test_a_run_prints_data_on_stdout_and_talk_on_stderr(config, tmp_path):
    done = cli("run", config, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pairs"] == 8
    assert "run replayed" in done.stderr


def test_the_run_can_be_looked_at_afterwards(config, tmp_path):
    assert cli("run", config, cwd=tmp_path).returncode == 0
    assert cli("show", "runs/replayed", "--n", 2, cwd=tmp_path).stdout.count("rejected") == 2
    assert json.loads(cli("versions", "runs/replayed", "--json", cwd=tmp_path).stdout)[0]["rows"] == 8
    assert json.loads(cli("status", "runs/replayed", "--json", cwd=tmp_path).stdout)["prompts"] == {
        "shards": 2,
        "rows": 4,
    }
    assert "2 of 2 shards" in cli("plan", config, cwd=tmp_path).stdout
    exported = cli("export", "runs/replayed", "--for", "axolotl", "--out", "out", "--json", cwd=tmp_path)
    assert json.loads(exported.stdout)["rows"] == 8


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with a config and its finished run, not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    write_replay(folder)
    assert cli("run", "config.toml", cwd=folder).returncode == 0
    return folder


def test_the_ablation_prints_what_each_rule_would_make(finished):
    table = cli("plan", "config.toml", "--pairs", "ablate", cwd=finished).stdout.splitlines()
    assert table[0].split()[:3] == ["rule", "pairs", "prompts"]
    assert [line.split()[0] for line in table[1:]] == list(RULES)
    assert ["pass_vs_fail", "8", "4"] in [line.split()[:3] for line in table]


def test_the_ablation_is_json_for_scripts(finished):
    done = cli("plan", "config.toml", "--pairs", "ablate", "--json", cwd=finished)
    found = {each["rule"]: each for each in json.loads(done.stdout)}
    assert list(found) == list(RULES)
    best = found["best_vs_worst"]
    assert (best["pairs"], best["prompts"], best["margin"], best["chosen_from"]) == (8, 4, 1.0, {"people": 1.0})


def test_an_ablation_before_the_run_is_refused_with_a_hint(config, tmp_path):
    done = cli("plan", config, "--pairs", "ablate", cwd=tmp_path)
    assert (done.returncode, "hint: python -m pipeline run first" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(("kind", "rows"), [("kto", 16), ("reward", 8), ("sft", 4), ("groups", 4)])
def test_a_runs_candidates_are_exported_as_each_kind(finished, tmp_path, kind, rows):
    done = cli("export", finished / "runs" / "replayed", "--as", kind, "--out", "out", "--json", cwd=tmp_path)
    assert json.loads(done.stdout) == {"folder": str(tmp_path / "out"), "rows": rows}
    assert sum(pq.read_metadata(file).num_rows for file in (tmp_path / "out" / "data").iterdir()) == rows


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["run", "--set", "sources.0.nn=3"], 2, "did you mean n?"),
        (["run", "nothing.toml"], 2, "nothing.toml: cannot be read"),
        (["run", "--set", "prompts.path=nothing.jsonl"], 2, "nothing.jsonl: no such file"),
        (["run", "--set", "labelers.0.use=./nothing.py:Mine"], 2, "nothing.py"),
        (["run", "--set", "pairs.min_margin=9"], 4, "0 pairs, fewer than"),
        (["export", "nowhere", "--for", "trl", "--out", "out"], 2, "hint"),
        (["export", "runs/replayed", "--out", "out"], 2, "neither --for nor --as is given; hint: --for trl"),
        (["export", "x", "--for", "trl", "--as", "kto", "--out", "out"], 2, "--for and --as exclude each other"),
        (["export", "nowhere", "--as", "kto", "--out", "out"], 2, "holds no run"),
        (["plan", "--pairs", "all"], 2, "hint: --pairs ablate"),
        (["run", "--root", "prompts.jsonl"], 2, "cannot be a folder (prompts.jsonl/replayed: Not a directory); hint"),
        (["run", "--metrics-port", "70000"], 2, "65535"),
        (
            ["run", "--set", 'dataset.publish_to=["hf://me"]'],
            2,
            "dataset.publish_to: hf://me: is no Hub repository; hint",
        ),
        (["run", "--set", 'dataset.publish_to=["s3://"]'], 2, "dataset.publish_to: s3://: is no folder"),
        (["show", "nowhere"], 2, "holds no run"),
        (["walk"], 2, "No such command"),
    ],
)
def test_each_wrong_input_has_its_exit_code_and_a_hint(config, tmp_path, arguments, code, says):
    if arguments[0] in ("run", "plan") and "nothing.toml" not in arguments:
        arguments = [arguments[0], config, *arguments[1:]]
    done = cli(*arguments, cwd=tmp_path)
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_that_has_no_version_has_no_pair_to_show(config, tmp_path):
    assert cli("run", config, "--set", "pairs.min_margin=9", cwd=tmp_path).returncode == 4
    done = cli("show", "runs/replayed", cwd=tmp_path)
    assert (done.returncode, "has no version yet; hint" in done.stderr) == (2, True), done.stderr


def test_a_held_folder_is_exit_code_75(config, tmp_path):
    with locked(tmp_path / "runs" / "replayed"):
        done = cli("run", config, cwd=tmp_path)
    assert (done.returncode, "another run holds this folder" in done.stderr) == (75, True)


def test_a_failed_shard_is_exit_code_1_and_named(config, tmp_path):
    assert cli("run", config, cwd=tmp_path).returncode == 0
    folder = tmp_path / "runs" / "replayed"
    shard = next(folder.glob("completions-*/00000.parquet"))
    write_shard(shard, read_shard(shard).drop_columns(["logp"]), receipt_of(shard).inputs)
    for path in (*folder.glob("labels-*/*.json"), folder / "checked.json"):
        path.unlink()
    done = cli("run", config, cwd=tmp_path)
    assert done.returncode == 1
    assert "00000.parquet: has other columns" in done.stderr
    assert "dataset" in done.stdout
