"""A run as the review page sees it: small columns of all rows in memory, texts fetched from their shard when they are shown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.auditing.evidence import Places, read_columns, recall_places
from pipeline.auditing.facts import numbers
from pipeline.prompts import families_of, family_of
from pipeline.schema import COMPARISONS, COMPLETIONS, LABELS, PAIR_SHARD, PROMPTS

PAIR_KEYS = [
    "pair_id",
    "prompt_id",
    "chosen_id",
    "rejected_id",
    "margin",
    "source_chosen",
    "source_rejected",
    "metadata",
]
TEXTS = ["completion_id", "prompt_id", "text", "source", "finish_reason", "n_tokens", "temperature", "error"]
VERDICTS = ["prompt_id", "a_id", "b_id", "labeler", "prefers", "prefers_forward", "prefers_backward"]
SHARDS_IN_MEMORY = 4


@dataclass(frozen=True)
class Shown:
    """A completion to be shown."""

    completion_id: str
    text: str
    source: str
    finish_reason: str
    n_tokens: int
    temperature: float | None


@dataclass(frozen=True)
class Group:
    """A prompt with its completions and what was said of them.

    Args:
        scores: completion id -> labeler -> the score, or why there is none.
        verdicts: rows of `comparisons`.
    """

    prompt_id: str
    family: str
    messages: Sequence[Mapping[str, str]]
    target: str | None
    completions: Mapping[str, Shown]
    scores: Mapping[str, Mapping[str, float | str]]
    verdicts: Sequence[Mapping[str, Any]]


class Index:
    """The newest build of a run.

    Args:
        run: its folder.

    Raises:
        ConfigError: the run never came so far as to have pairs.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.places: Places = recall_places(run)
        self._shard = lru_cache(maxsize=SHARDS_IN_MEMORY)(self._read_shard)
        parts = [self._light(number) for number in range(len(self.places.shards))]
        self.prompts: pa.Table = pa.concat_tables([prompts for prompts, _ in parts])
        self.pairs: pa.Table = pa.concat_tables([pairs for _, pairs in parts])
        self._where = dict(zip(self.prompts["prompt_id"].to_pylist(), self.prompts["shard"].to_pylist(), strict=True))

    def families(self) -> list[str]:
        """The families of its prompts."""
        return sorted(pc.unique(self.prompts["family"]).to_pylist())

    def sources(self) -> list[str]:
        """The sources of its pairs."""
        both = pa.chunked_array(
            [*self.pairs["source_chosen"].chunks, *self.pairs["source_rejected"].chunks], pa.string()
        )
        return sorted(pc.unique(both).to_pylist())

    def shard_of(self, prompt_id: str) -> int | None:
        """The place of the shard that holds a prompt; None where the run has no such prompt."""
        return self._where.get(prompt_id)

    def group(self, prompt_id: str) -> Group | None:
        """A prompt with all that is known of it; None where the run has no such prompt."""
        place = self._where.get(prompt_id)
        if place is None:
            return None
        prompts, completions, labels, comparisons = self._shard(place)
        row = _rows(prompts, prompt_id)[0]
        shown = {r["completion_id"]: _shown(r) for r in _rows(completions, prompt_id) if r["error"] is None}
        scores: dict[str, dict[str, float | str]] = {completion: {} for completion in shown}
        for label in _rows(labels, prompt_id):
            said = label["value"] if label["value"] is not None else f"abstained: {label['abstain']}"
            scores.setdefault(label["completion_id"], {})[label["labeler"]] = said
        family = family_of(json.loads(row["metadata"]))
        return Group(prompt_id, family, row["messages"], row["target"], shown, scores, _rows(comparisons, prompt_id))

    def page(self, kind: str, where: Mapping[str, str], start: int, n: int) -> tuple[int, list[dict[str, Any]]]:
        """Rows of `pairs` or `groups` that pass the filters, and how many there are in all.

        Args:
            where: `family`, `source`, `min_margin`, `max_margin` (of pairs), `order` (`small` or `large` margins first).

        Raises:
            ValueError: a margin is no number.
        """
        table = self.pairs if kind == "pairs" else self.prompts
        keep = np.ones(table.num_rows, dtype=bool)
        if family := where.get("family"):
            keep &= np.asarray(pc.equal(table["family"], family))
        if kind == "pairs":
            keep &= self._among(where)
        places = np.flatnonzero(keep)
        if kind == "pairs" and where.get("order") in ("small", "large"):
            margins = numbers(table["margin"])[places]
            places = places[np.argsort(margins if where["order"] == "small" else -margins, kind="stable")]
        return len(places), table.take(places[start : start + n]).to_pylist()

    def _among(self, where: Mapping[str, str]) -> Any:
        keep = np.ones(self.pairs.num_rows, dtype=bool)
        if source := where.get("source"):
            either = pc.or_(
                pc.equal(self.pairs["source_chosen"], source), pc.equal(self.pairs["source_rejected"], source)
            )
            keep &= np.asarray(either)
        margins = numbers(self.pairs["margin"])
        if least := where.get("min_margin"):
            keep &= margins >= float(least)
        if most := where.get("max_margin"):
            keep &= margins <= float(most)
        return keep

    def _light(self, number: int) -> tuple[pa.Table, pa.Table]:
        name = self.places.shards[number]
        prompts = read_columns([self.places.run / "prompts" / name], ["prompt_id", "metadata"], PROMPTS)
        pairs = read_columns(self.places.paths("pairs", name), PAIR_KEYS, PAIR_SHARD)
        prompts, pairs = (self.places.kept(name, table) for table in (prompts, pairs))
        return _with_family(prompts, number), _with_family(pairs, number)

    def _read_shard(self, number: int) -> tuple[pa.Table, pa.Table, pa.Table, pa.Table]:
        name, places = self.places.shards[number], self.places
        return (
            read_columns([places.run / "prompts" / name], ["prompt_id", "messages", "target", "metadata"], PROMPTS),
            read_columns(places.paths("completions", name), TEXTS, COMPLETIONS),
            read_columns(
                places.paths("labels", name), ["completion_id", "prompt_id", "labeler", "value", "abstain"], LABELS
            ),
            read_columns(places.paths("comparisons", name), VERDICTS, COMPARISONS),
        )


def _with_family(table: pa.Table, shard: int) -> pa.Table:
    """The table with `family` and `shard` in place of `metadata`."""
    families = pa.array(families_of(table["metadata"]), pa.string())
    table = table.drop_columns(["metadata"]).append_column("family", families)
    return table.append_column("shard", pa.array(np.full(table.num_rows, shard), pa.int32()))


def _rows(table: pa.Table, prompt_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = table.filter(pc.equal(table["prompt_id"], prompt_id)).to_pylist()
    return found


def _shown(row: Mapping[str, Any]) -> Shown:
    return Shown(
        **{name: row[name] for name in ("completion_id", "text", "source", "finish_reason", "n_tokens", "temperature")}
    )
