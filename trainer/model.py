"""A model folder in, a model folder out: load, hash, cast, save. The hashes are defined in docs/format.md, "Hashes"."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from trainer.adapters import quantised
from trainer.errors import EnvironmentProblem, UsageError
from trainer.options import ModelOptions, TrainOptions

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MIB = 1 << 20


@dataclass(frozen=True)
class Loaded:
    """A model ready to train or score.

    `saved_dtype` is the type its folder keeps weights in; `end_ids` are the tokens that end a completion.
    """

    model: Any
    tokenizer: Any
    source: str
    device: torch.device
    dtype: torch.dtype
    saved_dtype: torch.dtype
    end_ids: tuple[int, ...]
    model_hash: str
    tokenizer_hash: str
    template_hash: str | None
    adapter_hash: str | None = None

    @property
    def hashes(self) -> dict[str, str | None]:
        """What the model, its text and its arithmetic are: part of a run's fingerprint."""
        return {
            "model": self.model_hash,
            "tokenizer": self.tokenizer_hash,
            "template": self.template_hash,
            "dtype": str(self.dtype),
            "adapter": self.adapter_hash,
        }


def short_hash(data: bytes) -> str:
    """The first 32 hexadecimal digits of the SHA-256."""
    return hashlib.sha256(data).hexdigest()[:32]


def compact_json(value: object) -> bytes:
    """JSON without spaces, in ASCII: what the hashes are of."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode()


def tokenizer_hash(tokenizer: Any) -> str:
    """Equal when the ids mean the same text."""
    return short_hash(compact_json(sorted([token, index] for token, index in tokenizer.get_vocab().items())))


def template_hash(tokenizer: Any) -> str | None:
    """Equal when chats are rendered alike; None when there is no chat template."""
    template = getattr(tokenizer, "chat_template", None)
    return short_hash(template.encode()) if isinstance(template, str) else None


def _ends_sha256(path: Path) -> str:
    """SHA-256 of a file's first and last MiB; of all of it when it has at most 2 MiB."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= 2 * MIB:
            return hashlib.sha256(file.read()).hexdigest()
        digest = hashlib.sha256(file.read(MIB))
        file.seek(size - MIB)
        digest.update(file.read())
        return digest.hexdigest()


def folder_hash(folder: Path) -> str:
    """The model hash of a local folder: of its config.json and *.safetensors."""
    files = sorted([*folder.glob("config.json"), *folder.glob("*.safetensors")], key=lambda p: p.name)
    return short_hash(compact_json(sorted([p.name, p.stat().st_size, _ends_sha256(p)] for p in files)))


def adapter_hash(options: ModelOptions) -> str | None:
    """The hash of the adapter to go on with, and of how the weights below it are kept; None without either."""
    if not isinstance(options, TrainOptions) or not (options.adapter or options.quantize != "none"):
        return None
    files = sorted(Path(options.adapter).glob("adapter_*")) if options.adapter else []
    return short_hash(compact_json([options.quantize, [[p.name, _ends_sha256(p)] for p in files]]))


def model_hash(source: str, commit: str | None = None) -> str:
    """The model hash of a folder, or of `name@commit` for a Hub name."""
    return folder_hash(Path(source)) if Path(source).is_dir() else short_hash(f"{source}@{commit}".encode())


def choose_device(name: str) -> torch.device:
    """The device by its option, with the settings that this trainer wants there.

    Raises:
        EnvironmentProblem: cuda was asked for and is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise EnvironmentProblem(
            "device is cuda, but torch sees no GPU; hint: --device cpu, or check nvidia-smi and the torch build"
        )
    if name == "cpu" or not torch.cuda.is_available():
        warnings.filterwarnings("ignore", "The value of the smallest subnormal")  # numpy notices the next line
        torch.set_flush_denormal(
            True
        )  # saturated margins make denormal gradients: 6x slower without (trainer-speed.md)
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    torch.backends.cuda.matmul.allow_tf32 = False
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The forward pass's type by its option."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return DTYPES[name]


def choose_attention(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """transformers' attention by its option: on CPU the fused kernel's bfloat16 backward pass is slower than the formula."""
    if name == "auto":
        return "eager" if device.type == "cpu" and dtype == torch.bfloat16 else "sdpa"
    return name


def micro_batch_budget(tokens: int, device: torch.device) -> int:
    """Tokens of one forward pass by its option: few on a CPU, where more gain nothing (docs/log.md)."""
    return tokens or (16384 if device.type == "cuda" else 2048)


def check_folder(source: str) -> None:
    """Refuses what only looks like a model folder.

    Raises:
        UsageError: naming the folder and what it lacks.
    """
    path = Path(source)
    if not path.is_dir():
        if source.startswith((".", "/", "~")) or source.count("/") > 1:
            raise UsageError(
                f"model folder {source} does not exist; hint: a local folder with config.json, or a Hub name like org/name"
            )
        return
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a local folder needs no network
    if not (path / "config.json").is_file():
        raise UsageError(f"model folder {source} has no config.json; hint: give the folder that holds it")
    if not any(path.glob("tokenizer*")):
        raise UsageError(
            f"model folder {source} has no tokenizer; hint: copy the tokenizer files of its base model into it"
        )


def load_tokenizer(source: str) -> Any:
    """The folder's tokenizer.

    Raises:
        UsageError: there is none, it cannot be read, or it has no end token.
    """
    check_folder(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the tokenizer of {source} cannot be loaded: {error}; hint: check its tokenizer files"
        ) from error
    if tokenizer.eos_token_id is None:
        raise UsageError(f"the tokenizer of {source} has no end token; hint: set eos_token in tokenizer_config.json")
    return tokenizer


def end_token_ids(tokenizer: Any, generation: Any) -> tuple[int, ...]:
    """Every token that ends a completion: the tokenizer's first, then the generation config's."""
    more = getattr(generation, "eos_token_id", None)
    listed = more if isinstance(more, list) else [] if more is None else [more]
    return tuple(dict.fromkeys([tokenizer.eos_token_id, *listed]))


def _weights(source: str, init: str, seed: int, attention: str, quantize: dict[str, Any]) -> Any:
    """The model with float32 weights on the CPU: read from the folder, or drawn from the seed; 4-bit weights by the option."""
    if init == "random":
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(source), dtype=torch.float32, attn_implementation=attention
        )
    return AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation=attention, **quantize)


def cast_parameters(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Gives the parameters another type; buffers (rotary frequencies), 4-bit weights and those marked `keep_float32` stay."""
    for parameter in model.parameters():
        if parameter.is_floating_point() and not getattr(parameter, "keep_float32", False):
            parameter.data = parameter.data.to(dtype)


def load(options: ModelOptions, *, init: str = "pretrained", seed: int = 0) -> Loaded:
    """A model and its tokenizer, with float32 weights on the device; the optimizer casts them once it holds its copy.

    For a training command under torchrun they stay on the CPU, for `open_optimizer` to cut or to move.

    Raises:
        UsageError: the folder is missing, or lacks weights, config or tokenizer.
    """
    source = options.model
    transformers_logging.disable_progress_bar()
    tokenizer = load_tokenizer(source)
    where = choose_device(options.device)
    forward_dtype = choose_dtype(options.dtype, where)
    try:
        config = AutoConfig.from_pretrained(source)
        attention = choose_attention(options.attention, where, forward_dtype)
        model = _weights(source, init, seed, attention, quantised(where) if _is_quantised(options) else {})
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the model {source} cannot be loaded: {error}; hint: --init random needs no weights"
        ) from error
    model.eval()  # no dropout: the reference and the policy must agree; gradients flow all the same
    if not _is_quantised(options):
        model.requires_grad_(True)
        model.to(torch.device("cpu") if _may_be_cut(options) else where)
    commit = getattr(config, "_commit_hash", None)
    return Loaded(
        model=model,
        tokenizer=tokenizer,
        source=source,
        device=where,
        dtype=forward_dtype,
        saved_dtype=getattr(config, "dtype", None) or torch.float32,
        end_ids=end_token_ids(tokenizer, model.generation_config),
        model_hash=model_hash(source, commit),
        tokenizer_hash=tokenizer_hash(tokenizer),
        template_hash=template_hash(tokenizer),
        adapter_hash=adapter_hash(options),
    )


def _is_quantised(options: ModelOptions) -> bool:
    return isinstance(options, TrainOptions) and options.quantize != "none"


def _may_be_cut(options: ModelOptions) -> bool:
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return several and isinstance(options, TrainOptions) and options.shard != "never"


@contextmanager
def memory_hint() -> Iterator[None]:
    """Turns a GPU's out-of-memory error into one with a hint.

    Raises:
        EnvironmentProblem: instead of torch's error.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise EnvironmentProblem(
            f"the GPU is out of memory: {error}; hint: lower --micro-batch-tokens or --head-mib"
        ) from error
