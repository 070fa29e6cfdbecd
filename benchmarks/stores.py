"""What a run in an object store asks of it: requests and seconds, with and without remembering what was listed.

    python benchmarks/stores.py [--shards 100] [--latency-ms 20]

A real S3 server (moto's) on the loopback address; every question waits for the given time first, as a store in the same region
takes. Completions are replayed. Counted is what the process that holds the folder asks; works in other processes ask besides.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # this folder has a stores.py too

CONFIG = """
name = "stores"
[prompts]
path = "prompts.jsonl"
shard_size = 2
[[sources]]
name = "people"
engine = { use = "replay", path = "completions.jsonl" }
[[labelers]]
use = "compiles"
[audit]
enforce = false
"""
TEXTS = [
    "def f(x):\n    return x  # 1",
    "def f(x:\n    return 1",
    "def f(x):\n    return x  # 2",
    "def f(x:\n    return",
]


def main() -> None:
    """Runs twice (everything to do, nothing to do), remembering and not, and prints what was asked as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--latency-ms", type=float, default=20.0)
    arguments = parser.parse_args()
    from tests.s3 import serving

    with serving(), tempfile.TemporaryDirectory() as folder:
        config = written(Path(folder), 2 * arguments.shards)
        found = {name: measured(config, name, arguments) for name in ("remembering", "asking")}
    said = {
        "command": f"python benchmarks/stores.py --shards {arguments.shards} --latency-ms {arguments.latency_ms:g}",
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
        "stages": 3,
        **found,
    }
    print(json.dumps(said, indent=1))


def written(folder: Path, n_prompts: int) -> Any:
    """A config of replayed completions, half of which compile."""
    from pipeline.config import load

    prompts = [{"prompt": f"write function {number}", "family": "code"} for number in range(n_prompts)]
    files = {"prompts.jsonl": prompts, "completions.jsonl": [{**prompt, "completion": TEXTS} for prompt in prompts]}
    for name, rows in files.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.toml").write_text(CONFIG)
    return load(folder / "config.toml")


def measured(config: Any, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """A run and its repetition in a folder of their own."""
    from pipeline.run import run
    from pipeline.storage import lock
    from pipeline.storage.stores import place_of, remembering

    lock.remembering = remembering if name == "remembering" else lambda folder: contextlib.nullcontext()  # type: ignore[attr-defined]
    found: dict[str, Any] = {}
    for what in ("first run", "unchanged run"):
        with counting(arguments.latency_ms / 1000) as asked:
            begun = time.monotonic()
            run(config, place_of(f"s3://runs/{name}"))
            seconds = time.monotonic() - begun
        found[what] = {"requests_per_shard": round(asked[0] / arguments.shards, 1), "seconds": round(seconds, 1)}
    return found


@contextmanager
def counting(latency_s: float) -> Iterator[list[int]]:
    """Counts what this process asks of a store, and has each question take `latency_s` more."""
    from pipeline.storage.stores import StorePath

    asked, count = StorePath._asked, [0]

    def slow(path: Any, *more: Any) -> Any:
        count[0] += 1
        time.sleep(latency_s)
        return asked(path, *more)

    StorePath._asked = slow  # type: ignore[method-assign]
    try:
        yield count
    finally:
        StorePath._asked = asked  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
