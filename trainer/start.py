"""How a training run begins: its folder, and whether it has ended before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from trainer.adapters import add_adapter, is_classifier
from trainer.attention_choice import prepare
from trainer.errors import UsageError
from trainer.memory import spare
from trainer.model import Loaded
from trainer.optim import MasterAdamW
from trainer.options import TrainOptions
from trainer.ranks import Ranks
from trainer.runlog import say
from trainer.sharding import blocks, shard, wants_sharding


def prepare_out(options: TrainOptions) -> Path:
    """The output folder, made where absent; emptied of an earlier run's state when starting over.

    Raises:
        UsageError: it is the folder of the model to start from.
    """
    out = Path(options.out)
    if out.exists() and Path(options.model).is_dir() and out.samefile(options.model):
        raise UsageError(f"--out {out} is the model's own folder; hint: write to another one")
    out.mkdir(parents=True, exist_ok=True)
    if options.resume == "never":
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        (out / "train.json").unlink(missing_ok=True)
    return out


def open_optimizer(loaded: Loaded, options: TrainOptions, ranks: Ranks) -> MasterAdamW:
    """The optimizer of a run: the model gets its adapter, is cut over the ranks or moved to its device, cast, and takes trees.

    No forward pass may come before this.

    Raises:
        UsageError: an adapter or 4-bit weights are asked for where they cannot be.
    """
    if options.adapted:
        add_adapter(loaded.model, options, loaded.source)
    if wants_sharding(loaded.model, options, ranks, loaded.device):
        if options.quantize != "none":
            raise UsageError("4-bit weights cannot be cut over ranks; hint: --quantize none, or --shard never")
        if options.adapted and is_classifier(loaded.model):  # one rank adds the adapter into weights that it has whole
            raise UsageError("a reward model's adapter needs whole weights on each rank; hint: --shard never")
        shard(loaded.model, ranks, loaded.device, loaded.dtype)
        say(f"weights and optimizer are cut over {ranks.size} ranks (FSDP2)")
    elif options.quantize == "none":
        loaded.model.to(loaded.device)
    optimizer = MasterAdamW(loaded.model, loaded.dtype, options)
    prepare(loaded.model, loaded.device, options.attention, compiled=options.compile)
    spare(loaded.model, loaded.device, options)
    if options.compile:
        compile_layers(loaded.model)
    return optimizer


def compile_layers(model: torch.nn.Module, backend: str = "inductor") -> None:
    """Compiles each decoder layer, with lengths left open; attention over trees stays as it is."""
    for block in blocks(model):
        block.compile(backend=backend, dynamic=True)


def finished(out: Path, identity: str) -> dict[str, Any] | None:
    """The result of this very run when it has ended before, else None.

    Raises:
        UsageError: another run has ended in this folder.
    """
    try:
        receipt = json.loads((out / "train.json").read_text())
    except OSError:
        return None
    if receipt["fingerprint"] != identity:
        raise UsageError(
            f"{out} holds the model of a run with other options, model or data; hint: choose another --out, "
            "or start over with --resume never"
        )
    say(f"{out} is done already; hint: --resume never trains again")
    result: dict[str, Any] = receipt["result"]
    return result


def logps_path(out: str) -> Path:
    """The Parquet file to write: the one named, or `logps.parquet` in the folder named."""
    return Path(out) if out.endswith(".parquet") else Path(out) / "logps.parquet"
