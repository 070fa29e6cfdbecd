"""The watchdog: warns of a step whose numbers pass a limit, stops where asked to, and names the items of the batch.

A number that is not finite always stops, before the update. Every alarm is a line of `alarms.jsonl` with all ids of its batch,
the likeliest culprits first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from trainer.errors import GatePassed, TrainerError, UsageError
from trainer.ranks import Ranks
from trainer.runlog import RunLog, say

SHOWN = 8  # ids in a message; the file has them all


@dataclass(frozen=True)
class Limit:
    """A number of the log that should stay below a bound, as a running mean (a tenth of each step's value).

    `value` reads it from a step's means (None: not known); `metric` orders a batch's items for naming, the lowest first unless
    `highest`; `name` is what `--stop-on` calls it.
    """

    name: str
    most: float
    value: Callable[[dict[str, float]], float | None]
    metric: str
    highest: bool
    what: str
    hint: str


def fall_limit(name: str, most: float, whose: str, shift: str, tokens: str, hint: str) -> Limit:
    """How far a log-prob has fallen, nats a token: minus one metric's mean by another's."""

    def fall(means: dict[str, float]) -> float | None:
        return -means[shift] / means[tokens] if shift in means and means[tokens] else None

    what = f"the {whose} log-prob has fallen by {{:.2g}} nats a token"
    return Limit(name, most, fall, shift, highest=False, what=what, hint=hint)


def kl_limit(most: float, hint: str) -> Limit:
    """How far the policy is from its reference, by the metric `kl`."""
    return Limit(
        "kl", most, lambda means: means.get("kl"), "kl", highest=True,
        what="the KL estimate is {:.3g} nats a completion", hint=hint,
    )  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """What this rank saw of one step: for every micro-batch the items, their losses and their metrics."""

    parts: Sequence[tuple[Sequence[int], Tensor, Tensor]]
    ids: Sequence[str]
    weights: Sequence[float]
    metrics: Sequence[str]

    def rows(self, metric: str | None) -> list[tuple[str, float]]:
        """Each item's id with a metric, or with its weighted loss."""
        found = []
        for items, losses_B, metrics_BM in self.parts:
            if metric is None:
                values = [loss * self.weights[i] for i, loss in zip(items, losses_B.tolist(), strict=True)]
            else:
                values = metrics_BM[:, self.metrics.index(metric)].tolist()
            found += [(self.ids[i], value) for i, value in zip(items, values, strict=True)]
        return found


class Watchdog:
    """Looks at every step before its update. `state` is what a checkpoint must keep of it (JSON)."""

    def __init__(
        self,
        limits: Sequence[Limit],
        stop_on: Sequence[str],
        state: dict[str, dict[str, float]],
        log: RunLog,
        ranks: Ranks,
    ) -> None:
        unknown = set(stop_on) - {limit.name for limit in limits}
        if unknown:
            raise UsageError(
                f"--stop-on {' '.join(sorted(unknown))}: this command has no such limit; hint: leave it out"
            )
        self.limits = limits
        self.stop_on = stop_on
        self.log = log
        self.ranks = ranks
        self.state = state

    def look(self, step: int, means: dict[str, float], batch: Batch) -> None:
        """Warns of what passed a limit, and again at every doubling.

        Raises:
            GatePassed: the limit is one of `--stop-on`; the step's update is not made.
        """
        for limit in self.limits:
            value = limit.value(means)
            if value is None:
                continue
            mean = 0.9 * self.state["means"].get(limit.name, 0.0) + 0.1 * value
            self.state["means"][limit.name] = mean
            told = self.state["told"].get(limit.name, limit.most)
            if limit.most > 0 and mean > told:
                self.state["told"][limit.name] = 2 * mean
                self._alarm(step, limit, mean, batch)

    def _alarm(self, step: int, limit: Limit, mean: float, batch: Batch) -> None:
        rows = everywhere(self.ranks, batch.rows(limit.metric))
        names = [name for name, _ in sorted(rows, key=lambda row: row[1], reverse=limit.highest)]
        self.log.alarm({"step": step, "alarm": limit.name, "value": mean, "limit": limit.most, "ids": names})
        text = f"at step {step} {limit.what.format(mean)}, limit {limit.most:g}; most in {listed(names)}"
        if limit.name in self.stop_on:
            raise GatePassed(f"{text}: stopped before the update, as --stop-on says; hint: {limit.hint}")
        say(f"warning: {text}; hint: {limit.hint}")

    def check_finite(self, step: int, loss: float, grad_norm: float, weight: float, batch: Batch) -> None:
        """Stops at a loss, gradient or data weight that is not finite (a loss divided by an infinite weight is 0).

        Raises:
            TrainerError: naming the items whose loss is not finite, or all of the batch when only the gradient is not.
        """
        if all(map(math.isfinite, (loss, grad_norm, weight))):
            return
        self.stop(
            step,
            f"loss {loss}, gradient norm {grad_norm}, weight {weight} at step {step}: stopped before the update, nothing saved",
            batch,
        )

    def stop(self, step: int, what: str, batch: Batch) -> None:
        """Writes the alarm and ends the run.

        Raises:
            TrainerError: always.
        """
        rows = everywhere(self.ranks, batch.rows(None))
        names = [name for name, value in rows if not math.isfinite(value)] or [name for name, _ in rows]
        self.log.alarm({"step": step, "alarm": "not_finite", "ids": names})
        raise TrainerError(f"{what}; in {listed(names)}; hint: look at these rows, lower --lr, or use --dtype float32")


def everywhere(ranks: Ranks, own: list[Any]) -> list[Any]:
    """All ranks' rows."""
    return [row for part in ranks.gather(own) for row in part]


def listed(names: Sequence[str]) -> str:
    """Some ids, and how many more there are."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more (alarms.jsonl)" if len(names) > SHOWN else "")
