"""What happened to a run's versions after they were made: rollbacks, publishing, removals. Only ever added to."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.errors import Damaged, UnreadableShard
from pipeline.storage.shards import read_json, write_twice

HISTORY = "history.json"
"""The file in a run's folder that holds the events."""


def events(run: Path) -> list[dict[str, Any]]:
    """All events, oldest first: `at`, `event`, `version` and what belongs to it.

    Raises:
        UnreadableShard: the file is damaged.
    """
    path = run / HISTORY
    try:
        found: list[dict[str, Any]] = read_json(path)["events"]
    except FileNotFoundError:
        return []
    except (OSError, KeyError, Damaged) as error:
        raise UnreadableShard(
            f"{path}: cannot be read ({type(error).__name__}); hint: move it away; rollbacks in it are then forgotten"
        ) from error
    return found


def record(run: Path, event: str, version: int, **more: Any) -> None:
    """Adds an event. The caller holds the run's folder."""
    told = {"at": now(), "event": event, "version": version, **more}
    write_twice(run, HISTORY, {"events": [*events(run), told]})


def held_at(run: Path, newest: int) -> int:
    """The version that `dataset` is to point at: the newest, or what was rolled back to since that was made."""
    rollbacks = [e for e in events(run) if e["event"] == "rolled back" and e["newest"] == newest]
    return int(rollbacks[-1]["version"]) if rollbacks else newest


def published_at(run: Path, destination: str) -> int | None:
    """The version that `destination` was last given; None before the first."""
    found = [e["version"] for e in events(run) if e["event"] == "published" and e["to"] == destination]
    return int(found[-1]) if found else None


def now() -> str:
    """This moment, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
