"""One grade of a completion from several labelers: a sum, a standardised sum, or one labeler after the other; and gates."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

from pipeline.pairing.settings import Combine

Gate = Literal["none", "chosen_must_pass", "rejected_must_fail", "both"]
Values = Mapping[str, Mapping[str, float]]
"""completion id -> labeler -> value"""


@dataclass(frozen=True)
class Role:
    """What a pointwise labeler means for pairs.

    Args:
        weight: its scores count this much where several labelers score one completion.
        pass_at: scores of at least this much passed; None when it does not know passing.
        noise: the deviation of a repeated score.
        gate: what it must say of a chosen or rejected completion, whatever the other labelers say.
    """

    name: str
    weight: float = 1.0
    pass_at: float | None = None
    noise: float = 0.0
    gate: Gate = "none"


@dataclass(frozen=True, slots=True)
class Grade:
    """What a completion's labels come to; `passed` is None where no labeler knows passing."""

    score: float
    passed: bool | None
    may_be_chosen: bool = True
    may_be_rejected: bool = True


def grades(values: Values, roles: Sequence[Role], how: Combine) -> tuple[dict[str, Grade], float]:
    """Each completion's grade within its prompt, and the noise of the combined score."""
    used = [role for role in roles if any(role.name in labels for labels in values.values())]
    match how:
        case "sum":
            scores, noise = _sum(values, used, {role.name: role.weight for role in used})
        case "standardised":
            scores, noise = _sum(values, used, _standardising(values, used))
        case "lexicographic":
            scores, noise = _lexicographic(values, used), 0.0
        case _:
            assert_never(how)
    # After one another, what both passed is decided by the next labeler: passing itself says no more.
    blind = how == "lexicographic" and len(used) > 1
    gates = [role for role in used if role.gate != "none"]
    return {
        completion: Grade(
            scores[completion],
            None if blind else _passed(labels, used),
            not any(_fails(role, labels, "chosen_must_pass") for role in gates),
            not any(_passes(role, labels, "rejected_must_fail") for role in gates),
        )
        for completion, labels in values.items()
    }, noise


def outside_band(values: Values, roles: Sequence[Role], band: tuple[float, float] | None) -> bool:
    """Whether a prompt is easier or harder than asked: by the share of its completions that passed all that know passing."""
    known = [p for labels in values.values() if (p := _passed(labels, roles)) is not None] if band else []
    return not in_band(known, band)


def in_band(passed: Sequence[bool], band: tuple[float, float] | None) -> bool:
    """Whether the share of those that passed is within the band; where nothing is known, or no band is asked for, it is."""
    return band is None or not passed or band[0] <= sum(passed) / len(passed) <= band[1]


def key_of(labels: Mapping[str, float], roles: Sequence[Role]) -> tuple[float, ...]:
    """What decides one after the other: passing where a labeler knows it, else its score; ends where labels are missing."""
    found: list[float] = []
    for role in roles:
        if role.name not in labels:
            break
        value = labels[role.name]
        found.append(value if role.pass_at is None else float(value >= role.pass_at))
    return tuple(found)


def _sum(values: Values, roles: Sequence[Role], factors: Mapping[str, float]) -> tuple[dict[str, float], float]:
    noise = math.hypot(*(factors[role.name] * role.noise for role in roles)) if roles else 0.0
    return {
        completion: sum(factors[name] * value for name, value in labels.items())
        for completion, labels in values.items()
    }, noise


def _standardising(values: Values, roles: Sequence[Role]) -> dict[str, float]:
    """Each labeler's weight over the deviation of its scores within the prompt; where all are equal it says nothing."""
    factors = {}
    for role in roles:
        spread = statistics.pstdev([labels[role.name] for labels in values.values() if role.name in labels])
        factors[role.name] = role.weight / spread if spread > 0 else 0.0
    return factors


def _lexicographic(values: Values, roles: Sequence[Role]) -> dict[str, float]:
    """The rank of each completion among the different keys of its prompt, from 0 to 1."""
    keys = {completion: key_of(labels, roles) for completion, labels in values.items()}
    ranked = sorted(set(keys.values()))
    return {completion: ranked.index(key) / max(len(ranked) - 1, 1) for completion, key in keys.items()}


def _passed(labels: Mapping[str, float], roles: Sequence[Role]) -> bool | None:
    known = [labels[r.name] >= r.pass_at for r in roles if r.pass_at is not None and r.name in labels]
    return all(known) if known else None


def _passes(role: Role, labels: Mapping[str, float], side: Gate) -> bool:
    asked = role.gate in (side, "both") and role.pass_at is not None and role.name in labels
    return asked and labels[role.name] >= (role.pass_at or 0.0)


def _fails(role: Role, labels: Mapping[str, float], side: Gate) -> bool:
    asked = role.gate in (side, "both") and role.pass_at is not None and role.name in labels
    return asked and not _passes(role, labels, side)
