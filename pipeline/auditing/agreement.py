"""How far labelers of the same completions agree: Krippendorff's alpha, 1 for always, 0 for chance, below it for the contrary."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.auditing.facts import Facts, codes, numbers
from pipeline.auditing.limits import Audit, Finding

Answers = Mapping[str, Mapping[Any, float]]
"""labeler -> what it judged -> how."""


def agreement(facts: Facts, settings: Audit) -> Iterator[Finding]:
    """A finding for scores of the same completions, and one for verdicts (and scores) on the same two completions."""
    found = [
        *_compared("on scores", ranks(facts.labels), "interval", settings),
        *_compared("on verdicts", preferences(facts), "nominal", settings),
    ]
    yield from found or [Finding("agreement", "skipped", "no completion was judged by two labelers")]


def ranks(labels: pa.Table) -> dict[str, dict[Any, float]]:
    """Each labeler's scores as ranks within the prompt, 0 to 1, ties in the middle: scales differ, orders can be compared."""
    kept = labels.filter(pc.is_valid(labels["value"]))
    found: dict[str, dict[Any, float]] = {}
    for name in sorted(pc.unique(kept["labeler"]).to_pylist()):
        rows = kept.filter(pc.equal(kept["labeler"], name))
        share = _rank_in_group(numbers(rows["value"]), codes(rows["prompt_id"]))
        found[name] = dict(zip(rows["completion_id"].to_pylist(), share.tolist(), strict=True))
    return found


def _rank_in_group(values: np.ndarray[Any, Any], group: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    order = np.lexsort((values, group))
    ordered, sorted_values = group[order], values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    sizes = np.diff(np.r_[starts, len(ordered)])
    place = np.arange(len(ordered)) - np.repeat(starts, sizes)
    fresh = np.r_[True, (ordered[1:] != ordered[:-1]) | (sorted_values[1:] != sorted_values[:-1])]
    tied = np.cumsum(fresh) - 1
    middle = (np.bincount(tied, weights=place) / np.bincount(tied))[tied]
    share = np.empty(len(values))
    share[order] = middle / np.maximum(np.repeat(sizes, sizes) - 1, 1)
    return share


def preferences(facts: Facts) -> dict[str, dict[Any, float]]:
    """What each labeler prefers of the two completions that some judge compared: 1, 0, -1; scores decide by their difference."""
    found: defaultdict[str, dict[Any, float]] = defaultdict(dict)
    for row in facts.comparisons.to_pylist():
        if row["prefers"] is not None:
            first, second = sorted((row["a_id"], row["b_id"]))
            value = {"a": 1.0, "b": -1.0, "tie": 0.0}[row["prefers"]]
            found[row["labeler"]][first, second] = value if first == row["a_id"] else -value
    met = {both for verdicts in found.values() for both in verdicts}
    if met:
        scores = facts.labels.filter(pc.is_valid(facts.labels["value"]))
        values: defaultdict[str, dict[str, float]] = defaultdict(dict)
        for row in scores.select(["labeler", "completion_id", "value"]).to_pylist():
            values[row["labeler"]][row["completion_id"]] = row["value"]
        for name, own in values.items():
            found[name] = {(a, b): float(np.sign(own[a] - own[b])) for a, b in met if a in own and b in own}
    return {name: verdicts for name, verdicts in found.items() if verdicts}


def _compared(what: str, answers: Answers, level: Literal["interval", "nominal"], settings: Audit) -> Iterator[Finding]:
    """The least agreeing two labelers, and how many judged the same."""
    found = []
    for first, second in combinations(sorted(answers), 2):
        both = sorted(answers[first].keys() & answers[second].keys())
        alpha = krippendorff_alpha([[answers[name][key] for key in both] for name in (first, second)], level)
        if alpha is not None:
            found.append((alpha, len(both), f"{first} and {second}"))
    if not found:
        return
    alpha, n, names = min(found)
    low = alpha < settings.min_agreement and n >= settings.min_items
    seen = f"{what}: alpha {alpha:.2f} of {names} on {n}" + (f", the least of {len(found)}" if len(found) > 1 else "")
    seen += "; hint: they contradict each other: read some rows, and give the better one the say" if low else ""
    yield Finding("agreement", "warn" if low else "ok", seen, alpha, settings.min_agreement, None, n)


def krippendorff_alpha(values: Sequence[Sequence[float]], level: Literal["interval", "nominal"]) -> float | None:
    """Krippendorff's alpha of a row of values for each judge, nan where one did not judge; None where nothing varies."""
    import krippendorff

    known = {value for row in values for value in row if not math.isnan(value)}
    if len(values[0]) < 2 or len(known) < 2:
        return None
    return float(krippendorff.alpha(reliability_data=values, level_of_measurement=level))
