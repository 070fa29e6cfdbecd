"""Talk as lines of JSON on stderr (`--json-logs`): time, level, event, message and what belongs to the event."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from typing import Any

from labelers.printable import printable

VARIABLE = "PIPELINE_LOGS"
"""The environment variable that says `json`: so that the processes that this one starts talk alike."""


def turn_on() -> None:
    """From here on this process and those that it starts talk in JSON."""
    os.environ[VARIABLE] = "json"


def is_json() -> bool:
    """Whether talk is JSON."""
    return os.environ.get(VARIABLE) == "json"


def log(event: str, message: str, **fields: Any) -> None:
    """One event. A message that begins with `warning:` or `error:` is of that level."""
    level, _, rest = message.partition(": ")
    level, said = (level.lower(), rest) if level.lower() in ("warning", "error") else ("info", message)
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = {"time": now, "level": level, "event": event, "message": printable(said), **fields}
    print(json.dumps(line, default=str), file=sys.stderr, flush=True)
