"""Runs in an object store: a real S3 server on the loopback address holds what else a disk would."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.cli.main import app
from pipeline.doctor.doctor import diagnose
from pipeline.errors import ConfigError, EnvironmentLacks
from pipeline.publishing.publish import publish_current
from pipeline.publishing.versions import current, rollback
from pipeline.refreshing.refresh import refresh
from pipeline.run import run
from pipeline.storage.folders import followed, pointed
from pipeline.storage.garbage import collect, remove_old
from pipeline.storage.journal import Journal
from pipeline.storage.memory import MEMORIES
from pipeline.storage.shards import file_sha256, read_json, read_receipt, read_shard, write_shard
from pipeline.storage.stores import StorePath, Unmet, came_back, place_of, remembering, require_reachable, sent_out
from tests.pipeline.conftest import write_replay
from tests.pipeline.refreshing import Growing
from tests.s3 import IDENTITY, S3, SECRET, canaries_in

ROOT = Path(__file__).resolve().parents[2]
TABLE = pa.table({"x": pa.array(range(1000))})


@pytest.fixture
def place(s3: S3, request: pytest.FixtureRequest) -> StorePath:
    """A folder of this test's own in the store."""
    return place_of(f"s3://runs/{request.node.name.partition('[')[0]}")


def cli(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *map(str, arguments)],
        cwd=ROOT, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip


def stage_files(run_folder: Path) -> dict[str, bytes]:
    """The shards that stages made, by path."""
    return {
        path.relative_to(run_folder).as_posix(): path.read_bytes()
        for path in sorted(run_folder.rglob("*.parquet"))
        if "versions" not in path.parts
    }


def pairs_in(run_folder: Path) -> list[bytes]:
    """The pair shards."""
    return [content for name, content in stage_files(run_folder).items() if name.startswith("pairs-")]


# Paths


def test_a_store_does_what_is_asked_of_a_path(place):
    path = place / "labels-a" / "00000.parquet"
    path.write(b"content")
    path.with_suffix(".json").write(b"{}")
    assert (path.read_bytes(), path.stat().st_size, path.open().read()) == (b"content", 7, b"content")
    assert (path.exists(), path.is_file(), path.is_dir(), path.parent.is_dir(), path.parent.is_file()) == (
        True, True, False, True, False,
    )  # fmt: skip
    assert list(place.iterdir()) == [path.parent]
    assert list(path.parent.glob("[0-9]*.parquet")) == [path]
    assert list(place.rglob("*")) == [path.with_suffix(".json"), path]
    assert path.relative_to(place).as_posix() == "labels-a/00000.parquet"
    path.unlink()
    path.unlink(missing_ok=True)
    assert not path.exists()


def test_a_path_comes_back_from_another_process_equal(place):
    path = place / "00000.parquet"
    assert pickle.loads(pickle.dumps(path)) == path
    assert hash(pickle.loads(pickle.dumps(path))) == hash(path)
    assert str(path) == f"s3://runs/{place.name}/00000.parquet"


def test_what_is_not_there_is_not_found(place):
    with pytest.raises(FileNotFoundError, match="no such object"):
        (place / "none").read_bytes()
    assert list((place / "none").iterdir()) == []


def test_a_function_of_the_operating_system_refuses_a_path_in_a_store():
    with pytest.raises(TypeError, match="lies in a store"):
        os.listdir(place_of("s3://runs/x"))


@pytest.mark.parametrize(
    ("text", "found"), [("runs", "runs"), ("file:///a/b", "/a/b"), ("s3://b/", "s3://b"), ("gs://b/c/d/", "gs://b/c/d")]
)
def test_a_place_is_a_folder_or_a_url(text, found):
    assert str(place_of(text)) == found


@pytest.mark.parametrize("text", ["ssh://machine/x", "s3://", "s3:///x", "s3://b/../c", "hf://datasets/me/x"])
def test_what_is_no_folder_is_refused_with_what_would_be(text):
    with pytest.raises(ConfigError, match=r"is no folder.*hint: a local path, s3://BUCKET/PREFIX"):
        place_of(text)


@pytest.mark.parametrize("text", ["s3://key:hush@b/x", "s3://key:hu/sh@b", "az://b/x?sig=hush"])
def test_a_password_in_a_url_is_refused_and_not_repeated(text):
    with pytest.raises(ConfigError, match="no passwords") as raised:
        place_of(text)
    assert "hush" not in str(raised.value).replace("/", "")


def test_one_of_many_writers_on_a_condition_wins(place):
    path = place / "object"
    tag = path.write(b"0")
    path.write(b"1", tag)
    with pytest.raises(Unmet):
        path.write(b"2", tag)
    with pytest.raises(Unmet):
        path.write(b"2", "create")
    assert path.read_bytes() == b"1"


def test_a_shard_and_its_receipt_come_back_from_a_store_with_the_bytes_that_a_disk_holds(place, tmp_path):
    receipt = write_shard(place / "00000.parquet", TABLE, ("abc",))
    assert read_receipt(place / "00000.parquet") == receipt
    assert read_shard(place / "00000.parquet").equals(TABLE)
    assert file_sha256(place / "00000.parquet") == write_shard(tmp_path / "00000.parquet", TABLE).sha256


# What a process remembers


class Asked:
    """Counts what a store is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.n = 0
        asked = StorePath._asked

        def counted(path, question, retries=10):
            self.n += 1
            return asked(path, question, retries)

        monkeypatch.setattr(StorePath, "_asked", counted)


def test_who_holds_a_folder_asks_for_a_receipt_once_however_often_it_looks(place, monkeypatch):
    for number in range(20):
        write_shard(place / "labels-a" / f"{number:05d}.parquet", TABLE)
    asked = Asked(monkeypatch)
    with remembering(place):
        for _ in range(5):
            assert all(read_receipt(place / "labels-a" / f"{number:05d}.parquet") for number in range(20))
            assert not (place / "labels-a" / "00020.parquet").exists()
    assert asked.n == 1 + 20
    assert MEMORIES == {}


def test_what_others_write_is_asked_for_until_it_came_back(place, monkeypatch):
    shard = place / "labels-a" / "00000.parquet"
    with remembering(place):
        sent_out(shard)
        subprocess.run(
            [sys.executable, "-c", OTHER, str(shard)],
            check=True,
            timeout=60,
            cwd=ROOT,
        )
        assert read_receipt(shard).rows == 1
        came_back(shard)
        asked = Asked(monkeypatch)
        assert (read_receipt(shard).rows, read_receipt(shard).rows, asked.n) == (1, 1, 1)


OTHER = """
import sys
import pyarrow as pa
from pipeline.storage.shards import write_shard
from pipeline.storage.stores import place_of
write_shard(place_of(sys.argv[1]), pa.table({"x": [1]}))
"""


def test_what_this_process_writes_and_removes_is_known(place):
    shard = place / "labels-a" / "00000.parquet"
    with remembering(place):
        write_shard(shard, TABLE)
        first = read_receipt(shard)
        write_shard(shard, TABLE.slice(0, 10))
        assert (first.rows, read_receipt(shard).rows) == (1000, 10)
        shard.unlink()
        assert read_receipt(shard) is None


# Runs


def test_a_run_in_a_store_makes_the_bytes_that_a_run_on_a_disk_makes(place, replayed, tmp_path):
    config = replayed(n_prompts=4)
    here = run(config, tmp_path / "runs")
    there = run(config, place)
    assert there.failed == {}
    assert stage_files(there.folder) == stage_files(here.folder)
    assert len([name for name in stage_files(there.folder) if name.startswith("pairs-")]) == 2
    dataset = followed(there.folder / "dataset")
    for path in (p for p in (here.folder / "dataset" / "data").glob("*.parquet")):
        assert (dataset / "data" / path.name).read_bytes() == path.read_bytes()
    assert canaries_in(place) == []


def test_a_second_run_in_a_store_makes_nothing_and_no_version(place, replayed):
    config = replayed(n_prompts=4)
    run(config, place)
    before = {path: path.stat().tag for path in place.rglob("*.parquet")}
    again = run(config, place)
    assert (again.version.number, again.version.is_new) == (1, False)
    assert before == {path: path.stat().tag for path in place.rglob("*.parquet")}


def test_prompts_and_completions_may_lie_in_a_store(place, tmp_path, replayed):
    config = replayed(n_prompts=2)
    (place / "prompts.jsonl").write((tmp_path / "prompts.jsonl").read_bytes())
    (place / "completions.jsonl.gz").write(gzip.compress((tmp_path / "completions.jsonl").read_bytes()))
    stored = [f"prompts.path={place / 'prompts.jsonl'}", f"sources.0.engine.path={place / 'completions.jsonl.gz'}"]
    there = run(replayed(*stored, n_prompts=2), tmp_path / "there")
    here = run(config, tmp_path / "here")
    assert pairs_in(there.folder) == pairs_in(here.folder)


def test_versions_in_a_store_are_made_compared_rolled_back_and_removed(place, tmp_path):
    growing = Growing(tmp_path)
    refresh(growing.config(range(4)), place)
    first = pointed(place / "growing" / "dataset")
    refreshed = refresh(growing.config(range(6)), place)
    folder = place / "growing"
    assert (refreshed.diff.added, current(folder)["number"], first.name) == (4, 2, "0001")
    assert rollback(folder)["number"] == 1
    assert pointed(folder / "dataset") == first
    assert rollback(folder, 2)["number"] == 2
    assert remove_old(folder, keep=1) == [1]
    assert not first.is_dir()
    assert collect(folder).shards == ()


def test_a_version_goes_from_a_store_to_a_disk_and_to_another_store(place, tmp_path, replayed):
    run(replayed(n_prompts=4), place / "a")
    publish_current(place / "a" / "replayed", str(tmp_path / "out"))
    publish_current(place / "a" / "replayed", str(place / "b"))
    elsewhere = pointed(place / "b" / "dataset")
    files = read_json(elsewhere.with_suffix(".json"))["files"]
    assert files == {name: file_sha256(elsewhere / name) for name in files}
    assert files == {name: file_sha256(tmp_path / "out" / "dataset" / name) for name in files}


def test_a_damaged_object_is_put_aside_and_made_again(place, replayed):
    config = replayed(n_prompts=4)
    made = run(config, place)
    good = stage_files(made.folder)
    name = next(name for name in good if name.startswith("labels-"))
    (made.folder / name).write(good[name][:-9] + b"x" + good[name][-8:])
    run(config, place)
    assert (made.folder / name).read_bytes() == good[name]
    assert [path.name for path in (made.folder / "quarantine").rglob("*.parquet")] == [Path(name).name]


def test_a_killed_run_leaves_a_folder_that_the_next_one_takes_over_and_finishes(place, tmp_path, replayed):
    config = replayed(n_prompts=40)
    command = [sys.executable, "-m", "pipeline", "run", str(tmp_path / "config.toml"), "--root", str(place)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    deadline = time.monotonic() + 120
    while len([path for path in place.rglob("*.json") if "labels-" in str(path)]) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = run(config, place)
    assert stage_files(there.folder) == stage_files(run(config, tmp_path / "here").folder)


# The command line, and what can be wrong


@pytest.fixture
def told(capsys):
    """Calls the command line in this process, and gives what it prints."""

    def call(*arguments: object) -> str:
        app([str(argument) for argument in arguments], standalone_mode=False)
        return capsys.readouterr().out

    return call


def test_the_command_line_runs_in_a_store_and_looks_at_it_with_its_identity_written_nowhere(place, tmp_path, told):
    config, url = write_replay(tmp_path), place / "replayed"
    ran = cli("run", config, "--root", place)
    assert (ran.returncode, f"dataset  {url}/versions/0001  (version 1, new" in ran.stdout) == (0, True), ran.stderr
    assert "pairs-" in told("status", url)
    assert "chosen" in told("show", url)
    assert "1        " in told("versions", url)
    assert "2 of 2 shards" in told("plan", config, "--root", place)
    assert json.loads(told("verify", url, "--json"))["damaged"] == {}
    assert told("export", url, "--for", "trl", "--out", tmp_path / "exported").startswith("folder")
    assert told("report", url).strip() == f"{url}/report/index.html"
    assert canaries_in(place) == canaries_in(tmp_path) == []
    assert SECRET not in ran.stdout + ran.stderr


FAULTS = {
    "no such bucket": ({}, "s3://no-such-bucket/x", r"NoSuchBucket.*hint: make the bucket first"),
    "nobody listens": ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "s3://runs/x", r"does not answer.*hint: is AWS_ENDPOINT_URL"),
    "no address": ({"AWS_ENDPOINT_URL": "here"}, "s3://runs/x", r"AWS_ENDPOINT_URL is 'here'.*hint: http://HOST"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_a_store_is_said_with_a_hint_and_no_traceback(s3, tmp_path, fault):
    env, url, says = FAULTS[fault]
    done = cli("status", url, env=env)
    assert done.returncode == (2 if fault == "no address" else 3), done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(says, done.stderr), done.stderr


def test_who_may_not_enter_is_told_where_identities_come_from(s3, place):
    s3.refuse(True)
    try:
        with pytest.raises(
            EnvironmentLacks, match=r"InvalidAccessKeyId.*hint: who asks is taken from AWS_ACCESS_KEY_ID"
        ) as raised:
            require_reachable(place)
    finally:
        s3.refuse(False)
    assert not [secret for secret in IDENTITY.values() if secret in str(raised.value)]


@pytest.mark.parametrize(("url", "status"), [("s3://runs/doctor", "ok"), ("s3://no-such-bucket/doctor", "fail")])
def test_the_doctor_says_whether_a_store_can_hold_runs(s3, url, status):
    found = {finding.name: finding for finding in diagnose(place_of(url))}
    assert found[f"store {url}"].status == status
    assert status == "fail" or not (place_of(url) / ".doctor").exists()


def test_what_judges_spend_is_counted_in_a_store_over_processes(place):
    path = place / "run" / "usage.jsonl"
    first, second = Journal(path), Journal(path)
    first.add(b"1")
    second.add(b"2")
    first.add(b"3")
    assert sorted(second.news().split()) == [b"1", b"2", b"3"]
    first.add(b"4")
    assert (second.news(), second.news()) == (b"4\n", b"")


def test_a_machine_without_the_package_says_which(monkeypatch, place):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(EnvironmentLacks, match=r"hint: pip install 'preference-pipeline\[s3\]'"):
        require_reachable(place)
