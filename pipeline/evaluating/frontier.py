"""The two figures of the DPO paper (2305.18290) for a user's own task: reward against divergence, and against temperature.

Every run, training and sampling is left as it is when it is there already, so that a killed command goes on where it was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.evaluating.evaluate import REFERENCE, Measured, evaluate_passing, log_ratios, messages_of
from pipeline.evaluating.evaluation import best_of_points
from pipeline.evaluating.figures import Curve, Spot, draw, exactly
from pipeline.evaluating.measures import Estimate, divergence, mean_rate, over_seeds
from pipeline.evaluating.told import nats, percent
from pipeline.evaluating.ways import Trained, Way, Workshop
from pipeline.observing.funnel import aligned
from pipeline.storage.shards import read_json, write_json

Apart = tuple[dict[str, list[float]], dict[str, list[int]]]
"""Log-ratios to the reference and tokens of a policy's answers, by prompt."""


@dataclass(frozen=True)
class Point:
    """One setting of one way at one temperature, its seeds taken together.

    Args:
        rate: held-out pass rate, families counting the same; the interval is over prompts, each the mean of its seeds.
        by_seed: each seed's pass rate.
        kl: to the reference in nats a sequence; None at other temperatures than 1.
        kl_by_seed: each seed's.
    """

    family: str
    note: str
    temperature: float
    rate: Estimate
    by_seed: tuple[float, ...]
    kl: Estimate | None = None
    kl_by_seed: tuple[float, ...] = ()


@dataclass(frozen=True)
class Best:
    """The best of `n` answers of the reference."""

    n: int
    temperature: float
    kl: float
    rate: Estimate


@dataclass(frozen=True)
class Found:
    """What both figures show.

    Args:
        frontier: every setting at temperature 1.
        temperatures: of each family the setting with the highest pass rate at temperature 1, and the reference.
        best: best-of-n of the reference.
    """

    frontier: tuple[Point, ...]
    temperatures: tuple[Point, ...]
    best: tuple[Best, ...]


@dataclass(frozen=True)
class Frontier:
    """What the figures are made of.

    Args:
        heldout: a prompt file that nothing is trained on.
        n: held-out completions of a prompt (1 at temperature 0).
        best_of: the same of the reference, for best-of-n.
        temperatures: of the second figure.
    """

    workshop: Workshop
    heldout: str
    ways: Sequence[Way]
    seeds: Sequence[int] = (0, 1, 2)
    n: int = 4
    best_of: int = 16
    temperatures: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0)

    def run(self) -> Found:
        """Samples, trains, evaluates."""
        first = self.workshop.first
        if repeated := {way.name for way in self.ways if [w.name for w in self.ways].count(way.name) > 1}:
            raise ConfigError(f"--way: {', '.join(sorted(repeated))} twice; hint: a setting of its own for each")
        dataset = self.workshop.dataset()
        trained = [one for seed in self.seeds for way in self.ways for one in self.workshop.train(way, seed, dataset)]
        reference = self._measured({REFERENCE: first}, self.temperatures, self.best_of)
        measured = self._measured({one.model: str(one.policy) for one in trained}, [1.0], self.n)
        prompts = messages_of(self.workshop.config, self.workshop.root)
        apart = {one.model: self._apart(measured, one, prompts) for one in trained}
        points = settings(measured, trained, apart)
        kept = {(point.family, point.note) for point in leaders(points)}
        chosen = [one for one in trained if (one.way.family, one.note) in kept]
        hot = self._measured({one.model: str(one.policy) for one in chosen}, self.temperatures, self.n)
        own = [point for t in self.temperatures for point in settings(hot, chosen, {}, t)]
        base = [reference_point(reference, t) for t in self.temperatures]
        best = [
            Best(n, t, kl, rate) for t in self.temperatures for n, kl, rate in best_of_points(reference, REFERENCE, t)
        ]
        return Found(tuple(points), (*base, *own), tuple(best))

    def _measured(self, models: Mapping[str, str], temperatures: Sequence[float], n: int) -> Measured:
        self.workshop.say(f"evaluates {len(models)} models at {len(temperatures)} temperatures on {self.heldout}")
        return evaluate_passing(self.workshop.config, models, self.heldout, temperatures, n, self.workshop.root)

    def _apart(self, measured: Measured, one: Trained, prompts: Mapping[str, Any]) -> Apart:
        """How far the policy's answers at temperature 1 are from the reference; kept, since a policy does not change."""
        kept = self.workshop.folder / f"{one.model}.apart.json"
        asked = {"heldout": self.heldout, "n": self.n}
        if kept.is_file() and (known := read_json(kept))["asked"] == asked:
            return known["ratios"], known["tokens"]
        ratios, tokens = log_ratios(measured, one.model, str(one.policy), self.workshop.first, prompts)
        write_json(kept, {"asked": asked, "ratios": ratios, "tokens": tokens})
        return ratios, tokens


def settings(
    measured: Measured, trained: Sequence[Trained], apart: Mapping[str, Apart], temperature: float = 1.0
) -> list[Point]:
    """A point for each setting, in the order in which they were trained: its seeds together."""
    groups: defaultdict[tuple[str, str], list[Trained]] = defaultdict(list)
    for one in trained:
        groups[one.way.family, one.note].append(one)
    found = []
    for (family, note), seeds in groups.items():
        rates = [measured.by_prompt[one.model, temperature] for one in seeds]
        point = Point(
            family, note, temperature, mean_rate(over_seeds(rates)), tuple(mean_rate(rate).value for rate in rates)
        )
        if own := [apart[one.model] for one in seeds if one.model in apart]:
            each = tuple(divergence(*one)[0].value for one in own)
            point = replace(point, kl=divergence(*_together(own))[0], kl_by_seed=each)
        found.append(point)
    return found


def leaders(points: Sequence[Point]) -> list[Point]:
    """Of each family the setting with the highest pass rate."""
    best: dict[str, Point] = {}
    for point in points:
        if point.family not in best or point.rate.value > best[point.family].rate.value:
            best[point.family] = point
    return list(best.values())


def reference_point(measured: Measured, temperature: float) -> Point:
    """The reference itself."""
    rate = mean_rate(measured.by_prompt[REFERENCE, temperature])
    return Point(REFERENCE, "", temperature, rate, (rate.value,))


def draw_both(found: Found, folder: Path) -> None:
    """frontier.png and temperature.png."""
    curves = [
        Curve(
            family,
            [Spot(p.kl, p.rate, p.note) for p in sorted(own, key=lambda p: p.kl.value if p.kl else 0.0) if p.kl],
            [place for p in own for place in zip(p.kl_by_seed, p.by_seed, strict=True)],
        )
        for family, own in _by_family(found.frontier).items()
    ]
    best = [Spot(exactly(b.kl), b.rate, f"{b.n}") for b in found.best if b.temperature == 1.0]
    curves.append(Curve("best of n of the reference", best, reckoned=True))
    draw(
        curves, folder / "frontier.png", "KL to the reference, nats a sequence (temperature 1)", "held-out pass rate, %"
    )
    curves = [
        Curve(
            " ".join(filter(None, (family, own[0].note and f"({own[0].note})"))),
            [Spot(exactly(p.temperature), p.rate) for p in own],
            [(p.temperature, rate) for p in own for rate in p.by_seed] if family != REFERENCE else (),
            reckoned=family == REFERENCE,
        )
        for family, own in _by_family(found.temperatures).items()
    ]
    curves += _best_by_temperature(found.best)
    draw(curves, folder / "temperature.png", "sampling temperature", "held-out pass rate, %")


def table(found: Found) -> str:
    """Both figures' numbers for people."""
    points = [
        (p.family, p.note, percent(p.rate), " ".join(f"{100 * r:.1f}" for r in p.by_seed), nats(p.kl))
        for p in found.frontier
    ]
    best = [
        ("best of n of the reference", str(b.n), percent(b.rate), "", f"{b.kl:.2f}")
        for b in found.best
        if b.temperature == 1
    ]
    hot = [
        (p.family, p.note, f"{p.temperature:g}", percent(p.rate), " ".join(f"{100 * r:.1f}" for r in p.by_seed))
        for p in found.temperatures
    ]
    frontier = aligned([("at temperature 1", "", "pass %", "by seed", "KL"), *points, *best])
    return f"{frontier}\n\n{aligned([('', '', 'T', 'pass %', 'by seed'), *hot])}"


def as_json(found: Found) -> dict[str, Any]:
    """The same for scripts."""
    return asdict(found)


def _best_by_temperature(best: Sequence[Best]) -> list[Curve]:
    """The best of the most answers that are there above temperature 0, where all answers are one."""
    most = max((b.n for b in best), default=1)
    spots = [Spot(exactly(b.temperature), b.rate) for b in best if b.n == (most if b.temperature else 1)]
    return [Curve(f"best of {most} of the reference", spots)] if most > 1 else []


def _by_family(points: Sequence[Point]) -> dict[str, list[Point]]:
    found: defaultdict[str, list[Point]] = defaultdict(list)
    for point in points:
        found[point.family].append(point)
    return dict(found)


def _together(apart: Sequence[Apart]) -> Apart:
    """The answers of all seeds by prompt."""
    ratios: defaultdict[str, list[float]] = defaultdict(list)
    tokens: defaultdict[str, list[int]] = defaultdict(list)
    for own, lengths in apart:
        for prompt in own:
            ratios[prompt] += own[prompt]
            tokens[prompt] += lengths[prompt]
    return ratios, tokens
