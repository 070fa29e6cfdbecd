"""What changed between two versions of a dataset: rows, labels, and whether the new ones are like the old."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import UnreadableShard
from pipeline.observing.funnel import aligned
from pipeline.publishing.drift import Drift, drifted, of_numbers, of_shares
from pipeline.publishing.versions import folder_of, manifest_of
from pipeline.storage.shards import batches, read_receipt, write_json
from pipeline.storage.stores import readable

ROW = ["pair_id", "prompt_id", "chosen_id", "rejected_id", "score_chosen", "score_rejected", "margin", "metadata"]
NUMBERS = ["margin", "chosen characters", "rejected characters"]
N_NAMED = 20
"""Changed and flipped pairs that a diff names at most."""


@dataclass(frozen=True)
class Diff:
    """What changed from one version to another.

    Args:
        before, after: the versions' numbers.
        rows_before, rows_after: their pairs.
        added, removed: pairs that only one of them has.
        relabelled: pairs of both, with another score, labeler or labeler's version.
        redescribed: pairs of both with other metadata.
        flipped: of the removed, those that came back with chosen and rejected swapped.
        prompts_added, prompts_removed: prompts that have a pair in only one of them.
        drift: the measures, each with a test of the rows that came against the rows that were.
        named: ids of pairs to look at: `relabelled` and `flipped`, the first 20 of each.
    """

    before: int
    after: int
    rows_before: int
    rows_after: int
    added: int
    removed: int
    relabelled: int
    redescribed: int
    flipped: int
    prompts_added: int
    prompts_removed: int
    drift: tuple[Drift, ...]
    named: Mapping[str, Sequence[str]]


def diff(run: Path, before: int, after: int) -> Diff:
    """What changed from version `before` to version `after` of `run`.

    Raises:
        ConfigError: there is no such version, or its rows were removed.
        UnreadableShard: a file of one is damaged.
    """
    manifests = manifest_of(run, before), manifest_of(run, after)
    old, new = (_rows(folder_of(run, number)) for number in (before, after))
    place = pc.index_in(new["pair_id"], value_set=old["pair_id"])
    shared = pc.is_valid(place)
    relabelled = _relabelled(old, new, place, shared)
    redescribed = pc.and_(shared, pc.not_equal(_kept(old, new, place)["metadata"], new["metadata"]))
    came = pc.or_(pc.invert(shared), relabelled)
    gone = _missing(old, new, "pair_id")
    flipped = _flipped(old.filter(gone), new.filter(pc.invert(shared)))
    drift = [
        of_numbers(name, _by_prompt(old, name), _by_prompt(new, name), _by_prompt(new.filter(came), name))
        for name in NUMBERS
    ]
    drift += [of_shares(name, *three) for name, three in _pass_counts(run, *manifests).items()]
    return Diff(
        before, after, old.num_rows, new.num_rows,
        added=_true(pc.invert(shared)), removed=_true(gone), relabelled=_true(relabelled),
        redescribed=_true(redescribed), flipped=len(flipped),
        prompts_added=_n_only(new, old), prompts_removed=_n_only(old, new),
        drift=drifted(drift),
        named={"relabelled": new.filter(relabelled)["pair_id"][:N_NAMED].to_pylist(), "flipped": flipped[:N_NAMED]},
    )  # fmt: skip


def has_diff(run: Path, after: int) -> bool:
    """Whether a diff to version `after` was written."""
    return any((run / "versions").glob(f"diff-*-{after:04d}.json"))


def write_diff(run: Path, found: Diff) -> Path:
    """Writes the diff beside the versions' manifests."""
    path = run / "versions" / f"diff-{found.before:04d}-{found.after:04d}.json"
    write_json(path, asdict(found))
    return path


def table(found: Diff) -> str:
    """The diff for people."""
    head = [
        f"version {found.before} -> {found.after}: {found.rows_before} -> {found.rows_after} pairs",
        f"rows     {found.added} added, {found.removed} removed, {found.relabelled} relabelled, {found.flipped} flipped, "
        f"{found.redescribed} with other metadata",
        f"prompts  {found.prompts_added} added, {found.prompts_removed} removed",
    ]
    rows = [
        (d.measure, _short(d.before), _short(d.after), _short(d.came), "-" if d.p is None else f"{d.p:.2g}", d.state)
        for d in found.drift
    ]
    return "\n".join([*head, aligned([("drift", "before", "after", "rows that came", "p", ""), *rows])])


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _rows(folder: Path) -> pa.Table:
    """The rows of a version without their texts and tokens: small enough to hold two versions."""
    files = sorted((folder / "data").glob("*.parquet"))
    return pa.concat_tables([_read(path) for path in files])


def _read(path: Path) -> pa.Table:
    columns = [*ROW, "labelers", "labeler_versions", "chosen", "rejected"]
    parts = []
    try:
        with pq.ParquetFile(readable(path), page_checksum_verification=True) as file:
            for batch in batches(file, 10_000, columns):
                parts.append(_slim(pa.Table.from_batches([batch])))
    except (OSError, KeyError, pa.ArrowException) as error:
        raise UnreadableShard(
            f"{path}: cannot be read ({str(error).splitlines()[0]}); hint: python -m pipeline rollback, or run again"
        ) from error
    return pa.concat_tables(parts)


def _slim(table: pa.Table) -> pa.Table:
    made = pc.binary_join_element_wise(
        pc.binary_join(table["labelers"], "+"), pc.binary_join(table["labeler_versions"], "+"), "@"
    )
    slim = table.select(ROW).append_column("made_by", made)
    for side in ("chosen", "rejected"):
        first = pc.struct_field(pc.list_element(table[side].combine_chunks(), 0), "content")
        slim = slim.append_column(f"{side} characters", pc.cast(pc.utf8_length(first), pa.float64()))
    return slim


def _relabelled(old: pa.Table, new: pa.Table, place: Any, shared: Any) -> Any:
    """Which rows of `new` are in `old` with another score or another labeler."""
    kept = _kept(old, new, place)
    differs = pc.not_equal(kept["made_by"], new["made_by"])
    for name in ("score_chosen", "score_rejected", "margin"):
        differs = pc.or_(differs, pc.not_equal(kept[name], new[name]))
    return pc.and_(shared, differs)


def _kept(old: pa.Table, new: pa.Table, place: Any) -> pa.Table:
    """The rows of `old` beside those of `new`; where there is none, any."""
    return old.take(pc.fill_null(place, 0)) if old.num_rows else new


def _missing(one: pa.Table, other: pa.Table, key: str) -> Any:
    return pc.invert(pc.is_in(one[key], value_set=other[key]))


def _flipped(removed: pa.Table, added: pa.Table) -> list[str]:
    """The ids of added pairs that were there the other way round."""
    was = pc.binary_join_element_wise(removed["rejected_id"], removed["chosen_id"], "+")
    now = pc.binary_join_element_wise(added["chosen_id"], added["rejected_id"], "+")
    found: list[str] = added.filter(pc.is_in(now, value_set=was))["pair_id"].to_pylist()
    return found


def _n_only(one: pa.Table, other: pa.Table) -> int:
    return len(pc.unique(one.filter(_missing(one, other, "prompt_id"))["prompt_id"]))


def _true(mask: Any) -> int:
    return int(pc.sum(mask).as_py() or 0)


def _by_prompt(table: pa.Table, name: str) -> np.ndarray[Any, Any]:
    """The mean of each prompt's pairs: pairs of one prompt are alike, so prompts are what a test may count."""
    means = table.select(["prompt_id", name]).group_by("prompt_id").aggregate([(name, "mean")])
    found: np.ndarray[Any, Any] = means[f"{name}_mean"].to_numpy()
    return found


Passes = tuple[int, int]
"""Passed, and scored."""


def _pass_counts(run: Path, old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Passes, Passes, Passes]]:
    """Pass rate by family: before, after, and in the shards that only the new version has."""
    before, after = _passes(old["counts"].get("labels", {})), _passes(new["counts"].get("labels", {}))
    listed = {(shard["path"], shard["sha256"]) for shard in old["shards"]}
    fresh = [Path(s["path"]).name for s in new["shards"] if (s["path"], s["sha256"]) not in listed]
    came: dict[str, Passes] = {}
    for folder in new.get("folders", {}).get("labels", ()):
        for shard in fresh:
            receipt = read_receipt(run / folder / shard)
            for family, (passed, scored) in _passes(receipt.counts if receipt else {}).items():
                so_far = came.get(family, (0, 0))
                came[family] = so_far[0] + passed, so_far[1] + scored
    none = (0, 0)
    return {
        f"pass rate, {family}": (before.get(family, none), after.get(family, none), came.get(family, none))
        for family in sorted({*before, *after})
    }


def _passes(counts: Mapping[str, Mapping[str, float]]) -> dict[str, Passes]:
    return {
        family: (int(found["passed"]), int(found.get("scored", 0)))
        for family, found in counts.items()
        if "passed" in found
    }
