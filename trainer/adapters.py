"""LoRA and QLoRA by peft: a few new weights beside frozen ones; the model without them is the reference.

Adapters are injected into the transformers model itself, so every other part of the trainer sees the model it knows.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from trainer.errors import EnvironmentProblem, UsageError
from trainer.options import TrainOptions
from trainer.sharding import whole

HINT = "hint: pip install 'preference-pipeline[lora]'"


def peft_module() -> Any:
    """The package peft.

    Raises:
        EnvironmentProblem: it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise EnvironmentProblem(f"LoRA needs the package peft; {HINT}") from error
    return peft


def is_adapted(model: Any) -> bool:
    """Whether the model carries an adapter."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def is_classifier(model: Any) -> bool:
    """Whether the model is a body under a head of its own: a reward model."""
    return not hasattr(model, "generate")


def add_adapter(model: Any, options: TrainOptions, source: str) -> None:
    """Freezes the model and adds a new adapter (its effect is zero at first), or goes on with the one at `--adapter`.

    The new weights are float32; those that are random come from the seed.

    Raises:
        UsageError: the adapter cannot be loaded, or no layer has the names given.
    """
    peft = peft_module()
    targets = list(options.lora_targets) if options.lora_targets != ("all-linear",) else "all-linear"
    config = peft.LoraConfig(
        r=options.lora_rank,
        lora_alpha=options.lora_alpha or 2 * options.lora_rank,
        lora_dropout=0.0,  # the step must see the model that is kept
        target_modules=targets,
        base_model_name_or_path=source,
        task_type="SEQ_CLS" if is_classifier(model) else "CAUSAL_LM",
    )
    torch.manual_seed(options.seed)
    try:
        if options.adapter:
            model.load_adapter(options.adapter, is_trainable=True)
        else:
            model.add_adapter(config)
    except (OSError, ValueError) as error:
        raise UsageError(f"the adapter cannot be added: {error}; hint: --lora-targets, --adapter") from error
    for name, weight in model.named_parameters():
        weight.requires_grad_("lora_" in name or getattr(weight, "keep_float32", False))  # a new head is trained whole
        if weight.requires_grad:
            weight.data = weight.data.float()
    model.eval()


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """Inside, the model is the one that its adapter was added to."""
    model.disable_adapters()
    try:
        yield
    finally:
        model.enable_adapters()


def merged(source: str, adapter: Path) -> Any:
    """The model at `source`, in float32 on the CPU, with the adapter at `adapter` added into its weights."""
    peft = peft_module()
    base = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()


def folded(model: Any, trained: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a model with its adapter added into them, under the names that they have without one.

        W + alpha / rank B A

    Args:
        trained: the adapter's weights, and those that were trained whole.

    Source: LoRA, arXiv 2106.09685, section 4.1.
    """
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if "lora_" in name:
            continue
        layer = name.removesuffix(".base_layer.weight")
        if layer == name:
            state[name] = trained.get(name, value)
        else:
            a, b = (trained[f"{layer}.lora_{side}.default.weight"] for side in "AB")
            state[f"{layer}.weight"] = whole(value).float().cpu() + model.get_submodule(layer).scaling["default"] * (
                b @ a
            )
    return {name.replace(".base_layer.", "."): value for name, value in state.items()}


def quantised(device: torch.device) -> dict[str, Any]:
    """What transformers needs to load frozen weights in 4 bits (QLoRA, 2305.14314: NF4, double quantisation).

    Raises:
        EnvironmentProblem: the package bitsandbytes is not installed, or there is no GPU.
    """
    try:
        import bitsandbytes  # noqa: F401 - only whether it is there
        from transformers import BitsAndBytesConfig
    except ImportError as error:
        raise EnvironmentProblem(
            "--quantize nf4 needs the package bitsandbytes; hint: pip install 'preference-pipeline[qlora]'"
        ) from error
    if device.type != "cuda":  # on a CPU bitsandbytes 0.50 warns that its gradients may be wrong
        raise EnvironmentProblem("--quantize nf4 needs a CUDA GPU; hint: --quantize none")
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": config, "device_map": {"": device}}
