"""Schedules: due times, catching up once, one at a time, a clean end, and units that other schedulers read."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import kubernetes_validate
import psutil
import pytest
import yaml

from pipeline.errors import Busy, ConfigError
from pipeline.refreshing.schedule import Cron, Every, Schedule, times
from pipeline.refreshing.units import unit
from tests.pipeline.refreshing import Growing

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)  # a Saturday


@pytest.fixture(autouse=True)
def utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("expression", "comes"),
    [
        ("0 3 * * *", "2026-11-22T03:00"),
        ("*/15 * * * *", "2026-11-21T12:15"),
        ("0 3 * * 1", "2026-11-23T03:00"),  # cron's 1 is Monday
        ("0 3 * * 0", "2026-11-22T03:00"),
        ("0 3 * * 7", "2026-11-22T03:00"),
        ("0 3 * * 1-5", "2026-11-23T03:00"),
        ("0 3 * * mon", "2026-11-23T03:00"),
        ("0 3 * * */2", "2026-11-22T03:00"),
        ("30 4 1 * *", "2026-12-01T04:30"),
    ],
)
def test_a_cron_expression_means_what_cron_means(expression, comes):
    assert Cron(expression).next(NOW).isoformat(timespec="minutes").startswith(comes)


@pytest.mark.parametrize(
    ("cron", "every"),
    [(None, None), ("* * * * *", "6h"), ("3 * *", None), ("99 * * * *", None), ("0 3 * * 9", None), ("0 3 1 * 1", None)]
    + [(None, text) for text in ("6", "h", "0h", "-1h", "1.5h", "6w", "")],
)
def test_what_says_no_time_is_refused_with_a_hint(cron, every):
    with pytest.raises(ConfigError, match="hint"):
        times(cron, every)


def test_a_cron_expression_of_too_few_fields_is_told_so():
    with pytest.raises(ConfigError, match="has 3 fields, not 5"):
        Cron("0 3 *")


def test_many_missed_times_are_one():
    assert Cron("* * * * *").due(NOW - timedelta(days=3), NOW, 0.0)
    assert not Cron("* * * * *").due(NOW, NOW + timedelta(seconds=30), 30.0)


def test_a_fixed_time_is_measured_by_the_clock_that_nobody_sets():
    assert not Every(3600).due(NOW - timedelta(days=1), NOW, 10.0)
    assert Every(3600).due(NOW + timedelta(days=1), NOW, 3600.0)


def noting(path: Path, more: str = "") -> list[str]:
    """A process that notes when it was there, in place of a refresh."""
    body = f"import sys, time; f = open({str(path)!r}, 'a'); f.write('begun\\n'); f.flush(); {more or 'pass'}"
    return [sys.executable, "-c", body]


SLEEPING = "import os; f.write(f'{os.getpid()}\\n'); f.flush(); time.sleep(60)"
"""What a process that notes does when it is to be found running."""


def pid_in(noted: Path) -> int:
    return int(noted.read_text().split()[1])


def _forever(schedule: Schedule) -> None:
    schedule.forever()


def started(schedule: Schedule) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=_forever, args=(schedule,))
    process.start()
    return process


def wait_for(what, seconds: float = 30.0, log: Path | None = None) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"it never came; {log.read_text()[-3000:] if log else ''}"
        time.sleep(0.05)


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def ended(process: multiprocessing.Process, seconds: float = 20.0) -> int | None:
    process.join(seconds)
    code = process.exitcode
    process.kill()
    return code


def state(run: Path, began: datetime) -> None:
    run.mkdir(parents=True, exist_ok=True)
    (run / "schedule.json").write_text(json.dumps({"began": began.isoformat(), "exit_code": 0}))


def test_what_was_missed_while_it_was_down_is_caught_up_once(tmp_path):
    state(tmp_path, datetime.now(UTC) - timedelta(days=3))
    process = started(Schedule(tmp_path, Cron("0 3 * * *"), noting(tmp_path / "noted")))
    wait_for(lambda: lines(tmp_path / "noted") == 1)
    time.sleep(2.5)
    process.terminate()
    assert (ended(process), lines(tmp_path / "noted")) == (0, 1)


def test_a_restart_before_the_next_time_refreshes_nothing(tmp_path):
    state(tmp_path, datetime.now(UTC))
    process = started(Schedule(tmp_path, Every(3600), noting(tmp_path / "noted")))
    time.sleep(2.5)
    process.terminate()
    assert (ended(process), lines(tmp_path / "noted")) == (0, 0)


def test_a_clock_that_was_set_back_does_not_silence_it(tmp_path):
    state(tmp_path, datetime.now(UTC) + timedelta(days=1))
    process = started(Schedule(tmp_path, Every(1), noting(tmp_path / "noted")))
    wait_for(lambda: lines(tmp_path / "noted") >= 1)
    process.terminate()
    assert ended(process) == 0


def test_a_refresh_that_takes_longer_than_its_time_never_overlaps_itself(tmp_path):
    noted = tmp_path / "noted"
    process = started(Schedule(tmp_path, Every(1), noting(noted, "time.sleep(2.2); f.write('ended\\n')")))
    wait_for(lambda: lines(noted) >= 4)
    process.terminate()
    ended(process)
    words = noted.read_text().split()
    assert words[:4] == ["begun", "ended", "begun", "ended"]


def test_a_folder_that_another_run_holds_is_tried_again(tmp_path):
    noted = tmp_path / "noted"
    more = f"sys.exit(75 if len(open({str(noted)!r}).readlines()) < 3 else 0)"
    process = started(Schedule(tmp_path, Every(3600), noting(noted, more), busy_s=0.1))
    wait_for(lambda: (tmp_path / "schedule.json").exists())
    process.terminate()
    assert (ended(process), lines(noted)) == (0, 3)
    assert json.loads((tmp_path / "schedule.json").read_text())["exit_code"] == 0


def test_a_failed_refresh_is_told_and_the_schedule_goes_on(tmp_path):
    noted = tmp_path / "noted"
    process = started(Schedule(tmp_path, Every(1), noting(noted, "sys.exit(1)")))
    wait_for(lambda: lines(noted) >= 2)
    process.terminate()
    assert ended(process) == 0


def test_sigterm_ends_the_refresh_cleanly_and_it_is_due_again(tmp_path):
    noted = tmp_path / "noted"
    more = (
        "\ntry:\n    f.write('works\\n'); f.flush(); time.sleep(60)\nexcept KeyboardInterrupt:\n    f.write('clean\\n')"
    )
    process = started(Schedule(tmp_path, Every(3600), noting(noted, more)))
    wait_for(lambda: lines(noted) == 2)
    process.terminate()
    assert ended(process) == 0
    assert noted.read_text().split() == ["begun", "works", "clean"]
    assert not (tmp_path / "schedule.json").exists()


def test_a_refresh_that_does_not_listen_is_killed(tmp_path):
    noted = tmp_path / "noted"
    deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    process = started(Schedule(tmp_path, Every(3600), noting(noted, f"{deaf}; {SLEEPING}"), grace_s=0.5))
    wait_for(lambda: lines(noted) == 2)
    process.terminate()
    assert ended(process) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid_in(noted), 0)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's signal at a parent's death")
def test_a_refresh_ends_with_a_schedule_that_is_killed(tmp_path):
    noted = tmp_path / "noted"
    process = started(Schedule(tmp_path, Every(3600), noting(noted, SLEEPING)))
    wait_for(lambda: lines(noted) == 2)
    process.kill()
    ended(process)
    refresh = pid_in(noted)
    wait_for(lambda: not psutil.pid_exists(refresh) or psutil.Process(refresh).status() == psutil.STATUS_ZOMBIE)


def test_two_schedules_of_one_run_exclude_each_other(tmp_path):
    process = started(Schedule(tmp_path, Every(3600), noting(tmp_path / "noted")))
    wait_for(lambda: lines(tmp_path / "noted") == 1)
    with pytest.raises(Busy, match="another schedule"):
        Schedule(tmp_path, Every(3600), noting(tmp_path / "noted")).forever()
    process.kill()
    ended(process)


def test_a_schedule_that_is_killed_and_restarted_makes_exactly_the_versions_it_should(tmp_path):
    growing = Growing(tmp_path)
    command = [sys.executable, "-m", "pipeline", "schedule", "config.toml", "--every", "1s"]
    manifests = growing.run / "versions"
    for n, kill in ((2, signal.SIGKILL), (4, signal.SIGKILL), (6, signal.SIGTERM)):
        growing.config(range(n))
        with (tmp_path / "log").open("a") as log:
            process = subprocess.Popen(
                command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=log
            )
        wait_for(lambda n=n: (manifests / f"{n // 2:04d}.json").exists(), 60, tmp_path / "log")
        wait_for(lambda: (growing.run / "schedule.json").exists())
        process.send_signal(kill)
        process.communicate(timeout=30)
    assert process.returncode == 0
    rows = {path.name: json.loads(path.read_text())["rows"] for path in sorted(manifests.glob("[0-9]*.json"))}
    assert rows == {"0001.json": 4, "0002.json": 8, "0003.json": 12}


COMMAND = ["/usr/bin/python3", "-m", "pipeline", "refresh", "/a b/c.toml", "--set", 'x="50%"', "--json"]


def test_the_systemd_unit_says_the_same_times():
    text = unit("systemd", "my run", Cron("*/15 3-5 * * 1-5"), COMMAND)
    assert "OnCalendar=Mon,Tue,Wed,Thu,Fri *-*-* 03..05:00/15:00" in text
    assert 'ExecStart=/usr/bin/python3 -m pipeline refresh "/a b/c.toml" --set "x=\\"50%%\\"" --json' in text
    assert "SuccessExitStatus=75 130" in text
    assert "Persistent=true" in text
    assert "OnUnitActiveSec=21600s" in unit("systemd", "r", Every(6 * 3600), COMMAND)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_reads_its_units(tmp_path):
    text = unit("systemd", "run", Cron("*/15 3-5 * * 1-5"), ["/bin/true", "a b"])
    service, timer = re.split(r"(?=# ~/\S+\.timer)", text)
    for name, body in (("refresh-run.service", service), ("refresh-run.timer", timer)):
        (tmp_path / name).write_text(body)
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "refresh-run.timer"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "refresh-run" in done.stderr) == (0, False), done.stderr


def test_the_cron_line_runs_in_a_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "import sys; open('seen', 'w').write(repr(sys.argv[1:]))"
    line = unit("cron", "run", Cron("0 3 * * *"), [sys.executable, "-c", code, "a b", "50%", "$HOME"])
    assert line.startswith("0 3 * * * ")
    command = line.removeprefix("0 3 * * * ").replace("\\%", "%")  # what cron itself does
    subprocess.run(["sh", "-c", command], check=True, cwd="/")
    assert (tmp_path / "seen").read_text() == "['a b', '50%', '$HOME']"


@pytest.mark.parametrize(
    ("seconds", "expression"),
    [(900, "*/15 * * * *"), (3600, "0 * * * *"), (21600, "0 */6 * * *"), (86400, "0 0 * * *")],
)
def test_a_fixed_time_that_divides_a_day_has_a_cron_expression(seconds, expression):
    assert unit("cron", "run", Every(seconds), COMMAND).startswith(expression + " cd ")


def test_a_fixed_time_that_divides_nothing_has_none():
    with pytest.raises(ConfigError, match="hint"):
        unit("cron", "run", Every(7 * 3600), COMMAND)


@pytest.mark.parametrize("kind", ["kubernetes", "k8s"])
def test_the_kubernetes_job_is_yaml_and_never_overlaps(kind):
    job = yaml.safe_load(unit(kind, "My Run_1", Cron("0 3 * * *"), COMMAND))
    assert (job["kind"], job["metadata"]["name"]) == ("CronJob", "refresh-my-run-1")
    assert (job["spec"]["schedule"], job["spec"]["concurrencyPolicy"]) == ("0 3 * * *", "Forbid")
    [container] = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python", *COMMAND[1:]]
    assert container["workingDir"] == container["volumeMounts"][0]["mountPath"]
    assert container["envFrom"] == [{"secretRef": {"name": "YOUR-SECRET", "optional": True}}]


def test_the_kubernetes_job_is_valid_by_the_schema_of_kubernetes():
    job = yaml.safe_load(unit("kubernetes", "My Run_1", Cron("*/15 3 * * 1-5"), COMMAND))
    assert kubernetes_validate.validate(job, "1.34", strict=True) == "1.34"


def test_the_airflow_dag_is_read_by_airflow(tmp_path, monkeypatch):
    pytest.importorskip("airflow", reason="needs apache-airflow")
    from airflow.dag_processing.dagbag import DagBag

    (tmp_path / "dag.py").write_text(unit("airflow", "run", Cron("0 3 * * *"), COMMAND))
    bag = DagBag(tmp_path)
    assert (bag.import_errors, list(bag.dags)) == ({}, ["refresh-run"])


def test_the_cron_lines_times_are_read_by_a_cron_parser():
    from apscheduler.triggers.cron import CronTrigger

    for seconds in (60, 900, 3600, 21600, 86400):
        trigger = CronTrigger.from_crontab(" ".join(unit("cron", "r", Every(seconds), COMMAND).split()[:5]), "UTC")
        first = trigger.get_next_fire_time(None, NOW)
        assert (trigger.get_next_fire_time(first, first + timedelta(seconds=1)) - first).total_seconds() == seconds


def test_the_airflow_dag_compiles_and_never_overlaps():
    text = unit("airflow", "run", Cron("0 3 * * *"), COMMAND)
    compile(text, "dag.py", "exec")
    assert "max_active_runs=1" in text
    assert "skip_on_exit_code=75" in text


def test_an_unknown_kind_is_refused():
    with pytest.raises(ConfigError, match="systemd, cron, kubernetes or airflow"):
        unit("launchd", "run", Every(3600), COMMAND)


def schedule_cli(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    Growing(folder).config(range(2))
    command = [sys.executable, "-m", "pipeline", "schedule", "config.toml", "--cron", "0 3 * * *", *options]
    return subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--emit", "cron", "--webhook", "https://example/hook"), "belong to the loop in the foreground"),
        (("--port", "70000"), "65535"),
        (("--root", "config.toml"), "cannot be a folder"),
    ],
)
def test_what_a_schedule_cannot_keep_is_refused(tmp_path, options, says):
    done = schedule_cli(tmp_path, *options)
    assert (done.returncode, says in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_prints_a_unit(tmp_path):
    done = schedule_cli(tmp_path, "--emit", "cron")
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "config.toml") in done.stdout
    assert str(tmp_path / "runs") in done.stdout
