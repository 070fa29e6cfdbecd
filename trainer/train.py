"""The training loop, on one readable page; what is trained is an `Objective` (dpo.py, sft.py).

Legend: B items of a micro-batch (an item is a pair or a document), M metrics.

An optimizer step's loss is  sum_i w_i l_i / sum_i w_i  over all its items, however they are cut into micro-batches and dealt to
ranks: every gradient is divided by the whole step's weight, so accumulation is exact under uneven counts.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from trainer.batches import deal, micro_batches
from trainer.checkpoint import load_state, newest_whole, save_checkpoint, write_text
from trainer.config import TrainOptions
from trainer.errors import TrainerError
from trainer.model import DTYPES, Loaded, micro_batch_budget, save
from trainer.optim import MasterAdamW, rate_at
from trainer.ranks import Ranks
from trainer.runlog import RunLog, say


@dataclass(frozen=True)
class Outcome:
    """One micro-batch: the weighted loss to differentiate (a sum), each item's loss, and the metrics' sums over items."""

    loss: Tensor
    losses_B: Tensor
    sums_M: Tensor


class Objective(Protocol):
    """What a command trains on.

    `ids` name the items, `widths` are their longest rows, `lengths` all their tokens, `weights` their share of a step's mean.
    """

    ids: Sequence[str]
    widths: Sequence[int]
    lengths: Sequence[int]
    weights: Sequence[float]
    rows_each: int
    metrics: tuple[str, ...]

    def steps(self, epoch: int) -> Iterator[list[int]]:
        """The items of every optimizer step of one epoch."""

    def outcome(self, model: Any, items: Sequence[int]) -> Outcome:
        """Forward pass and loss of one micro-batch."""

    def numbers(self, means: dict[str, float], n_items: int, seconds: float) -> dict[str, float]:
        """What the log shows of one step, given the metrics' means over its items."""

    def watch(self, step: int, numbers: dict[str, float]) -> None:
        """Warns when the numbers look unhealthy."""


def train(loaded: Loaded, optimizer: MasterAdamW, objective: Objective, options: TrainOptions, identity: str, ranks: Ranks) -> dict[str, Any]:
    """Trains to the end, saves the model, and returns the last numbers.

    Raises:
        TrainerError: a loss or gradient is not finite; nothing is saved of it.
        KeyboardInterrupt: interrupted; a checkpoint was written first.
    """
    out, device = Path(options.out), loaded.device
    plan = [step for epoch in range(options.epochs) for step in objective.steps(epoch)]
    plan = plan[: options.max_steps or None]
    budget = micro_batch_budget(options.micro_batch_tokens, device)
    start = resume(optimizer, options, identity, device)
    log = RunLog(out, total=len(plan), start=start, tensorboard=options.tensorboard, active=ranks.is_first)
    numbers: dict[str, float] = {}
    began = time.perf_counter()
    with stop_flag() as stop:
        for step in range(start, len(plan)):
            tick = time.perf_counter()
            items = plan[step]
            weight = math.fsum(objective.weights[i] for i in items)
            totals = torch.zeros(3 + len(objective.metrics), dtype=torch.float64, device=device)
            done: list[tuple[list[int], Tensor]] = []
            parts = micro_batches(items, objective.widths, objective.rows_each, budget)
            for part in deal(parts, objective.widths, ranks.size, ranks.rank):
                outcome = objective.outcome(loaded.model, part)
                (outcome.loss / weight).backward()  # type: ignore[no-untyped-call]
                optimizer.accumulate()
                totals[0] += outcome.loss.detach() / weight
                totals[3:] += outcome.sums_M
                done.append((part, outcome.losses_B))
            norm = optimizer.reduce(ranks)
            totals[2] = float(stop.is_set)
            ranks.sum_in_place([totals])
            totals[1] = norm
            loss, grad_norm, stopping, *sums = totals.tolist()  # the one wait for the device in a step
            if not (math.isfinite(loss) and math.isfinite(grad_norm)):
                raise TrainerError(not_finite(step + 1, loss, grad_norm, done, objective, ranks))
            rate = rate_at(step, len(plan), options)
            optimizer.step(rate)

            means = {name: value / len(items) for name, value in zip(objective.metrics, sums, strict=True)}
            seconds = time.perf_counter() - tick
            tokens = sum(objective.lengths[i] for i in items)
            numbers = {"loss": loss, **objective.numbers(means, len(items), seconds)}
            numbers |= {"grad_norm": grad_norm, "lr": rate, "tokens_per_s": tokens / seconds}
            objective.watch(step + 1, numbers)
            log.advance()
            if (step + 1) % options.log_every == 0 or step + 1 == len(plan):
                log.write(step + 1, numbers)
            due = options.checkpoint_every and (step + 1) % options.checkpoint_every == 0 and step + 1 < len(plan)
            if due or stopping:
                write_checkpoint(optimizer, options, identity, step + 1, ranks)
            if stopping:
                raise KeyboardInterrupt
    log.close()
    result = {"steps": len(plan), "items": sum(map(len, plan)), "seconds": round(time.perf_counter() - began, 2), **numbers}
    finish(loaded, optimizer, options, identity, result, ranks)
    return result


def not_finite(step: int, loss: float, norm: float, done: Sequence[tuple[list[int], Tensor]], objective: Objective, ranks: Ranks) -> str:
    """The message that names the items to look at: those whose own loss is not finite, else the whole step's."""
    named = [(objective.ids[i], v) for part, losses_B in done for i, v in zip(part, losses_B.tolist(), strict=True)]
    everywhere = [pair for own in ranks.gather(named) for pair in own]
    bad = [name for name, value in everywhere if not math.isfinite(value)] or [name for name, _ in everywhere]
    shown = ", ".join(bad[:8]) + (f" and {len(bad) - 8} more" if len(bad) > 8 else "")
    return (
        f"loss {loss}, gradient norm {norm} at step {step}: stopped before the update, nothing saved; in {shown}; "
        "hint: look at these rows, lower --lr, or use --dtype float32"
    )


def resume(optimizer: MasterAdamW, options: TrainOptions, identity: str, device: torch.device) -> int:
    """Goes back to the newest whole checkpoint. Returns how many steps are done.

    Raises:
        UsageError: the checkpoint is another run's.
    """
    if options.resume == "never":
        return 0
    found = newest_whole(Path(options.out) / "checkpoints", identity)
    if found is None:
        return 0
    optimizer.restore(load_state(found, device))
    say(f"going on from {found.path}")
    return found.step


def write_checkpoint(optimizer: MasterAdamW, options: TrainOptions, identity: str, step: int, ranks: Ranks) -> None:
    """The first rank writes, the others wait."""
    if ranks.is_first:
        folder = Path(options.out) / "checkpoints"
        save_checkpoint(folder, step, optimizer.state(), identity, options.keep_checkpoints)
    ranks.wait()


def finish(loaded: Loaded, optimizer: MasterAdamW, options: TrainOptions, identity: str, result: dict[str, Any], ranks: Ranks) -> None:
    """Saves the model, then `train.json`: a run with this file is complete."""
    if ranks.is_first:
        optimizer.to_model()
        dtype = loaded.saved_dtype if options.save_dtype == "auto" else DTYPES[options.save_dtype]
        save(loaded, Path(options.out), dtype)
        receipt = {"fingerprint": identity, "options": vars(options), "model_hash": loaded.model_hash, "result": result}
        write_text(Path(options.out) / "train.json", json.dumps(receipt, indent=1))
        say(f"saved the model in {options.out}")
    ranks.wait()


class StopFlag:
    is_set = False


@contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """A flag that Ctrl-C or SIGTERM sets, so that the step ends and a checkpoint is written; the second Ctrl-C stops at once."""
    flag = StopFlag()

    def ask(number: int, frame: object) -> None:
        if flag.is_set:
            raise KeyboardInterrupt
        flag.is_set = True
        say("stopping after this step")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
