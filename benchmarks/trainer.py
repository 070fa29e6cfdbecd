"""Pairs a CPU second of this trainer beside TRL's DPOTrainer: the same weights, token ids and batches, in one process and run.

    .venv/bin/python benchmarks/trainer.py [--rounds 5] [--vocab 2048 32768] [--dtype float32 bfloat16] [--out FILE]
    .venv/bin/python benchmarks/trainer.py --device cuda [--shape 0.5B 1.5B 7B]      (benchmarks/trainer_cuda.py)

One thread. The sides take turns, step by step; a ratio is a median over steps of the same pairs. Losses and gradients of the two
are compared in the same run. Memory is the peak of a process of its own for each side.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this file's own folder would offer it as `trainer`
os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch  # noqa: E402

from benchmarks.trainer_sides import Ours, Trl, Workload  # noqa: E402

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Side = Callable[[Workload, bool], Any]
SIDES: dict[str, Side] = {
    "ours": lambda work, bf16: Ours(work, torch.bfloat16 if bf16 else torch.float32),
    "TRL, defaults": lambda work, bf16: Trl(work, best=False, bf16=bf16),
    "TRL, best settings": lambda work, bf16: Trl(work, best=True, bf16=bf16),
    "TRL, best settings, bfloat16 weights": lambda work, bf16: Trl(work, best=True, bf16=True, weights=torch.bfloat16),
}


def sides_of(dtype: str) -> list[str]:
    """Who takes part: weights in bfloat16 only where bfloat16 is asked for."""
    return [name for name in SIDES if dtype == "bfloat16" or not name.endswith("weights")]


def compared(sides: dict[str, Any], items: list[int]) -> dict[str, dict[str, float]]:
    """How far each of TRL's losses and gradients are from ours on the same pairs."""
    loss, grads = sides["ours"].backward(items), sides["ours"].gradients()
    found = {}
    for name, side in list(sides.items())[1:]:
        theirs, own = side.backward(items), side.gradients()
        gap = sum(float((own[n].float() - grads[n]).square().sum()) for n in grads) ** 0.5
        norm = sum(float(own[n].float().square().sum()) for n in grads) ** 0.5
        found[name] = {"loss": abs(theirs - loss), "gradient_relative_l2": gap / norm}
    return found


def timed(sides: dict[str, Any], work: Workload, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every step; the sides take turns, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number, items in enumerate(work.steps(rounds + 1)):
        for name, side in sides.items():
            begin = time.process_time()
            side.step(items)
            if number:
                seconds[name].append(time.process_time() - begin)
    return seconds


def padding(work: Workload) -> dict[str, float]:
    """The share of TRL's positions that hold no token, and the share of plain rows' tokens that sharing saves."""
    pairs, plain, places, shared = work.pairs(), 0, 0, 0
    for step in work.steps(work.n_pairs // work.step_pairs):
        rows = [len(pairs[i].prompt) + len(side) for i in step for side in (pairs[i].chosen, pairs[i].rejected)]
        plain += sum(rows)
        places += len(rows) * max(rows)
        shared += sum(len(pairs[i].prompt) for i in step)
    return {"trl_padding": 1 - plain / places, "our_padding": 0.0, "tokens_saved_by_sharing": shared / plain}


def peak(vocab: int, dtype: str, side: str) -> dict[str, float]:
    """Peak memory of a process that makes three steps, in all and above what it held before them."""
    command = [sys.executable, __file__, "--memory", side, "--vocab", str(vocab), "--dtype", dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure_memory(vocab: int, dtype: str, side: str) -> None:
    """What `peak` starts."""
    work = Workload(vocab)
    made = SIDES[side](work, dtype == "bfloat16")
    held_mib = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of building the model
    for items in work.steps(3):
        made.step(items)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak_mib = int(status["VmHWM"].split()[0]) / 1024
    whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_mib": peak_mib, "steps_mib": peak_mib - held_mib, "process_mib": whole}))


def case(vocab: int, dtype: str, spread: float, rounds: int, memory: bool) -> dict[str, Any]:
    """One vocabulary, type and spread of lengths: speed, equality, memory."""
    work = Workload(vocab, spread=spread)
    sides = {name: SIDES[name](work, dtype == "bfloat16") for name in sides_of(dtype)}
    equal = compared(sides, work.steps(1)[0])
    seconds = timed(sides, work, rounds)
    own = seconds["ours"]
    report: dict[str, Any] = {
        "pairs_per_cpu_second": {n: work.step_pairs / statistics.median(s) for n, s in seconds.items()},
        "times_faster": {
            n: statistics.median(b / a for a, b in zip(own, s, strict=True)) for n, s in seconds.items() if n != "ours"
        },
        "difference": equal,
        **padding(work),
        "step_seconds": {n: [round(x, 3) for x in s] for n, s in seconds.items()},
    }
    del sides
    if memory:
        report["memory"] = {name: peak(vocab, dtype, name) for name in sides_of(dtype)}
        mine = report["memory"]["ours"]
        report["memory_times"] = {
            name: {key: round(mine[key] / value[key], 3) for key in value}
            for name, value in report["memory"].items()
            if name != "ours"
        }
    return report


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vocab", type=int, nargs="+", default=[2048, 32768])
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument(
        "--spread", type=float, default=0.5, help="of the lengths' logarithm; 0.3 = rows of nearly one length"
    )
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--shape", nargs="+", default=["0.5B", "1.5B", "7B"])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # for both sides: without it TRL is slower still
    if asked.memory:
        measure_memory(asked.vocab[0], asked.dtype[0], asked.memory)
        return
    command = " ".join(["python", "benchmarks/trainer.py", *sys.argv[1:]])
    if asked.device == "cuda":
        from benchmarks.trainer_cuda import measure

        report: dict[str, Any] = {"command": command, **measure(asked.shape, asked.rounds)}
    else:
        hardware = f"one thread of {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
        report = {"command": command, "hardware": hardware, "workload": repr(Workload(0))}
        for vocab in asked.vocab:
            for dtype in asked.dtype:
                name = f"vocabulary {vocab}, {dtype}, spread {asked.spread}"
                report[name] = case(vocab, dtype, asked.spread, asked.rounds, not asked.no_memory)
    text = json.dumps(report, indent=1)
    print(text)
    if asked.out:
        asked.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
