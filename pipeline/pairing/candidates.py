"""Other data sets of the same candidates: unpaired (KTO), reward-model pairs, best of n (SFT), ranked groups (RL)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, assert_never, get_args

import pyarrow as pa

from pipeline.config import stored_config
from pipeline.errors import ConfigError
from pipeline.pair import Group, Pairing
from pipeline.pairing.eligible import Chosen
from pipeline.pairing.rules import Scored
from pipeline.plan import make_plan
from pipeline.prompts import prompts_of
from pipeline.publishing.export import appearing, require_free
from pipeline.schema import MESSAGES
from pipeline.storage.folders import followed
from pipeline.storage.shards import read_receipt, read_shard, write_parquet

Kind = Literal["kto", "reward", "sft", "groups"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Row = dict[str, Any]

_RANKED = pa.list_(
    pa.struct({"completion": MESSAGES, "score": pa.float64(), "passed": pa.bool_(), "source": pa.string()})
)
COLUMNS: dict[Kind, pa.Schema] = {
    "kto": pa.schema({"prompt": MESSAGES, "completion": MESSAGES, "label": pa.bool_()}),
    "reward": pa.schema({"prompt": MESSAGES, "chosen": MESSAGES, "rejected": MESSAGES, "margin": pa.float64()}),
    "sft": pa.schema({"prompt": MESSAGES, "completion": MESSAGES}),
    "groups": pa.schema({"prompt": MESSAGES, "completions": _RANKED}),
}


def export_candidates(run: Path, kind: str, out: Path) -> tuple[int, Path]:
    """Writes the run's candidates as `kind` into `out`, a folder that `datasets` opens. Returns the rows and the folder.

    `kto`: every completion that passed or failed, with its label; `reward`: the pairs with their margin (TRL's RewardTrainer
    subtracts it); `sft`: the best finished completion of each prompt, none where it failed; `groups`: all, best first.

    Raises:
        ConfigError: the kind is unknown, the run has no finished labels, or none of them makes a row.
    """
    known = next((k for k in KINDS if k == kind), None)
    if known is None:
        raise ConfigError(f"--as {kind}: is no kind of export; hint: one of {', '.join(KINDS)}")
    final, total = require_free(out, followed(run / "dataset")), 0
    with appearing(final) as beside:
        for number, rows in enumerate(_shards(run, known)):
            write_parquet(beside / "data" / f"train-{number:05d}.parquet", pa.Table.from_pylist(rows, COLUMNS[known]))
            total += len(rows)
        if not total:
            raise ConfigError(f"{run}: makes no row of {kind}; hint: kto needs a labeler that knows passing (pass_at)")
    return total, final


def _shards(run: Path, kind: Kind) -> Iterator[list[Row]]:
    config = stored_config(run)
    plan = make_plan(config, run)
    stage = plan.pairs.stage
    assert isinstance(stage, Pairing)
    for shard in sorted((run / "prompts").glob("[0-9]*.parquet")):
        work = plan.pairs.work(shard)
        if not all(map(read_receipt, work.inputs)):
            continue
        first, *tables = (read_shard(path, schema) for path, schema in zip(work.inputs, stage.reads, strict=True))
        prompts = prompts_of(first)
        groups = stage.groups(list(prompts), pa.concat_tables(tables[: stage.n_sources]), tables[stage.n_sources :])
        chosen = stage.choose_all(groups)
        rows = [
            [{"prompt": [{"role": m.role, "content": m.content} for m in prompt.messages], **row} for row in made]
            for prompt, group, choice in zip(prompts.values(), groups, chosen, strict=True)
            if (made := _rows(kind, group, choice))
        ]
        if rows:
            yield _in_turn(rows)


def _in_turn(prompts: Sequence[Sequence[Row]]) -> list[Row]:
    """One row of each prompt, then the next of each: neighbours are of different prompts.

    TRL's KTO estimates the KL from each prompt with the completion of the row before: one of its own would not be mismatched.
    """
    return [row for turn in zip_longest(*prompts) for row in turn if row is not None]


def _rows(kind: Kind, group: Group, choice: Chosen) -> Sequence[Row]:
    ranked = sorted(group.scored, key=lambda s: (-s.score, s.id))
    match kind:
        case "kto":
            whole = [s for s in ranked if s.passed is False or (s.passed and not s.truncated)]
            return [{"completion": _said(s), "label": s.passed} for s in whole]
        case "reward":
            return [{"chosen": _said(c), "rejected": _said(r), "margin": c.score - r.score} for c, r in choice.pairs]
        case "sft":
            best = [s for s in ranked if not s.truncated and s.may_be_chosen and s.passed is not False]
            return [{"completion": _said(s)} for s in best[:1]]
        case "groups":
            each = [{"completion": _said(s), "score": s.score, "passed": s.passed, "source": s.source} for s in ranked]
            return [{"completions": each}] if each else []
        case _:
            assert_never(kind)


def _said(scored: Scored) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": scored.text}]
