"""Refreshing: only what is new costs anything, what fails changes nothing, versions are kept, rolled back, collected."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.config import load
from pipeline.errors import BelowGate, BrokenLabeler, Busy, ConfigError
from pipeline.publishing.history import events
from pipeline.publishing.versions import current, manifests, rollback
from pipeline.refreshing.refresh import refresh, require_version
from pipeline.run import locked, run
from pipeline.storage.garbage import collect
from pipeline.storage.shards import read_shard, receipt_of, write_shard
from tests.pipeline.refreshing import BAD, GOOD, Asked, Growing

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def growing(tmp_path) -> Growing:
    return Growing(tmp_path)


@pytest.fixture
def asked(monkeypatch) -> Asked:
    return Asked(monkeypatch)


def prompts_of(folder: Path) -> set[str]:
    rows = [row for file in sorted((folder / "data").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    return {row["prompt"][0]["content"] for row in rows}


def kept_manifests(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("versions/[0-9]*.json")}


def cli(*arguments, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=400, check=False, cwd=cwd, env={"PYTHONPATH": str(ROOT)}
    )


def test_the_first_refresh_is_a_run_and_has_nothing_to_compare_with(growing, asked):
    refreshed = refresh(growing.config(range(4)), growing.root)
    assert (refreshed.finished.version.number, refreshed.finished.rows, refreshed.diff) == (1, 8, None)
    assert asked.since() == 4


def test_where_nothing_changed_nothing_is_asked_and_there_is_no_version(growing, asked):
    refresh(growing.config(range(4)), growing.root)
    asked.since()
    files = {path: path.stat().st_mtime_ns for path in growing.run.rglob("*.parquet")}
    refreshed = refresh(growing.config(range(4)), growing.root)
    assert (refreshed.is_new, refreshed.finished.version.number, asked.since()) == (False, 1, 0)
    assert files == {path: path.stat().st_mtime_ns for path in growing.run.rglob("*.parquet")}


def test_one_percent_new_prompts_cost_one_percent_of_the_sampling(growing, asked):
    refresh(growing.config(range(200), shard_size=64), growing.root)
    assert asked.since() == 200
    refreshed = refresh(growing.config(range(202), shard_size=64), growing.root)
    assert asked.since() == 2
    assert (refreshed.diff.added, refreshed.diff.removed, refreshed.diff.relabelled) == (4, 0, 0)
    assert refreshed.diff.prompts_added == 2


def test_another_labeler_samples_nothing(growing, asked):
    refresh(growing.config(range(4)), growing.root)
    asked.since()
    mine = growing.plugin("return [Score(float('x:' not in c.completion.text)) for c in batch]")
    refreshed = refresh(growing.config(range(4), labeler=mine), growing.root)
    assert asked.since() == 0
    assert (refreshed.is_new, refreshed.diff.relabelled, refreshed.diff.added) == (True, 8, 0)


def test_other_completions_of_one_prompt_are_sampled_again(growing, asked):
    """The engine is known by what it is made of: a file's content here, a model's revision elsewhere."""
    refresh(growing.config(range(4)), growing.root)
    asked.since()
    growing.completions({0: [f"{GOOD}  # 3", f"{BAD}  # 3"]})
    refreshed = refresh(growing.config(range(4)), growing.root)
    assert asked.since() == 4
    assert refreshed.diff.added == 1
    assert refreshed.diff.removed == 2


def test_removed_prompts_leave_the_next_version_and_cost_nothing_when_they_return(growing, asked):
    refresh(growing.config(range(4)), growing.root)
    asked.since()
    refreshed = refresh(growing.config([0, 2, 3]), growing.root)
    assert "write function 1" not in prompts_of(growing.run / "dataset")
    assert (refreshed.diff.removed, refreshed.diff.prompts_removed) == (2, 1)
    refresh(growing.config(range(4)), growing.root)
    assert "write function 1" in prompts_of(growing.run / "dataset")
    assert asked.since() == 0


def test_a_diff_is_written_beside_the_manifests(growing):
    refresh(growing.config(range(4)), growing.root)
    refresh(growing.config(range(6)), growing.root)
    said = json.loads((growing.run / "versions" / "diff-0001-0002.json").read_text())
    assert (said["before"], said["after"], said["added"]) == (1, 2, 4)
    assert [m["number"] for m in manifests(growing.run)] == [1, 2]


def test_a_diff_that_a_kill_prevented_is_made_by_the_next_refresh(growing):
    refresh(growing.config(range(4)), growing.root)
    run(growing.config(range(6)), growing.root)  # a version without a diff, as a kill between the two leaves it
    refreshed = refresh(growing.config(range(6)), growing.root)
    assert (refreshed.is_new, refreshed.diff.added) == (False, 4)
    assert refresh(growing.config(range(6)), growing.root).diff is None


def test_a_failed_audit_makes_no_version_and_publishes_nothing(growing, tmp_path):
    place = f"dataset.publish_to=['{tmp_path / 'out'}']"
    refresh(growing.config(range(4), place), growing.root)
    heldout = tmp_path / "heldout.jsonl"
    heldout.write_text(json.dumps({"prompt": "write function 5"}) + "\n")
    before = kept_manifests(growing.run)
    refreshed = refresh(growing.config(range(6), place, f"audit.heldout='{heldout}'"), growing.root)
    assert refreshed.finished.audited.failed
    assert (refreshed.finished.version, refreshed.published) == (None, ())
    assert kept_manifests(growing.run) == before
    assert (growing.run / "dataset").readlink().name == (tmp_path / "out" / "dataset").readlink().name == "0001"


def test_a_failed_audit_is_exit_code_1(growing):
    growing.config(range(4))
    assert cli("refresh", "config.toml", cwd=growing.folder).returncode == 0
    (growing.folder / "heldout.jsonl").write_text(json.dumps({"prompt": "write function 5"}) + "\n")
    growing.config(range(6))
    done = cli("refresh", "config.toml", "--set", "audit.heldout=heldout.jsonl", cwd=growing.folder)
    assert (done.returncode, "nothing was published" in done.stderr) == (1, True), done.stderr


def test_a_shard_that_cannot_be_made_makes_no_version(growing):
    refresh(growing.config(range(4)), growing.root)
    shard = sorted(growing.run.glob("completions-*/00000.parquet"))[0]
    write_shard(shard, read_shard(shard).drop_columns(["logp"]), receipt_of(shard).inputs)  # whole, and of no use
    for path in (*growing.run.glob("labels-*/*.json"), growing.run / "checked.json"):
        path.unlink()
    refreshed = refresh(growing.config(range(6)), growing.root)
    assert len(refreshed.finished.failed) == 1
    assert (refreshed.finished.version, current(growing.run)["number"]) == (None, 1)


def test_too_few_pairs_make_no_version_and_are_exit_code_4(growing):
    refresh(growing.config(range(4)), growing.root)
    config = growing.config([0], "dataset.min_pairs=3")
    refreshed = refresh(config, growing.root)
    with pytest.raises(BelowGate, match="what stood before stands"):
        require_version(refreshed, config)
    assert current(growing.run)["rows"] == 8


def test_a_refresh_waits_for_nobody(growing):
    config = growing.config(range(4))
    with locked(growing.run), pytest.raises(Busy):
        refresh(config, growing.root)


def test_a_rollback_points_at_the_version_before_and_is_written_down(growing):
    refresh(growing.config(range(4)), growing.root)
    refresh(growing.config(range(6)), growing.root)
    before = kept_manifests(growing.run)
    assert rollback(growing.run)["number"] == 1
    assert len(prompts_of(growing.run / "dataset")) == 4
    [event] = events(growing.run)
    assert (event["event"], event["version"], event["from"], event["newest"]) == ("rolled back", 1, 2, 2)
    assert kept_manifests(growing.run) == before


def test_a_rollback_stands_until_there_is_something_new(growing):
    refresh(growing.config(range(4)), growing.root)
    refresh(growing.config(range(6)), growing.root)
    rollback(growing.run, 1)
    same = refresh(growing.config(range(6)), growing.root)
    assert (same.is_new, current(growing.run)["number"]) == (False, 1)
    new = refresh(growing.config(range(8)), growing.root)
    assert (current(growing.run)["number"], new.diff.before, new.diff.after) == (3, 1, 3)


def test_a_rollback_that_was_killed_half_way_is_finished_by_the_next_refresh(growing):
    refresh(growing.config(range(4)), growing.root)
    refresh(growing.config(range(6)), growing.root)
    rollback(growing.run, 1)
    (growing.run / "dataset").unlink()
    (growing.run / "dataset").symlink_to("versions/0002")
    refresh(growing.config(range(6)), growing.root)
    assert current(growing.run)["number"] == 1


def test_rolling_forward_is_the_same_command(growing):
    refresh(growing.config(range(4)), growing.root)
    refresh(growing.config(range(6)), growing.root)
    rollback(growing.run, 1)
    rollback(growing.run, 2)
    refresh(growing.config(range(6)), growing.root)
    assert current(growing.run)["number"] == 2


@pytest.mark.parametrize("number", [None, 7])
def test_a_rollback_to_nothing_says_so(growing, number):
    refresh(growing.config(range(4)), growing.root)
    with pytest.raises(ConfigError, match="hint"):
        rollback(growing.run, number)


def test_the_last_versions_are_kept_and_every_manifest(growing):
    for n in (2, 4, 6, 8):
        refreshed = refresh(growing.config(range(n), "dataset.keep=2"), growing.root)
    assert refreshed.removed == (2,)
    assert [path.name for path in sorted((growing.run / "versions").glob("[0-9]???"))] == ["0003", "0004"]
    assert [m["number"] for m in manifests(growing.run)] == [1, 2, 3, 4]
    with pytest.raises(ConfigError, match="the rows of version 1 were removed"):
        rollback(growing.run, 1)


def test_the_version_that_was_rolled_back_to_is_kept_whatever_its_age(growing):
    for n in (2, 4, 6):
        refresh(growing.config(range(n)), growing.root)
    rollback(growing.run, 1)
    refreshed = refresh(growing.config(range(6), "dataset.keep=1"), growing.root)
    assert refreshed.removed == (2,)
    assert len(prompts_of(growing.run / "dataset")) == 2


def test_nothing_is_collected_that_a_version_or_the_newest_build_refers_to(growing, asked):
    refresh(growing.config(range(4)), growing.root)
    refresh(growing.config(range(4), "pairs.max_per_prompt=1"), growing.root)
    assert collect(growing.run).shards == ()


def test_what_no_kept_version_refers_to_is_collected_on_request_only(growing, asked):
    refresh(growing.config(range(4), "dataset.keep=1"), growing.root)
    refresh(growing.config(range(2), "dataset.keep=1", "pairs.max_per_prompt=1"), growing.root)
    assert len(list(growing.run.glob("pairs-*"))) == 2
    told = collect(growing.run, dry_run=True)
    assert len(list(growing.run.glob("pairs-*"))) == 2
    refreshed = refresh(growing.config(range(2), "dataset.keep=1", "pairs.max_per_prompt=1"), growing.root, tidy=True)
    assert refreshed.collected == told
    # both shards of the old pair rule, and what was made of the shard whose prompts left
    assert sorted(name.split("-")[0] for name in told.shards) == ["completions", "labels", "pairs", "pairs"]
    assert len(list(growing.run.glob("pairs-*"))) == 1
    asked.since()
    same = refresh(growing.config(range(2), "dataset.keep=1", "pairs.max_per_prompt=1"), growing.root)
    assert (same.is_new, asked.since()) == (False, 0)


def test_what_an_unfinished_build_has_made_is_not_collected(growing):
    refresh(growing.config(range(4)), growing.root)
    mine = growing.plugin("raise RuntimeError('my bug')")
    with pytest.raises(BrokenLabeler):
        refresh(growing.config(range(20), labeler=mine, shard_size=8), growing.root)
    made = sorted(growing.run.glob("completions-*/*.parquet"))
    assert len(made) > 2
    assert collect(growing.run).shards == ()
    assert sorted(growing.run.glob("completions-*/*.parquet")) == made


def test_a_run_that_does_not_say_what_it_wants_loses_nothing(growing):
    refresh(growing.config(range(4)), growing.root)
    (growing.run / "wanted.json").unlink()
    files = sorted(growing.run.rglob("*.parquet"))
    with pytest.raises(ConfigError, match="nothing was removed"):
        collect(growing.run)
    assert sorted(growing.run.rglob("*.parquet")) == files


def test_the_commands_say_what_they_did(growing):
    growing.config(range(4))
    assert "version 1, new, 8 pairs" in cli("refresh", "config.toml", cwd=growing.folder).stdout
    growing.config(range(6))
    said = json.loads(cli("refresh", "config.toml", "--json", cwd=growing.folder).stdout)
    assert (said["version"], said["is_new"], said["diff"]["added"]) == (2, True, 4)
    assert "4 added, 0 removed" in cli("diff", "runs/growing", cwd=growing.folder).stdout
    assert "version 1, 8 pairs" in cli("rollback", "runs/growing", cwd=growing.folder).stdout
    listed = json.loads(cli("versions", "runs/growing", "--json", cwd=growing.folder).stdout)
    assert [m["current"] for m in listed] == [True, False]
    unchanged = cli("refresh", "config.toml", cwd=growing.folder)
    assert (unchanged.returncode, "version 1, unchanged" in unchanged.stdout) == (0, True), unchanged.stderr


def test_the_pages_settings_are_settings(growing):
    growing.config(range(2))
    path = growing.folder / "config.toml"
    [block] = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "refreshing.md").read_text(), re.DOTALL)
    path.write_text(f"{path.read_text()}\n{block}")
    assert load(path).dataset.keep == 5
