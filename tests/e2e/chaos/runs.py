"""The run that is killed: replayed completions, two labelers, every stage; and what it must come to."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.e2e.chaos.zygote import Zygote

NAME = "chaos"
STAGES = {
    "sample": "completions-people-",
    "label": "labels-compiles-",
    "compare": "comparisons-Tidier-",
    "pair": "pairs-",
    "publish": "versions",
}
"""stage -> how the folder that it writes begins, in the order of the run."""
OWN = ("seconds", "created", "seal", "openlineage", "code")
"""What two equal runs' receipts and manifests say differently: when, where, how long, by which commit, and the hash of a file
that says that."""

MODEL = Path(__file__).resolve().parents[3] / "data" / "tiny-model"
SOURCES = {
    "replay": 'engine = { use = "replay", path = "completions.jsonl" }',
    "vllm": f"""n = 6
max_tokens = 64
[sources.engine]
use = "vllm"
model = "{MODEL}"
dtype = "float32"
in_process = true
enforce_eager = true
kv_cache_memory_mb = 64""",
}
"""What completes: a file, or a real engine."""

CONFIG = """
name = "chaos"
[prompts]
path = "prompts.jsonl"
shard_size = {shard_size}
[[sources]]
name = "people"
{source}
[[labelers]]
use = "compiles"
[[labelers]]
use = "./tidier.py:Tidier"
[audit]
enforce = false
"""
TIDIER = '''
from dataclasses import dataclass
from labelers.types import Example, Needs, Prompt, Verdict

@dataclass(frozen=True)
class Tidier:
    """Prefers the completion whose brackets are closed."""
    name, version, needs, symmetric = "tidier", "1", Needs(), True
    examples = [Example(Prompt.of("p"), better="f(x)", worse="f(x")]

    def compare(self, batch, ctx):
        return [Verdict("tie" if closed(c.a) == closed(c.b) else "a" if closed(c.a) else "b") for c in batch]

def closed(completion):
    return completion.text.count("(") == completion.text.count(")")
'''


@dataclass(frozen=True)
class Golden:
    """An undisturbed run, and what starts it again.

    Args:
        folder: what it made.
        inputs: the folder of its config.
        prompts: prompts in the run.
        shard_size: prompts in a shard.
    """

    folder: Path
    inputs: Path
    prompts: int
    shard_size: int

    def arguments(self, root: Path, *settings: str) -> list[str | Path]:
        """The command line of the same run in another root."""
        return ["run", self.inputs / "config.toml", "--root", root, *(word for s in settings for word in ("--set", s))]

    def before(self, stage: str, folder: Path) -> None:
        """Makes `folder` a copy of the run as it was when `stage` began; after the last one for "end"."""
        beside = folder.with_name(f".{folder.name}")
        order = [*STAGES, "end"]
        missing = [STAGES[each] for each in order[order.index(stage) : -1]]
        begins = (*missing, "dataset", "audit", "steps") if missing else ()
        shutil.copytree(
            self.folder, beside, symlinks=True,
            ignore=lambda _, names: [name for name in names if name.startswith(begins)],
        )  # fmt: skip
        beside.rename(folder)

    def differences(self, folder: Path) -> list[str]:
        """Files that are not the undisturbed run's, to the byte; times aside."""
        ours, theirs = contents(self.folder), contents(folder)
        return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))


def write_inputs(folder: Path, source: str, shards: int, shard_size: int) -> None:
    """Prompts with four completions each, two that parse and two that do not, in changing order and length."""
    folder.mkdir(parents=True)
    prompts, completions = [], []
    for i in range(shards * shard_size):
        prompt = f"write function {i}"
        remark = "  # and a long remark" if i % 2 else ""
        good = [f"def f{i}(x):\n    return x + {j}{remark}" for j in range(2)]
        bad = [f"def f{i}(x:\n    return x + {j}{'' if remark else '  # and a long remark'}" for j in range(2)]
        texts = [good[0], bad[0], good[1], bad[1]]
        prompts.append({"prompt": prompt, "family": "code"})
        completions.append({"prompt": prompt, "completion": texts[i // 2 % 4 :] + texts[: i // 2 % 4]})
    for name, rows in {"prompts": prompts, "completions": completions}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tidier.py").write_text(TIDIER)
    (folder / "config.toml").write_text(CONFIG.format(shard_size=shard_size, source=SOURCES[source]))


def make_golden(zygote: Zygote, home: Path, source: str = "replay", shards: int = 60, shard_size: int = 2) -> Golden:
    """The undisturbed run."""
    golden = Golden(home / "golden" / NAME, home / "inputs", shards * shard_size, shard_size)
    write_inputs(golden.inputs, source, shards, shard_size)
    log = home / "golden.log"
    life = zygote.start(golden.arguments(home / "golden"), log, home / "golden.requests")
    assert life.wait() == 0, log.read_text()
    return golden


def contents(folder: Path) -> dict[str, Any]:
    """What a run made, by path: bytes of shards, and what receipts and manifests say but for times."""
    return {str(path.relative_to(folder)): _content(path) for path in made(folder)}


def made(folder: Path) -> Iterator[Path]:
    """The shards, receipts and versions of a run."""
    for name in ("prompts", *STAGES.values()):
        for place in sorted(folder.glob(f"{name}*")):
            yield from (path for path in sorted(place.rglob("[!.]*")) if path.is_file())


def _content(path: Path) -> Any:
    if path.suffix != ".json":
        return path.read_bytes()
    said = json.loads(path.read_text(encoding="utf-8"))
    said["lineage"] = _common(said.get("lineage", {}))
    return _common(said)


def _common(said: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in said.items() if key not in OWN}


def doubled(folder: Path, kind: str, key: str) -> list[str]:
    """Ids that a run holds more than once."""
    files = sorted(folder.glob(f"{kind}*/*.parquet"))
    ids = Counter(value for file in files for value in pq.read_table(file, columns=[key])[key].to_pylist())
    return sorted(value for value, n in ids.items() if n > 1)
