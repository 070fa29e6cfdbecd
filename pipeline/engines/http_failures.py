"""What a failed request to a server says: of the request, of the server, or of the account."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from labelers.types import content_id
from pipeline.errors import EngineFailed
from pipeline.redact import redacted

Fault = Literal["request", "server", "busy", "unknown"]
"""Whose fault it is: `request`, since the server answers, if with nothing of use; `server`, that fails whatever it is asked;
`busy`, the same by its own word; `unknown` where nothing came in time."""

LIVES = 3
"""Times that a server's fault may speak against a request (Breaker.failed): then it is taken for the request's own."""
ACCOUNT = {
    401: "the key is not accepted",
    402: "the account has no credit left",
}
MARK = "pp"
"""Begins the ids of our requests, so that our own are known when they come back."""


@dataclass(frozen=True)
class Failure:
    """Why a request has no answer after all its tries.

    Args:
        wait_s: what the server says about when to come back; 0 where it says nothing.
    """

    why: str
    fault: Fault
    wait_s: float = 0.0


def failure_of(error: Exception, server: str, key: str) -> Failure:
    """What the client's error, or whatever broke while its answer was read, says.

    Args:
        key: the environment variable with the key, for the hint.

    Raises:
        EngineFailed: no request will ever be answered: the key is wrong, or the account is empty.
    """
    from openai import APIConnectionError, APIStatusError, APITimeoutError

    why = f"{type(error).__name__}: {first_line(error)}"
    match error:
        case APIStatusError(status_code=status):
            _require_account(error, status, server, key)
            if status == 429:
                return Failure(why, "busy", _retry_after(error))
            if (
                status >= 500
            ):  # 500 too: what a gateway says whose model is gone, as well as what one question may do to a server
                return Failure(why, "server", _retry_after(error))
            return Failure(why, "request")
        case APIConnectionError() if not isinstance(error, APITimeoutError):
            return Failure(why, "server")
        case APITimeoutError() | TimeoutError():
            return Failure(why, "unknown")
        case _:
            return Failure(f"the server's reply cannot be used: {why}", "request")


def request_id(body: Mapping[str, Any]) -> str:
    """An id that says what is asked: of the same body the same but for its end, since two tries of one are two requests."""
    return f"{MARK}-{content_id('request', body)}-{uuid.uuid4().hex[:8]}"


def require_own(asked: str, said: str | None) -> None:
    """Raises ValueError when what came back answers another of our requests (vLLM and many proxies give the id back).

    Args:
        asked: the id that was sent.
        said: the id in the answer; of servers that make up their own nothing can be told.
    """
    found = re.search(rf"{MARK}-[0-9a-f]{{32}}", said or "")
    if found and not asked.startswith(found[0]):
        raise ValueError("it answers another request")


def first_line(error: Exception) -> str:
    """What the error says, as far as a line of a log goes."""
    return (redacted(str(error)).splitlines() or [type(error).__name__])[0][:300]


def _require_account(error: Any, status: int, server: str, key: str) -> None:
    empty = status == 429 and getattr(error, "code", None) == "insufficient_quota"
    what = ACCOUNT[402] if empty else ACCOUNT.get(status)
    if what:
        raise EngineFailed(
            f"server {server}: {what} ({first_line(error)}); finished shards are kept; "
            f"hint: the key is read from ${key}; the same command goes on from there"
        ) from error


def _retry_after(error: Any) -> float:
    """Seconds, where the server gives some; a date is left to the client."""
    said = error.response.headers.get("retry-after", "")
    return float(said) if re.fullmatch(r"\d{1,5}(\.\d+)?", said) else 0.0
