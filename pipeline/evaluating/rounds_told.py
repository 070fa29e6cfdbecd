"""What came of rounds, for people: a line for each, a table, and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.evaluating.figures import COLOURS, Curve, Spot, canvas_of, exactly, lay, save
from pipeline.evaluating.measures import Estimate
from pipeline.evaluating.told import percent, points
from pipeline.observing.funnel import aligned


@dataclass(frozen=True)
class Round:
    """What came of one round.

    Args:
        policy: the folder of the policy that it trained.
        seed: of its sampling and training.
        pairs: that it trained on.
        before: the held-out pass rate of the policy that sampled: (value, low, high).
        rate, gain: the new policy's, and its gain over the one that sampled.
        kl: nats a sequence from the first model; `staleness`: from the policy that sampled its pairs.
        growth: tokens of an answer over those of the first model's.
        stop: why it was the last; empty while it goes on.
    """

    number: int
    policy: str
    seed: int
    pairs: int
    before: tuple[float, float, float]
    rate: tuple[float, float, float]
    gain: tuple[float, float, float]
    kl: float
    staleness: float
    growth: float
    stop: str = ""


def told(found: Round) -> str:
    """A round in a line."""
    passed, gain = percent(_estimate(found.rate)), points(_estimate(found.gain))
    line = (
        f"round {found.number}: {found.pairs} pairs, pass {passed}, gain {gain} points, KL {found.kl:.2f} "
        f"(from its sampler {found.staleness:.2f}), length x {found.growth:.2f}"
    )
    return f"{line}; stops: {found.stop}" if found.stop else line


def table(rows: Sequence[Sequence[Round]]) -> str:
    """Several rows of rounds for people: a line for each round, and why each row ended."""
    head = ("seed", "round", "pairs", "pass % before", "after", "gain", "KL", "KL from its sampler", "length", "")
    lines = [
        (
            r.seed, r.number, r.pairs, percent(_estimate(r.before)), percent(_estimate(r.rate)),
            points(_estimate(r.gain)),
            f"{r.kl:.2f}", f"{r.staleness:.2f}", f"x {r.growth:.2f}", f"stops: {r.stop}" if r.stop else "",
        )
        for row in rows for r in row
    ]  # fmt: skip
    return aligned([head, *lines])


def draw(rows: Sequence[Sequence[Round]], path: Path) -> None:
    """Held-out pass rate, divergence and length round by round, a line for each row of rounds; round 0 is the first model."""
    canvas = canvas_of(10, 3.4)
    passes, apart, lengths = canvas.subplots(1, 3)
    for row, colour in zip(rows, COLOURS * (1 + len(rows) // len(COLOURS)), strict=False):
        places = [0, *(r.number for r in row)]
        rates = [row[0].before, *(r.rate for r in row)]
        spots = [Spot(exactly(x), _estimate(y)) for x, y in zip(places, rates, strict=True)]
        lay(passes, Curve(f"seeds from {row[0].seed}", spots), colour)
        apart.plot(places, [0.0, *(r.kl for r in row)], color=colour, marker="o", ms=4, lw=1.2)
        apart.plot(places[1:], [r.staleness for r in row], color=colour, marker="o", ms=3, lw=1, ls=":")
        lengths.plot(places, [1.0, *(r.growth for r in row)], color=colour, marker="o", ms=4, lw=1.2)
    passes.set(xlabel="round", ylabel="held-out pass rate, %")
    apart.set(xlabel="round", ylabel="KL, nats a sequence", title="from the first model; dotted: from its sampler")
    longest = max(1.0, *(r.growth for row in rows for r in row))
    lengths.set(xlabel="round", ylabel="length over the first model's", ylim=(0, 1.2 * longest))
    passes.legend(frameon=False, fontsize=8)
    for axes in (passes, apart, lengths):
        axes.set_xticks(range(1 + max(len(row) for row in rows)))
        axes.title.set_fontsize(8)
    save(canvas, path)


def _estimate(three: tuple[float, float, float]) -> Estimate:
    return Estimate(*three, 0)
