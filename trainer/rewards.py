"""A number for each conversation, from a reward model or from a policy against its reference: `python -m trainer rewards`.

Rows are padded on the right, so that no real token sees padding and a number does not depend on its batch.
Legend: B rows, T positions (padded).
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from typing import IO, Any

import torch
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

from trainer.attention_choice import prepare
from trainer.batches import Shape, micro_batches
from trainer.config import RewardsOptions
from trainer.data import encode, render
from trainer.errors import UsageError
from trainer.logps import logps_of, shapes_for
from trainer.model import (
    Loaded,
    cast_parameters,
    choose_attention,
    choose_device,
    choose_dtype,
    load,
    load_tokenizer,
    memory_hint,
    micro_batch_budget,
)
from trainer.packing import Tree
from trainer.runlog import say

Conversation = list[dict[str, Any]]
Scorer = Callable[[Sequence[Conversation]], list[float | None]]

GROUP = 1024
"""Conversations answered together at most: enough to sort by length, little enough that answers come early (own)."""


class RewardModel:
    """A sequence classifier with one output, asked about whole conversations."""

    def __init__(self, options: RewardsOptions) -> None:
        self.device = choose_device(options.device)
        self.tokenizer = load_tokenizer(options.model)
        if not self.tokenizer.chat_template:
            raise UsageError(f"the tokenizer of {options.model} has no chat template; hint: add chat_template.jinja")
        self.model = classifier(options, self.device)
        self.padding: int | None = self.model.config.pad_token_id
        self.max_length = longest(options, self.model)
        self.budget = micro_batch_budget(options.micro_batch_tokens, self.device)

    def __call__(self, conversations: Sequence[Conversation]) -> list[float | None]:
        ids = [self.ids(conversation) for conversation in conversations]
        fitting = [i for i, row in enumerate(ids) if row]
        answers: list[float | None] = [None] * len(ids)
        for part in micro_batches(fitting, [Shape(i, 0, (len(row),)) for i, row in enumerate(ids)], self.budget):
            for i, value in zip(part, self.forward([ids[i] for i in part]), strict=True):
                answers[i] = value
        return answers

    def ids(self, conversation: Conversation) -> list[int]:
        """The conversation's tokens; none where the template refuses it or the model does not take so many."""
        try:
            text = self.tokenizer.apply_chat_template(conversation, tokenize=False)
        except Exception as error:  # jinja raises what the template's author chose
            say(f"a conversation gets no reward: the chat template refuses it: {error}")
            return []
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids if len(ids) <= self.max_length else []

    @torch.no_grad()
    def forward(self, rows: Sequence[list[int]]) -> list[float]:
        """The model's output for some rows."""
        width = max(len(row) for row in rows)
        filler = self.filler(rows)
        ids_BT = torch.tensor([row + [filler] * (width - len(row)) for row in rows], device=self.device)
        mask_BT = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self.device)
        with memory_hint():
            logits = self.model(input_ids=ids_BT, attention_mask=mask_BT).logits
        values: list[float] = logits.float().squeeze(1).tolist()
        return values

    def filler(self, rows: Sequence[list[int]]) -> int:
        """The padding token. transformers reads the output at the last token that is not padding: where the model names no
        padding, it is one that none of these rows holds, so that the last real token is read."""
        if self.padding is not None:
            return self.padding
        used = {token for row in rows for token in row}
        unused = next(token for token in range(self.model.config.vocab_size) if token not in used)
        self.model.config.pad_token_id = unused
        return unused


class ImplicitReward:
    """beta * (log pi - log pi_ref) of a conversation's last message, by the trainer's own log-probabilities.

    Source: DPO, 2305.18290, equation 5 without the term that cancels within a prompt.
    """

    def __init__(self, options: RewardsOptions) -> None:
        self.options = options
        self.policy, self.reference = (load(options.of(source)) for source in (options.policy, options.reference))
        if self.policy.tokenizer_hash != self.reference.tokenizer_hash:
            raise UsageError(
                f"{options.policy} and {options.reference} have different tokenizers; hint: the reference is the model that "
                "the policy was trained from"
            )
        for loaded in (self.policy, self.reference):
            cast_parameters(loaded.model, loaded.dtype)
            prepare(loaded.model, loaded.device, options.attention)
        self.max_length = longest(options, self.policy.model)
        self.budget = micro_batch_budget(options.micro_batch_tokens, self.policy.device)

    def __call__(self, conversations: Sequence[Conversation]) -> list[float | None]:
        trees = [self.tree(conversation) for conversation in conversations]
        fitting = {i: tree for i, tree in enumerate(trees) if tree is not None}
        shapes = [tree.shape if tree else Shape(None, 0, (0,)) for tree in trees]
        answers: list[float | None] = [None] * len(trees)
        for part in micro_batches(list(fitting), shapes_for(self.policy.model, shapes), self.budget):
            for i, value in zip(part, self.forward([fitting[i] for i in part]), strict=True):
                answers[i] = value
        return answers

    def tree(self, conversation: Conversation) -> Tree | None:
        """The conversation as tokens of prompt and completion; None where it cannot be had or is too long."""
        try:
            texts = render(self.policy.tokenizer, "a conversation", conversation[:-1], conversation[-1:])
            (side,) = encode([texts], self.policy.tokenizer, self.policy.end_ids)
        except UsageError as error:
            say(f"a conversation gets no reward: {error}")
            return None
        n = len(side.prompt) + len(side.completion)
        fits = len(side.prompt) and len(side.completion) and n <= self.max_length
        return Tree(side.prompt, (side.completion,)) if fits else None

    @torch.no_grad()
    def forward(self, trees: Sequence[Tree]) -> list[float]:
        """The implicit reward of some completions."""
        with memory_hint():
            policy_B, reference_B = (
                logps_of(loaded.model, trees, loaded.device, self.options.head_mib << 20) for loaded in self.models
            )
        rewards_B = self.options.beta * (policy_B - reference_B)
        if self.options.per_token:
            rewards_B = rewards_B / rewards_B.new_tensor([size for tree in trees for size in tree.shape.sizes])
        values: list[float] = rewards_B.tolist()
        return values

    @property
    def models(self) -> tuple[Loaded, Loaded]:
        """Policy and reference."""
        return self.policy, self.reference


def classifier(options: RewardsOptions, device: torch.device) -> Any:
    """The reward model on the device.

    Raises:
        UsageError: it cannot be loaded, has no trained head (a language model's would be random numbers), or several outputs.
    """
    dtype = choose_dtype(options.dtype, device)
    transformers_logging.disable_progress_bar()
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # what is missing is said below, as an error
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            options.model, dtype=dtype, attn_implementation=choose_attention(options.attention, device, dtype),
            output_loading_info=True,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the reward model {options.model} cannot be loaded: {error}; hint: check its files"
        ) from error
    finally:
        transformers_logging.set_verbosity(before)
    if info["missing_keys"]:
        raise UsageError(
            f"{options.model} lacks {', '.join(sorted(info['missing_keys'])[:4])}, so it is no reward model; "
            "hint: a sequence classifier's folder, saved with its head"
        )
    if model.config.num_labels != 1:
        raise UsageError(
            f"{options.model} has {model.config.num_labels} outputs; hint: a reward model has one (num_labels = 1)"
        )
    return with_float32_head(model.to(device).eval())


def with_float32_head(model: Any) -> Any:
    """The same model, whose linear head computes in float32: in bfloat16 a number has three digits, and close ones would tie."""
    head = getattr(model, "score", None)
    if isinstance(head, torch.nn.Linear):
        head.float()
        head.register_forward_pre_hook(lambda _, given: (given[0].float(),))
    return model


def longest(options: RewardsOptions, model: Any) -> int:
    """The most tokens of a conversation: the option, within what the model takes."""
    takes = getattr(model.config, "max_position_embeddings", None) or sys.maxsize
    return min(options.max_length or takes, takes)


def groups(lines: IO[str]) -> Iterator[list[Conversation | None]]:
    """The conversations of each group of lines: up to a blank line, the end, or GROUP of them. None for a line that is none."""
    group: list[Conversation | None] = []
    for line in lines:
        if line.strip():
            group.append(conversation_of(line))
        if group and (not line.strip() or len(group) == GROUP):
            yield group
            group = []
    if group:
        yield group


def conversation_of(line: str) -> Conversation | None:
    """The conversation on a line; None where the line holds none."""
    try:
        value = json.loads(line)
        json.dumps(value, ensure_ascii=False).encode()  # lone surrogates: no tokenizer takes them
    except (ValueError, RecursionError) as error:
        say(f"a line is not JSON and gets null: {error}")
        return None
    whole = (
        isinstance(value, list)
        and len(value) > 1
        and all(isinstance(turn, dict) and isinstance(turn.get("content"), str) for turn in value)
    )
    if not whole:
        say(
            "a line holds no conversation and gets null; hint: a list of {role, content}, the prompt's and the completion"
        )
    return value if whole else None


def answers_to(group: Sequence[Conversation | None], scorer: Scorer) -> list[float | None]:
    """A number or None for each line of a group, in order; what is not finite is None."""
    values = iter(scorer([conversation for conversation in group if conversation is not None]))
    found = [None if conversation is None else next(values) for conversation in group]
    return [value if value is not None and math.isfinite(value) else None for value in found]


def run(options: RewardsOptions) -> None:
    """`python -m trainer rewards`: stdin to stdout, until the input ends."""
    with redirect_stdout(sys.stderr):  # whatever a library prints must not pass for a number
        scorer: Scorer = RewardModel(options) if options.model else ImplicitReward(options)
        for group in groups(sys.stdin):
            answers = answers_to(group, scorer)
            print("\n".join(map(json.dumps, answers)), file=sys.__stdout__, flush=True)
