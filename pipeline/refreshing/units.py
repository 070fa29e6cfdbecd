"""The same refresh for the scheduler that you have: systemd, cron, Kubernetes, Airflow."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.refreshing.schedule import Cron, Every

SYSTEMD = """# ~/.config/systemd/user/{name}.service
[Unit]
Description=Refresh the dataset {run}

[Service]
Type=oneshot
WorkingDirectory={folder}
ExecStart={command}
# 75: another run holds the folder; the next time will do
SuccessExitStatus=75 130
KillSignal=SIGINT
TimeoutStopSec=120

# ~/.config/systemd/user/{name}.timer; then: systemctl --user enable --now {name}.timer
[Unit]
Description=When to refresh the dataset {run}

[Timer]
{when}
Persistent=true

[Install]
WantedBy=timers.target
"""

KUBERNETES = """apiVersion: batch/v1
kind: CronJob
metadata:
  name: {name}
spec:
  schedule: {cron}
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: 3600
  jobTemplate:
    spec:
      backoffLimit: 2
      template:
        spec:
          restartPolicy: Never
          containers:
          - name: refresh
            image: YOUR-IMAGE  # with this project and its engine
            command: {command}
            workingDir: {folder}
            envFrom:
            - secretRef:
                name: YOUR-SECRET  # what your engines, stores and the Hub ask for: AWS_*, HF_TOKEN, keys of servers
                optional: true
            volumeMounts:
            - name: work
              mountPath: {folder}
          volumes:
          - name: work
            persistentVolumeClaim:
              claimName: YOUR-CLAIM  # holds the config and the runs
"""

AIRFLOW = '''"""Refresh the dataset {run}."""

from datetime import datetime

from airflow import DAG
from airflow.providers.standard.operators.bash import BashOperator

with DAG(
    dag_id="{name}",
    schedule={when},
    start_date=datetime(2025, 1, 1),
    catchup=False,
    max_active_runs=1,
):
    # 75: another run holds the folder; the task is skipped and the next time will do
    BashOperator(task_id="refresh", bash_command={command}, cwd={folder}, skip_on_exit_code=75)
'''


def unit(kind: str, run: str, times: Cron | Every, command: Sequence[str]) -> str:
    """What to give to a scheduler so that it refreshes `run`.

    Args:
        kind: systemd, cron, kubernetes (or k8s) or airflow.

    Raises:
        ConfigError: there is no such kind, or it cannot keep these times.
    """
    name = "refresh-" + re.sub(r"[^a-z0-9]+", "-", run.lower()).strip("-")
    folder = str(Path.cwd())
    match kind:
        case "systemd":
            line = " ".join(_for_systemd(part) for part in command)
            return SYSTEMD.format(name=name, run=run, folder=folder, command=line, when=_for_timer(times))
        case "cron":
            line = f"cd {shlex.quote(folder)} && {shlex.join(command)}".replace("%", "\\%")
            return f"{_as_cron(times)} {line}\n"
        case "kubernetes" | "k8s":
            listed = json.dumps(["python", *command[1:]])  # the image's, not this machine's
            return KUBERNETES.format(
                name=name, cron=json.dumps(_as_cron(times)), command=listed, folder=json.dumps(folder)
            )
        case "airflow":
            said = json.dumps(_as_cron(times))
            # A blank at the end: Airflow takes a command that ends in .sh for a template's name.
            line = json.dumps(shlex.join(command) + " ")
            return AIRFLOW.format(name=name, run=run, when=said, command=line, folder=json.dumps(folder))
        case _:
            raise ConfigError(f"--emit {kind}: is no kind; hint: systemd, cron, kubernetes or airflow")


def _for_systemd(part: str) -> str:
    """A word of ExecStart: quoted, with systemd's own signs escaped."""
    plain = re.fullmatch(r"[\w./:@=,+-]+", part)
    escaped = part.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return part if plain else f'"{escaped}"'


def _for_timer(times: Cron | Every) -> str:
    if isinstance(times, Every):
        return f"OnActiveSec=0\nOnUnitActiveSec={int(times.seconds)}s"
    minute, hour, day, month, _ = times.expression.split()
    if re.search(r"[^\d*,/-]", minute + hour + day + month):
        raise ConfigError(
            f"--cron {times.expression!r}: has no OnCalendar of the same meaning; hint: numbers, or --emit cron"
        )
    days = "" if times.weekdays == "*" else f"{times.weekdays.title().replace('-', '..')} "
    return f"OnCalendar={days}*-{_two(month, 1)}-{_two(day, 1)} {_two(hour, 0)}:{_two(minute, 0)}:00"


def _two(part: str, first: int) -> str:
    """A field as OnCalendar writes it: `*/15` counts from the field's first value, a range has two dots."""
    part = re.sub(r"\*/", f"{first}/", part).replace("-", "..")
    return re.sub(r"\d+", lambda found: f"{int(found[0]):02d}", part)


def _as_cron(times: Cron | Every) -> str:
    """Five fields. Raises ConfigError where a fixed time does not divide an hour or a day."""
    if isinstance(times, Cron):
        return times.expression
    minutes, rest = divmod(int(times.seconds), 60)
    if rest == 0 and minutes < 60 and 60 % minutes == 0:
        return f"*/{minutes} * * * *" if minutes > 1 else "* * * * *"
    hours, rest = divmod(int(times.seconds), 3600)
    if rest == 0 and hours <= 24 and 24 % hours == 0:
        return "0 0 * * *" if hours == 24 else f"0 */{hours} * * *" if hours > 1 else "0 * * * *"
    raise ConfigError(
        f"every {int(times.seconds)} s has no cron expression; hint: --cron, or what divides an hour or a day"
    )
