"""The training loop, on one readable page; what is trained is an `Objective` (dpo.py, sft.py).

Legend: B items of a micro-batch (an item is a pair or a document), M metrics.

An optimizer step's loss is  sum_i w_i l_i / sum_i w_i  over all its items, however they are cut into micro-batches and dealt to
ranks: every gradient is divided by the whole step's weight, so accumulation is exact under uneven counts.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from trainer.batches import Shape, micro_batches, n_tokens
from trainer.checkpoint import Checkpoint, newest_whole, path_of, read_whole, save_checkpoint, write_text
from trainer.errors import TrainerError
from trainer.evaluate import Patience, evaluate
from trainer.interrupt import stop_flag
from trainer.logps import shapes_for
from trainer.model import Loaded, memory_hint, micro_batch_budget
from trainer.optim import MasterAdamW, rate_at
from trainer.options import TrainOptions
from trainer.ranks import Ranks
from trainer.runlog import RunLog, say
from trainer.saving import save_trained
from trainer.sharding import Turns, turns
from trainer.watchdog import Batch, Limit, Watchdog


@dataclass(frozen=True)
class Outcome:
    """One micro-batch: the weighted loss to differentiate (a sum), each item's loss, and each item's metrics."""

    loss: Tensor
    losses_B: Tensor
    metrics_BM: Tensor


class Objective(Protocol):
    """What a command trains on: items, each with an id, and what to do with some of them."""

    @property
    def ids(self) -> Sequence[str]:
        """The items' names."""

    @property
    def shapes(self) -> Sequence[Shape]:
        """Each item's prompt and completions, in numbers."""

    @property
    def weights(self) -> Sequence[float]:
        """Each item's share in a step's mean."""

    @property
    def metrics(self) -> Sequence[str]:
        """The names of `Outcome.metrics_BM`'s columns."""

    @property
    def limits(self) -> Sequence[Limit]:
        """What the watchdog looks at."""

    def steps(self, epoch: int) -> Iterator[list[int]]:
        """The items of every optimizer step of one epoch."""

    def begin(self, model: Any, parts: Turns, ranks: Ranks) -> None:
        """What a step's loss needs to know of all its items, before the first one. Every rank calls it, with its own parts."""

    def outcome(self, model: Any, items: Sequence[int]) -> Outcome:
        """Forward pass and loss of one micro-batch."""

    def numbers(self, means: dict[str, float], n_items: int, seconds: float) -> dict[str, float]:
        """What the log shows of one step, given the metrics' means over its items."""


@dataclass(frozen=True)
class Job:
    """One training run: all that the loop needs. `identity` is its fingerprint; `held_out` is what it is evaluated on."""

    loaded: Loaded
    optimizer: MasterAdamW
    objective: Objective
    options: TrainOptions
    identity: str
    ranks: Ranks
    held_out: Objective | None = None

    @property
    def out(self) -> Path:
        return Path(self.options.out)


@dataclass
class Progress:
    """How far a run is: the steps done, what the watchdog remembers, and the best evaluation."""

    step: int = 0
    watch: dict[str, dict[str, float]] = field(default_factory=lambda: {"means": {}, "told": {}})
    patience: Patience = field(default_factory=Patience)


def train(job: Job) -> dict[str, Any]:
    """Trains to the end, saves the model, and returns the last numbers.

    Raises:
        TrainerError: a loss, gradient or weight is not finite; nothing is saved of it.
        GatePassed: the watchdog was asked to stop.
        KeyboardInterrupt: interrupted; a checkpoint was written first.
    """
    objective, optimizer, options, ranks = job.objective, job.optimizer, job.options, job.ranks
    model, device = job.loaded.model, job.loaded.device
    budget = micro_batch_budget(options.micro_batch_tokens, device)
    shapes = shapes_for(model, objective.shapes)
    plan = [step for epoch in range(options.epochs) for step in objective.steps(epoch)]
    plan = plan[: options.max_steps or None]
    progress = resume(job)
    start, numbers, batch = progress.step, dict[str, float](), Batch((), (), (), ())
    began = time.perf_counter()
    log = RunLog(
        job.out, total=len(plan), start=start, tensorboard=options.tensorboard, active=ranks.is_first,
        wandb=options.wandb, run_id=job.identity,
    )  # fmt: skip
    with log, stop_flag() as stop, memory_hint():
        watchdog = Watchdog(objective.limits, options.stop_on, progress.watch, log, ranks)
        for step in range(start, len(plan)):
            if 0 < options.patience <= progress.patience.behind:
                say(f"stopping after step {step}: {options.patience} evaluations without a lower eval_loss")
                break
            tick = time.perf_counter()
            items = plan[step]
            weight = math.fsum(objective.weights[i] for i in items)
            totals = torch.zeros(3 + len(objective.metrics), dtype=torch.float64, device=device)
            done: list[tuple[list[int], Tensor, Tensor]] = []
            parts = micro_batches(items, shapes, budget)
            mine = turns(model, parts, shapes, ranks)
            objective.begin(model, mine, ranks)
            for part, counts in mine:
                outcome = objective.outcome(model, part)
                (outcome.loss * (counts / weight)).backward()
                if counts:
                    totals[0] += outcome.loss.detach() / weight
                    totals[3:] += outcome.metrics_BM.sum(0)
                    done.append((part, outcome.losses_B, outcome.metrics_BM))
            norm = optimizer.reduce(ranks)
            totals[1] = stop.is_set
            ranks.sum_in_place([totals])
            totals[2] = norm
            loss, stopping, grad_norm, *sums = totals.tolist()  # the one wait for the device in a step
            means = {name: value / len(items) for name, value in zip(objective.metrics, sums, strict=True)}
            batch = Batch(done, objective.ids, objective.weights, objective.metrics)
            watchdog.check_finite(step + 1, loss, grad_norm, weight, batch)
            watchdog.look(step + 1, means, batch)
            rate = rate_at(step, len(plan), options)
            optimizer.step(rate)

            progress.step = step + 1
            seconds = time.perf_counter() - tick
            numbers = {
                "loss": loss,
                **objective.numbers(means, len(items), seconds),
                "grad_norm": grad_norm,
                "lr": rate,
            }
            numbers |= economy(parts, objective.shapes, shapes, seconds)
            best = False
            if job.held_out is not None and is_due(step + 1, options.eval_every, len(plan), at_end=True):
                numbers |= evaluate(job, job.held_out)
                best = progress.patience.note(step + 1, numbers["eval_loss"])
            log.advance()
            if (step + 1) % options.log_every == 0 or step + 1 == len(plan) or "eval_loss" in numbers:
                log.write(step + 1, numbers)
            kept = best and options.patience > 0
            if stopping or kept or is_due(step + 1, options.checkpoint_every, len(plan), at_end=False):
                log.sync()
                write_checkpoint(job, progress, watchdog, batch)
            if stopping:
                raise KeyboardInterrupt
        stop_unhealthy(job, watchdog, progress.step, batch)
    take_best(job, progress)
    steps = {"steps": progress.step} | ({"best_step": progress.patience.best_step} if options.patience else {})
    result = {**numbers, **summary(objective, plan[start : progress.step], time.perf_counter() - began), **steps}
    finish(job, result)
    return result


def economy(
    parts: Sequence[Sequence[int]], plain: Sequence[Shape], shapes: Sequence[Shape], seconds: float
) -> dict[str, float]:
    """A step's real tokens a second, the share of positions that held none, and the share of plain rows' tokens saved."""
    n_plain = sum(plain[i].n_plain for part in parts for i in part)
    places = sum(n_tokens(part, shapes) for part in parts)
    n_real = min(places, n_plain)
    return {"tokens_per_s": n_real / seconds, "padding": 1 - n_real / places, "shared": 1 - n_real / n_plain}


def is_due(step: int, every: int, total: int, *, at_end: bool) -> bool:
    """Whether something done every so many steps (0 = never) is due after this step, 1-based, and whether the last counts."""
    return at_end if step == total else every > 0 and step % every == 0


def summary(objective: Objective, plan: Sequence[Sequence[int]], seconds: float) -> dict[str, float]:
    """Counts and rates over all steps done in this process."""
    items = [i for step in plan for i in step]
    tokens = sum(objective.shapes[i].n_plain for i in items)
    return {
        "items": len(items),
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "items_per_s": len(items) / seconds,
        "tokens_per_s": tokens / seconds,
    }


def resume(job: Job) -> Progress:
    """Goes back to the newest whole checkpoint.

    Raises:
        UsageError: the checkpoint is another run's.
    """
    if job.options.resume == "never":
        return Progress()
    found = job.ranks.from_first(lambda: newest_whole(job.out / "checkpoints", job.identity))
    if found is None:
        return Progress()
    job.optimizer.restore(found, job.ranks)
    say(f"going on from {found.path}")
    return Progress(found.step, found.progress["watch"], Patience(**found.progress["patience"]))


def stop_unhealthy(job: Job, watchdog: Watchdog, step: int, batch: Batch) -> None:
    """Stops before weights that are not finite reach a disk.

    Raises:
        TrainerError: naming the weights, and the items of the last step.
    """
    bad = job.optimizer.unhealthy()
    if bad:
        watchdog.stop(
            step, f"{', '.join(bad[:3])} and their kind are not finite after step {step}: nothing saved", batch
        )


def write_checkpoint(job: Job, progress: Progress, watchdog: Watchdog, batch: Batch) -> None:
    """All ranks write their part of a checkpoint."""
    stop_unhealthy(job, watchdog, progress.step, batch)
    folder = job.out / "checkpoints"
    kept = {"watch": watchdog.state, "patience": progress.patience.state()}
    found = Checkpoint(path_of(folder, progress.step), progress.step, job.identity, kept)
    best = progress.patience.best_step if job.options.patience else None
    save_checkpoint(folder, found, job.optimizer.state(), job.ranks, job.options.keep_checkpoints, best)


def take_best(job: Job, progress: Progress) -> None:
    """With `--patience`, goes back to the best evaluation's weights.

    Raises:
        TrainerError: their checkpoint is not whole any more.
    """
    best = progress.patience.best_step
    if not job.options.patience or best in (None, progress.step):
        return
    found = job.ranks.from_first(lambda: read_whole(path_of(job.out / "checkpoints", best)))
    if found is None or found.fingerprint != job.identity:
        raise TrainerError(
            f"the checkpoint of the best evaluation, step {best}, is not whole; hint: --resume never trains again"
        )
    job.optimizer.restore(found, job.ranks)
    say(f"the weights are those after step {best}, the lowest eval_loss")


def finish(job: Job, result: dict[str, Any]) -> None:
    """Saves the model, then `train.json`: a run with this file is complete."""
    save_trained(job.loaded, job.optimizer.whole_weights(), job.options, job.ranks)
    if job.ranks.is_first:
        receipt = {
            "fingerprint": job.identity,
            "options": vars(job.options),
            "model_hash": job.loaded.model_hash,
            "result": result,
        }
        write_text(job.out / "train.json", json.dumps(receipt, indent=1))
        say(f"saved the model in {job.out}")
    job.ranks.wait()
