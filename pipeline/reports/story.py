"""What a run has to tell, read from its files alone: no model and no labeler is opened."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.auditing.evidence import Evidence, Places, read_evidence, recall_places
from pipeline.auditing.facts import Facts, facts_of, numbers, together
from pipeline.auditing.limits import Finding, worst
from pipeline.auditing.memory import AUDIT
from pipeline.config import Config, stored_config
from pipeline.observing.funnel import Family, summarize
from pipeline.plan import pass_at_of
from pipeline.prompts import families_of
from pipeline.publishing.versions import current, manifests
from pipeline.reports.examples import Example, Examples
from pipeline.storage.shards import Counts, read_receipt

Floats = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Rate:
    """A pass rate, and its 95 % interval by prompts (normal approximation: the completions of a prompt are not independent)."""

    family: str
    source: str
    temperature: float | None
    rate: float
    half_width: float
    n_prompts: int


@dataclass(frozen=True)
class Cost:
    """What the build took.

    Args:
        seconds: kind of stage -> seconds of all its shards together; shards run side by side.
        tokens: sampled.
        money: by the prices in the config; None where it has none.
    """

    seconds: Mapping[str, float]
    tokens: int
    money: float | None = None


@dataclass(frozen=True)
class Story:
    """All that the report shows.

    Args:
        version: the manifest that `dataset` points at; None where nothing was published.
        older: the manifests of all versions, oldest first, and the diffs between them.
        curves: policy -> what its training log says of each step.
    """

    name: str
    folder: Path
    config: Config
    version: Mapping[str, Any] | None
    older: Sequence[Mapping[str, Any]]
    diffs: Sequence[Mapping[str, Any]]
    findings: Sequence[Finding]
    families: Sequence[Family]
    facts: Facts
    rates: Sequence[Rate]
    cost: Cost
    examples: Sequence[Example]
    curves: Mapping[str, Sequence[Mapping[str, float]]]

    @property
    def state(self) -> str:
        """The audit's: `ok`, `warn`, `FAIL`, or `skipped` where there was none."""
        return worst(self.findings) if self.findings else "skipped"

    @property
    def n_pairs(self) -> int:
        """Pairs that the build made."""
        return self.facts.pairs.num_rows

    def scores(self) -> dict[str, Floats]:
        """Labeler -> its scores, abstentions left out."""
        return _split(self.facts.labels, "labeler", "value")

    def margins(self) -> dict[str, Floats]:
        """Labelers of a pair -> the margins of their pairs."""
        return _split(self.facts.pairs, "labelers", "margin")

    def lengths(self) -> tuple[Floats, Floats]:
        """Tokens (characters where no engine counted tokens) of the chosen and the rejected, pair by pair."""
        return numbers(self.facts.pairs["length_chosen"]), numbers(self.facts.pairs["length_rejected"])

    def total(self, name: str) -> int:
        """A count of `Family` over all families."""
        return sum(getattr(family, name) for family in self.families)

    def reasons(self, name: str) -> Counter[str]:
        """What was `dropped` or `abstained`, over all families."""
        found: Counter[str] = Counter()
        for family in self.families:
            found.update(getattr(family, name))
        return found


@dataclass
class _Gathered:
    facts: list[Facts] = field(default_factory=list)
    rates: list[pa.Table] = field(default_factory=list)
    examples: Examples = field(default_factory=Examples)


def read_story(run: Path) -> Story:
    """The story of the newest build of `run`.

    Raises:
        ConfigError: it never came so far as to have pairs, or is of another version.
        UnreadableShard: a file is damaged.
    """
    config = stored_config(run)
    places = recall_places(run)
    limits = {entry.label: limit for entry in config.labelers if (limit := pass_at_of(entry)) is not None}
    gathered = _Gathered()
    for evidence in read_evidence(places):
        facts = facts_of(evidence)
        gathered.facts.append(facts)
        gathered.rates.append(_passing(evidence, facts, limits))
        gathered.examples.shard(evidence)
    counts, seconds = _receipts(places)
    families = summarize(counts)
    return Story(
        name=config.name, folder=run, config=config, version=current(run), older=manifests(run),
        diffs=_json_files(run / "versions", "diff-*.json"), findings=_findings(run), families=families,
        facts=together(gathered.facts), rates=_rates(pa.concat_tables(gathered.rates)),
        cost=Cost(seconds, sum(family.tokens for family in families)),
        examples=gathered.examples.found(), curves=dict(_curves(run)),
    )  # fmt: skip


def _split(table: pa.Table, by: str, column: str) -> dict[str, Floats]:
    found = {}
    for name in sorted(pc.unique(table[by]).to_pylist()):
        values = numbers(table.filter(pc.equal(table[by], name))[column])
        if len(values := values[np.isfinite(values)]):
            found[name] = values
    return found


def _passing(evidence: Evidence, facts: Facts, limits: Mapping[str, float]) -> pa.Table:
    """The share of each prompt's scored completions that passed: a row for each prompt, source and temperature."""
    labels = facts.labels
    known = labels.filter(pc.is_in(labels["labeler"], value_set=pa.array(list(limits), pa.string())))
    limit = pa.array([limits[name] for name in known["labeler"].to_pylist()], pa.float64())
    passed = pc.cast(pc.greater_equal(known["value"], limit), pa.float64())
    ids = evidence.prompts["prompt_id"]
    families = pa.array(families_of(evidence.prompts["metadata"]), pa.string())
    family = families.take(pc.index_in(known["prompt_id"], value_set=ids))
    table = pa.table(
        {
            "family": family,
            "prompt_id": known["prompt_id"],
            "source": known["source"],
            "temperature": known["temperature"],
            "passed": passed,
        }
    )
    return table.group_by(["family", "prompt_id", "source", "temperature"]).aggregate([("passed", "mean")])


def _rates(by_prompt: pa.Table) -> list[Rate]:
    keys = ["family", "source", "temperature"]
    found = by_prompt.group_by(keys).aggregate(
        [("passed_mean", "mean"), ("passed_mean", "stddev"), ("passed_mean", "count")]
    )
    return [
        Rate(
            row["family"],
            row["source"],
            row["temperature"],
            row["passed_mean_mean"],
            _half_width(row),
            row["passed_mean_count"],
        )
        for row in sorted(found.to_pylist(), key=lambda row: (row["family"], row["source"], row["temperature"] or 0.0))
        if row["passed_mean_count"]
    ]


def _half_width(row: Mapping[str, Any]) -> float:
    return float(1.96 * row["passed_mean_stddev"] / max(row["passed_mean_count"], 1) ** 0.5)


def _receipts(places: Places) -> tuple[dict[str, Counts], dict[str, float]]:
    """What each kind of stage counted, and its seconds."""
    totals: dict[str, defaultdict[str, Counter[str]]] = {}
    seconds: defaultdict[str, float] = defaultdict(float)
    for kind, folders in places.folders.items():
        families = totals.setdefault(kind, defaultdict(Counter))
        for path in (places.run / folder / shard for folder in folders for shard in places.shards):
            if receipt := read_receipt(path):
                seconds[kind] += receipt.seconds
                for family, counts in receipt.counts.items():
                    families[family].update(counts)
    return {kind: {name: dict(c) for name, c in found.items()} for kind, found in totals.items()}, dict(seconds)


def _findings(run: Path) -> list[Finding]:
    path = run / AUDIT
    if not path.is_file():
        return []
    rows = json.loads(path.read_text(encoding="utf-8"))["findings"]
    return [Finding(**{**row, "rows": tuple(row["rows"])}) for row in rows]


def _json_files(folder: Path, pattern: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(pattern))]


def _curves(run: Path) -> Iterator[tuple[str, list[dict[str, float]]]]:
    """The training logs of policies that were saved in the run's folder (`python -m trainer ... --out RUN/policy`)."""
    for log in sorted(run.glob("*/log.jsonl")):
        lines = log.read_text(encoding="utf-8").splitlines()
        if steps := [json.loads(line) for line in lines if line.endswith("}")]:
            yield log.parent.name, steps
