"""Prompts whose metadata alone changed: the next version has it, and nothing is sampled for it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.publishing.versions import manifests
from pipeline.refreshing.refresh import refresh
from tests.pipeline.refreshing import BAD, GOOD, Asked, Growing, no_executor


@pytest.fixture
def growing(tmp_path) -> Growing:
    return Growing(tmp_path)


@pytest.fixture
def asked(monkeypatch) -> Asked:
    return Asked(monkeypatch)


def metadata_of(folder: Path) -> dict[str, dict]:
    rows = [row for file in sorted((folder / "data").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    return {row["prompt"][0]["content"]: json.loads(row["metadata"]) for row in rows}


def test_other_metadata_reaches_the_next_version_and_nothing_is_sampled(growing, asked):
    refresh(growing.config(range(6)), growing.root)
    asked.since()
    growing.more = {1: {"topic": "sums"}, 4: {"family": "other"}}
    refreshed = refresh(growing.config(range(6)), growing.root)
    assert asked.since() == 0
    assert refreshed.is_new
    found = metadata_of(growing.run / "dataset")
    assert found["write function 1"] == {"family": "code", "topic": "sums"}
    assert found["write function 4"] == {"family": "other"}
    assert found["write function 2"] == {"family": "code"}
    assert (refreshed.diff.added, refreshed.diff.removed, refreshed.diff.rows_after) == (0, 0, 12)
    assert refreshed.diff.redescribed == 4
    assert refreshed.finished.audited.state != "FAIL"
    assert not refresh(growing.config(range(6)), growing.root, no_executor).is_new


def test_only_what_labelers_may_see_is_labelled_again(growing):
    refresh(growing.config(range(6)), growing.root)
    labels = {path: path.stat().st_mtime_ns for path in growing.run.glob("labels-*/*.parquet")}
    growing.more = {1: {"topic": "sums"}}
    refresh(growing.config(range(6)), growing.root)
    now = {path: path.stat().st_mtime_ns for path in growing.run.glob("labels-*/*.parquet")}
    [new] = now.keys() - labels.keys()
    assert pq.read_table(new).num_rows == 4
    assert {path: now[path] for path in labels} == labels


def test_metadata_that_changes_back_and_prompts_that_leave_afterwards_are_as_they_would_be(growing, asked):
    first = refresh(growing.config(range(4)), growing.root)
    growing.more = {1: {"topic": "sums"}}
    refresh(growing.config(range(4)), growing.root)
    growing.more = {}
    back = refresh(growing.config(range(4)), growing.root)
    asked.since()
    assert metadata_of(back.finished.version.folder) == metadata_of(first.finished.version.folder)
    gone = refresh(growing.config([0, 2, 3]), growing.root)
    assert (gone.finished.rows, "write function 1" in metadata_of(growing.run / "dataset")) == (6, False)
    assert len({manifest["content"] for manifest in manifests(growing.run)}) == 4
    assert asked.since() == 0


def test_a_source_that_never_saw_the_prompt_samples_it_once_where_it_lies_now(growing, asked):
    refresh(growing.config(range(4)), growing.root)
    growing.more = {0: {"topic": "sums"}, 1: {"topic": "sums"}}
    refresh(growing.config(range(4)), growing.root)
    asked.since()
    growing.completions({3: [f"{GOOD}  # 3", f"{BAD}  # 3"]})
    refreshed = refresh(growing.config(range(4)), growing.root)
    assert asked.since() == 4
    assert refreshed.finished.rows == 7
