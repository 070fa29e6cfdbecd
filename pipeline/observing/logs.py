"""Talk on stderr: lines of text, or with `--json-logs` of JSON: time, level, event, message and what belongs to the event."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from typing import Any

from labelers.printable import printable
from pipeline.redact import redacted

VARIABLE = "PIPELINE_LOGS"
"""The environment variable that says `json`: so that the processes that this one starts talk alike."""


def turn_on() -> None:
    """From here on this process and those that it starts talk in JSON."""
    os.environ[VARIABLE] = "json"


def is_json() -> bool:
    """Whether talk is JSON."""
    return os.environ.get(VARIABLE) == "json"


def say(message: str, event: str = "note") -> None:
    """One message, to be read by people or, with --json-logs, by machines. It may quote a completion, or a server's error."""
    message = redacted(message)
    if is_json():
        log(event, message)
    else:
        print(printable(message), file=sys.stderr, flush=True)


def log(event: str, message: str, **fields: Any) -> None:
    """One event. A message that begins with `warning:` or `error:` is of that level."""
    level, _, rest = message.partition(": ")
    level, said = (level.lower(), rest) if level.lower() in ("warning", "error") else ("info", message)
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = {"time": now, "level": level, "event": event, "message": printable(said), **fields}
    print(json.dumps(line, default=str), file=sys.stderr, flush=True)
