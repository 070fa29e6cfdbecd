"""Every option of every command: a frozen dataclass per command, its fields are the options. Standard library only.

What commands share is in options.py, with what a field's help says.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from trainer.options import Dtype, ModelOptions, ReferenceOptions, TrainOptions, option

Loss = Literal[
    "sigmoid", "robust", "ipo", "hinge", "dpo_positive", "sigmoid_norm", "simpo", "orpo", "kto", "apo_zero", "apo_down"
]

OWN_BETA = {"sigmoid_norm": 5.0, "simpo": 2.0}  # of mean log-probs a token, not of sums
REFERENCE_FREE = ("simpo", "orpo")
ONLY_FOR = {
    "label_smoothing": ("sigmoid", "robust"),
    "dpop_lambda": ("dpo_positive",),
    "simpo_gamma": ("simpo",),
    "kto_desirable": ("kto",),
    "kto_undesirable": ("kto",),
}  # an option of another loss is refused: nothing given is ignored


@dataclass(frozen=True, kw_only=True)
class SftOptions(TrainOptions):
    """Supervised fine-tuning: raise the likelihood of given completions.

    Rows (JSONL or Parquet) are {"messages": [...]}, whose last message is the completion, or {"prompt": ..., "completion": ...},
    each a text or a list of messages.
    """

    lr: float = option("peak learning rate (Tulu 3 SFT, 8B: 5e-6; small models take more)", 5e-6)
    batch_tokens: int = option("tokens of one optimizer step (tiny-model: 4 M tokens in 800 steps)", 5120)
    completion_only: bool = option("loss on the completion's tokens only; --no-completion-only = on every token", True)
    init: Literal["pretrained", "random"] = option(
        "random = start from the folder's config.json with seeded random weights", "pretrained"
    )


@dataclass(frozen=True, kw_only=True)
class DpoOptions(ReferenceOptions):
    """Direct preference optimisation: train on pairs of a better and a worse completion.

    Data is a dataset folder as `pipeline` publishes it, or Parquet files with its columns (docs/format.md, "pairs").
    """

    loss: Loss = option(
        "sigmoid = DPO (2305.18290); robust (2403.00409); ipo (2310.12036); hinge = SLiC; dpo_positive (2402.13228); "
        "sigmoid_norm = DPO by mean log-probs (2411.15124); simpo (2405.14734); orpo (2403.07691); kto (2402.01306); "
        "apo_zero, apo_down (2408.06266): docs/training.md",
        "sigmoid",
    )
    beta: float = option(
        "strength of the pull to the reference; 0 = the loss's own: 0.1 (field-notes, Training), sigmoid_norm 5 (2411.15124), "
        "simpo 2 (2405.14734)",
        0.0,
    )
    label_smoothing: float = option(
        "supposed share of flipped labels, for sigmoid (conservative DPO) and robust (own: off)", 0.0
    )
    dpop_lambda: float = option("DPO-Positive's penalty on a falling chosen log-prob (2402.13228: 50)", 50.0)
    simpo_gamma: float = option("SimPO's margin, after beta (2405.14734: 1.0 for Llama-3-Base)", 1.0)
    kto_desirable: float = option("KTO's weight of chosen completions (TRL's)", 1.0)
    kto_undesirable: float = option("KTO's weight of rejected completions (TRL's)", 1.0)
    sft_weight: float = option(
        "mixes the chosen's negative log-likelihood a token into the loss (field-notes, Training: 0.1 to 0.2; own: off)",
        0.0,
    )
    batch_pairs: int = option("pairs of one optimizer step (DPO's own code: 64)", 64)
    batch_prompts: int = option(
        "in place of it: prompts of one optimizer step, each with all of its pairs, so that the prompt and each completion are "
        "computed once for them; 0 = count pairs, shuffled one by one (own)",
        0,
    )
    chosen_fall: float = option(
        "warn when the chosen log-prob has fallen by this many nats a token; 0 = never (own)", 0.1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta == 0:
            object.__setattr__(self, "beta", OWN_BETA.get(self.loss, 0.1))  # what was used is what the run's files say
        if not (self.beta > 0 and self.sft_weight >= 0):
            raise ValueError(f"beta is {self.beta}, sft_weight {self.sft_weight}; hint: neither can be negative")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; hint: 0 to 0.5")
        for own in dataclasses.fields(self):
            losses = ONLY_FOR.get(own.name)
            if losses and self.loss not in losses and getattr(self, own.name) != own.default:
                raise ValueError(f"{own.name} has no meaning for {self.loss}; hint: --loss {' or '.join(losses)}")
        if self.reference_free and self.reference != "computed":
            raise ValueError(f"{self.loss} has no reference; hint: leave --reference out")
        if self.reference_free and self.reference_model:
            raise ValueError(f"reference_model has no meaning for --loss {self.loss}; hint: drop it")
        if self.batch_pairs < 1 or self.batch_prompts < 0:
            raise ValueError("batch_pairs is at least 1, batch_prompts at least 0")

    @property
    def reference_free(self) -> bool:
        """Whether the loss has no reference, so that no reference pass is made."""
        return self.loss in REFERENCE_FREE


@dataclass(frozen=True, kw_only=True)
class KtoOptions(ReferenceOptions):
    """KTO on completions that are good or bad by themselves: `pipeline export --as kto`, or any such rows.

    Rows (JSONL or Parquet) are {"prompt": ..., "completion": ..., "label": true or false}, prompt and completion each a text or
    a list of messages.
    """

    reference: Literal["computed", "base"] = option(
        "computed = one pass of the model before training, cached; base = with LoRA, the model without its adapter, asked in "
        "every step",
        "computed",
    )

    beta: float = option("strength of the pull to the reference (2402.01306: 0.1)", 0.1)
    kto_desirable: float = option("weight of good completions (TRL's)", 1.0)
    kto_undesirable: float = option("weight of bad completions (TRL's)", 1.0)
    batch_completions: int = option(
        "completions of one optimizer step (KTO's own code: 32; here 64, as dpo's pairs)", 64
    )
    good_fall: float = option(
        "warn when the good completions' log-prob has fallen by this many nats a token; 0 = never (as dpo's chosen)",
        0.1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.beta > 0 or self.batch_completions < 2:
            raise ValueError("beta must be above 0, and batch_completions at least 2")


@dataclass(frozen=True, kw_only=True)
class RewardModelOptions(TrainOptions):
    """A reward model from pairs: the policy with a linear head, Bradley-Terry loss; `python -m trainer rewards` reads it.

    Data as for dpo. With --eval-data the accuracy on held-out pairs is reported, by length too.
    """

    lr: float = option("peak learning rate (InstructGPT, 6B: 9e-6; small models take more)", 9e-6)
    batch_pairs: int = option("pairs of one optimizer step (InstructGPT: the pairs of 64 prompts)", 64)
    margin_weight: float = option(
        "asks for a difference of this times the dataset's margin (Llama 2, 2307.09288: a margin by how sure people were)",
        0.0,
    )
    centring: float = option("pulls the mean of a pair's two values to 0 (TRL's recommendation; 2312.09244)", 0.01)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_pairs < 1:
            raise ValueError("batch_pairs is at least 1")
        if self.adapter or self.merge or self.quantize != "none":
            raise ValueError(
                "a reward model's adapter is new and always added into its weights; hint: --lora-rank alone"
            )
        if self.margin_weight < 0 or self.centring < 0:
            raise ValueError("margin_weight and centring cannot be negative")


@dataclass(frozen=True, kw_only=True)
class RlOptions(TrainOptions):
    """KL-regularised policy gradient: one round on completions that the pipeline sampled from --model and labelled.

    Data is the folder of such a run (its newest build is read), or folders of completions together with --labels
    (docs/format.md). A completion's reward is the sum of its labelers' scores.
    """

    labels: tuple[str, ...] = option("folders or files of labels, where --data names completions and not a run", ())
    scores: Literal["raw", "rank"] = option(
        "rank = in place of the scores each completion's rank among its prompt's, 0 to 1, equal ones alike: for labelers whose "
        "scores have outliers",
        "raw",
    )
    advantage: Literal["rloo", "grpo"] = option(
        "rloo = reward minus the mean of the prompt's other samples (2402.14740); grpo = standardised (2402.03300)",
        "rloo",
    )
    beta: float = option("strength of the pull to the reference, in the reward (RLOO, 2402.14740: 0.03 to 0.1)", 0.05)
    clip: float = option("how far a whole sequence's ratio may leave 1 (PPO, 1707.06347: 0.2)", 0.2)
    importance_cap: float = option(
        "largest weight that makes up for the sampler's own rounding (TIS, Yao et al. 2025: 2)", 2.0
    )
    missing_end: float = option(
        "taken from the reward of a completion that did not end (TRL's missing_eos_penalty: 1)", 1.0
    )
    batch_prompts: int = option("prompts, each with all its completions, of one optimizer step (own)", 32)
    reference_model: str = option("the reference, where it is not --model as it is before the first step", "")
    drift_limit: float = option(
        "largest mean gap, nats a token, between policy and sampler at step 0 (as in dpo: trainer-speed.md)", 0.02
    )
    kl_limit: float = option("warn when the KL estimate passes this many nats a completion; 0 = never (own)", 10.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_prompts < 1:
            raise ValueError("batch_prompts is at least 1")
        if self.beta < 0 or self.missing_end < 0 or self.kl_limit < 0:
            raise ValueError("beta, missing_end and kl_limit cannot be negative")
        if not (0 < self.clip < 1 and self.importance_cap >= 1):
            raise ValueError(f"clip is {self.clip}, importance_cap {self.importance_cap}; hint: 0 to 1, and at least 1")
        if self.eval_data:
            raise ValueError("rl has no held-out loss; hint: `python -m pipeline evaluate` measures a policy")
        if set(self.stop_on) - {"kl"}:
            raise ValueError("rl has no chosen completions; hint: --stop-on kl")


@dataclass(frozen=True, kw_only=True)
class LogpsOptions(ModelOptions):
    """Log-probabilities of a dataset's pairs under a model, as a Parquet side file (pair_id, logp_chosen, logp_rejected)."""


@dataclass(frozen=True, kw_only=True)
class RewardsOptions:
    """A number for each conversation: reads one a line (a JSON list of {role, content}) and writes one a line, in order.

    With --model, of a reward model (a sequence classifier with one output). With --policy and --reference, the implicit
    reward beta * (log pi - log pi_ref) of the last message. `null` where the conversation is too long, or the chat template
    refuses it. A blank line asks for the answers to all lines before it; so does the end of the input.
    """

    model: str = option("a reward model: a local Hugging Face folder, or a Hub name", "")
    policy: str = option("in place of --model: the trained policy", "")
    reference: str = option("the model that the policy started from", "")
    beta: float = option("the beta that the policy was trained with (field-notes, Training: 0.1)", 0.1)
    per_token: bool = option("divide the implicit reward by the completion's tokens", False)
    device: Literal["auto", "cpu", "cuda"] = option("where to compute; auto = cuda when there is one", "auto")
    dtype: Dtype = option("the weights' type; auto = bfloat16 on cuda, float32 on cpu", "auto")
    attention: str = option("transformers' attention; auto = eager for bfloat16 on cpu, else sdpa", "auto")
    max_length: int = option("tokens of a conversation; longer ones get null; 0 = what the model takes (own)", 0)
    micro_batch_tokens: int = option(
        "tokens of one forward pass; 0 = 2048 on cpu (docs/log.md), 16384 on cuda (own)", 0
    )
    head_mib: int = option("memory for float32 logits; above it they are computed in pieces (own)", 256)

    def __post_init__(self) -> None:
        if bool(self.model) == bool(self.policy) or bool(self.policy) != bool(self.reference):
            raise ValueError("which model? hint: --model, or --policy and --reference")
        if not self.beta > 0:
            raise ValueError(f"beta is {self.beta}; hint: above 0")
        if self.max_length < 0 or self.micro_batch_tokens < 0 or self.head_mib < 1:
            raise ValueError("max_length and micro_batch_tokens cannot be negative, and head_mib is at least 1")

    def of(self, source: str) -> ModelOptions:
        """The options under which one of the models is loaded."""
        return ModelOptions(
            data=(), model=source, out="", device=self.device, dtype=self.dtype, attention=self.attention,
            micro_batch_tokens=self.micro_batch_tokens, head_mib=self.head_mib,
        )  # fmt: skip


COMMANDS: dict[str, tuple[type, str]] = {
    "dpo": (DpoOptions, "trainer.dpo:run"),
    "sft": (SftOptions, "trainer.sft:run"),
    "kto": (KtoOptions, "trainer.kto:run"),
    "reward": (RewardModelOptions, "trainer.reward:run"),
    "rl": (RlOptions, "trainer.rl:run"),
    "logps": (LogpsOptions, "trainer.dpo:run_logps"),
    "rewards": (RewardsOptions, "trainer.rewards:run"),
}
