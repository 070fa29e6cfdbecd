"""What must hold of every published pair, whatever made it; each check names the rows that break it."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from labelers.types import Prompt, content_id
from pipeline.auditing.evidence import Evidence
from pipeline.auditing.limits import Finding
from pipeline.auditing.spotless import is_id_of, is_id_of_prompt, spotless
from pipeline.prompts import prompts_of
from pipeline.storage.spool import Table

Row = Mapping[str, Any]
ROWS_SHOWN = 3


@dataclass(frozen=True)
class Truth:
    """What a shard knows about its pairs, by id.

    Args:
        labels: (labeler, completion) -> its label.
        asked: (labeler, version, completion) of every decided comparison.
        beaten: (loser, winner) of every decided comparison.
        judges: the labelers that gave verdicts.
        signs: labelers whose scores count against a completion (a negative weight) -> -1; None where pairs follow other scores
            than the labels' own (residualised on length), which then decide nothing here.
    """

    prompts: Mapping[str, Prompt]
    completions: Mapping[str, Row]
    labels: Mapping[tuple[str, str], Row]
    asked: frozenset[tuple[str, str, str]]
    beaten: frozenset[tuple[str, str]]
    judges: frozenset[str]
    signs: Mapping[str, float] | None


def truth_of(evidence: Evidence, prompts: Mapping[str, Prompt], signs: Mapping[str, float] | None) -> Truth:
    """The part of a shard's evidence that its pairs refer to, ready to be looked up."""
    pairs = evidence.pairs
    used = pa.chunked_array([*pairs["chosen_id"].chunks, *pairs["rejected_id"].chunks], pa.string())

    def rows(table: pa.Table, key: str) -> list[Row]:
        found: list[Row] = table.filter(pc.is_in(table[key], value_set=used)).to_pylist()
        return found

    verdicts = [row for row in evidence.comparisons.to_pylist() if row["prefers"] is not None]
    sides = {"a": ("b_id", "a_id"), "b": ("a_id", "b_id")}
    return Truth(
        prompts,
        {row["completion_id"]: row for row in rows(evidence.completions, "completion_id")},
        {(row["labeler"], row["completion_id"]): row for row in rows(evidence.labels, "completion_id")},
        frozenset((v["labeler"], v["labeler_version"], v[side]) for v in verdicts for side in ("a_id", "b_id")),
        frozenset((v[sides[v["prefers"]][0]], v[sides[v["prefers"]][1]]) for v in verdicts if v["prefers"] in sides),
        frozenset(v["labeler"] for v in verdicts),
        signs,
    )


@dataclass
class Tally:
    """How many rows each check saw, and which of them break it.

    Args:
        digests: each pair's content by its id, on the disk: there may be millions.
        compares: whether published rows will be compared; their contents are kept for that alone.
    """

    seen: Counter[str] = field(default_factory=Counter)
    bad: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    digests: Table = field(default_factory=Table)
    compares: bool = True

    def shard(self, evidence: Evidence, signs: Mapping[str, float] | None, *, is_spotless: bool | None = None) -> None:
        """Counts a shard's rows.

        Args:
            is_spotless: what `spotless` says of it, where somebody has looked already.
        """
        for row in evidence.comparisons.to_pylist():
            self.note("both orders", row["comparison_id"], one_order(row))
        if spotless(evidence, signs) if is_spotless is None else is_spotless:
            self.seen.update(dict.fromkeys([*PAIR_CHECKS, "ids"], evidence.pairs.num_rows))
            self.seen["ids"] += evidence.pairs.num_rows + evidence.prompts.num_rows
        else:
            self._by_row(evidence, signs)
        self._once(evidence.pairs)

    def _by_row(self, evidence: Evidence, signs: Mapping[str, float] | None) -> None:
        """Looks at each prompt and each pair by itself."""
        prompts = prompts_of(evidence.prompts)
        for prompt in prompts.values():
            self.note("ids", prompt.id, None if is_id_of_prompt(prompt) else "the prompt's id is of another content")
        truth = truth_of(evidence, prompts, signs)
        for pair in evidence.pairs.to_pylist():
            for check, look in PAIR_CHECKS.items():
                self.note(check, pair["pair_id"], look(pair, truth))
            self.seen["ids"] += 1

    def _once(self, pairs: pa.Table) -> None:
        """Each pair is there once."""
        contents = map(digest, pairs.to_pylist()) if self.compares else itertools.repeat("")
        for pair_id, content in zip(pairs["pair_id"].to_pylist(), contents, strict=False):
            if self.digests.enter(pair_id, content) is not None:
                self.bad.setdefault("ids", []).append((pair_id, "the pair is there twice"))
                self.digests.put(pair_id, content)

    def published(self, table: pa.Table) -> None:
        """Compares the published rows with those of the shards that they were cut from."""
        for pair in table.to_pylist():
            for check in ("chosen is rejected", "margin"):
                if why := PAIR_CHECKS[check](pair, _NOTHING):
                    self.bad.setdefault(check, []).append((pair["pair_id"], f"published: {why}"))
            same = self.digests.get(pair["pair_id"]) == digest(pair)
            self.note("published", pair["pair_id"], None if same else "the published row is not the shard's")

    def note(self, check: str, row: str, why: str | None) -> None:
        """One row under one check."""
        self.seen[check] += 1
        if why:
            self.bad.setdefault(check, []).append((row, why))

    def findings(self) -> Iterator[Finding]:
        """A line for each check; a single bad row fails it."""
        for check, good in GOOD.items():
            bad, n = self.bad.get(check, []), self.seen[check]
            if not n:
                continue
            seen = f"{n} {good}" if not bad else f"{len(bad)} of {n}: {bad[0][1]} ({bad[0][0]})"
            rows = tuple(row for row, _ in bad[:ROWS_SHOWN])
            yield Finding(check, "FAIL" if bad else "ok", seen, float(len(bad)), 0.0, None, n, rows)


def digest(pair: Row) -> str:
    """A row's content, as short as an id."""
    return content_id({name: pair[name] for name in sorted(pair)})


def same_text(pair: Row, truth: Truth) -> str | None:
    """Chosen and rejected are one text, or differ in blanks alone."""
    chosen, rejected = (" ".join(m["content"] for m in pair[side]) for side in ("chosen", "rejected"))
    if chosen == rejected:
        return "chosen and rejected are the same text"
    return "chosen and rejected differ in white space alone" if chosen.split() == rejected.split() else None


def other_prompt(pair: Row, truth: Truth) -> str | None:
    """The pair's prompt is not that of its group, or a side answers another prompt."""
    prompt = truth.prompts.get(pair["prompt_id"])
    if prompt is None:
        return "its prompt is not in the shard"
    if [(m["role"], m["content"]) for m in pair["prompt"]] != [(m.role, m.content) for m in prompt.messages]:
        return "the pair's prompt is not the one that its id names"
    for side in ("chosen", "rejected"):
        row = truth.completions.get(pair[f"{side}_id"])
        if row is not None and row["prompt_id"] != pair["prompt_id"]:
            return f"the {side} completion answers another prompt"
    return None


def wrong_ids(pair: Row, truth: Truth) -> str | None:
    """An id, a text or a source that is not what the id names."""
    for side in ("chosen", "rejected"):
        row = truth.completions.get(pair[f"{side}_id"])
        if row is None:
            return f"no such {side} completion"
        if [m["content"] for m in pair[side]] != [row["text"]] or row["source"] != pair[f"source_{side}"]:
            return f"{side} is not the completion that its id names"
        if not _is_id_of(row):
            return f"the {side} completion's id is of another content"
    identity = content_id(pair["prompt_id"], pair["chosen_id"], pair["rejected_id"], pair["strategy"])
    return None if identity == pair["pair_id"] else "the pair's id is of another content"


def _is_id_of(row: Row) -> bool:
    return is_id_of(row["completion_id"], row["prompt_id"], row["source"], row["seed"], row["text"])


def unlabelled(pair: Row, truth: Truth) -> str | None:
    """A label that is missing, abstained, of another version or prompt; or labels that say the opposite."""
    judged, scored = 0, []
    for labeler, version in zip(pair["labelers"], pair["labeler_versions"], strict=True):
        labels = [truth.labels.get((labeler, pair[f"{side}_id"])) for side in ("chosen", "rejected")]
        if not any(labels) and labeler in truth.judges:
            # One after the other: what a first labeler decided was perhaps never compared.
            judged += all((labeler, version, pair[f"{side}_id"]) in truth.asked for side in ("chosen", "rejected"))
            continue
        if why := _wrong_label(labels, labeler, version, pair):
            return why
        judged += 1
        values = [label["value"] for label in labels if label is not None]
        scored.append((truth.signs or {}).get(labeler, 1.0) * (values[0] - values[1]))
    if not judged:
        return "no labeler judged both sides"
    if truth.signs is not None and len(scored) == len(pair["labelers"]) and max(scored) <= 0:
        return "no labeler scored chosen above rejected"
    lost = pair["strategy"] == "verdicts" and (pair["chosen_id"], pair["rejected_id"]) in truth.beaten
    return "the verdict prefers rejected" if lost else None


def _wrong_label(labels: Sequence[Row | None], labeler: str, version: str, pair: Row) -> str | None:
    for side, label in zip(("chosen", "rejected"), labels, strict=True):
        if label is None:
            return f"{labeler} never judged {side}"
        if label["abstain"] is not None:
            return f"{labeler} abstained on {side}"
        if label["labeler_version"] != version or label["prompt_id"] != pair["prompt_id"]:
            return f"the label of {labeler} belongs to another row or version"
    return None


def wrong_margin(pair: Row, truth: Truth) -> str | None:
    """A margin that is not the difference of the scores, or not above 0."""
    chosen, rejected, margin = pair["score_chosen"], pair["score_rejected"], pair["margin"]
    if not all(map(math.isfinite, (chosen, rejected, margin))):
        return "a score is not finite"
    if not math.isclose(margin, chosen - rejected, rel_tol=1e-9, abs_tol=1e-9):
        return f"margin {margin:g} is not {chosen:g} - {rejected:g}"
    return None if margin > 0 else f"rejected scored {rejected:g}, chosen {chosen:g}"


def cut_off(pair: Row, truth: Truth) -> str | None:
    """A chosen completion that did not end itself."""
    row = truth.completions.get(pair["chosen_id"])
    return "chosen was cut off" if row is not None and row["finish_reason"] != "stop" else None


def one_order(comparison: Row) -> str | None:
    """A verdict that does not stand in both orders."""
    prefers = comparison["prefers"]
    if prefers in ("a", "b") and {comparison["prefers_forward"], comparison["prefers_backward"]} != {prefers}:
        return f"a verdict for {prefers} that only one order gave"
    return None


PAIR_CHECKS: dict[str, Callable[[Row, Truth], str | None]] = {
    "chosen is rejected": same_text,
    "prompt": other_prompt,
    "ids": wrong_ids,
    "labels": unlabelled,
    "margin": wrong_margin,
    "truncated": cut_off,
}

GOOD = {
    "chosen is rejected": "pairs of two different texts",
    "prompt": "pairs with the prompt of their group",
    "ids": "ids that match their content",
    "labels": "pairs whose labels are theirs",
    "margin": "margins that are the scores' difference, above 0",
    "truncated": "chosen that ended themselves",
    "both orders": "verdicts that stand in both orders",
    "published": "published rows as in their shards",
}
"""Check -> what is said of rows that pass."""

_NOTHING = Truth({}, {}, {}, frozenset(), frozenset(), frozenset(), {})
