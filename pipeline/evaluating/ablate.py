"""What each pair rule would make of the completions and labels that a run has; nothing is sampled or labelled."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.errors import ConfigError
from pipeline.pair import Pairing
from pipeline.pairing.rules import RULES, Pair
from pipeline.plan import Plan
from pipeline.storage.shards import read_receipt, read_shard


@dataclass(frozen=True)
class Ablated:
    """What one rule would make.

    Args:
        prompts: those with a pair.
        margin: the median.
        length_gap: the mean of chosen minus rejected length.
        longer_wins: the share of pairs, of those of unequal length, whose chosen is the longer.
        chosen_from: the share of each source among the chosen.
    """

    rule: str
    pairs: int
    prompts: int
    margin: float | None
    length_gap: float | None
    longer_wins: float | None
    chosen_from: dict[str, float]


def ablate(plan: Plan, shards: Sequence[Path]) -> list[Ablated]:
    """Each rule over the shards whose completions and labels are finished.

    Raises:
        ConfigError: no shard is.
    """
    stage = plan.pairs.stage
    assert isinstance(stage, Pairing)
    works = [work for shard in shards if all(map(read_receipt, (work := plan.pairs.work(shard)).inputs))]
    if not works:
        raise ConfigError("no shard has all its completions and labels yet; hint: python -m pipeline run first")
    made: dict[str, list[list[Pair]]] = {rule: [] for rule in RULES}
    for work in works:
        prompts, *tables = (read_shard(path, schema) for path, schema in zip(work.inputs, stage.reads, strict=True))
        completions = pa.concat_tables(tables[: stage.n_sources])
        groups = stage.groups(prompts["prompt_id"].to_pylist(), completions, tables[stage.n_sources :])
        for rule, found in made.items():
            other = replace(stage, settings=replace(stage.settings, rule=rule))  # type: ignore[arg-type]
            found += [list(choice.pairs) for choice in other.choose_all(groups)]
    return [_described(rule, found) for rule, found in made.items()]


def rows(found: Sequence[Ablated]) -> list[tuple[Any, ...]]:
    """The table for people, its head first."""
    head = ("rule", "pairs", "prompts", "margin", "length gap", "longer wins", "chosen from")
    return [head, *(tuple(_cell(value) for value in asdict(each).values()) for each in found)]


def _cell(value: Any) -> Any:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{source} {share:.0%}" for source, share in value.items()) or "-"
    return f"{value:.3g}" if isinstance(value, float) else value


def _described(rule: str, prompts: Sequence[Sequence[Pair]]) -> Ablated:
    pairs = [pair for found in prompts for pair in found]
    gaps = [chosen.length - rejected.length for chosen, rejected in pairs]
    unequal = [gap for gap in gaps if gap]
    sources = Counter(chosen.source for chosen, _ in pairs)
    return Ablated(
        rule,
        len(pairs),
        sum(bool(found) for found in prompts),
        statistics.median(c.score - r.score for c, r in pairs) if pairs else None,
        statistics.fmean(gaps) if gaps else None,
        sum(gap > 0 for gap in unequal) / len(unequal) if unequal else None,
        {source: n / len(pairs) for source, n in sorted(sources.items())},
    )
