"""What came of a run, read off its receipts alone: as quick for a million shards as for one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.auditing.audit import Audited
from pipeline.auditing.audit import as_json as audit_as_json
from pipeline.auditing.audit import table as audit_table
from pipeline.plan import Plan
from pipeline.storage.folders import followed
from pipeline.storage.shards import Counts, Receipt
from pipeline.storage.stores import is_store

if TYPE_CHECKING:  # run.py imports this module
    from pipeline.config import Config
    from pipeline.run import Finished


@dataclass(frozen=True)
class Family:
    """One row of the summary: a group of prompts, and what became of them.

    Args:
        pass_rate: share of the scored completions that passed; None where no labeler knows passing.
        dropped: completions and prompts that made no pair, by reason.
        abstained: labels that were abstentions, by kind.
    """

    name: str
    prompts: int
    completions: int
    failed: int
    truncated: int
    tokens: int
    scored: int
    pass_rate: float | None
    pairs: int
    dropped: Mapping[str, int]
    abstained: Mapping[str, int]


def count(plan: Plan, shards: Sequence[Path], receipts: Mapping[Path, Receipt]) -> dict[str, Counts]:
    """What each kind of stage counted over the shards: kind -> family -> name -> number."""
    totals: dict[str, defaultdict[str, Counter[str]]] = {}
    for step in plan.steps:
        families = totals.setdefault(step.kind, defaultdict(Counter))
        for shard in shards:
            receipt = receipts.get(step.folder / shard.name)
            for family, counts in (receipt.counts if receipt else {}).items():
                families[family].update(counts)
    return {kind: {family: dict(c) for family, c in families.items()} for kind, families in totals.items()}


def summarize(counts: Mapping[str, Counts]) -> list[Family]:
    """A row for each family, in the order of their names."""
    names = sorted({family for families in counts.values() for family in families})
    return [_family(name, {kind: families.get(name, {}) for kind, families in counts.items()}) for name in names]


def _family(name: str, counts: Mapping[str, Mapping[str, float]]) -> Family:
    sampled, pairs = counts.get("completions", {}), counts.get("pairs", {})
    judged = {**counts.get("comparisons", {}), **counts.get("labels", {})}
    scored, passed = judged.get("scored", 0), judged.get("passed")
    return Family(
        name,
        prompts=int(pairs.get("prompts", 0)),
        completions=int(sampled.get("completions", 0)),
        failed=int(sampled.get("failed", 0)),
        truncated=int(sampled.get("truncated", 0)),
        tokens=int(sampled.get("tokens", 0)),
        scored=int(scored),
        pass_rate=passed / scored if scored and passed is not None else None,
        pairs=int(pairs.get("pairs", 0)),
        dropped=_named(pairs, "dropped:"),
        abstained=_named(judged, "abstained:"),
    )


def _named(counts: Mapping[str, float], prefix: str) -> dict[str, int]:
    return {key.removeprefix(prefix): int(n) for key, n in sorted(counts.items()) if key.startswith(prefix) and n}


def table(families: Sequence[Family]) -> str:
    """The summary as text: a line for each family and one for all, then what was dropped and why."""
    head = ("family", "prompts", "completions", "pass rate", "pairs", "abstained", "failed", "truncated")
    lines = [
        (
            f.name,
            f.prompts,
            f.completions,
            _percent(f.pass_rate),
            f.pairs,
            sum(f.abstained.values()),
            f.failed,
            f.truncated,
        )
        for f in families
    ]
    reasons = _total(f.dropped for f in families)
    kinds = _total(f.abstained for f in families)
    below = [f"dropped: {n} x {reason}" for reason, n in reasons.most_common()]
    below += [f"abstained: {n} x {kind}" for kind, n in kinds.most_common()]
    total = ("all", *("" if i == 3 else sum(int(line[i]) for line in lines) for i in range(1, len(head))))
    return "\n".join([aligned([head, *lines, total]), *below])


def aligned(rows: Sequence[Sequence[Any]]) -> str:
    """Rows as columns of text: the first to the left, the rest to the right."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in texts) for i in range(len(texts[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in texts
    )


def example(pair: Mapping[str, Any]) -> str:
    """One pair to look at. Model output is shown, never obeyed: control characters come out as escapes."""
    prompt = "\n".join(f"{turn['role']}: {turn['content']}" for turn in pair["prompt"])
    return "\n".join(
        [
            "prompt",
            _indented(prompt),
            f"chosen (score {pair['score_chosen']:.3g})",
            _indented(pair["chosen"][0]["content"]),
            f"rejected (score {pair['score_rejected']:.3g})",
            _indented(pair["rejected"][0]["content"]),
        ]
    )


def printable(text: str) -> str:
    """Text that a terminal shows and does not obey."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def _indented(text: str) -> str:
    shown = text if len(text) <= 800 else f"{text[:800]} ... ({len(text)} characters)"
    return "\n".join(f"    {line}" for line in printable(shown).split("\n"))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"


def _total(parts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return total


def as_json(finished: Finished) -> dict[str, Any]:
    """A run's outcome for scripts."""
    return {
        "dataset": str(followed(finished.folder / "dataset")) if finished.version else None,
        "version": finished.version.number if finished.version else None,
        "is_new": finished.version is not None and finished.version.is_new,
        "pairs": finished.rows,
        "families": [asdict(family) for family in finished.families],
        "duplicates": finished.imported.duplicates,
        "bad_prompts": list(finished.imported.bad),
        "failed": {str(path): str(error) for path, error in finished.failed.items()},
        "audit": audit_as_json(finished.audited) if finished.audited else None,
    }


def audit_line(audited: Audited, folder: Path) -> str:
    """The audit in a line, and a line for each check that is not ok."""
    notable = [finding for finding in audited.findings if finding.state in ("warn", "FAIL")]
    head = f"audit    {audited.state}: {len(audited.findings)} checks  (python -m pipeline audit {folder})"
    return "\n".join([head, *([audit_table(notable)] if notable else [])])


def closing(finished: Finished, config: Config) -> str:
    """What a person reads when a run ends: the table, one pair, where the dataset is, and what to do next."""
    dataset = followed(finished.folder / "dataset")
    model = next((s.engine.model for s in config.sources if s.engine.use == "vllm"), "MODEL")
    parts = [table(finished.families)]
    if finished.example:
        parts.append(example(finished.example))
    if finished.audited:
        parts.append(audit_line(finished.audited, finished.folder))
    if version := finished.version:
        state = "new" if version.is_new else "unchanged"
        parts.append(f"dataset  {dataset}  (version {version.number}, {state}, {version.rows} pairs)")
        train = f"python -m trainer dpo --data {{}} --model {model} --out {{}}"
        fetch = f"python -m pipeline publish {finished.folder} --to {config.name}\n         "
        local = train.format(dataset, finished.folder / "policy")
        parts.append(
            f"next     {fetch + train.format(f'{config.name}/dataset', 'policy') if is_store(dataset) else local}"
        )
    return "\n\n".join(parts)
