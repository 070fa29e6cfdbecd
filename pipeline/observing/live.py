"""A live run seen from another terminal: a small file in its folder that it keeps writing, and what that file says."""

from __future__ import annotations

import os
import platform
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.errors import Damaged
from pipeline.observing.snapshot import Snapshot
from pipeline.storage.lock import HOLDER
from pipeline.storage.shards import read_json, write_json
from pipeline.storage.stores import is_store

LIVE = "live.json"
EVERY_S = 2.0
STORE_EVERY_S = 15.0
SILENT_S = 60.0
"""A run that has not written for so long is taken for dead where its process cannot be seen, and else said to be silent."""


class Beacon:
    """Writes what a run is doing into its folder, every two seconds (in an object store every 15)."""

    def __init__(self, run: Path) -> None:
        self._path = run / LIVE
        self._every_s = STORE_EVERY_S if is_store(run) else EVERY_S
        self._next = 0.0

    def __call__(self, snapshot: Snapshot) -> None:
        """Writes it, if it is time or the end."""
        if snapshot.state == "running" and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._every_s
        with suppress(OSError):  # a full disk stops the run where a shard is written, with a word on it
            write_json(self._path, snapshot.as_json())


def read_live(run: Path) -> dict[str, Any] | None:
    """What the newest run in this folder is doing, or did last; None where nothing is known.

    `state` is `running`, `finishing` (the shards are done; its audit and version come), `ended`, `failed`, `interrupted`, or
    `killed` for one that never said how it ended.
    """
    try:
        said = read_json(run / LIVE)
    except (FileNotFoundError, Damaged):
        return None
    if said["state"] == "ended" and _holds(run, said["pid"]):
        said["state"] = "finishing"
    if said["state"] in ("running", "finishing") and not _is_alive(said):
        said["state"] = "killed"
    return said


def _holds(run: Path, pid: int) -> bool:
    """Whether that process still holds the run's folder, or died with it. Of a store it is not known."""
    try:
        return bool(read_json(run / HOLDER)["pid"] == pid)
    except (OSError, Damaged, KeyError):
        return False


def told(said: dict[str, Any]) -> list[str]:
    """What `read_live` gave, for a person."""
    prompts, of = said["prompts"]
    where = f"process {said['pid']} on {said['host']}, since {said['started']}"
    if said["state"] == "finishing":
        return [
            f"finishing: {where}",
            f"shards done at {said['updated']}; the audit and the version come",
            *_failed(said),
        ]
    if said["state"] != "running":
        return [f"{said['state']} at {said['updated']} ({where})", *_failed(said)]
    lines = [f"running: {where}"]
    if _silent_s(said) > SILENT_S:  # in a container the number of a dead process is soon another's
        lines.append(f"no word since {said['updated']}: it hangs, or its process is another one by now")
    if of:
        pace = f"{said['prompts_per_s']:.1f} prompts/s, {said['tokens_per_s']:.0f} tokens/s"
        lines.append(f"sampled {prompts} of {of} prompts, {said['tokens']} tokens; {pace}")
    eta = "not known yet" if said["eta_s"] is None else _duration(said["eta_s"])
    lines.append(f"{said['shards_per_s']:.2f} shards/s; time left: {eta}")
    lines += [f"engine: {said['engine']}"] if said["engine"] else []
    return [*lines, *_failed(said)]


def _failed(said: dict[str, Any]) -> list[str]:
    return [f"failed: {name}: {why}" for name, why in sorted(said["failed"].items())]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def _silent_s(said: dict[str, Any]) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(said["updated"])).total_seconds()


def _is_alive(said: dict[str, Any]) -> bool:
    if said["host"] != platform.node():
        return _silent_s(said) < SILENT_S
    try:
        os.kill(said["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, and there
        return True
    return True
