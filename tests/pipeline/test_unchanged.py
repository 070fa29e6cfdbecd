"""Where nothing changed a refresh opens nothing; what the manifest says made a version, and what of it makes another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import BadPrompts
from pipeline.prompts import Prompts, import_prompts
from pipeline.publishing.code import source_sha256
from pipeline.publishing.versions import manifests
from pipeline.refreshing.refresh import refresh
from pipeline.run import run
from pipeline.storage.shards import read_json, write_json
from tests.pipeline.refreshing import Asked, Growing, no_executor


@pytest.fixture
def growing(tmp_path) -> Growing:
    return Growing(tmp_path)


@pytest.fixture
def asked(monkeypatch) -> Asked:
    return Asked(monkeypatch)


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The labelers that an audit opened."""
    from pipeline.auditing import canaries

    names: list[str] = []
    poll = canaries._poll

    def noted(stage, *rest):
        names.append(stage.name)
        return poll(stage, *rest)

    monkeypatch.setattr(canaries, "_poll", noted)
    return names


def test_where_nothing_changed_no_executor_is_started_and_no_labeler_opened(growing, opened):
    refresh(growing.config(range(4)), growing.root)
    assert opened == ["compiles"]
    first = refresh(growing.config(range(4)), growing.root, no_executor)
    assert opened == ["compiles"]
    assert first.finished.audited.findings
    assert run(growing.config(range(4)), growing.root, no_executor).version.is_new is False


@pytest.fixture
def rows_read(monkeypatch) -> list[str]:
    """The prompt files that were read row by row."""
    from pipeline import prompts

    names: list[str] = []
    read = prompts.read_rows

    def noted(path, *rest):
        names.append(path)
        return read(path, *rest)

    monkeypatch.setattr(prompts, "read_rows", noted)
    return names


def test_where_nothing_changed_no_prompt_is_read(growing, rows_read):
    first = run(growing.config(range(4)), growing.root)
    assert len(rows_read) == 1
    again = run(growing.config(range(4)), growing.root, no_executor)
    assert len(rows_read) == 1
    assert again.imported == first.imported


@pytest.mark.parametrize("change", ["the file", "the file's place", "settings", "a shard", "our own code", "the note"])
def test_prompts_are_read_again_where_what_an_import_follows_from_changed(growing, rows_read, monkeypatch, change):
    run(growing.config(range(4)), growing.root)
    n, more = 4, []
    match change:
        case "the file":
            n = 5
        case "the file's place":
            (growing.folder / "other.jsonl").write_bytes((growing.folder / "prompts.jsonl").read_bytes())
            more = [f"prompts.path='{growing.folder / 'other.jsonl'}'"]
        case "settings":
            more = ["prompts.limit=3"]
        case "a shard":
            next((growing.run / "prompts").glob("*.parquet")).unlink()
        case "our own code":
            monkeypatch.setattr("pipeline.imported.source_sha256", lambda: "other")
        case _:
            (growing.run / "imported.json").write_text("{")
    run(growing.config(range(n), *more), growing.root)
    assert len(rows_read) == 2


@pytest.fixture
def folder(tmp_path) -> Path:
    """A dataset folder, and beside it data that is not in it."""
    for path in (tmp_path / "set" / "train.jsonl", tmp_path / "beside" / "train.jsonl"):
        path.parent.mkdir()
        path.write_text(json.dumps({"prompt": "one"}) + "\n")
    return tmp_path / "set"


def test_a_folders_prompts_are_read_again_where_its_files_have_other_names(folder, tmp_path):
    asked, prompts = Prompts(str(folder)), tmp_path / "run" / "prompts"
    import_prompts(asked, prompts)
    (folder / "train.jsonl").rename(folder / "test.jsonl")
    with pytest.raises(BadPrompts, match="split"):
        import_prompts(asked, prompts)


def test_a_folders_prompts_are_read_again_where_its_card_names_data_that_lie_elsewhere(folder, tmp_path):
    asked, prompts = Prompts(str(folder)), tmp_path / "run" / "prompts"
    split = "  - split: train\n    path: ../beside/*.jsonl\n"
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{split}---\n")
    import_prompts(asked, prompts)
    with (tmp_path / "beside" / "train.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "two"}) + "\n")
    assert len(import_prompts(asked, prompts).active) == 2


def test_what_was_left_out_is_told_again_though_no_prompt_is_read(growing, rows_read):
    config = growing.config(range(4), "prompts.on_bad_row='skip'")
    with (growing.folder / "prompts.jsonl").open("a") as file:
        file.write("not json\n" + (growing.folder / "prompts.jsonl").read_text().splitlines()[0] + "\n")
    first, again = run(config, growing.root).imported, run(config, growing.root).imported
    assert (len(rows_read), first.duplicates, len(first.bad)) == (1, 1, 1)
    assert again == first


@pytest.mark.parametrize(
    "change", ["shards", "settings", "held-out prompts", "our own code", "the note", "a labeler that was not asked"]
)
def test_an_audit_is_made_again_where_what_it_follows_from_changed(growing, opened, monkeypatch, change):
    heldout = growing.folder / "heldout.jsonl"
    heldout.write_text(json.dumps({"prompt": "write poems"}) + "\n")
    more = [f"audit.heldout='{heldout}'"]
    refresh(growing.config(range(4), *more), growing.root)
    note = growing.run / "audit.json"
    match change:
        case "shards":
            more.append("pairs.max_per_prompt=1")
        case "settings":
            more.append("audit.max_longer=0.95")
        case "held-out prompts":
            heldout.write_text(json.dumps({"prompt": "write novels"}) + "\n")
        case "our own code":
            monkeypatch.setattr("pipeline.auditing.memory.source_sha256", lambda: "other")
        case "the note":
            note.write_text("{")
        case _:
            said = read_json(note)
            write_json(note, {**said, "findings": [{**said["findings"][0], "check": "canaries", "state": "warn"}]})
    refresh(growing.config(range(4), *more), growing.root)
    assert opened == ["compiles", "compiles"]


def test_a_failed_audit_is_made_again_and_fails_again(growing, opened):
    heldout = growing.folder / "heldout.jsonl"
    heldout.write_text(json.dumps({"prompt": "write function 1"}) + "\n")
    for _ in range(2):
        assert refresh(growing.config(range(4), f"audit.heldout='{heldout}'"), growing.root).finished.audited.failed
    assert opened == ["compiles", "compiles"]


def test_the_manifest_says_which_code_models_labelers_and_files_made_the_version(growing):
    refresh(growing.config(range(4)), growing.root)
    [manifest] = manifests(growing.run)
    lineage = manifest["lineage"]
    assert lineage["code"]["source_sha256"] == source_sha256()
    assert lineage["models"]["people"]["model"] == "human"
    assert len(lineage["labeler_sources"]["compiles"]["file_sha256"]) == 64
    assert lineage["prompts"][0]["path"].endswith("prompts.jsonl")
    assert len(lineage["prompts"][0]["sha256"]) == 64
    event = manifest["openlineage"]
    assert {"eventType", "eventTime", "run", "job", "inputs", "outputs", "producer", "schemaURL"} <= event.keys()
    assert event["run"]["facets"]["lineage"]["seed"] == 0
    assert event["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 8


def test_other_code_that_makes_the_same_rows_makes_no_version(growing, monkeypatch):
    refresh(growing.config(range(4)), growing.root)
    monkeypatch.setattr("pipeline.publishing.lineage.code", lambda: {"version": "9.9", "source_sha256": "other"})
    assert not refresh(growing.config(range(4)), growing.root).is_new
