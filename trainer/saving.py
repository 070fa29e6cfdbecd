"""What a run leaves behind: a Hugging Face folder that transformers and vLLM load, or an adapter that peft loads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, GenerationConfig

from trainer.adapters import folded, is_adapted, is_classifier, merged
from trainer.model import DTYPES, Loaded
from trainer.options import TrainOptions
from trainer.ranks import Ranks
from trainer.sharding import whole

# Files of a model folder that are copied byte for byte, so that the tokenizer and template stay exactly what they were.
COPIED = (
    "tokenizer",
    "special_tokens",
    "added_tokens",
    "vocab",
    "merges",
    "chat_template",
    "spiece",
    "generation_config",
    "tekken",
)
ADAPTER = "adapter"  # where the adapter of a merged model lies


def save_trained(loaded: Loaded, weights: Iterable[tuple[str, Tensor]], options: TrainOptions, ranks: Ranks) -> None:
    """Writes what was trained to `--out`: the whole model, or its adapter; with `--merge` both, the adapter in `adapter/`.

    A reward model's adapter is always added into its weights.

    Args:
        weights: all ranks go through them, the first one keeps and writes them.
    """
    out = Path(options.out)
    dtype = loaded.saved_dtype if options.save_dtype == "auto" else DTYPES[options.save_dtype]
    kept = {name: values.detach().to("cpu", copy=True) for name, values in weights if ranks.is_first}
    if not ranks.is_first:
        return
    if not is_adapted(loaded.model):
        place(staged(loaded, loaded.model, complete(loaded.model, kept, dtype), out, dtype), out)
    elif is_classifier(loaded.model):  # its readers load whole models
        with torch.device("meta"):
            bare = AutoModelForSequenceClassification.from_config(loaded.model.config)
        bare.score.weight.keep_float32 = True
        place(staged(loaded, bare, complete(bare, folded(loaded.model, kept), dtype), out, dtype), out)
    elif not options.merge:
        place(staged(loaded, loaded.model, kept, out, None), out)
    else:
        place(staged(loaded, loaded.model, kept, out / ADAPTER, None), out / ADAPTER)
        model = merged(loaded.source, out / ADAPTER)
        place(staged(loaded, model, complete(model, {}, dtype), out, dtype), out)


def complete(model: torch.nn.Module, trained: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """A model's state to save: trained weights, and what it holds besides (tied weights once, by their first name)."""
    parameters = dict(model.named_parameters())
    tied = model.state_dict().keys() - parameters.keys() - dict(model.named_buffers()).keys()
    state = {name: value for name, value in model.state_dict().items() if name not in trained and name not in tied}
    for name, value in trained.items():
        state[name] = value
    return {name: _saved(value, parameters.get(name), dtype) for name, value in state.items()}


def _saved(value: Tensor, parameter: Tensor | None, dtype: torch.dtype) -> Tensor:
    """In the saved type, but for buffers and for weights that ask to stay float32."""
    if parameter is None or getattr(parameter, "keep_float32", False):
        return value
    return whole(value).to(dtype)


def staged(loaded: Loaded, model: Any, state: dict[str, Tensor], out: Path, dtype: torch.dtype | None) -> Path:
    """A finished folder beside its place: weights, configuration, and the source's tokenizer files."""
    staging = out / ".model-staging"
    shutil.rmtree(staging, ignore_errors=True)
    model.save_pretrained(staging, state_dict=state)
    if dtype is not None:  # save_pretrained writes the type that the model has in memory
        model.config.dtype = dtype
        model.config.save_pretrained(staging)
    source = Path(loaded.source)
    if source.is_dir():
        for path in source.iterdir():
            if path.is_file() and path.name.startswith(COPIED):
                shutil.copyfile(path, staging / path.name)
    else:
        loaded.tokenizer.save_pretrained(staging)
    if dtype is not None and not (staging / "generation_config.json").exists():
        GenerationConfig.from_model_config(model.config).save_pretrained(staging)
    _flush(staging.iterdir())
    return staging


def place(staging: Path, out: Path) -> None:
    """Moves a staged folder's files to their place: no configuration stands there while the weights change."""
    last = ("config.json", "adapter_config.json")
    for stale in [*(out / name for name in last), *out.glob("*.safetensors*")]:
        stale.unlink(missing_ok=True)
    for path in sorted(staging.iterdir(), key=lambda p: p.name in last):
        path.replace(out / path.name)
    staging.rmdir()


def _flush(paths: Iterable[Path] | Iterator[Path]) -> None:
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
