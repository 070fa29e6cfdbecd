"""The two sides of benchmarks/trainer.py: TRL's DPOTrainer and ours, on the same model, token ids and batches.

A side is built once; `step(items)` makes one optimizer step on those pairs and returns its loss.
"""

from __future__ import annotations

import math
import random
import tempfile
import warnings
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from trainer.attention_choice import prepare
from trainer.batches import micro_batches
from trainer.config import DpoOptions
from trainer.dpo import DpoObjective
from trainer.logps import shapes_for
from trainer.memory import spare
from trainer.model import Loaded, micro_batch_budget
from trainer.optim import MasterAdamW
from trainer.pairs import Pair
from trainer.ranks import Ranks
from trainer.reference import score

LR, BETA, PER_PASS = 1e-6, 0.1, 8  # TRL's learning rate, beta and pairs of a forward pass, by default


@dataclass(frozen=True)
class Workload:
    """Random weights in a shape, and pairs with log-normal lengths: `mean` tokens of prompts, and of completions."""

    vocab: int
    hidden: int = 192
    layers: int = 4
    heads: int = 3
    kv_heads: int = 3
    ffn: int = 512
    mean: int = 64
    spread: float = 0.5
    n_pairs: int = 32
    step_pairs: int = 8
    tied: bool = True

    def config(self) -> Any:
        """A Llama of that shape."""
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=self.vocab, hidden_size=self.hidden, intermediate_size=self.ffn, num_hidden_layers=self.layers,
            num_attention_heads=self.heads, num_key_value_heads=self.kv_heads, head_dim=self.hidden // self.heads,
            max_position_embeddings=4096, initializer_range=0.05, tie_word_embeddings=self.tied,
            bos_token_id=0, eos_token_id=1, pad_token_id=2,
        )  # fmt: skip

    def model(self, moved: bool, dtype: torch.dtype = torch.float32) -> Any:
        """The reference, or the policy: the same weights moved a little, so that losses are not all log 2."""
        from transformers import AutoModelForCausalLM

        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(self.config(), dtype=torch.float32)
        if moved:
            with torch.no_grad():
                for weight in model.parameters():
                    weight += 0.05 * weight.std(unbiased=False) * torch.randn_like(weight)
        return model.to(dtype)

    def length(self, draw: random.Random) -> int:
        """Tokens of a prompt or completion."""
        return max(1, min(4 * self.mean, round(self.mean * math.exp(draw.gauss(-(self.spread**2) / 2, self.spread)))))

    def texts(self) -> list[dict[str, str]]:
        """The pairs as texts of words, one token a word."""
        draw = random.Random(0)

        def words() -> str:
            return " ".join(f"w{draw.randrange(3, self.vocab)}" for _ in range(self.length(draw)))

        return [{"prompt": words() + " ", "chosen": words(), "rejected": words()} for _ in range(self.n_pairs)]

    def steps(self, count: int) -> list[list[int]]:
        """The pairs of each step, in a shuffled order, over and over."""
        draw, order = random.Random(1), list[int]()
        while len(order) < count * self.step_pairs:
            order += draw.sample(range(self.n_pairs), self.n_pairs)
        return [order[n * self.step_pairs : (n + 1) * self.step_pairs] for n in range(count)]

    def tokenizer(self) -> Any:
        """One token for each word."""
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        words = {"<s>": 0, "</s>": 1, "<pad>": 2} | {f"w{n}": n for n in range(3, self.vocab)}
        raw = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
        raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>")

    def pairs(self) -> list[Pair]:
        """The same pairs as token ids, as TRL makes them: the end token closes each completion."""

        def ids(text: str, *end: int) -> array[int]:
            return array("i", [*(int(word[1:]) for word in text.split()), *end])

        rows = self.texts()
        return [
            Pair(f"{n:06}", ids(r["prompt"]), ids(r["chosen"], 1), ids(r["rejected"], 1)) for n, r in enumerate(rows)
        ]


class Ours:
    """This trainer: its objective, optimizer and micro-batches as `train` runs them; AdamW's moments are of type `moments`."""

    def __init__(
        self,
        work: Workload,
        dtype: torch.dtype,
        device: str = "cpu",
        pairs: Sequence[Pair] | None = None,
        moments: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        self.pairs = list(pairs or work.pairs())
        options = DpoOptions(
            data=("-",),
            model="-",
            out="-",
            lr=LR,
            beta=BETA,
            head_mib=256 if device == "cpu" else 4096,
            moments=moments,
        )
        where = torch.device(device)
        reference = self.loaded(work.model(moved=False).to(where), where, torch.float32)
        prepare(reference.model, where)
        known = score(reference, self.pairs, options, Ranks())
        del reference
        policy = self.loaded(work.model(moved=True).to(where), where, dtype)
        self.model = policy.model.eval()
        self.optimizer = MasterAdamW(self.model, dtype, options)
        prepare(self.model, where)
        spare(self.model, where, options)
        self.objective = DpoObjective(self.pairs, known, policy, options)
        self.shapes = shapes_for(self.model, self.objective.shapes)
        self.budget = micro_batch_budget(0, where)

    @staticmethod
    def loaded(model: Any, device: torch.device, dtype: torch.dtype) -> Loaded:
        """What a command would have loaded from a folder."""
        return Loaded(model.eval(), None, "-", device, dtype, dtype, (1,), "-", "-", None)

    def backward(self, items: Sequence[int]) -> float:
        """The loss of some pairs; gradients lie in the optimizer's weights."""
        total = torch.zeros((), dtype=torch.float64, device=self.objective.device)
        sums = torch.zeros(len(self.objective.metrics), dtype=torch.float64, device=self.objective.device)
        for part in micro_batches(items, self.shapes, self.budget):
            outcome = self.objective.outcome(self.model, part)
            (outcome.loss / len(items)).backward()
            total += outcome.loss.detach() / len(items)
            sums += outcome.metrics_BM.sum(0)
        return float(total)

    def step(self, items: Sequence[int]) -> float:
        """One optimizer step."""
        loss = self.backward(items)
        self.optimizer.reduce(Ranks())
        self.optimizer.step(LR)
        return loss

    def gradients(self) -> dict[str, torch.Tensor]:
        """By parameter name, as they lie; then forgotten."""
        found = {n: m.grad.clone() for n, m in zip(self.optimizer.names, self.optimizer.masters, strict=True)}
        self.optimizer.adam.zero_grad(set_to_none=True)
        return found


class Trl:
    """TRL's DPOTrainer, step by step as its own loop makes them.

    Args:
        best: with cached reference log-probs (their pass is not counted), no checkpointing, and padding_free asked for (TRL 1.16
            warns, and pads); else TRL's defaults.
        weights: the type of the weights; with bfloat16 there is no float32 copy of them, in the optimizer neither.
    """

    def __init__(
        self, work: Workload, *, best: bool, bf16: bool, weights: torch.dtype = torch.float32, device: str = "cpu"
    ) -> None:
        import datasets
        from trl import DPOConfig, DPOTrainer

        datasets.disable_progress_bars()
        self.folder = tempfile.TemporaryDirectory()
        tuned = (
            {"precompute_ref_log_probs": True, "gradient_checkpointing": False, "padding_free": True} if best else {}
        )
        accumulate = work.step_pairs // PER_PASS
        args = DPOConfig(
            output_dir=self.folder.name, use_cpu=device == "cpu", bf16=bf16, report_to="none", disable_tqdm=True,
            save_strategy="no", per_device_train_batch_size=PER_PASS, gradient_accumulation_steps=accumulate, learning_rate=LR,
            beta=BETA, max_length=None, **tuned,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.trainer = DPOTrainer(
                work.model(moved=True, dtype=weights), work.model(moved=False, dtype=weights), args=args,
                train_dataset=datasets.Dataset.from_list(work.texts()), processing_class=work.tokenizer(),
            )  # fmt: skip
            self.trainer.get_train_dataloader()  # computes the reference's log-probs where they are to be cached
        if best:
            self.trainer.ref_model = None
        self.rows = self.trainer.train_dataset
        self.accumulate = accumulate
        self.trainer.current_gradient_accumulation_steps = accumulate
        self.model = self.trainer.model.train()
        self.trainer.create_optimizer()

    def backward(self, items: Sequence[int]) -> float:
        """The loss of some pairs; gradients lie in the model."""
        total = 0.0
        for begin in range(0, len(items), PER_PASS):
            inputs = self.trainer.data_collator([self.rows[i] for i in items[begin : begin + PER_PASS]])
            total += float(self.trainer.training_step(self.model, inputs))
        return total

    def step(self, items: Sequence[int]) -> float:
        """One optimizer step."""
        loss = self.backward(items)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.trainer.optimizer.step()
        self.trainer.optimizer.zero_grad()
        return loss

    def gradients(self) -> dict[str, torch.Tensor]:
        """By parameter name, as they lie; then forgotten."""
        found = {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}
        self.trainer.optimizer.zero_grad()
        return found
