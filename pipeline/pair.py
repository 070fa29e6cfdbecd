"""The stage that pairs: all completions of a prompt, their scores and verdicts in; preference pairs out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from labelers.types import Needs
from pipeline.engines import Engine, EngineSpec
from pipeline.pairing.balance import balanced, residualised
from pipeline.pairing.combine import Role
from pipeline.pairing.eligible import Chosen, automatic_rule, choose, choose_by_verdicts
from pipeline.pairing.grading import Group, graded
from pipeline.pairing.rules import Scored
from pipeline.pairing.settings import Pairs
from pipeline.pairing.table import PairRows
from pipeline.prompts import families_of
from pipeline.schema import COMPARISONS, COMPLETIONS, LABELS, PAIR_SHARD, PROMPTS
from pipeline.work import Made, Transform

__all__ = ["Group", "Pairing"]


@dataclass(frozen=True)
class Pairing:
    """Builds the pairs of each prompt.

    Several pointwise labelers of one completion are combined as `settings.combine` says, and it passed when it passed all;
    one abstention leaves it unpaired. Where verdicts exist they make the pairs; labels are then gates alone, or, one after the
    other, decide first and leave to the verdicts what ties.
    """

    settings: Pairs
    roles: tuple[Role, ...]
    n_sources: int = 1
    n_labels: int = 1
    n_comparisons: int = 0

    version: ClassVar[str] = "3"
    needs: ClassVar[Needs] = Needs()
    engine: ClassVar[EngineSpec | None] = None
    writes: ClassVar[pa.Schema] = PAIR_SHARD

    @property
    def reads(self) -> tuple[pa.Schema, ...]:
        """Prompts, then completions, labels and comparisons."""
        counted = ((COMPLETIONS, self.n_sources), (LABELS, self.n_labels), (COMPARISONS, self.n_comparisons))
        return (PROMPTS, *(schema for schema, n in counted for _ in range(n)))

    @contextmanager
    def open(self, engine: Engine | None = None) -> Iterator[Transform]:
        """The transform; it needs nothing."""
        yield self._pair

    def _pair(self, prompts: pa.Table, *tables: pa.Table) -> Made:
        completions = pa.concat_tables(tables[: self.n_sources])
        groups = self.groups(prompts["prompt_id"].to_pylist(), completions, tables[self.n_sources :])
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        rows = PairRows()
        chosen = zip(families_of(prompts["metadata"]), groups, self.choose_all(groups), strict=True)
        for place, (name, group, choice) in enumerate(chosen):
            family = counts[name]
            family["prompts"] += 1
            family["pairs"] += len(choice.pairs)
            for dropped in (group.dropped, choice.dropped):
                for reason, n in dropped.items():
                    family[f"dropped:{reason}"] += n
            rows.add(place, choice.pairs, choice.strategy, group.made_by)
        return Made(rows.table(prompts, completions), {family: dict(kinds) for family, kinds in counts.items()})

    def groups(self, prompt_ids: Sequence[str], completions: pa.Table, tables: Sequence[pa.Table]) -> list[Group]:
        """Each prompt's completions, graded by the label tables and comparison tables that follow one another in `tables`."""
        labels, comparisons = tables[: self.n_labels], tables[self.n_labels :]
        return graded(prompt_ids, completions, labels, comparisons, self.roles, self.settings)

    def choose_all(self, groups: Sequence[Group]) -> list[Chosen]:
        """Each group's pairs, once length and sources are set right over all of them."""
        scored = [group.scored for group in groups]
        if self.settings.length == "residualise":
            # By verdicts and by passing pairs are made whatever the scores; matching on length is the cure there.
            free = [g.decided is None and _by_score(g.scored, self.settings) for g in groups]
            level = iter(residualised([s for s, is_free in zip(scored, free, strict=True) if is_free]))
            scored = [next(level) if is_free else s for s, is_free in zip(scored, free, strict=True)]
        chosen = [
            self._choose(group, among, self.settings) if group.scored else Chosen()
            for group, among in zip(groups, scored, strict=True)
        ]
        return _balanced(chosen, self.settings)

    def _choose(self, group: Group, scored: Sequence[Scored], settings: Pairs) -> Chosen:
        if group.decided is not None:
            return choose_by_verdicts(scored, group.decided, settings, group.noise)
        return choose(scored, settings, group.noise)


def _by_score(group: Sequence[Scored], settings: Pairs) -> bool:
    rule = settings.rule if settings.rule != "auto" else automatic_rule(group)
    return rule != "pass_vs_fail"


def _balanced(chosen: Sequence[Chosen], settings: Pairs) -> list[Chosen]:
    """The choices, without the pairs that lengths and sources cost; a pair is counted where its prompt is."""
    kept, dropped = balanced([pair for choice in chosen for pair in choice.pairs], settings)
    if not dropped:
        return list(chosen)
    left = {(c.id, r.id) for c, r in kept}
    found = []
    for choice in chosen:
        pairs = tuple(pair for pair in choice.pairs if (pair[0].id, pair[1].id) in left)
        lost = Counter({"pair dropped to balance lengths or sources": len(choice.pairs) - len(pairs)})
        found.append(Chosen(pairs, choice.strategy, choice.dropped + lost))
    return found
