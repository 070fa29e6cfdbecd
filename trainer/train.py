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
from trainer.model import DTYPES, Loaded, memory_hint, micro_batch_budget, save
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
    """What a command trains on: items, each with an id, and what to do with some of them."""

    @property
    def ids(self) -> Sequence[str]:
        """The items' names."""

    @property
    def widths(self) -> Sequence[int]:
        """Each item's longest row, in tokens."""

    @property
    def lengths(self) -> Sequence[int]:
        """Each item's tokens, all rows together."""

    @property
    def weights(self) -> Sequence[float]:
        """Each item's share in a step's mean."""

    @property
    def rows_each(self) -> int:
        """Rows an item brings to a forward pass."""

    @property
    def metrics(self) -> Sequence[str]:
        """The names of `Outcome.sums_M`."""

    def steps(self, epoch: int) -> Iterator[list[int]]:
        """The items of every optimizer step of one epoch."""

    def outcome(self, model: Any, items: Sequence[int]) -> Outcome:
        """Forward pass and loss of one micro-batch."""

    def numbers(self, means: dict[str, float], n_items: int, seconds: float) -> dict[str, float]:
        """What the log shows of one step, given the metrics' means over its items."""

    def watch(self, step: int, numbers: dict[str, float]) -> None:
        """Warns when the numbers look unhealthy."""


@dataclass(frozen=True)
class Job:
    """One training run: all that the loop needs. `identity` is its fingerprint."""

    loaded: Loaded
    optimizer: MasterAdamW
    objective: Objective
    options: TrainOptions
    identity: str
    ranks: Ranks

    @property
    def out(self) -> Path:
        return Path(self.options.out)


def train(job: Job) -> dict[str, Any]:
    """Trains to the end, saves the model, and returns the last numbers.

    Raises:
        TrainerError: a loss or gradient is not finite; nothing is saved of it.
        KeyboardInterrupt: interrupted; a checkpoint was written first.
    """
    objective, optimizer, options, ranks = job.objective, job.optimizer, job.options, job.ranks
    device = job.loaded.device
    budget = micro_batch_budget(options.micro_batch_tokens, device)
    plan = [step for epoch in range(options.epochs) for step in objective.steps(epoch)]
    plan = plan[: options.max_steps or None]
    start = resume(job)
    numbers: dict[str, float] = {}
    log = RunLog(job.out, total=len(plan), start=start, tensorboard=options.tensorboard, active=ranks.is_first)
    began = time.perf_counter()
    with log, stop_flag() as stop, memory_hint():
        for step in range(start, len(plan)):
            tick = time.perf_counter()
            items = plan[step]
            weight = math.fsum(objective.weights[i] for i in items)
            totals = torch.zeros(3 + len(objective.metrics), dtype=torch.float64, device=device)
            done: list[tuple[list[int], Tensor]] = []
            parts = micro_batches(items, objective.widths, objective.rows_each, budget)
            for part in deal(parts, objective.widths, ranks.size, ranks.rank):
                outcome = objective.outcome(job.loaded.model, part)
                (outcome.loss / weight).backward()
                optimizer.accumulate()
                totals[0] += outcome.loss.detach() / weight
                totals[3:] += outcome.sums_M
                done.append((part, outcome.losses_B))
            norm = optimizer.reduce(ranks)
            totals[1] = stop.is_set
            ranks.sum_in_place([totals])
            totals[2] = norm
            loss, stopping, grad_norm, *sums = totals.tolist()  # the one wait for the device in a step
            if not (math.isfinite(loss) and math.isfinite(grad_norm)):
                raise TrainerError(not_finite(job, done, f"loss {loss}, gradient norm {grad_norm} at step {step + 1}"))
            rate = rate_at(step, len(plan), options)
            optimizer.step(rate)

            seconds = time.perf_counter() - tick
            means = {name: value / len(items) for name, value in zip(objective.metrics, sums, strict=True)}
            numbers = {
                "loss": loss,
                **objective.numbers(means, len(items), seconds),
                "grad_norm": grad_norm,
                "lr": rate,
            }
            n_tokens = sum(objective.lengths[i] for i in items)
            numbers |= {"tokens_per_s": n_tokens / seconds, "padding": padding(n_tokens, parts, objective)}
            objective.watch(step + 1, numbers)
            log.advance()
            if (step + 1) % options.log_every == 0 or step + 1 == len(plan):
                log.write(step + 1, numbers)
            if stopping or is_due(step + 1, len(plan), options):
                write_checkpoint(job, step + 1)
            if stopping:
                raise KeyboardInterrupt
    result = {**numbers, **summary(objective, plan[start:], time.perf_counter() - began), "steps": len(plan)}
    finish(job, result)
    return result


def padding(n_tokens: int, parts: Sequence[Sequence[int]], objective: Objective) -> float:
    """The share of a step's positions that hold no token."""
    places = sum(len(part) * objective.rows_each * max(objective.widths[i] for i in part) for part in parts)
    return 1 - n_tokens / places


def is_due(step: int, total: int, options: TrainOptions) -> bool:
    """Whether a checkpoint belongs after this step, 1-based; the end needs none."""
    return options.checkpoint_every > 0 and step % options.checkpoint_every == 0 and step < total


def summary(objective: Objective, plan: Sequence[Sequence[int]], seconds: float) -> dict[str, float]:
    """Counts and rates over all steps done in this process."""
    items = [i for step in plan for i in step]
    tokens = sum(objective.lengths[i] for i in items)
    return {
        "items": len(items),
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "items_per_s": len(items) / seconds,
        "tokens_per_s": tokens / seconds,
    }


def not_finite(job: Job, done: Sequence[tuple[list[int], Tensor]], what: str) -> str:
    """The message that names the items to look at: those whose own loss is not finite, else the whole step's."""
    ids = job.objective.ids
    named = [(ids[i], value) for part, losses_B in done for i, value in zip(part, losses_B.tolist(), strict=True)]
    everywhere = [pair for own in job.ranks.gather(named) for pair in own]
    bad = [name for name, value in everywhere if not math.isfinite(value)] or [name for name, _ in everywhere]
    shown = ", ".join(bad[:8]) + (f" and {len(bad) - 8} more" if len(bad) > 8 else "")
    return (
        f"{what}: stopped before the update, nothing saved; in {shown}; "
        "hint: look at these rows, lower --lr, or use --dtype float32"
    )


def resume(job: Job) -> int:
    """Goes back to the newest whole checkpoint. Returns how many steps are done.

    Raises:
        UsageError: the checkpoint is another run's.
    """
    if job.options.resume == "never":
        return 0
    found = newest_whole(job.out / "checkpoints", job.identity)
    if found is None:
        return 0
    job.optimizer.restore(load_state(found, job.loaded.device))
    say(f"going on from {found.path}")
    return found.step


def write_checkpoint(job: Job, step: int) -> None:
    """The first rank writes, the others wait."""
    if job.ranks.is_first:
        state = job.optimizer.state()
        save_checkpoint(job.out / "checkpoints", step, state, job.identity, job.options.keep_checkpoints)
    job.ranks.wait()


def finish(job: Job, result: dict[str, Any]) -> None:
    """Saves the model, then `train.json`: a run with this file is complete."""
    if job.ranks.is_first:
        job.optimizer.to_model()
        asked = job.options.save_dtype
        save(job.loaded, job.out, job.loaded.saved_dtype if asked == "auto" else DTYPES[asked])
        receipt = {
            "fingerprint": job.identity,
            "options": vars(job.options),
            "model_hash": job.loaded.model_hash,
            "result": result,
        }
        write_text(job.out / "train.json", json.dumps(receipt, indent=1))
        say(f"saved the model in {job.out}")
    job.ranks.wait()


class StopFlag:
    """Whether the run was asked to stop."""

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
