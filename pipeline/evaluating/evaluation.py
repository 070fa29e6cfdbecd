"""What `python -m pipeline evaluate` says: a row for each model and temperature, and the two figures of the DPO paper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.evaluating.evaluate import ALL, Measured, Rate, log_ratios
from pipeline.evaluating.figures import Curve, Spot, draw, exactly
from pipeline.evaluating.measures import (
    Estimate,
    best_of,
    controlled_win_rate,
    distinct,
    divergence,
    mean_score,
    self_similarity,
    win_rate,
)
from pipeline.evaluating.told import nats, percent, points
from pipeline.observing.funnel import aligned

BEST_OF = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Standing:
    """One model at one temperature.

    Args:
        pass_rate: the mean of the families' rates.
        gain: of the pass rate over the reference's, paired by prompt; None for the reference itself and where nothing passes.
        wins, wins_at_equal_length: against the reference's answers at the same temperature.
        distinct_1, distinct_2: shares of different words and pairs of words among all.
        alike: similarity of two answers to one prompt.
        tokens: a completion's, on average.
        kl, kl_per_token: to the reference, in nats; of answers at temperature 1 alone.
    """

    model: str
    temperature: float
    score: Estimate
    pass_rate: Estimate | None
    gain: Estimate | None
    wins: Estimate | None
    wins_at_equal_length: Estimate | None
    distinct_1: float
    distinct_2: float
    alike: float
    tokens: float
    kl: Estimate | None = None
    kl_per_token: Estimate | None = None


def standings(
    measured: Measured,
    reference: str,
    folders: Mapping[str, str],
    prompts: Mapping[str, Any],
    seed: int = 0,
    *,
    kl: bool = True,
) -> list[Standing]:
    """A row for each model and temperature, the reference first.

    Args:
        folders: model -> where it lies, for the divergence.
        prompts: prompt id -> messages.
        kl: reckon the divergence: a forward pass of model and reference over the answers at temperature 1.
    """
    apart: dict[str, tuple[Estimate, Estimate]] = {}
    for model, folder in folders.items():
        if kl and model != reference and (model, 1.0) in measured.answers:
            apart[model] = divergence(*log_ratios(measured, model, folder, folders[reference], prompts))
    rates = {(r.model, r.temperature): r for r in measured.rates(seed) if r.family == ALL}
    keys = sorted(measured.answers, key=lambda key: (key[0] != reference, key[0], key[1]))
    return [_standing(measured, *key, reference, rates.get(key), apart, seed) for key in keys]


def _standing(
    measured: Measured, model: str, temperature: float, reference: str, rate: Rate | None,
    apart: Mapping[str, tuple[Estimate, Estimate]], seed: int,
) -> Standing:  # fmt: skip
    own, base = measured.answers[model, temperature], measured.answers.get((reference, temperature))
    other = base if model != reference else None
    groups = [answer for group in own.values() for answer in group]
    gain = None
    if rate and other is not None:
        gain = Estimate(*measured.gain(model, reference, temperature, seed)[ALL], rate.n_prompts)
    kl, kl_per_token = apart.get(model, (None, None)) if temperature == 1.0 else (None, None)
    return Standing(
        model, temperature,
        score=mean_score(own, seed),
        pass_rate=Estimate(rate.rate, rate.low, rate.high, rate.n_prompts) if rate else None,
        gain=gain,
        wins=win_rate(own, other, seed) if other is not None else None,
        wins_at_equal_length=controlled_win_rate(own, other, seed) if other is not None else None,
        distinct_1=distinct(own, 1), distinct_2=distinct(own, 2), alike=self_similarity(own),
        tokens=sum(answer.n_tokens for answer in groups) / max(len(groups), 1),
        kl=kl, kl_per_token=kl_per_token,
    )  # fmt: skip


def as_json(found: Sequence[Standing], measured: Measured) -> dict[str, Any]:
    """The evaluation for scripts: the standings, and the pass rates by family."""
    return {"standings": [asdict(row) for row in found], "rates": [asdict(rate) for rate in measured.rates()]}


def table(found: Sequence[Standing]) -> str:
    """The standings for people, in points and percent."""
    head = (
        "model",
        "T",
        "pass %",
        "gain",
        "wins %",
        "at equal length",
        "tokens",
        "distinct-2",
        "alike",
        "KL",
        "KL/token",
    )
    rows = [
        (
            row.model, f"{row.temperature:g}", percent(row.pass_rate), points(row.gain), percent(row.wins),
            percent(row.wins_at_equal_length), f"{row.tokens:.0f}", f"{row.distinct_2:.2f}", f"{row.alike:.2f}",
            nats(row.kl), nats(row.kl_per_token, 3),
        )
        for row in found
    ]  # fmt: skip
    return aligned([head, *rows])


def draw_temperatures(found: Sequence[Standing], path: Path) -> None:
    """Pass rate (win rate where no labeler knows passing) against sampling temperature, as figure 2 of 2305.18290."""
    curves = []
    for model in dict.fromkeys(row.model for row in found):
        own = [(row.temperature, row.pass_rate or row.wins) for row in found if row.model == model]
        if spots := [Spot(exactly(temperature), value) for temperature, value in own if value]:
            curves.append(Curve(model, spots))
    draw(curves, path, "sampling temperature", "held-out pass rate, %")


def draw_frontier(found: Sequence[Standing], measured: Measured, reference: str, path: Path) -> None:
    """Expected reward against divergence at temperature 1, as figure 2 of 2305.18290, with best-of-n of the reference."""
    curves = [Curve(row.model, [Spot(row.kl, row.pass_rate)]) for row in found if row.kl and row.pass_rate]
    if best := [Spot(exactly(kl), rate, str(n)) for n, kl, rate in best_of_points(measured, reference)]:
        curves.append(Curve(f"best of n of {reference}", best, reckoned=True))
    draw(curves, path, "KL to the reference, nats a sequence", "held-out pass rate, %")


def best_of_points(
    measured: Measured, reference: str, temperature: float = 1.0
) -> Iterator[tuple[int, float, Estimate]]:
    """(n, its divergence, its pass rate) of the best of n answers of the reference."""
    answers = measured.answers.get((reference, temperature), {})
    passed = {
        prompt: [replace(a, score=float(bool(a.passed))) for a in group if a.passed is not None]
        for prompt, group in answers.items()
    }
    most = min((len(group) for group in passed.values()), default=0)
    for n in (n for n in BEST_OF if n <= most):
        rate, kl = best_of(passed, n)
        yield n, kl, rate
