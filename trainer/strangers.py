"""Another prompt's completion for every row: what KTO estimates the KL on (2402.01306, section 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trainer.data import Ids
from trainer.errors import UsageError
from trainer.ranks import Ranks
from trainer.sharding import Turns


def strangers_of(names: Sequence[str], prompts: Sequence[Ids], sizes: Sequence[int], max_length: int) -> list[int]:
    """For each row the next one, in the rows' order, of another prompt and with completions that fit behind its own prompt.

    Args:
        sizes: tokens of each row's longest completion.

    Raises:
        UsageError: there is none.
    """
    n = len(names)
    found = []
    for i, prompt in enumerate(prompts):
        room = max_length - len(prompt)
        others = ((i + k) % n for k in range(1, n))
        other = next((j for j in others if sizes[j] <= room and prompts[j] != prompt), None)
        if other is None:
            raise UsageError(
                f"{names[i]}: KTO needs a completion of another prompt that fits behind this one's; "
                "hint: more prompts, a longer --max-length, or another loss"
            )
        found.append(other)
    return found


@torch.no_grad()
def mean_shift(shifts: Callable[[Sequence[int]], Tensor], parts: Turns, ranks: Ranks, device: torch.device) -> Tensor:
    """The mean of the strangers' log pi - log pi_ref over a whole step, on all ranks. Every rank must call it.

    Args:
        shifts: gives them for some items, as many numbers as it likes for each.
    """
    total = torch.zeros(2, dtype=torch.float64, device=device)
    for part, counts in parts:
        found = shifts(part).double()
        if counts:
            total += torch.stack([found.sum(), found.new_tensor(found.numel())])
    ranks.sum_in_place([total])
    return (total[0] / total[1]).float()
