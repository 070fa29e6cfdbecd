"""From labels and verdicts to graded groups: what each prompt's completions come to, before any pair is chosen."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.pairing.combine import Grade, Role, grades, in_band, key_of, outside_band
from pipeline.pairing.ranking import bradley_terry, flip_rates
from pipeline.pairing.rules import Scored
from pipeline.pairing.settings import Pairs

Row = dict[str, Any]
Labels = Mapping[str, tuple[str, str, float | None, bool]]
"""completion id -> its one label: labeler, version, value, whether it abstained"""
RANKING = "ranking of the verdicts"
"""The name under which a ranking by verdicts stands beside labelers."""


class Alive(NamedTuple):
    """What choosing needs of a completion that was made, named as its columns; token ids are fetched for the chosen alone."""

    completion_id: str
    prompt_id: str
    text: str
    finish_reason: str
    n_tokens: int
    source: str


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


def graded(
    prompt_ids: Sequence[str],
    completions: pa.Table,
    labels: Sequence[pa.Table],
    comparisons: Sequence[pa.Table],
    roles: Sequence[Role],
    settings: Pairs,
) -> list[Group]:
    """Each prompt's completions under their labels, or under the verdicts on them."""
    alive = _alive(completions)
    if not any(table.num_rows for table in comparisons) and (single := _single(labels, roles, settings)) is not None:
        return [_graded_alone(alive.get(p, ()), single, roles, settings) for p in prompt_ids]
    by_completion, by_prompt = _by(labels, "completion_id"), _by(comparisons, "prompt_id")
    flips = flip_rates([row for rows in by_prompt.values() for row in rows])
    return [_graded(alive.get(p, ()), by_completion, by_prompt.get(p, []), flips, roles, settings) for p in prompt_ids]


def _alive(completions: pa.Table) -> dict[str, list[Alive]]:
    """Each prompt's completions that were made."""
    made = completions.filter(pc.is_null(completions["error"])).select(Alive._fields)
    found: defaultdict[str, list[Alive]] = defaultdict(list)
    for row in map(Alive._make, zip(*(column.to_pylist() for column in made.columns), strict=True)):
        found[row.prompt_id].append(row)
    return dict(found)


def _rows(table: pa.Table) -> Iterator[Row]:
    """The table's rows; a column at a time, which takes half of the time of `to_pylist`."""
    names = table.column_names
    return (dict(zip(names, row, strict=True)) for row in zip(*(c.to_pylist() for c in table.columns), strict=True))


def _single(labels: Sequence[pa.Table], roles: Sequence[Role], settings: Pairs) -> Labels | None:
    """The label of each completion where it has one, no gate stands and scores are summed: the common case, and the quick one."""
    if settings.combine != "sum" or any(role.gate != "none" for role in roles):
        return None
    found: dict[str, tuple[str, str, float | None, bool]] = {}
    for table in labels:
        said = [table[name].to_pylist() for name in ("labeler", "labeler_version", "value", "abstain")]
        rows = ((name, version, value, kind is not None) for name, version, value, kind in zip(*said, strict=True))
        found.update(zip(table["completion_id"].to_pylist(), rows, strict=True))
    return found if len(found) == sum(table.num_rows for table in labels) else None


def _graded_alone(alive: Sequence[Alive], labels: Labels, roles: Sequence[Role], settings: Pairs) -> Group:
    """What `_graded` gives, where each completion has at most one label."""
    if not alive:
        return Group(dropped=Counter({"prompt without a completion": 1}))
    labelled = [(row, label) for row in alive if (label := labels.get(row.completion_id)) is not None]
    if not labelled:
        return Group(dropped=Counter({"prompt without a labeler": 1}))
    kept = [(row, name, value) for row, (name, _, value, abstained) in labelled if not abstained and value is not None]
    dropped = Counter[str]()
    if len(kept) < len(labelled):
        dropped["completion a labeler abstained on"] = len(labelled) - len(kept)
    of_name = {role.name: role for role in roles}
    passed = [None if (at := of_name[name].pass_at) is None else value >= at for _, name, value in kept]
    if not in_band([p for p in passed if p is not None], settings.pass_rate):
        dropped["prompt outside the pass-rate band"] = 1
        return Group(dropped=dropped)
    in_tokens = all(row.n_tokens for row, _, _ in kept)
    scored = [
        _scored_one(row, 0.0 + of_name[name].weight * value, is_passed, in_tokens)  # 0 is what a sum starts from
        for (row, name, value), is_passed in zip(kept, passed, strict=True)
    ]
    used = {name for _, name, _ in kept}
    noise = math.hypot(*(role.weight * role.noise for role in roles if role.name in used))
    return Group(scored, None, sorted({label[:2] for _, label in labelled}), noise, dropped)


def _graded(
    alive: Sequence[Alive],
    labels: Mapping[str, list[Row]],
    comparisons: Sequence[Row],
    flips: Mapping[str, float],
    roles: Sequence[Role],
    settings: Pairs,
) -> Group:
    """A prompt's completions under their labels, or under the verdicts on them."""
    if not alive:
        return Group(dropped=Counter({"prompt without a completion": 1}))
    labelled = {row.completion_id: found for row in alive if (found := labels.get(row.completion_id))}
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
    if outside_band(judged, roles, settings.pass_rate):
        return Group(dropped=+(dropped + Counter({"prompt outside the pass-rate band": 1})))
    if verdicts and settings.combine == "lexicographic" and judged:
        judged, after = _with_ranking(judged, verdicts, roles)
        graded_by, noise = grades(judged, (*roles, Role(RANKING)), "lexicographic")
        return Group(_scored(alive, graded_by), None, _made_by([*made_by, *verdicts]), noise, +(dropped + after))
    graded_by, noise = grades(judged, roles, settings.combine)
    if not verdicts:
        return Group(_scored(alive, graded_by), None, _made_by(made_by), noise, +dropped)
    ranked = _ranked(verdicts, graded_by, labelled)
    noise = max(flips.get(verdict["labeler"], 0.0) for verdict in verdicts)
    return Group(_scored(alive, ranked), _decided(verdicts), _made_by(verdicts), noise)


def _by(tables: Sequence[pa.Table], column: str) -> dict[str, list[Row]]:
    """The rows of all tables by the value of a column."""
    found: defaultdict[str, list[Row]] = defaultdict(list)
    for table in tables:
        for row in _rows(table.drop_columns(["reason"])):  # the longest texts there, and nothing here reads them
            found[row[column]].append(row)
    return dict(found)


def _ranked(
    verdicts: Sequence[Row], found: Mapping[str, Grade], labelled: Mapping[str, Sequence[Row]]
) -> dict[str, Grade]:
    """Grades by the verdicts' ranking; gates are of the labels, and what a labeler abstained on stays unpaired."""
    return {
        completion: replace(found[completion], score=score, passed=None) if completion in found else Grade(score, None)
        for completion, score in bradley_terry(verdicts).items()
        if completion in found or completion not in labelled
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


def _scored(rows: Sequence[Alive], found: Mapping[str, Grade]) -> list[Scored]:
    """The graded completions; lengths in tokens where all know them, else all in characters."""
    kept = [row for row in rows if row.completion_id in found]
    in_tokens = all(row.n_tokens for row in kept)
    return [
        _scored_one(row, grade.score, grade.passed, in_tokens, grade.may_be_chosen, grade.may_be_rejected)
        for row in kept
        for grade in (found[row.completion_id],)
    ]


def _scored_one(
    row: Alive,
    score: float,
    passed: bool | None,
    in_tokens: bool,
    may_be_chosen: bool = True,
    may_be_rejected: bool = True,
) -> Scored:
    return Scored(
        row.completion_id,
        row.text,
        score,
        passed,
        row.finish_reason == "length",
        row.n_tokens if in_tokens else len(row.text),
        row.source,
        may_be_chosen,
        may_be_rejected,
    )
