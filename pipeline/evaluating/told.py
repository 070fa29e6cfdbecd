"""Estimates as people read them, each with its interval; `-` where there is none."""

from __future__ import annotations

from pipeline.evaluating.measures import Estimate


def percent(share: Estimate | None) -> str:
    """A share in percent: `63.2 [60.4, 66.0]`."""
    return _with_interval(share, 100, ".1f")


def points(difference: Estimate | None) -> str:
    """A difference of shares in percentage points, with its sign: `+4.6 [+2.1, +7.0]`."""
    return _with_interval(difference, 100, "+.1f")


def nats(divergence: Estimate | None, digits: int = 2) -> str:
    """A divergence: `0.27 [0.23, 0.31]`."""
    return _with_interval(divergence, 1, f".{digits}f")


def _with_interval(value: Estimate | None, scale: float, digits: str) -> str:
    if value is None:
        return "-"
    middle, low, high = (format(scale * x, digits) for x in (value.value, value.low, value.high))
    return f"{middle} [{low}, {high}]"
