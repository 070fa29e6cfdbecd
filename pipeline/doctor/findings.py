"""What a look at the machine found: the rows of `python -m pipeline doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        status: `fail` stops a run, `warn` may.
        remedy: what to do; empty when there is nothing to do.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""
