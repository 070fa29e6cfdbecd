"""Completions follow a prompt that got other metadata into its new shard: the model never saw the metadata, so nothing is
sampled again. Labels and pairs are made again, since labelers do see it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.imported import Imported
from pipeline.plan import Plan, Step
from pipeline.prompts import family_by_id
from pipeline.sample import counts_of
from pipeline.schema import COMPLETIONS, PROMPTS
from pipeline.storage.damage import Checked
from pipeline.storage.shards import read_shard, write_shard
from pipeline.work import input_hashes


def carry(plan: Plan, imported: Imported, checked: Checked) -> None:
    """Writes the completions of each shard whose prompts all have some in earlier shards. The caller holds the run's folder."""
    earlier: defaultdict[str, list[int]] = defaultdict(list)
    for number, ids in sorted(imported.active.elsewhere.items()):
        for prompt_id in ids:
            earlier[prompt_id].append(number)
    if not earlier:
        return
    oldest = min(imported.active.elsewhere)
    for shard in (shard for shard in imported.shards if int(shard.stem) > oldest):
        for step in plan.of_kind("completions"):
            if not checked.finished(step.work(shard)):
                _carry(step, shard, earlier, checked)


def _carry(step: Step, shard: Path, earlier: Mapping[str, Sequence[int]], checked: Checked) -> None:
    """One source's completions of one shard; nothing where a prompt has none."""
    families = family_by_id(read_shard(shard, PROMPTS))
    old = _Old(step, shard, checked)
    found = [old.rows(prompt_id, earlier.get(prompt_id, ())) for prompt_id in families]
    if not all(found):
        return
    table = pa.concat_tables([rows for rows in found if rows]).combine_chunks()
    work = step.work(shard)
    receipt = write_shard(work.output, table, input_hashes(work) or (), 0.0, counts_of(table, families))
    checked.made(work.output, receipt.sha256)


class _Old:
    """A source's completions in the shards before one."""

    def __init__(self, step: Step, shard: Path, checked: Checked) -> None:
        self._step, self._shard, self._checked = step, shard, checked
        self._tables: dict[int, pa.Table | None] = {}

    def rows(self, prompt_id: str, numbers: Sequence[int]) -> pa.Table | None:
        """A prompt's completions in the newest of these shards that has them and is whole."""
        for number in reversed([n for n in numbers if n < int(self._shard.stem)]):
            table = self._table(number)
            rows = table.filter(pc.equal(table["prompt_id"], prompt_id)) if table else None
            if rows:
                return rows
        return None

    def _table(self, number: int) -> pa.Table | None:
        if number not in self._tables:
            work = self._step.work(self._shard.with_name(f"{number:05d}.parquet"))
            done = self._checked.finished(work)
            self._tables[number] = read_shard(work.output, COMPLETIONS) if done else None
        return self._tables[number]
