"""What a finished run holds about its labels, read shard by shard, a column at a time: what the audit looks at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import ConfigError, Damaged
from pipeline.schema import COMPARISONS, COMPLETIONS, LABELS, PAIR_SHARD, PROMPTS
from pipeline.storage.folders import followed
from pipeline.storage.shards import NEXT, read_json, read_receipt, write_json
from pipeline.storage.stores import readable

if TYPE_CHECKING:  # what plans a run is no concern of who reads one
    from pipeline.known import Active
    from pipeline.plan import Plan

STEPS = "steps.json"
"""The file in a run's folder that says which folders its newest build used, and which shards."""
COMPLETION_COLUMNS = [
    "completion_id",
    "prompt_id",
    "source",
    "text",
    "finish_reason",
    "n_tokens",
    "temperature",
    "seed",
]
LABEL_COLUMNS = ["completion_id", "prompt_id", "labeler", "labeler_version", "value", "abstain"]
COMPARISON_COLUMNS = [
    "comparison_id", "prompt_id", "a_id", "b_id", "labeler", "labeler_version",
    "prefers", "prefers_forward", "prefers_backward", "abstain",
]  # fmt: skip
PAIR_COLUMNS = [
    "pair_id", "prompt_id", "prompt", "chosen", "rejected", "chosen_id", "rejected_id", "score_chosen", "score_rejected",
    "margin", "labelers", "labeler_versions", "source_chosen", "source_rejected", "strategy", "metadata",
]  # fmt: skip


@dataclass(frozen=True)
class Places:
    """Where a build's shards lie.

    Args:
        folders: kind (`completions`, `labels`, `comparisons`, `pairs`) -> its folders.
        shards: file names that the build finished.
        left_out: file name -> prompts in that shard that are not the build's: they left, or lie in a later shard.
    """

    run: Path
    folders: dict[str, list[str]]
    shards: tuple[str, ...]
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def paths(self, kind: str, shard: str) -> list[Path]:
        """The finished files of a kind for one shard."""
        found = [self.run / folder / shard for folder in self.folders.get(kind, ())]
        return [path for path in found if read_receipt(path)]

    def kept(self, shard: str, table: pa.Table) -> pa.Table:
        """The rows of a shard's table without those of prompts that the build left out."""
        left_out = self.left_out.get(shard)
        if not left_out:
            return table
        return table.filter(pc.invert(pc.is_in(table["prompt_id"], value_set=pa.array(left_out, pa.string()))))


@dataclass(frozen=True)
class Evidence:
    """One shard's rows: prompts, and what was made of them. No token ids: they are the bulk, and nothing is asked of them."""

    prompts: pa.Table
    completions: pa.Table
    labels: pa.Table
    comparisons: pa.Table
    pairs: pa.Table


def remember_places(run: Path, plan: Plan, shards: Sequence[str], active: Active) -> Places:
    """Writes down which folders, shards and prompts this build used, for an audit that comes later."""
    folders = folders_of(plan)
    left_out = {shard: sorted(ids) for shard in shards if (ids := active.left_out(shard))}
    write_json(run / STEPS, {"folders": folders, "shards": list(shards), "left_out": left_out})
    return Places(run, folders, tuple(shards), left_out)


def folders_of(plan: Plan) -> dict[str, list[str]]:
    """Kind -> the names of its folders."""
    folders: dict[str, list[str]] = {}
    for step in plan.steps:
        folders.setdefault(step.kind, []).append(step.folder.name)
    return folders


def recall_places(run: Path) -> Places:
    """Which folders and shards the newest build of `run` used.

    Raises:
        ConfigError: the run never came so far, or is of a version that did not write it down.
    """
    try:
        said = read_json(run / STEPS)
        return Places(run, said["folders"], tuple(said["shards"]), said.get("left_out", {}))
    except (OSError, ValueError, KeyError, Damaged) as error:
        raise ConfigError(
            f"{run / STEPS}: cannot be read ({type(error).__name__}); "
            "hint: build the run again with python -m pipeline run; what is finished is kept"
        ) from error


def read_evidence(places: Places) -> Iterator[Evidence]:
    """Each shard of the build, one after the other, without what was made of prompts that it left out. Raises: Damaged."""
    return (evidence_of(places, shard) for shard in places.shards)


def evidence_of(places: Places, shard: str) -> Evidence:
    """One shard's rows. Raises: Damaged."""
    prompts = read_columns([places.run / "prompts" / shard], ["prompt_id", "messages", "target", "metadata"], PROMPTS)
    completions = read_columns(places.paths("completions", shard), [*COMPLETION_COLUMNS, "error"], COMPLETIONS)
    tables = [
        prompts,
        completions.filter(pc.is_null(completions["error"])),
        read_columns(places.paths("labels", shard), LABEL_COLUMNS, LABELS),
        read_columns(places.paths("comparisons", shard), COMPARISON_COLUMNS, COMPARISONS),
        read_columns(places.paths("pairs", shard), PAIR_COLUMNS, PAIR_SHARD),
    ]
    return Evidence(*(places.kept(shard, table) for table in tables))


def read_published(run: Path) -> Iterator[pa.Table]:
    """The pairs of the newest published dataset, a file at a time."""
    for file in sorted((followed(run / "dataset") / "data").glob("*.parquet")):
        yield read_columns([file], PAIR_COLUMNS, PAIR_SHARD)


def taken(table: pa.Table, key: str, keys: Any, columns: Sequence[str]) -> list[Any]:
    """Columns of the rows whose `key` is each of `keys`, in that order; null where there is no such row."""
    places = pc.index_in(keys, value_set=table[key])
    return [table[column].take(places) for column in columns]


def read_columns(paths: Sequence[Path], columns: list[str], schema: pa.Schema) -> pa.Table:
    """Some columns of several shards as one table of `schema`'s types. Raises: Damaged."""
    kept = pa.schema([schema.field(name) for name in columns])
    return pa.concat_tables([_read_one(path, columns).cast(kept) for path in paths] or [kept.empty_table()])


def _read_one(path: Path, columns: list[str]) -> pa.Table:
    try:
        with pq.ParquetFile(readable(path), page_checksum_verification=True) as file:
            return file.read(columns=columns).select(columns)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise Damaged(f"{path}: cannot be read ({str(error).splitlines()[0]}); hint: {NEXT}", path) from error
