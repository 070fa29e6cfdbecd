"""A schedule with a 1-minute cron in real time, killed and restarted in between: exactly the versions that it should make.

python -m tests.pipeline.minutely > benchmarks/results/...-schedule-cpu.json        # four to five minutes
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.pipeline.refreshing import Growing

ROOT = Path(__file__).resolve().parents[2]


class Minutely:
    """A schedule as a process of its own, over a run that grows."""

    def __init__(self, folder: Path) -> None:
        self.growing = Growing(folder)
        self.run = self.growing.run
        self.log: list[dict[str, Any]] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def start(self) -> subprocess.Popen[str]:
        self.note("the schedule is started")
        command = ["schedule", "config.toml", "--cron", "* * * * *", "--port", str(self.port)]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline", *command], cwd=self.growing.folder, env=env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def kill(self, process: subprocess.Popen[str], number: int = signal.SIGKILL) -> int:
        process.send_signal(number)
        process.communicate(timeout=90)
        self.note(f"the schedule ended by {signal.Signals(number).name}")
        return process.returncode

    def prompts(self, n: int) -> None:
        self.growing.config(range(n))
        self.note(f"there are {n} prompts")

    def versions(self) -> dict[str, int]:
        found = sorted((self.run / "versions").glob("[0-9][0-9][0-9][0-9].json"))
        return {path.name: json.loads(path.read_text())["rows"] for path in found}

    def began(self) -> str | None:
        """When the refresh began that ended last."""
        path = self.run / "schedule.json"
        return json.loads(path.read_text())["began"] if path.exists() else None

    def ended(self, after: str | None) -> str:
        """Waits for the end of a refresh that began after this; says when it began."""
        self.wait(lambda: self.began() != after)
        began = str(self.began())
        self.note("a refresh ended", began=began, versions=len(self.versions()))
        return began

    def health(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=10) as reply:
            found: dict[str, Any] = json.loads(reply.read())
        return found

    def is_refreshing(self) -> bool:
        found = subprocess.run(
            ["pgrep", "-f", f"refresh {self.growing.folder}/config.toml"], capture_output=True, check=False
        )
        return found.returncode == 0

    def wait(self, what: Callable[[], bool], seconds: float = 150.0) -> None:
        end = time.monotonic() + seconds
        while not what():
            if time.monotonic() > end:
                raise TimeoutError(f"it never came; {self.log}")
            time.sleep(0.05)

    def note(self, what: str, **more: Any) -> None:
        self.log.append({"at": datetime.now().isoformat(timespec="seconds"), "what": what, **more})
        print(self.log[-1], file=sys.stderr, flush=True)


def story(minutely: Minutely) -> dict[str, Any]:
    """What is done to the schedule, and which versions there must be after each step."""
    minutely.prompts(2)
    process = minutely.start()
    began = minutely.ended(None)
    assert list(minutely.versions().values()) == [4], "the first time makes the first version"
    assert minutely.health()["ok"]
    minutely.prompts(4)
    began = minutely.ended(began)
    assert list(minutely.versions().values()) == [4, 8], "a minute later there is something new"
    minutely.kill(process)
    minutely.prompts(6)
    time.sleep(65)  # one time is missed, or two
    process = minutely.start()
    began = minutely.ended(began)
    assert list(minutely.versions().values()) == [4, 8, 12], "what was missed is caught up once"
    began = minutely.ended(began)
    assert list(minutely.versions().values()) == [4, 8, 12], "where nothing is new there is no version"
    minutely.prompts(8)
    minutely.wait(minutely.is_refreshing)
    minutely.kill(process)  # in the middle of a refresh, which nobody hears of any more
    process = minutely.start()
    minutely.ended(began)
    assert list(minutely.versions().values()) == [4, 8, 12, 16], "the broken refresh is due again"
    code = minutely.kill(process, signal.SIGTERM)
    return {"versions": minutely.versions(), "exit code": code, "log": minutely.log}


def main() -> None:
    """Prints what happened as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps({"command": "python -m tests.pipeline.minutely", **story(Minutely(Path(folder)))}, indent=1))


if __name__ == "__main__":
    main()
