"""The stage that pairs: all completions of a prompt, their scores and verdicts in; preference pairs out."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from labelers.types import Needs, Prompt, content_id
from pipeline.compare import verdicts_of
from pipeline.engines import Engine, EngineSpec
from pipeline.pair_rules import Chosen, Pairs, Scored, choose, choose_by_verdicts
from pipeline.prompts import family_of, prompts_of
from pipeline.schema import COMPARISONS, COMPLETIONS, LABELS, PAIR_SHARD, PROMPTS
from pipeline.work import Made, Transform

Row = dict[str, Any]
LIGHT = ("completion_id", "prompt_id", "text", "finish_reason", "n_tokens", "error")
"""The columns of completions that choosing needs; token ids are fetched for the chosen alone."""


@dataclass(frozen=True)
class Role:
    """What a pointwise labeler means for pairs.

    Args:
        weight: its scores count this much where several labelers score one completion.
        pass_at: scores of at least this much passed; None when it does not know passing.
    """

    name: str
    weight: float = 1.0
    pass_at: float | None = None


@dataclass(frozen=True)
class Pairing:
    """Builds the pairs of each prompt.

    Several pointwise labelers of one completion add up by weight, and it passed when it passed all; one abstention leaves it
    unpaired. Where verdicts exist they make the pairs.
    """

    settings: Pairs
    roles: tuple[Role, ...]
    n_sources: int = 1
    n_labels: int = 1
    n_comparisons: int = 0

    version: ClassVar[str] = "1"
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

    def _pair(self, prompts_table: pa.Table, *tables: pa.Table) -> Made:
        completions = pa.concat_tables(tables[: self.n_sources])
        grades = self._grades(tables[self.n_sources : self.n_sources + self.n_labels])
        verdicts = verdicts_of(tables[self.n_sources + self.n_labels :])
        groups: defaultdict[str, list[Row]] = defaultdict(list)
        for row in completions.select(LIGHT).to_pylist():
            groups[row["prompt_id"]].append(row)
        prompts = prompts_of(prompts_table)
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        pairs: list[Row] = []
        for prompt in prompts.values():
            family = counts[family_of(prompt.metadata)]
            family["prompts"] += 1
            chosen, made_by = self._choose(groups[prompt.id], grades, verdicts.get(prompt.id, ()), family)
            family.update({f"dropped:{reason}": n for reason, n in chosen.dropped.items()})
            family["pairs"] += len(chosen.pairs)
            pairs += [_pair_row(prompt, c, r, chosen.strategy, made_by) for c, r in chosen.pairs]
        table = _with_completions(pairs, completions)
        return Made(table, {family: dict(kinds) for family, kinds in counts.items()})

    def _grades(self, tables: Sequence[pa.Table]) -> dict[str, list[Row]]:
        """The labels of each completion."""
        grades: defaultdict[str, list[Row]] = defaultdict(list)
        for table in tables:
            for row in table.to_pylist():
                grades[row["completion_id"]].append(row)
        return grades

    def _choose(
        self, group: Sequence[Row], grades: Mapping[str, list[Row]], verdicts: Sequence[Row], family: Counter[str]
    ) -> tuple[Chosen, list[tuple[str, str]]]:
        """A group's pairs, and the labelers (name, version) that made them."""
        alive = [row for row in group if row["error"] is None]
        if not alive:
            return Chosen(dropped=Counter({"prompt without a completion": 1})), []
        if verdicts:
            wins = win_rates(verdicts)
            scored = [_scored(row, wins[row["completion_id"]], None) for row in alive if row["completion_id"] in wins]
            return choose_by_verdicts(scored, _decided(verdicts), self.settings), _made_by(verdicts)
        labelled = [(row, grades[row["completion_id"]]) for row in alive if row["completion_id"] in grades]
        if not labelled:
            return Chosen(dropped=Counter({"prompt without a labeler": 1})), []
        judged = [(row, labels) for row, labels in labelled if all(label["abstain"] is None for label in labels)]
        family["dropped:completion a labeler abstained on"] += len(labelled) - len(judged)
        return choose([self._grade(row, labels) for row, labels in judged], self.settings), _made_by(labelled[0][1])

    def _grade(self, row: Row, labels: Sequence[Row]) -> Scored:
        roles = {role.name: role for role in self.roles}
        score = sum(roles[label["labeler"]].weight * label["value"] for label in labels)
        limits = [(label["value"], roles[label["labeler"]].pass_at) for label in labels]
        known = [value >= limit for value, limit in limits if limit is not None]
        return _scored(row, score, all(known) if known else None)


def win_rates(verdicts: Sequence[Row]) -> dict[str, float]:
    """The share of its comparisons that each completion won, ties counting half."""
    points: defaultdict[str, list[float]] = defaultdict(list)
    for verdict in verdicts:
        a = {"a": 1.0, "tie": 0.5, "b": 0.0}[verdict["prefers"]]
        points[verdict["a_id"]].append(a)
        points[verdict["b_id"]].append(1.0 - a)
    return {completion: sum(won) / len(won) for completion, won in points.items()}


def _decided(verdicts: Sequence[Row]) -> list[tuple[str, str]]:
    sides = {"a": ("a_id", "b_id"), "b": ("b_id", "a_id")}
    return [(v[sides[v["prefers"]][0]], v[sides[v["prefers"]][1]]) for v in verdicts if v["prefers"] in sides]


def _made_by(labels: Sequence[Row]) -> list[tuple[str, str]]:
    return sorted({(label["labeler"], label["labeler_version"]) for label in labels})


def _scored(row: Row, score: float, passed: bool | None) -> Scored:
    length = row["n_tokens"] or len(row["text"])
    return Scored(row["completion_id"], row["text"], score, passed, row["finish_reason"] == "length", length)


def _pair_row(prompt: Prompt, chosen: Scored, rejected: Scored, strategy: str, made_by: list[tuple[str, str]]) -> Row:
    return {
        "pair_id": content_id(prompt.id, chosen.id, rejected.id, strategy),
        "prompt_id": prompt.id,
        "prompt": [{"role": m.role, "content": m.content} for m in prompt.messages],
        "chosen": [{"role": "assistant", "content": chosen.text}],
        "rejected": [{"role": "assistant", "content": rejected.text}],
        "chosen_id": chosen.id,
        "rejected_id": rejected.id,
        "score_chosen": chosen.score,
        "score_rejected": rejected.score,
        "margin": chosen.score - rejected.score,
        "labelers": [name for name, _ in made_by],
        "labeler_versions": [version for _, version in made_by],
        "weight": 1.0,
        "strategy": strategy,
        "metadata": json.dumps(prompt.metadata, sort_keys=True, ensure_ascii=False),
    }


def _with_completions(pairs: Sequence[Row], completions: pa.Table) -> pa.Table:
    """The pairs' table, with what the stored completions know of both sides."""
    used = pa.array([row[side] for row in pairs for side in ("chosen_id", "rejected_id")], pa.string())
    rows = completions.filter(pc.is_in(completions["completion_id"], value_set=used)).to_pylist()
    by_id = {row["completion_id"]: row for row in rows}
    for pair in pairs:
        pair.update(_both_sides(by_id[pair["chosen_id"]], by_id[pair["rejected_id"]]))
    return pa.Table.from_pylist(list(pairs), PAIR_SHARD)


def _both_sides(chosen: Row, rejected: Row) -> Row:
    shared = ("tokenizer_hash", "template_hash", "prompt_token_ids")
    # Token ids are of use only where both sides were sampled with one tokenizer and one template.
    exact = chosen["token_ids"] and rejected["token_ids"] and all(chosen[name] == rejected[name] for name in shared)
    return {
        "source_chosen": chosen["source"],
        "source_rejected": rejected["source"],
        **({name: chosen[name] for name in shared} if exact else {}),
        **({"chosen_token_ids": chosen["token_ids"], "rejected_token_ids": rejected["token_ids"]} if exact else {}),
        "logp_chosen": chosen["logp"],
        "logp_rejected": rejected["logp"],
        "model_hash_chosen": chosen["model_hash"],
        "model_hash_rejected": rejected["model_hash"],
    }
