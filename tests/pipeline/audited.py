"""Small runs of replayed completions under a plugin, and what their audit found."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.auditing.audit import audit_run
from pipeline.auditing.limits import Finding
from pipeline.config import load
from pipeline.run import Finished, run
from pipeline.schema import PAIR_SHARD
from pipeline.storage.shards import read_receipt, read_shard, write_shard

PLUGIN = '''
from dataclasses import dataclass
from labelers.types import Abstain, Example, Needs, Prompt, Score, Verdict

@dataclass(frozen=True)
class Mine:
    """Prefers completions that say good."""
    name, version, needs = "mine", "1", Needs()
    examples = [Example(Prompt.of("p"), better="good", worse="bad")]
    symmetric = False
    {method}
'''
HONEST = "def score(self, batch, ctx): return [Score(float('good' in c.completion.text)) for c in batch]"
UPSIDE_DOWN = "def score(self, batch, ctx): return [Score(-float('good' in c.completion.text)) for c in batch]"


class Runs:
    """Makes small runs of replayed completions in a folder of the test's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, rows: Sequence[Mapping[str, Any]]) -> str:
        (self.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return name

    def make(
        self, method: str, answers: Mapping[str, Sequence[str]], *settings: str, extra: str = "", engine: str = ""
    ) -> Finished:
        """A run of the plugin with `method` on prompt -> completions."""
        (self.folder / "mine.py").write_text(PLUGIN.format(method=method))
        self.write("prompts.jsonl", [{"prompt": prompt} for prompt in answers])
        self.write("said.jsonl", [{"prompt": prompt, "completion": list(texts)} for prompt, texts in answers.items()])
        config = self.folder / "config.toml"
        config.write_text(
            f"""
            name = "audited"
            [prompts]
            path = "prompts.jsonl"
            [[sources]]
            name = "people"
            engine = {{ use = "replay", path = "said.jsonl" }}
            [[labelers]]
            use = "./mine.py:Mine"
            {engine}
            {extra}
            """
        )
        return run(load(config, settings), self.folder / "runs")


def answered(n: int, *, seed: int = 0) -> dict[str, list[str]]:
    """Prompts with two good and two bad answers of random lengths, in random order."""
    draw = random.Random(seed)
    found = {}
    for i in range(n):
        texts = [f"{word} {'word ' * draw.randint(1, 40)}{j}" for j, word in enumerate(["good", "good", "bad", "bad"])]
        draw.shuffle(texts)
        found[f"question {i}"] = texts
    return found


def seen(finished: Finished | Path, check: str) -> list[Finding]:
    audited = audit_run(finished) if isinstance(finished, Path) else finished.audited
    assert audited is not None
    return [finding for finding in audited.findings if finding.check == check]


def one(finished: Finished | Path, check: str) -> Finding:
    (finding,) = seen(finished, check)
    return finding


def spoil(folder: Path, edit: Callable[[list[dict[str, Any]]], None]) -> None:
    """Edits the rows of the first pair shard, with a receipt that vouches for them."""
    shard = sorted(folder.glob("pairs-*/*.parquet"))[0]
    rows = read_shard(shard).to_pylist()
    receipt = read_receipt(shard)
    assert receipt is not None
    edit(rows)
    write_shard(shard, pa.Table.from_pylist(rows, PAIR_SHARD), receipt.inputs, receipt.seconds, receipt.counts)


def same_text(rows: list[dict[str, Any]]) -> None:
    rows[0]["rejected"] = rows[0]["chosen"]
