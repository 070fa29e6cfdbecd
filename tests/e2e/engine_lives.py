"""Real vLLM on the tiny model, through deaths and changes of model; says as JSON what came of it.

python -m tests.e2e.engine_lives here OTHER_MODEL      the engine in this process
python -m tests.e2e.engine_lives apart                 the engine in a process of its own
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from labelers.types import Message
from pipeline.engines import Generation, Request, Sampling
from pipeline.engines.vllm import RunningVllm, Vllm
from pipeline.errors import EngineFailed

MODEL = str(Path(__file__).resolve().parents[2] / "data" / "tiny-model")
KV_MB = 256
N = 24


def main() -> None:
    """Runs one of the two."""
    found = here(sys.argv[2]) if sys.argv[1] == "here" else apart()
    print(json.dumps(found), flush=True)
    if sys.argv[1] == "apart":
        os.kill(os.getpid(), signal.SIGKILL)  # with an engine running: it must not outlive this process


def spec(model: str = MODEL, **settings: Any) -> Vllm:
    return Vllm(model=model, dtype="float32", enforce_eager=True, kv_cache_memory_mb=KV_MB, **settings)


def requests() -> list[Request]:
    sampling = Sampling(n=2, max_tokens=48)
    return [Request(str(i), (Message("user", f"Write function {i}."),), sampling, 1000 * i) for i in range(N)]


def texts(answers: Sequence[Generation]) -> dict[str, list[str]]:
    return {answer.request_id: [output.text for output in answer.outputs] for answer in answers}


def sampled(engine: RunningVllm) -> dict[str, list[str]]:
    return texts(list(engine.generate(requests())))


def rss_mb() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def here(other: str) -> dict[str, Any]:
    """Undisturbed; out of memory; then another model, and the first one again, on the same device."""
    engine = spec(in_process=True).open()
    undisturbed = sampled(engine)
    memory = {"open": rss_mb()}
    engine.close()
    memory["closed"] = rss_mb()

    engine = spec(in_process=True, max_num_seqs=8).open()
    _run_out_of_memory_with(8)
    halved = sampled(engine)
    concurrency, deaths = engine._pump.core.concurrency, engine.pace().deaths
    engine.close()

    engine = spec(other, in_process=True).open()
    another = sampled(engine)
    engine.close()

    engine = spec(in_process=True).open()
    again = sampled(engine)
    memory["open again"] = rss_mb()
    engine.close()
    memory["closed again"] = rss_mb()
    return {
        "same after halving": halved == undisturbed,
        "concurrency": concurrency,
        "deaths": deaths,
        "another model answers differently": another != undisturbed,
        "same after another model": again == undisturbed,
        "memory_mb": memory,
    }


def _run_out_of_memory_with(concurrency: int) -> None:
    """Has the tenth step of an engine of so many sequences fail as torch fails on a full GPU: this machine has none."""
    import torch
    from vllm.v1.engine.llm_engine import LLMEngine

    step, steps = LLMEngine.step, 0

    def failing(self: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps >= 10 and self.vllm_config.scheduler_config.max_num_seqs == concurrency:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return step(self)

    LLMEngine.step = failing


def apart() -> dict[str, Any]:
    """Without the memory to start; undisturbed; and then with the engine's process killed as soon as some answers are there."""
    try:
        replace(spec(), kv_cache_memory_mb=1).open()
        refused = ""
    except EngineFailed as error:
        refused = str(error)
    engine = spec(max_num_seqs=8).open()
    undisturbed = sampled(engine)
    answers: list[Generation] = []
    (killed,) = (process.pid for process in engine._pump.core._processes())
    for answer in engine.generate(requests()):
        answers.append(answer)
        if len(answers) == 3:
            os.kill(killed, signal.SIGKILL)
    (pid,) = (process.pid for process in engine._pump.core._processes())
    return {
        "refused": refused,
        "same after a kill": texts(answers) == undisturbed,
        "answers": len(answers),
        "deaths": engine.pace().deaths,
        "engine": pid,
        "is another": pid != killed,
    }


if __name__ == "__main__":  # vLLM's engine process imports this module
    main()
