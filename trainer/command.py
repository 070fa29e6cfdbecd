"""What the training commands do alike, once their data and their model are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from trainer.model import Loaded
from trainer.options import TrainOptions
from trainer.ranks import Ranks, joined
from trainer.start import finished, open_optimizer
from trainer.train import Job, Objective, train

Objectives: TypeAlias = tuple[Objective, Objective | None]  # to train on, and to evaluate on


def carry_out(
    loaded: Loaded,
    options: TrainOptions,
    identity: str,
    objectives: Callable[[Ranks], Objectives],
    refused: Mapping[str, int],
) -> dict[str, Any]:
    """Trains to the end, and returns the last numbers; those of the run that ended before, where it was this very one.

    Args:
        objectives: makes what is trained and evaluated on, by forward passes of the model where it needs them.
    """
    before = finished(Path(options.out), identity)
    if before is not None:
        return before
    with joined(loaded.device) as ranks:
        optimizer = open_optimizer(loaded, options, ranks)
        objective, held_out = objectives(ranks)
        result = train(Job(loaded, optimizer, objective, options, identity, ranks, held_out))
    return {**result, "refused": dict(refused)}
