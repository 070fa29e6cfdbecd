"""Whether what came is like what was: a number and a test for each measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

ALPHA = 0.01
"""Measures whose chance, corrected for their number, lies below this have drifted."""
LEAST = 5
"""With fewer prompts or scores than this on either side nothing is tested."""


@dataclass(frozen=True)
class Drift:
    """One measure of two versions.

    Args:
        before, after: the mean over the prompts of each whole version (for pass rates: passed by scored).
        came: the mean over the rows that came: those that are new or have other labels.
        p: the chance of a difference as large between `came` and `before` if they were alike, corrected for the number of
            measures (Benjamini-Hochberg); None where there is too little to test.
    """

    measure: str
    before: float | None
    after: float | None
    came: float | None
    p: float | None
    state: Literal["same", "DRIFT", "untested"] = "untested"


def of_numbers(
    measure: str, before: np.ndarray[Any, Any], after: np.ndarray[Any, Any], came: np.ndarray[Any, Any]
) -> Drift:
    """A measure with a number for each prompt, by the two-sample Kolmogorov-Smirnov test."""
    from scipy import stats

    enough = min(len(before), len(came)) >= LEAST
    p = float(stats.ks_2samp(came, before, method="asymp").pvalue) if enough else None
    return Drift(measure, _mean(before), _mean(after), _mean(came), p)


def of_shares(measure: str, before: tuple[int, int], after: tuple[int, int], came: tuple[int, int]) -> Drift:
    """A share, each given as (part, whole), by Fisher's exact test."""
    from scipy import stats

    enough = min(before[1], came[1]) >= LEAST
    cells = [[came[0], came[1] - came[0]], [before[0], before[1] - before[0]]]
    p = float(stats.fisher_exact(cells).pvalue) if enough else None
    return Drift(measure, _share(before), _share(after), _share(came), p)


def drifted(found: Sequence[Drift]) -> tuple[Drift, ...]:
    """The measures with their chances corrected for how many were tested, and what they say."""
    from scipy import stats

    tested = [drift.p for drift in found if drift.p is not None]
    corrected = iter(stats.false_discovery_control(tested) if tested else ())
    return tuple(drift if drift.p is None else _said(drift, float(next(corrected))) for drift in found)


def _said(drift: Drift, p: float) -> Drift:
    return replace(drift, p=p, state="DRIFT" if p < ALPHA else "same")


def _mean(values: np.ndarray[Any, Any]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _share(counts: tuple[int, int]) -> float | None:
    return counts[0] / counts[1] if counts[1] else None
