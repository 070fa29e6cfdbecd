"""Evaluation on held-out items while training, and when to stop for it: forward passes only, cut and dealt as in training."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from trainer.batches import micro_batches
from trainer.data import Ids
from trainer.errors import TrainerError
from trainer.logps import shapes_for
from trainer.model import micro_batch_budget
from trainer.runlog import say
from trainer.sharding import turns
from trainer.watchdog import Batch, everywhere, listed

if TYPE_CHECKING:
    from trainer.train import Job, Objective


@torch.no_grad()
def evaluate(job: Job, held_out: Objective) -> dict[str, float]:
    """The held-out items' loss (their weighted mean) and what a step's log line would show of them, as `eval_*`.

    Every rank must call it.

    Raises:
        TrainerError: the loss is not finite, naming the items.
    """
    began = time.perf_counter()
    items = range(len(held_out.ids))
    totals = torch.zeros(1 + len(held_out.metrics), dtype=torch.float64, device=job.loaded.device)
    budget = micro_batch_budget(job.options.micro_batch_tokens, job.loaded.device)
    shapes = shapes_for(job.loaded.model, held_out.shapes)
    parts = micro_batches(items, shapes, budget)
    done = []
    mine = turns(job.loaded.model, parts, shapes, job.ranks)
    held_out.begin(job.loaded.model, mine, job.ranks)
    for part, counts in mine:
        outcome = held_out.outcome(job.loaded.model, part)
        if counts:
            totals[0] += outcome.loss
            totals[1:] += outcome.metrics_BM.sum(0)
            done.append((part, outcome.losses_B, outcome.metrics_BM))
    job.ranks.sum_in_place([totals])
    loss, *sums = totals.tolist()
    if not math.isfinite(loss):
        rows = everywhere(job.ranks, Batch(done, held_out.ids, held_out.weights, held_out.metrics).rows(None))
        bad = [name for name, value in rows if not math.isfinite(value)]
        raise TrainerError(f"the held-out loss is {loss}, in {listed(bad)}; hint: look at these rows, or lower --lr")
    means = {name: value / len(items) for name, value in zip(held_out.metrics, sums, strict=True)}
    shown = held_out.numbers(means, len(items), time.perf_counter() - began)
    return {"eval_loss": loss / math.fsum(held_out.weights), **{f"eval_{name}": shown[name] for name in shown}}


def warn_of_trained(trained: Iterable[Ids], held: Iterable[Ids]) -> None:
    """Says how many held-out rows have a prompt that is trained on."""
    known = {tuple(prompt) for prompt in trained}
    both = sum(tuple(prompt) in known for prompt in held)
    if both:
        say(f"warning: the prompts of {both} held-out rows are trained on as well; hint: hold out whole prompts")


@dataclass
class Patience:
    """The best evaluation so far, and how many came after it without beating it."""

    best_step: int | None = None
    best_loss: float = math.inf
    behind: int = 0

    def note(self, step: int, loss: float) -> bool:
        """Takes one evaluation in; whether it is the best."""
        better = loss < self.best_loss
        if better:
            self.best_step, self.best_loss, self.behind = step, loss, 0
        else:
            self.behind += 1
        return better

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it (JSON)."""
        return asdict(self) if self.best_step is not None else {}
