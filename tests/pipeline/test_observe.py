"""A run seen from outside: lines of JSON, status from another terminal, and numbers for Prometheus."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.cli.console import flags_first
from pipeline.errors import EnvironmentLacks
from pipeline.observing.live import LIVE, read_live, told
from pipeline.observing.metrics import Metrics
from pipeline.observing.progress import watched
from pipeline.observing.snapshot import Pace, Snapshot, _eta
from pipeline.run import locked, run
from pipeline.storage.lock import HOLDER
from pipeline.storage.shards import read_json, write_json
from tests.pipeline.refreshing import Growing

ROOT = Path(__file__).resolve().parents[2]
SLOW = "import time; time.sleep(0.5); return [Score(float('x:' not in c.completion.text)) for c in batch]"


@pytest.fixture
def growing(tmp_path) -> Growing:
    return Growing(tmp_path)


def cli(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipeline", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=cwd, env={"PYTHONPATH": str(ROOT)}, text=True, **pipes)


def ended(process: subprocess.Popen[str]) -> tuple[str, list[dict]]:
    out, err = process.communicate(timeout=400)
    return out, [json.loads(line) for line in err.splitlines()]


def test_every_line_of_talk_is_json_and_stdout_stays_data(growing):
    growing.config(range(4))
    out, lines = ended(cli("run", "config.toml", "--json", "--json-logs", cwd=growing.folder))
    assert json.loads(out)["pairs"] == 8
    assert all({"time", "level", "event", "message"} <= line.keys() for line in lines)
    shards = [line for line in lines if line["event"] == "shard"]
    assert len(shards) == 6
    assert {line["rows"] for line in shards if line["stage"].startswith("completions")} == {8}
    last = [line for line in lines if line["event"] == "progress"][-1]
    assert (last["state"], last["prompts"], last["failed"]) == ("ended", [4, 4], {})


def test_an_error_is_a_line_of_json_of_its_level(growing):
    process = cli("--json-logs", "run", "nowhere.toml", cwd=growing.folder)
    _, [line] = ended(process)
    assert (process.returncode, line["level"]) == (2, "error")
    assert line["message"].startswith("nowhere.toml: cannot be read")


def test_the_flag_may_stand_anywhere():
    assert flags_first(["run", "a.toml", "--json-logs", "--json"]) == ["--json-logs", "run", "a.toml", "--json"]
    assert flags_first(["run", "a.toml"]) == ["run", "a.toml"]


def test_status_shows_a_live_run_and_says_that_it_was_killed(growing):
    growing.config(range(40), labeler=growing.plugin(SLOW))
    process = cli("run", "config.toml", cwd=growing.folder)
    try:
        wait_for(
            lambda: (said := read_live(growing.run)) is not None and sum(d for d, _ in said["shards"].values()) > 20
        )
        said = read_live(growing.run)
        out = subprocess.run(
            [sys.executable, "-m", "pipeline", "status", "runs/growing"], capture_output=True, text=True, check=True,
            cwd=growing.folder, env={"PYTHONPATH": str(ROOT)}, timeout=60,
        ).stdout  # fmt: skip
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
    assert said["state"] == "running"
    assert said["pid"] == process.pid
    assert f"running: process {process.pid} on " in out
    assert "sampled 40 of 40 prompts" in out
    assert "time left: 0:0" in out
    assert " of 20 " in out
    assert read_live(growing.run)["state"] == "killed"


def test_an_interrupted_run_is_no_failed_one_and_shows_what_it_did_not_come_to(growing):
    growing.config(range(40), labeler=growing.plugin(SLOW.replace("0.5", "60")))  # also slow to start
    process = cli("run", "config.toml", cwd=growing.folder)
    try:
        wait_for(lambda: (said := read_live(growing.run)) and sum(d for d, _ in said["shards"].values()) == 20)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=40)  # 57 s where the audit's labeler, which is starting, is waited for
    finally:
        process.kill()
    status = cli("status", "runs/growing", cwd=growing.folder).communicate(timeout=60)[0]
    assert process.returncode == 130
    assert status.startswith("interrupted at ")
    assert status.count(" 0 of 20 ") == 2  # labels and pairs


def wait_for(what, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


def test_a_run_whose_shards_are_done_is_not_at_its_end_before_it_lets_the_folder_go(growing):
    run(growing.config(range(4)), growing.root)
    with locked(growing.run):
        said = read_live(growing.run)
        holder = read_json(growing.run / HOLDER)
    assert said["state"] == "finishing"
    assert told(said)[1].endswith("the audit and the version come")
    assert read_live(growing.run)["state"] == "ended"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in (HOLDER, LIVE):  # as SIGKILL leaves them
        write_json(growing.run / name, {**holder, **read_json(growing.run / LIVE), "pid": dead.pid})
    assert read_live(growing.run)["state"] == "killed"


def test_a_run_that_is_there_and_silent_is_said_to_be(growing):
    run(growing.config(range(4)), growing.root)
    said = {**read_live(growing.run), "state": "running"}
    assert not any("no word since" in line for line in told(said))
    assert "no word since 2026-01-01T00:00:00+00:00" in told({**said, "updated": "2026-01-01T00:00:00+00:00"})[1]


def test_a_run_that_fails_says_so_and_its_numbers_stay(growing):
    mine = growing.plugin("raise RuntimeError('my bug')")
    with pytest.raises(Exception, match="my bug"):
        run(growing.config(range(40), labeler=mine, shard_size=10), growing.root)
    said = read_live(growing.run)
    assert said["state"] == "failed"
    assert said["prompts"][1] == 40


def test_a_runs_numbers_are_written_where_the_node_exporter_reads(growing, tmp_path):
    file = tmp_path / "run.prom"
    with watched(Metrics("growing", file)):
        run(growing.config(range(4)), growing.root)
    families = {family.name: family for family in text_string_to_metric_families(file.read_text())}
    shards = {
        (s.labels["stage"].split("-")[0], s.labels["state"]): s.value for s in families["pipeline_shards"].samples
    }
    assert shards["pairs", "done"] == shards["pairs", "all"] == 2
    assert shards["labels", "failed"] == 0
    [state] = [s.labels["state"] for s in families["pipeline_state"].samples if s.value]
    assert state == "ended"


def test_a_runs_numbers_are_served_while_it_works(growing):
    metrics = Metrics("growing", port=0)
    seen: list[str] = []

    def look(snapshot: Snapshot) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics", timeout=10) as reply:
            seen.append(reply.read().decode())

    with watched(metrics, look):
        run(growing.config(range(4)), growing.root)
    assert 'pipeline_prompts{run="growing",state="all"} 4.0' in seen[0].splitlines()


def test_a_file_that_cannot_be_written_is_refused_before_the_run(tmp_path):
    with pytest.raises(EnvironmentLacks, match="hint"):
        Metrics("growing", tmp_path / "nowhere" / "run.prom")


def test_a_pace_is_of_the_last_minute():
    pace = Pace()
    assert pace.take(0.0, 0, 0) == (0.0, 0.0)
    assert pace.take(10.0, 0, 100) == (0.0, 10.0)  # an engine starts
    assert pace.take(70.0, 60, 700) == (1.0, 10.0)
    assert pace.take(130.0, 180, 1300) == (2.0, 10.0)


def test_the_time_left_is_that_of_the_slowest_and_unknown_while_something_stands():
    assert _eta((100, 10.0), (10, 0.5)) == 20.0
    assert _eta((0, 0.0), (10, 0.5)) == 20.0
    assert _eta((5, 0.0), (10, 0.5)) is None
    assert _eta((0, 0.0), (0, 0.0)) == 0.0
