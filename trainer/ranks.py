"""One process or several: torchrun's variables in, and the three things that processes say to each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.errors import TrainerError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among its peers. Alone, every method does nothing."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum_in_place(self, tensors: Iterable[Tensor]) -> None:
        """Every tensor becomes its sum over all ranks."""
        if self.size > 1:
            pending = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]
            for work in pending:
                work.wait()

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in the order of ranks, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first rank makes, on every rank; what it raises is raised on every rank."""
        made: T | None = None
        error: TrainerError | None = None
        if self.is_first:
            try:
                made = make()
            except TrainerError as raised:
                error = raised
        made, error = self.gather((made, error))[0]
        if error is not None:
            raise error
        return cast(T, made)

    def wait(self) -> None:
        """Returns when every rank has come here."""
        self.gather(None)


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """The ranks of this run: those of torchrun, else one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
