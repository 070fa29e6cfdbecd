"""Publishing to folders, object stores and a Hub on loopback: a reader sees a whole version, or the one before."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest

from pipeline.config import load
from pipeline.errors import ConfigError, EnvironmentLacks, PipelineError
from pipeline.publishing.history import events
from pipeline.publishing.publish import publish_current, remove_published
from pipeline.publishing.versions import rollback
from pipeline.refreshing.refresh import refresh
from pipeline.storage.folders import pointed, remove
from pipeline.storage.shards import read_json, write_json
from pipeline.storage.stores import StorePath, place_of
from tests.pipeline.hub import serving
from tests.pipeline.refreshing import Growing

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def growing(tmp_path) -> Growing:
    return Growing(tmp_path)


@pytest.fixture
def memory():
    store = place_of("memory://bucket")
    yield store
    remove(store)


def to(place) -> str:
    return f"dataset.publish_to=['{place}']"


def n_rows(folder: Path) -> int:
    return sum(pq.ParquetFile(file).metadata.num_rows for file in (folder / "data").glob("*.parquet"))


def published(growing: Growing) -> list[tuple[int, str]]:
    return [(e["version"], e["to"]) for e in events(growing.run) if e["event"] == "published"]


def test_a_folder_gets_a_dataset_that_datasets_opens(growing, tmp_path):
    refreshed = refresh(growing.config(range(4), to(tmp_path / "out")), growing.root)
    assert refreshed.published == (str(tmp_path / "out"),)
    assert datasets.load_dataset(str(tmp_path / "out" / "dataset"), split="train").num_rows == 8


def test_a_relative_place_in_the_config_lies_beside_the_config(growing, tmp_path):
    growing.config(range(2))
    path = tmp_path / "config.toml"
    path.write_text(path.read_text() + "[dataset]\npublish_to = ['out', 's3://bucket/x']\n")
    assert load(path).dataset.publish_to == (str(tmp_path / "out"), "s3://bucket/x")


def test_a_new_version_stands_beside_the_old_one(growing, tmp_path):
    refresh(growing.config(range(4), to(tmp_path / "out")), growing.root)
    old = {path: path.read_bytes() for path in (tmp_path / "out" / "versions").rglob("*") if path.is_file()}
    refresh(growing.config(range(6), to(tmp_path / "out")), growing.root)
    assert (tmp_path / "out" / "dataset").readlink() == Path("versions/0002")
    assert old == {path: path.read_bytes() for path in old}


def test_nothing_new_is_published_once(growing, tmp_path):
    for _ in range(3):
        refresh(growing.config(range(4), to(tmp_path / "out")), growing.root)
    assert len(published(growing)) == 1


def test_a_destination_that_is_named_later_gets_the_version_that_stands(growing, tmp_path):
    refresh(growing.config(range(4)), growing.root)
    refreshed = refresh(growing.config(range(4), to(tmp_path / "out")), growing.root)
    assert (refreshed.is_new, n_rows(tmp_path / "out" / "dataset")) == (False, 8)


def test_a_rollback_reaches_the_destination_with_the_next_refresh(growing, tmp_path):
    refresh(growing.config(range(4), to(tmp_path / "out")), growing.root)
    refresh(growing.config(range(6), to(tmp_path / "out")), growing.root)
    rollback(growing.run, 1)
    refresh(growing.config(range(6), to(tmp_path / "out")), growing.root)
    assert n_rows(tmp_path / "out" / "dataset") == 8


def lying(place) -> list[str]:
    return sorted(path.name for path in (place / "versions").iterdir())


@pytest.mark.parametrize("kind", ["folder", "store"])
def test_a_destination_keeps_the_last_versions_and_the_one_that_stands(growing, tmp_path, memory, kind):
    place = tmp_path / "out" if kind == "folder" else memory
    for n in (2, 4, 6):
        refresh(growing.config(range(n), to(place), "dataset.keep=2"), growing.root)
    assert lying(place) == ["0002", "0002.json", "0003", "0003.json"]
    rollback(growing.run, 2)
    refresh(growing.config(range(6), to(place), "dataset.keep=1"), growing.root)
    assert pointed(place / "dataset") == place / "versions" / "0002"
    assert lying(place) == ["0002", "0002.json", "0003", "0003.json"]  # the last one, and the one that stands
    refresh(growing.config(range(8), to(place), "dataset.keep=1"), growing.root)
    assert lying(place) == ["0004", "0004.json"]


def test_a_version_that_was_removed_at_a_destination_comes_back_whole(growing, tmp_path):
    for n in (2, 4):
        refresh(growing.config(range(n), to(tmp_path / "out")), growing.root)
    remove_published(growing.run, str(tmp_path / "out"), 1)
    assert lying(tmp_path / "out") == ["0002", "0002.json"]
    rollback(growing.run, 1)
    refresh(growing.config(range(4), to(tmp_path / "out")), growing.root)
    assert n_rows(tmp_path / "out" / "dataset") == 4


def test_what_a_kill_left_of_a_removed_version_goes_with_the_next(growing, tmp_path):
    for n in (2, 4):
        refresh(growing.config(range(n), to(tmp_path / "out")), growing.root)
    (tmp_path / "out" / "versions" / "0001.json").unlink()
    remove_published(growing.run, str(tmp_path / "out"), 1)
    assert lying(tmp_path / "out") == ["0002", "0002.json"]


def test_what_others_put_beside_the_versions_is_never_removed(growing, tmp_path):
    versions = tmp_path / "out" / "versions"
    for n in (2, 4, 6):
        refresh(growing.config(range(n), to(tmp_path / "out")), growing.root)
    (versions / "2024 notes.json").write_text("{}")
    (versions / "0000").mkdir()
    write_json(versions / "0001.json", {"content": "of another run"})
    assert remove_published(growing.run, str(tmp_path / "out"), 1) == [2]
    assert lying(tmp_path / "out") == ["0000", "0001", "0001.json", "0003", "0003.json", "2024 notes.json"]


def test_what_a_kill_left_half_copied_is_copied_again(growing, tmp_path):
    refresh(growing.config(range(4)), growing.root)
    half = tmp_path / "out" / "versions" / "0001" / "data"  # renamed, but the notice was not written yet
    half.mkdir(parents=True)
    (half / "train-00000-of-00001.parquet").write_bytes(b"half")
    (tmp_path / "out" / "versions" / ".0001.part").mkdir()
    publish_current(growing.run, str(tmp_path / "out"))
    assert n_rows(tmp_path / "out" / "dataset") == 8
    assert not (tmp_path / "out" / "versions" / ".0001.part").exists()


def test_another_runs_version_is_never_overwritten(growing, tmp_path):
    refresh(growing.config(range(4), to(tmp_path / "out")), growing.root)
    other = Growing(tmp_path)
    with pytest.raises(PipelineError, match="holds another version 1"):
        refresh(other.config(range(6), to(tmp_path / "out")), tmp_path / "elsewhere")
    assert n_rows(tmp_path / "out" / "dataset") == 8


def test_a_reader_in_a_loop_always_sees_one_whole_version(growing, tmp_path):
    refresh(growing.config(range(2), to(tmp_path / "out")), growing.root)
    stop, seen, wrong = threading.Event(), set(), []
    whole = {n: 2 * n for n in (2, 4, 6, 8)}

    def read() -> None:
        while not stop.is_set():
            folder = (tmp_path / "out" / "dataset").resolve()
            notice = json.loads(folder.with_suffix(".json").read_text())
            seen.add(n_rows(folder))
            if n_rows(folder) != notice["rows"]:
                wrong.append(notice["version"])

    reader = threading.Thread(target=read)
    reader.start()
    for n in whole:
        refresh(growing.config(range(n), to(tmp_path / "out")), growing.root)
    stop.set()
    reader.join()
    assert wrong == []
    assert seen <= set(whole.values())


def test_a_destination_that_cannot_be_written_fails_and_is_tried_again(growing, tmp_path):
    (tmp_path / "out").write_text("a file, not a folder")
    with pytest.raises(PipelineError, match="version 1 was not published"):
        refresh(growing.config(range(4), to(tmp_path / "out")), growing.root)
    assert n_rows(growing.run / "dataset") == 8
    (tmp_path / "out").unlink()
    assert refresh(growing.config(range(4), to(tmp_path / "out")), growing.root).published == (str(tmp_path / "out"),)


def test_a_store_gets_every_file_and_a_pointer(growing, memory):
    refresh(growing.config(range(4), to("memory://bucket/pairs")), growing.root)
    version = pointed(memory / "pairs" / "dataset")
    notice = read_json(version.with_suffix(".json"))
    assert (version, notice["version"], notice["rows"]) == (memory / "pairs" / "versions" / "0001", 1, 8)
    assert {path.relative_to(version).as_posix() for path in version.rglob("*")} == set(notice["files"])
    for name, sha256 in notice["files"].items():
        assert hashlib.sha256((version / name).read_bytes()).hexdigest() == sha256
    data = [name for name in notice["files"] if name.startswith("data/")]
    assert pq.ParquetFile((version / data[0]).open()).metadata.num_rows == 8


def test_a_store_that_fails_half_way_still_points_at_the_version_before(growing, memory, monkeypatch):
    refresh(growing.config(range(4), to("memory://bucket/pairs")), growing.root)
    write = StorePath.write

    def failing(self, content, condition="overwrite"):
        if "sampler_logps" in str(self):
            raise OSError("the store went away")
        return write(self, content, condition)

    monkeypatch.setattr(StorePath, "write", failing)
    with pytest.raises(PipelineError, match="the store went away"):
        refresh(growing.config(range(6), to("memory://bucket/pairs")), growing.root)
    assert pointed(memory / "pairs" / "dataset").name == "0001"
    monkeypatch.undo()
    refresh(growing.config(range(6), to("memory://bucket/pairs")), growing.root)
    assert pointed(memory / "pairs" / "dataset").name == "0002"


def test_what_goes_out_says_nothing_of_this_machine(growing, memory, tmp_path):
    refresh(growing.config(range(4), to("memory://bucket/pairs")), growing.root)
    for path in memory.rglob("*"):
        assert str(tmp_path).encode() not in path.read_bytes()


def test_a_store_without_its_package_is_exit_code_3(growing, monkeypatch):
    refresh(growing.config(range(2)), growing.root)
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(EnvironmentLacks, match=r"version 1 was not published: .*hint: pip install"):
        publish_current(growing.run, "s3://bucket/pairs")


def test_a_store_that_nothing_is_known_of_is_refused(growing):
    refresh(growing.config(range(2)), growing.root)
    with pytest.raises(ConfigError, match="hint: a local path, s3://"):
        publish_current(growing.run, "ssh://machine/pairs")


@pytest.mark.parametrize("place", ["hf://datasets/pairs", "hf://datasets/a/b/c"])
def test_what_is_no_repository_is_refused(growing, place):
    refresh(growing.config(range(2)), growing.root)
    with pytest.raises(ConfigError, match="OWNER/NAME"):
        publish_current(growing.run, place)


def to_hub(growing: Growing, url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", *arguments]
    told = {"PYTHONPATH": str(ROOT), "HF_ENDPOINT": url, "HF_TOKEN": "hf_secret", "HOME": str(growing.folder)}
    return subprocess.run(
        command, cwd=growing.folder, env=told, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_hub_repository_gets_one_commit_a_version_and_a_tag(growing):
    with serving() as hub:
        for n in (4, 6):
            growing.config(range(n))
            done = to_hub(growing, hub.url, "refresh", "config.toml", "--set", to("hf://datasets/me/pairs"))
            assert done.returncode == 0, done.stderr
    assert (hub.created["visibility"], hub.created["type"], len(hub.commits)) == ("private", "dataset", 2)
    version = growing.run / "versions" / "0002"
    assert hub.files == {p.relative_to(version).as_posix(): p.read_bytes() for p in version.rglob("*") if p.is_file()}
    assert [tag.split("-")[0] for tag in hub.tags] == ["v0001", "v0002"]


def test_files_of_the_version_before_leave_the_repository(growing):
    with serving() as hub:
        hub.commits.append({"data/train-00000-of-00009.parquet": b"old", "notes.txt": b"the owner's"})
        growing.config(range(4))
        assert to_hub(growing, hub.url, "refresh", "config.toml", "--set", to("hf://datasets/me/pairs")).returncode == 0
    assert "data/train-00000-of-00009.parquet" not in hub.files
    assert hub.files["notes.txt"] == b"the owner's"


def test_a_hub_that_refuses_is_exit_code_1_and_the_token_is_never_said(growing):
    with serving() as hub:
        hub.refuses = True
        growing.config(range(4))
        done = to_hub(growing, hub.url, "refresh", "config.toml", "--set", to("hf://datasets/me/pairs"))
    assert (done.returncode, "version 1 was not published" in done.stderr) == (1, True), done.stderr
    assert hub.files == {}
    assert "Bearer hf_secret" in hub.tokens
    assert "hf_secret" not in done.stderr + done.stdout
    assert n_rows(growing.run / "dataset") == 8


def test_the_publish_command_gives_what_stands_to_any_place(growing, tmp_path):
    refresh(growing.config(range(4)), growing.root)
    done = to_hub(growing, "http://127.0.0.1:9", "publish", "runs/growing", "--to", "one", "--to", "two")
    assert (done.returncode, done.stdout.count("published to")) == (0, 2), done.stderr
    assert n_rows(tmp_path / "one" / "dataset") == n_rows(tmp_path / "two" / "dataset") == 8


@pytest.mark.slow
def test_kills_at_random_moments_leave_a_whole_version_at_home_and_away(growing, tmp_path):
    moments = random.Random(4)
    command = [sys.executable, "-m", "pipeline", "refresh", "config.toml", "--set", to("out")]
    for n in range(2, 18, 2):
        growing.config(range(n))
        process = subprocess.Popen(
            command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(moments.uniform(0.5, 2.0))
        process.kill()
        process.wait()
        for place in (growing.run, tmp_path / "out"):
            if (place / "dataset").exists():
                said = json.loads((place / "dataset").resolve().with_suffix(".json").read_text())
                assert n_rows(place / "dataset") == said["rows"]
    refresh(growing.config(range(16), to(tmp_path / "out")), growing.root)
    assert n_rows(growing.run / "dataset") == n_rows(tmp_path / "out" / "dataset") == 32
