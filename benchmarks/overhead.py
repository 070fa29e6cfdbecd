"""What the pipeline costs over plain vLLM: wall time of sample + label + pair + write over `LLM.generate` on the same requests.

    python benchmarks/overhead.py [--config examples/quickstart.toml] [--repeats 3]

Both sides start after their engine is up and has answered a warm-up; they take turns, each in its own process; medians are
quoted. Plain vLLM gets the prompts as token ids, so its side does not even pay for the chat template. `engine_idle` is the share
of its sampling time in which the engine had no request, by its own record of each step and each wait (pipeline/engines/pump.py).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # this folder has a labelers.py too
WARM_UP_PROMPTS = 8


def main() -> None:
    """Alternates both sides and prints the ratio of their medians as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "examples" / "quickstart.toml")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=["plain", "pipeline"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps({"plain": plain, "pipeline": pipeline}[arguments.side](arguments.config)))
        return
    found: dict[str, list[dict[str, float]]] = {"plain": [], "pipeline": []}
    for side in ["plain", "pipeline"] * arguments.repeats:
        command = [sys.executable, __file__, "--side", side, "--config", str(arguments.config)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[side].append(json.loads(done.stdout.splitlines()[-1]))
        print(side, found[side][-1], file=sys.stderr, flush=True)
    medians = {side: statistics.median(run["wall_s"] for run in runs) for side, runs in found.items()}
    print(
        json.dumps(
            {
                "command": f"python benchmarks/overhead.py --config {arguments.config.name} --repeats {arguments.repeats}",
                "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
                "runs": found,
                "median_wall_s": medians,
                "ratio": round(medians["pipeline"] / medians["plain"], 4),
                "median_engine_idle": statistics.median(run["engine_idle"] for run in found["pipeline"]),
            },
            indent=1,
        )
    )


def plain(config_file: Path) -> dict[str, float]:
    """`LLM.generate` on all requests of the config's first source."""
    from pipeline.config import load
    from pipeline.engines.vllm import Vllm, engine_args, params, prepare_environment
    from pipeline.prompts import chats_of, import_prompts
    from pipeline.sample import Sample
    from pipeline.storage.shards import read_shard

    config = load(config_file)
    source = config.sources[0]
    spec = source.engine
    assert isinstance(spec, Vllm)
    prepare_environment(spec)
    from vllm import LLM

    llm = LLM.from_engine_args(engine_args(spec))
    tokenizer = llm.get_tokenizer()
    stage = Sample(source.name, spec, source.sampling, config.seed)
    with tempfile.TemporaryDirectory() as folder:
        shards = import_prompts(config.prompts, Path(folder)).shards
        requests = [r for shard in shards for r in stage.requests(chats_of(read_shard(shard)))]
    chats = [[{"role": m.role, "content": m.content} for m in request.messages] for request in requests]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    prompts: list[Any] = [{"prompt_token_ids": tokenizer.encode(text, add_special_tokens=False)} for text in texts]
    sampling = [params(request) for request in requests]
    llm.generate(prompts[:WARM_UP_PROMPTS], sampling[:WARM_UP_PROMPTS], use_tqdm=False)
    wall, cpu = time.monotonic(), time.process_time()
    outputs = llm.generate(prompts, sampling, use_tqdm=False)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    return {"wall_s": wall, "cpu_s": cpu, "tokens": sum(len(o.token_ids) for r in outputs for o in r.outputs)}


def pipeline(config_file: Path) -> dict[str, float]:
    """The whole run, on an executor whose engine and workers are up."""
    from pipeline.config import load
    from pipeline.engines.vllm import RunningVllm
    from pipeline.executors.local import LocalExecutor
    from pipeline.run import run

    class Kept(LocalExecutor):
        """Outlives the run that it is lent to."""

        def close(self, grace_s: float | None = None) -> None:
            pass

    executor = Kept()
    root = Path(tempfile.mkdtemp(prefix="overhead-"))
    try:
        run(load(config_file, ["name=warm-up"], limit=WARM_UP_PROMPTS), root, lambda: executor)
        engine = executor._engine
        assert isinstance(engine, RunningVllm)
        before, pace = executor.progress().tokens, engine.pace()
        wall, cpu = time.monotonic(), time.process_time()
        run(load(config_file), root, lambda: executor)
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        busy_s = engine.pace().busy_s - pace.busy_s
        _, *gaps = engine.pace().gaps[len(pace.gaps) :]  # the first is the wait for this run after the warm-up
        idle = sum(gaps) / (busy_s + sum(gaps))
        return {"wall_s": wall, "cpu_s": cpu, "tokens": executor.progress().tokens - before, "engine_idle": idle}
    finally:
        LocalExecutor.close(executor)
        shutil.rmtree(root)


if __name__ == "__main__":  # engines and workers spawn processes that import this module
    main()
