"""Our side of benchmarks/trainer.py on a GPU: Qwen2.5's shapes with random weights, pairs and groups of 8 as trees.

NOT MEASURED YET: written where no GPU was to be had. It needs torch, transformers and pyarrow; TRL only for the comparison, which
is left out, with a line that says so, where it is not installed.

8B has its moments in bfloat16: with float32 ones its states alone are more than the card holds.

Utilisation is of the bf16 peak (989.5 TFLOP/s, NVIDIA's H200 sheet, without sparsity): of the FLOPs executed, and of those that
padding-free plain rows with a live reference would have needed (naive-equivalent), so that sharing is neither hidden nor sold.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch

from benchmarks.trainer_sides import Ours, Trl, Workload
from trainer.batches import Shape, n_tokens
from trainer.pairs import Pair

PEAK = 989.5e12
DEVICE = "cuda"
SHAPES = {
    "0.5B": Workload(151_936, 896, 24, 14, 2, 4_864, mean=512, spread=0.6, n_pairs=64, step_pairs=64),
    "1.5B": Workload(151_936, 1_536, 28, 12, 2, 8_960, mean=512, spread=0.6, n_pairs=64, step_pairs=64),
    "7B": Workload(152_064, 3_584, 28, 28, 4, 18_944, mean=512, spread=0.6, n_pairs=64, step_pairs=64, tied=False),
    "8B": Workload(151_936, 4_096, 36, 32, 8, 12_288, mean=512, spread=0.6, n_pairs=64, step_pairs=64, tied=False),
}


def body_weights(work: Workload) -> int:
    """The weights of all layers' matrices."""
    head = work.hidden // work.heads
    own = work.hidden * head * (2 * work.heads + 2 * work.kv_heads) + 3 * work.hidden * work.ffn
    return work.layers * own


def forward_flops(work: Workload, shape: Shape) -> float:
    """Of one tree: matrices for every token, attention for what each token sees, the head for completion tokens."""
    seen = shape.n_prompt**2 / 2 + sum(size * shape.n_prompt + size**2 / 2 for size in shape.sizes)
    tokens = shape.n_prompt + sum(shape.sizes)
    body = 2 * body_weights(work) * tokens + 4 * work.layers * work.hidden * seen
    return body + 2 * work.hidden * work.vocab * sum(shape.sizes)


def naive_flops(work: Workload, shape: Shape) -> float:
    """Of plain rows, one for each completion, forward of policy and reference, and backward: 4 units."""
    return sum(4 * forward_flops(work, Shape(0, shape.n_prompt, (size,))) for size in shape.sizes)


def groups(work: Workload, n: int, count: int) -> list[Pair]:
    """`n // 2` pairs of every prompt, of completions of their own: trees of n completions."""
    draw = random.Random(2)

    def ids() -> array[int]:
        return array("i", [draw.randrange(3, work.vocab) for _ in range(work.length(draw))])

    found = []
    for prompt in range(count):
        root = ids()
        found += [Pair(f"{prompt:05}-{k}", root, ids(), ids()) for k in range(n // 2)]
    return found


def merged_shapes(pairs: Sequence[Pair]) -> list[Shape]:
    """One tree for each prompt."""
    sizes: dict[bytes, list[int]] = {}
    lengths: dict[bytes, int] = {}
    for pair in pairs:
        key = pair.prompt.tobytes()
        lengths[key] = len(pair.prompt)
        sizes.setdefault(key, []).extend((len(pair.chosen), len(pair.rejected)))
    return [Shape(key, lengths[key], tuple(own)) for key, own in sizes.items()]


def speed(work: Workload, side: Any, pairs: Sequence[Pair], rounds: int) -> dict[str, float]:
    """Pairs a second over whole optimizer steps, what plain rows would have needed of the peak, and the most memory."""
    everything = list(range(len(pairs)))
    side.step(everything)  # compiles, allocates
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        side.step(everything)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    took = statistics.median(seconds)
    naive = sum(naive_flops(work, pair.tree.shape) for pair in pairs)
    return {
        "step_s": took,
        "pairs_per_s": len(pairs) / took,
        "naive_equivalent_utilisation": naive / took / PEAK,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def ours(work: Workload, pairs: Sequence[Pair], rounds: int) -> dict[str, Any]:
    """One layout of pairs: besides, real tokens a second and the utilisation of the FLOPs that were executed."""
    side = Ours(work, torch.bfloat16, DEVICE, pairs, "bfloat16" if work == SHAPES["8B"] else "float32")
    found = speed(work, side, pairs, rounds)
    trees = merged_shapes(pairs)
    executed = 3 * sum(forward_flops(work, tree) for tree in trees)
    return {
        **found,
        "real_tokens_per_s": n_tokens(range(len(trees)), trees) / found["step_s"],
        "executed_utilisation": executed / found["step_s"] / PEAK,
        "padding": 0.0,
        "attention": side.model.config._attn_implementation,
        "moments": str(next(iter(side.optimizer.adam.state.values()))["exp_avg"].dtype),
    }


def measure(shapes: Sequence[str], rounds: int) -> dict[str, Any]:
    """Every shape: pairs, and trees of 8 completions; TRL beside it, on the same pairs, where it is installed."""
    report: dict[str, Any] = {"hardware": torch.cuda.get_device_name(), "torch": torch.__version__}
    for name in shapes:
        work = SHAPES[name]
        found: dict[str, Any] = {}
        found["pairs"] = fitting(partial(ours, work, work.pairs(), rounds))
        found["trees of 8"] = fitting(partial(ours, work, groups(work, 8, work.n_pairs // 4), rounds))
        for label, best in (("TRL, defaults", False), ("TRL, best settings", True)):
            found[label] = fitting(partial(theirs, work, best, rounds))
        report[name] = found
    return report


def theirs(work: Workload, best: bool, rounds: int) -> dict[str, Any]:
    """TRL on the pairs."""
    if not find_spec("trl"):
        return {"not measured": "TRL not installed"}
    return speed(work, Trl(work, best=best, bf16=True, device=DEVICE), work.pairs(), rounds)


def fitting(measured: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A side's figures, or that it did not fit: one that does not must not cost the others theirs."""
    try:
        return measured()
    except torch.OutOfMemoryError as error:
        return {"out of memory": str(error).splitlines()[0]}
    finally:
        gc.collect()  # the side that was measured: models and optimizers hold each other
        torch.cuda.empty_cache()
