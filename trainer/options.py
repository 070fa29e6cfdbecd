"""The options that commands share: frozen dataclasses, their fields are the options. Standard library only.

A field's help is one sentence and, where its default is a number, where the number is from ("own" = chosen here, not measured).
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field
from typing import Any, Literal

Dtype = Literal["auto", "float32", "bfloat16"]
Schedule = Literal["linear", "cosine", "constant"]


def option(help: str, default: Any = MISSING) -> Any:
    """A field with its help sentence; without a default it must be given."""
    return field(metadata={"help": help}, **({} if default is MISSING else {"default": default}))


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model, which data, and how numbers are kept."""

    data: tuple[str, ...] = option("the data: a dataset folder, or files")
    model: str = option("the model to start from: a local Hugging Face folder, or a Hub name")
    out: str = option("the folder to write to")
    device: Literal["auto", "cpu", "cuda"] = option("where to compute; auto = cuda when there is one", "auto")
    dtype: Dtype = option(
        "the weights' type in the forward pass; the optimizer keeps float32 either way; auto = bfloat16 on cuda, float32 on cpu",
        "auto",
    )
    attention: str = option(
        "auto = a kernel over trees where it gives the model's own numbers (docs/training.md), else transformers' sdpa "
        "(eager for bfloat16 on cpu); a name = transformers' attention of that name, on padded rows",
        "auto",
    )
    max_length: int = option(
        "most tokens of prompt and completion; longer rows are refused and counted (TRL's 1024, doubled: own)", 2048
    )
    cut_prompt: bool = option(
        "keep a pair that is too long without its prompt's beginning, and say so; a completion is never cut", False
    )
    micro_batch_tokens: int = option(
        "tokens of one forward pass; lower it when memory runs out; 0 = 2048 on cpu (docs/log.md), 16384 on cuda (own)",
        0,
    )
    head_mib: int = option(
        "memory for the vocabulary's probabilities; above it they are computed in pieces, again in the backward pass (own)",
        256,
    )


@dataclass(frozen=True, kw_only=True)
class TrainOptions(ModelOptions):
    """What every training command shares."""

    epochs: int = option("passes over the data (field-notes, Training: one epoch)", 1)
    max_steps: int = option("stop after this many optimizer steps; 0 = all (own)", 0)
    lr: float = option("peak learning rate (field-notes, Training: 5e-7 to 1e-6 for full fine-tuning)", 1e-6)
    schedule: Schedule = option("how the rate falls after the warm-up", "cosine")
    warmup: float = option("share of the steps in which the rate rises from 0 (Tulu 3: 0.1)", 0.1)
    min_lr: float = option("the rate at the end, as a share of the peak (own)", 0.0)
    weight_decay: float = option("AdamW's decoupled weight decay, on matrices only (DPO's own code: none)", 0.0)
    adam_beta1: float = option("AdamW's first-moment decay (torch's default)", 0.9)
    adam_beta2: float = option("AdamW's second-moment decay (torch's default)", 0.999)
    max_grad_norm: float = option("gradients are scaled down to this norm; 0 = never (TRL's default)", 1.0)
    seed: int = option("decides the order of rows and random weights (own)", 0)
    save_dtype: Dtype = option("the type of the saved weights; auto = as the model folder had them", "auto")
    resume: Literal["auto", "never"] = option(
        "auto = go on from the newest whole checkpoint; never = start over", "auto"
    )
    checkpoint_every: int = option("optimizer steps between checkpoints; 0 = none (own)", 500)
    keep_checkpoints: int = option("how many checkpoints to keep (own)", 2)
    log_every: int = option("optimizer steps between log lines (own)", 1)
    tensorboard: bool = option("also write TensorBoard events", True)
    wandb: str = option("also log to this Weights & Biases project (needs the package wandb)", "")
    shard: Literal["auto", "always", "never"] = option(
        "under torchrun, cut weights and optimizer over the GPUs (FSDP2); auto = when they do not fit one", "auto"
    )
    recompute: Literal["auto", "always", "never"] = option(
        "compute activations again in the backward pass; auto = where a measured estimate says that they do not fit",
        "auto",
    )
    compile: bool = option(
        "torch.compile the decoder layers, once for all lengths: slow first steps; on a CPU in float32 no faster than "
        "what is there without it (docs/training.md), on cuda not measured (published: 1.16x)",
        False,
    )
    moments: Literal["float32", "bfloat16"] = option(
        "the type of AdamW's two moments; bfloat16 saves 4 bytes a parameter (the second is rounded at random)",
        "float32",
    )
    stop_on: tuple[Literal["chosen_fall", "good_fall", "kl"], ...] = option(
        "limits of the watchdog that stop the run (exit code 4) instead of warning; a number that is not finite always stops",
        (),
    )
    eval_data: tuple[str, ...] = option("held-out data like --data, evaluated while training", ())
    eval_every: int = option("optimizer steps between evaluations; 0 = at the end only (own)", 0)
    patience: int = option(
        "stop after this many evaluations without a lower eval_loss, and save the best one's weights; 0 = never (own)",
        0,
    )
    lora_rank: int = option(
        "train LoRA adapters of this rank (2106.09685) in place of all weights; 0 = all weights (own)", 0
    )
    lora_alpha: float = option("LoRA's scale is this / rank; 0 = twice the rank (own)", 0.0)
    lora_targets: tuple[str, ...] = option("names of the layers that get an adapter, or all-linear", ("all-linear",))
    adapter: str = option("go on with the adapter in this folder in place of a new one", "")
    merge: bool = option("also save the whole model, the adapter added into its weights", False)
    quantize: Literal["none", "nf4"] = option("nf4 = the frozen weights in 4 bits (QLoRA; needs bitsandbytes)", "none")

    def __post_init__(self) -> None:
        for name in ("max_length", "head_mib", "epochs", "log_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; hint: at least 1")
        for name in ("lr", "max_steps", "micro_batch_tokens", "warmup", "min_lr", "max_grad_norm", "checkpoint_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; hint: it cannot be negative")
        if self.warmup > 1:
            raise ValueError(f"warmup is {self.warmup}; hint: it is a share of all steps, 0 to 1")
        for name in ("eval_every", "patience", "lora_rank", "lora_alpha"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; hint: it cannot be negative")
        if self.patience and not (self.eval_data and self.eval_every):
            raise ValueError("patience without evaluations; hint: give --eval-data and --eval-every")
        if not self.adapted and (self.lora_alpha or self.merge or self.quantize != "none"):
            raise ValueError("lora_alpha, merge and quantize are LoRA's; hint: give --lora-rank or --adapter")

    @property
    def adapted(self) -> bool:
        """Whether adapters are trained in place of all weights."""
        return bool(self.lora_rank or self.adapter)


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions(TrainOptions):
    """What the commands share that measure completions from a reference."""

    reference: Literal["computed", "sampler", "base"] = option(
        "computed = one pass of the model before training, cached; sampler = the dataset's sampler_logps "
        "where they are this model's, the others computed; base = with LoRA, the model without its adapter, asked in every step",
        "computed",
    )
    reference_model: str = option("the reference, where it is not --model as it is before the first step", "")
    cache: str = option(
        "folder of cached reference log-probs; empty = reference_logps/ beside the dataset, or in --out", ""
    )
    drift_limit: float = option(
        "largest mean gap, nats a token, between reference and policy at step 0 (bfloat16 noise is below 0.01, "
        "a wrong temperature 0.1: trainer-speed.md)",
        0.02,
    )
    drift_sample: int = option("rows on which that gap is measured (own)", 32)
    kl_limit: float = option(
        "warn when the KL estimate passes this many nats a completion; 0 = never (docs/log.md: quality fell at 12.7, doubled)",
        25.0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reference == "base" and not self.adapted:
            raise ValueError("reference base is the model without its adapter; hint: give --lora-rank or --adapter")
        if self.reference_model and self.reference == "base":
            raise ValueError("reference_model has no meaning for --reference base; hint: drop it")
        if self.drift_sample < 1:
            raise ValueError("drift_sample is at least 1")

    @property
    def reference_free(self) -> bool:
        """Whether the loss has no reference, so that no reference pass is made."""
        return False

    @property
    def reference_known(self) -> bool:
        """Whether the reference's log-probs are had before the first step: not of a loss that has none or asks in every step."""
        return not self.reference_free and self.reference != "base"
