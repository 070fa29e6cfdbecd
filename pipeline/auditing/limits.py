"""How much is too much: the audit's thresholds (`[audit]` in the config), and what a check found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "FAIL", "skipped"]


@dataclass(frozen=True, kw_only=True)
class Audit:
    """When the labels of a run are not to be trusted. Shares are of 1; a build that goes beyond a `max_` publishes nothing.

    Args:
        enforce: a failed audit publishes nothing and exits 1; false publishes and says so loudly.
        min_items: fewer pairs, verdicts, canaries (of scores: prompts) than this never fail a statistical check, they warn.
            Source: own; with 30 fair coins an exact test comes below p 0.001 from 25 on one side.
        p_value: a statistical check fails only below this chance as well, since with many rows every small effect is
            significant. Source: common practice for about ten tests at once (0.01 / 10).
        warn_longer: share of pairs whose chosen (or rejected) is the longer. Source: field-notes.md, stratify beyond 60 %.
        max_longer: the same, to fail. Source: own; a labeler that only counts characters has 1.0.
        warn_explained: share of the labels' variance within prompts that length, source or temperature explains. Source: Cohen
            1988 calls R2 0.26 large.
        max_explained: the same, to fail. Source: own; beyond it the label is hardly more than a restatement.
        warn_first: share of decided verdicts for the completion shown first. Source: 2306.05685: 65 % kept under a swap.
        max_first: the same, to fail. Source: own; three of four verdicts are then the position's.
        warn_flips: share of verdicts that flip with the order. Source: 2306.05685: GPT-4 35 %.
        max_flips: the same, to fail. Source: a judge that throws coins has 0.5.
        warn_noise: share of pairs expected to be wrong, or within the labeler's own noise. Source: 2404.09824: +10 points of
            noise can cost 30 points of win rate.
        max_noise: the same, to fail. Source: own; 20 to 40 % of published pairs are noisy.
        noise_margins: a margin of less than this many standard deviations of a repeated score is noise.
        warn_abstained: share of a labeler's labels that are abstentions. Source: own.
        max_abstained: the same, to fail. Source: the labelers' own default.
        min_agreement: Krippendorff's alpha between labelers below which it warns; 0 is chance.
        canaries: completions of the run around which they are planted, for each labeler. Source: own.
        costly_canaries: the same for labelers that ask a model or start programs; each costs four to eight questions.
        max_canaries: share of canaries of a kind that may be judged wrongly (identical texts and a labeler's own examples: none).
        heldout: a prompt file (or several) that no training prompt may repeat.
        near: Jaccard similarity of word 5-grams from which two prompts repeat each other. Source: the 0.8 of common
            deduplication (2107.06499).
        max_heldout: share of the held-out prompts that the training prompts may repeat.
    """

    enforce: bool = True
    min_items: int = 30
    p_value: float = 0.001
    warn_longer: float = 0.6
    max_longer: float = 0.9
    warn_explained: float = 0.25
    max_explained: float = 0.8
    warn_first: float = 0.6
    max_first: float = 0.75
    warn_flips: float = 0.35
    max_flips: float = 0.5
    warn_noise: float = 0.1
    max_noise: float = 0.3
    noise_margins: float = 1.0
    warn_abstained: float = 0.1
    max_abstained: float = 0.5
    min_agreement: float = 0.0
    canaries: int = 30
    costly_canaries: int = 4
    max_canaries: float = 0.1
    heldout: str | tuple[str, ...] = ()
    near: float = 0.8
    max_heldout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("min_items", "canaries", "costly_canaries"):
            if getattr(self, name) < 0:
                raise ValueError(f"audit.{name} is {getattr(self, name)}; hint: 0 or more")
        for name, value in vars(self).items():
            if isinstance(value, float) and name.startswith(("warn_", "max_", "near", "p_")) and not 0 <= value <= 1:
                raise ValueError(f"audit.{name} is {value}; hint: a share, 0 to 1")


@dataclass(frozen=True)
class Finding:
    """One line of the audit.

    Args:
        check: what was looked at.
        state: `ok`, `warn`, `FAIL` (the labels are not to be trusted) or `skipped` (it could not be looked at).
        seen: what was seen, with the reason or what to do where it is not ok.
        value: the effect: a share, a count, an alpha.
        limit: from where on it fails; None where it never does.
        p: the chance of such an effect without a cause; None where there is no test.
        n: pairs, labels, verdicts or canaries that were looked at.
        rows: some of the rows that are wrong, by id.
    """

    check: str
    state: State
    seen: str
    value: float | None = None
    limit: float | None = None
    p: float | None = None
    n: int = 0
    rows: tuple[str, ...] = ()


def graded(
    value: float, n: int, warn: float, fail: float, settings: Audit, p: float | None = None, *, tested: bool = True
) -> State:
    """The state of a share that should be small: it fails by effect, and by chance too, on enough items."""
    sure = n >= settings.min_items and (not tested or (p is not None and p < settings.p_value))
    if value > fail and sure:
        return "FAIL"
    return "warn" if value > warn and (sure or value > fail or not tested) else "ok"


def worst(findings: Sequence[Finding]) -> State:
    """The state of all together."""
    states = {finding.state for finding in findings}
    return "FAIL" if "FAIL" in states else "warn" if "warn" in states else "ok"
