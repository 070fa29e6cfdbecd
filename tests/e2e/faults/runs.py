"""A run with every kind of shard, of replayed completions: what the faults are tried on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pipeline.config import Config, load
from tests.pipeline.conftest import BAD, GOOD, write_jsonl

ROOT = Path(__file__).resolve().parents[3]
N_PROMPTS, SHARD_SIZE = 6, 2
PLUGIN = '''
from dataclasses import dataclass
from labelers.types import Comparison, Example, Needs, Prompt, Score, Verdict

@dataclass(frozen=True)
class Rank:
    """Prefers the text that comes first in the alphabet."""
    name, version, needs, symmetric = "rank", "1", Needs(), True
    examples = [Example(Prompt.of("p"), better="a", worse="b")]
    def compare(self, batch, ctx):
        return [Verdict("tie" if c.a.text == c.b.text else "a" if c.a.text < c.b.text else "b") for c in batch]

@dataclass(frozen=True)
class Size:
    """Prefers texts whose length is even."""
    odd: int = 0
    name, version, needs, pass_at = "size", "1", Needs(), 1.0
    examples = [Example(Prompt.of("p"), better="aa", worse="a")]
    def score(self, batch, ctx):
        return [Score(float(len(c.completion.text) % 2 == self.odd)) for c in batch]
'''
CONFIG = """
name = "faults"
[prompts]
path = "prompts.jsonl"
shard_size = {shard_size}
[[sources]]
name = "people"
engine = {{ use = "replay", path = "completions.jsonl" }}
[[labelers]]
use = "compiles"
{more}
[audit]
enforce = false
"""
MORE = """
[[labelers]]
use = "./mine.py:Size"
[[labelers]]
use = "./mine.py:Rank"
"""
"""Labelers for every kind of shard. Where the kind does not matter one labeler does, which starts quicker."""


def write_inputs(folder: Path, kind: str = "function", more: str = MORE) -> Path:
    """Prompts, completions, a plugin and the config that names them. Gives the config's path."""
    folder.mkdir(parents=True, exist_ok=True)
    prompts = [{"prompt": f"write {kind} {i}", "family": "code"} for i in range(N_PROMPTS)]
    texts = [f"{text}  # {kind} {number}{'!' * (number % 2)}" for number in (1, 2) for text in (GOOD, BAD)]
    write_jsonl(folder / "prompts.jsonl", prompts)
    write_jsonl(folder / "completions.jsonl", [{**p, "completion": texts} for p in prompts])
    (folder / "mine.py").write_text(PLUGIN)
    (folder / "config.toml").write_text(CONFIG.format(shard_size=SHARD_SIZE, more=more))
    return folder / "config.toml"


def config(folder: Path, *settings: str) -> Config:
    """The config that `write_inputs` wrote, with settings laid over it."""
    return load(folder / "config.toml", settings)


def shards(run: Path) -> dict[str, bytes]:
    """All Parquet files of a run but those in quarantine, by name."""
    found = (
        path for path in sorted(run.rglob("*.parquet")) if "quarantine" not in path.parts and not path.is_symlink()
    )
    return {p.relative_to(run).as_posix(): p.read_bytes() for p in found if "dataset" not in p.relative_to(run).parts}


def written_at(run: Path) -> dict[str, tuple[int, int]]:
    """When each of those files was written, and which it is on the disk."""
    return {name: ((run / name).stat().st_mtime_ns, (run / name).stat().st_ino) for name in shards(run)}


def remade(before: dict[str, tuple[int, int]], run: Path) -> set[str]:
    """The files that are new since `before`."""
    return {name for name, when in written_at(run).items() if before.get(name) != when}


def command(*arguments: str | Path) -> list[str]:
    """`python -m pipeline ...`"""
    return [sys.executable, "-m", "pipeline", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    """The environment in which a command finds this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def cli(*arguments: str | Path, timeout: float = 120, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m pipeline ...` to its end."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=timeout, check=False, env=environment(**more)
    )
