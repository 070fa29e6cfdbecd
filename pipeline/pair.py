"""The stage that pairs: all completions of a prompt, their scores and verdicts in; preference pairs out."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from labelers.types import Needs, Prompt, content_id
from pipeline.balance import balanced, residualised
from pipeline.combine import Grade, Role, grades, key_of, outside_band
from pipeline.engines import Engine, EngineSpec
from pipeline.pair_rules import Chosen, automatic_rule, choose, choose_by_verdicts
from pipeline.pair_settings import Pairs
from pipeline.prompts import family_of, prompts_of
from pipeline.ranking import bradley_terry, flip_rates
from pipeline.rules import Scored
from pipeline.schema import COMPARISONS, COMPLETIONS, LABELS, PAIR_SHARD, PROMPTS
from pipeline.work import Made, Transform

Row = dict[str, Any]
LIGHT = ("completion_id", "prompt_id", "text", "finish_reason", "n_tokens", "source", "error")
"""The columns of completions that choosing needs; token ids are fetched for the chosen alone."""
SHARED = ("tokenizer_hash", "template_hash", "prompt_token_ids")
"""The columns in which two completions must agree for their token ids to make an exact pair."""
SIDE = ("completion_id", "source", *SHARED, "logp", "model_hash")
"""The columns of completions that a pair's row takes over."""
RANKING = "ranking of the verdicts"
"""The name under which a ranking by verdicts stands beside labelers."""


@dataclass(frozen=True)
class Group:
    """A prompt's completions as its labels or verdicts grade them.

    Args:
        decided: (preferred id, other id) of each verdict; None where scores make the pairs.
        made_by: the labelers, name and version.
        dropped: what was not graded, by reason.
    """

    scored: Sequence[Scored] = ()
    decided: Sequence[tuple[str, str]] | None = None
    made_by: Sequence[tuple[str, str]] = ()
    noise: float = 0.0
    dropped: Counter[str] = field(default_factory=Counter)


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

    def _pair(self, prompts_table: pa.Table, *tables: pa.Table) -> Made:
        completions = pa.concat_tables(tables[: self.n_sources])
        prompts = prompts_of(prompts_table)
        groups = self.groups(list(prompts), completions, tables[self.n_sources :])
        chosen = self.choose_all(groups)
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        pairs: list[Row] = []
        for prompt, group, choice in zip(prompts.values(), groups, chosen, strict=True):
            family = counts[family_of(prompt.metadata)]
            family.update({f"dropped:{reason}": n for reason, n in (group.dropped + choice.dropped).items()})
            family.update({"prompts": 1, "pairs": len(choice.pairs)})
            pairs += [_pair_row(prompt, c, r, choice.strategy, group.made_by) for c, r in choice.pairs]
        table = _with_completions(pairs, completions)
        return Made(table, {family: dict(kinds) for family, kinds in counts.items()})

    def groups(self, prompt_ids: Sequence[str], completions: pa.Table, tables: Sequence[pa.Table]) -> list[Group]:
        """Each prompt's completions, graded by the label tables and comparison tables that follow one another in `tables`."""
        labels = _by(tables[: self.n_labels], "completion_id")
        comparisons = _by(tables[self.n_labels :], "prompt_id")
        flips = flip_rates([row for rows in comparisons.values() for row in rows])
        rows: defaultdict[str, list[Row]] = defaultdict(list)
        for row in completions.select(LIGHT).to_pylist():
            if row["error"] is None:
                rows[row["prompt_id"]].append(row)
        return [self._grade(rows[p], labels, comparisons.get(p, []), flips) for p in prompt_ids]

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

    def _grade(
        self,
        alive: Sequence[Row],
        labels: Mapping[str, list[Row]],
        comparisons: Sequence[Row],
        flips: Mapping[str, float],
    ) -> Group:
        """A prompt's completions under their labels, or under the verdicts on them."""
        if not alive:
            return Group(dropped=Counter({"prompt without a completion": 1}))
        labelled = {row["completion_id"]: found for row in alive if (found := labels.get(row["completion_id"]))}
        verdicts = [row for row in comparisons if row["prefers"] is not None]
        if not labelled and not verdicts:
            return Group(dropped=Counter({"prompt without a labeler": 1}))
        judged = {
            completion: {label["labeler"]: label["value"] for label in found}
            for completion, found in labelled.items()
            if all(label["abstain"] is None for label in found)
        }
        made_by = [label for found in labelled.values() for label in found]
        dropped = Counter({"completion a labeler abstained on": len(labelled) - len(judged)})
        if outside_band(judged, self.roles, self.settings.pass_rate):
            return Group(dropped=+(dropped + Counter({"prompt outside the pass-rate band": 1})))
        if verdicts and self.settings.combine == "lexicographic" and judged:
            judged, after = _with_ranking(judged, verdicts, self.roles)
            graded, noise = grades(judged, (*self.roles, Role(RANKING)), "lexicographic")
            return Group(_scored(alive, graded), None, _made_by([*made_by, *verdicts]), noise, +(dropped + after))
        graded, noise = grades(judged, self.roles, self.settings.combine)
        if not verdicts:
            return Group(_scored(alive, graded), None, _made_by(made_by), noise, +dropped)
        ranked = _ranked(verdicts, graded, labelled)
        noise = max(flips.get(verdict["labeler"], 0.0) for verdict in verdicts)
        return Group(_scored(alive, ranked), _decided(verdicts), _made_by(verdicts), noise)


def _by(tables: Sequence[pa.Table], column: str) -> dict[str, list[Row]]:
    """The rows of all tables by the value of a column."""
    found: defaultdict[str, list[Row]] = defaultdict(list)
    for table in tables:
        for row in table.drop_columns(["reason"]).to_pylist():  # the longest texts there, and nothing here reads them
            found[row[column]].append(row)
    return dict(found)


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


def _ranked(
    verdicts: Sequence[Row], graded: Mapping[str, Grade], labelled: Mapping[str, Sequence[Row]]
) -> dict[str, Grade]:
    """Grades by the verdicts' ranking; gates are of the labels, and what a labeler abstained on stays unpaired."""
    return {
        completion: replace(graded[completion], score=score, passed=None)
        if completion in graded
        else Grade(score, None)
        for completion, score in bradley_terry(verdicts).items()
        if completion in graded or completion not in labelled
    }


def _with_ranking(
    judged: Mapping[str, dict[str, float]], verdicts: Sequence[Row], roles: Sequence[Role]
) -> tuple[dict[str, dict[str, float]], Counter[str]]:
    """The labels and, where verdicts settle what they leave tied, the ranking among those tied as one label more.

    A completion that ties with others which were compared, and was not, cannot be ranked among them and is left out.
    """
    classes: defaultdict[tuple[float, ...], set[str]] = defaultdict(set)
    for completion, labels in judged.items():
        classes[key_of(labels, roles)].add(completion)
    found = {completion: dict(labels) for completion, labels in judged.items()}
    for tied in classes.values():
        within = [v for v in verdicts if v["a_id"] in tied and v["b_id"] in tied]
        if not within:
            continue
        strengths = bradley_terry(within)
        for completion in tied:
            if completion in strengths:
                found[completion][RANKING] = strengths[completion]
            else:
                del found[completion]
    return found, Counter({"completion not compared with those it ties with": len(judged) - len(found)})


def _decided(verdicts: Sequence[Row]) -> list[tuple[str, str]]:
    sides = {"a": ("a_id", "b_id"), "b": ("b_id", "a_id")}
    return [(v[sides[v["prefers"]][0]], v[sides[v["prefers"]][1]]) for v in verdicts if v["prefers"] in sides]


def _made_by(labels: Sequence[Row]) -> list[tuple[str, str]]:
    return sorted({(label["labeler"], label["labeler_version"]) for label in labels})


def _scored(rows: Sequence[Row], graded: Mapping[str, Grade]) -> list[Scored]:
    """The graded completions; lengths in tokens where all know them, else all in characters."""
    kept = [row for row in rows if row["completion_id"] in graded]
    in_tokens = all(row["n_tokens"] for row in kept)
    return [
        Scored(
            row["completion_id"],
            row["text"],
            grade.score,
            grade.passed,
            row["finish_reason"] == "length",
            row["n_tokens"] if in_tokens else len(row["text"]),
            row["source"],
            grade.may_be_chosen,
            grade.may_be_rejected,
        )
        for row in kept
        for grade in (graded[row["completion_id"]],)
    ]


def _pair_row(
    prompt: Prompt, chosen: Scored, rejected: Scored, strategy: str, made_by: Sequence[tuple[str, str]]
) -> Row:
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
    """The pairs' table, with what the stored completions know of both sides. Token ids go over as arrays, never as objects."""
    ids = pa.array([row[side] for row in pairs for side in ("chosen_id", "rejected_id")], pa.string())
    used = completions.filter(pc.is_in(completions["completion_id"], value_set=ids)).combine_chunks()
    rows = used.select(SIDE).to_pylist()
    has_ids = pc.greater(pc.list_value_length(used["token_ids"]), 0).to_pylist()  # None where there are none
    place = {row["completion_id"]: i for i, row in enumerate(rows)}
    chosen, rejected = ([place[pair[side]] for pair in pairs] for side in ("chosen_id", "rejected_id"))
    exact = []
    for pair, c, r in zip(pairs, chosen, rejected, strict=True):
        pair.update(_both_sides(rows[c], rows[r]))
        # Token ids are of use only where both sides were sampled with one tokenizer and one template.
        exact.append(bool(has_ids[c] and has_ids[r]) and all(rows[c][name] == rows[r][name] for name in SHARED))
        if exact[-1]:
            pair.update({name: rows[c][name] for name in SHARED})
    table = pa.Table.from_pylist(list(pairs), PAIR_SHARD)
    for name, places in (("chosen_token_ids", chosen), ("rejected_token_ids", rejected)):
        kept = pa.array([i if is_exact else None for i, is_exact in zip(places, exact, strict=True)], pa.int64())
        at = PAIR_SHARD.get_field_index(name)
        table = table.set_column(at, PAIR_SHARD.field(at), used["token_ids"].take(kept))
    return table


def _both_sides(chosen: Row, rejected: Row) -> Row:
    return {
        "source_chosen": chosen["source"],
        "source_rejected": rejected["source"],
        "logp_chosen": chosen["logp"],
        "logp_rejected": rejected["logp"],
        "model_hash_chosen": chosen["model_hash"],
        "model_hash_rejected": rejected["model_hash"],
    }
