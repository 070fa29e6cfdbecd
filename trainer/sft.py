"""Supervised fine-tuning: the mean negative log-likelihood of completion tokens.

Legend: B documents, N their scored tokens.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trainer.batches import shuffled, steps_by_tokens
from trainer.config import SftOptions, fingerprint
from trainer.data import Encoded, Texts, data_files, encode, grouped, read_rows, render
from trainer.errors import UsageError
from trainer.logps import completion_logps
from trainer.model import Loaded, load
from trainer.packing import lay, tree_of
from trainer.ranks import joined
from trainer.runlog import say
from trainer.start import finished, open_optimizer, prepare_out
from trainer.train import Job, Outcome, train
from trainer.watchdog import Limit

GROUP = 4096  # rows rendered and tokenised at a time


def document(name: str, row: dict[str, Any], tokenizer: Any) -> Texts:
    """One row's texts.

    Raises:
        UsageError: the row has neither messages nor prompt and completion.
    """
    if row.get("messages"):
        messages = list(row["messages"])
        if messages[-1].get("role") != "assistant":
            raise UsageError(
                f"{name}: its last message is not the assistant's; hint: the last message is what is learnt"
            )
        return render(tokenizer, name, messages[:-1], messages[-1:])
    if row.get("prompt") is None or row.get("completion") is None:
        raise UsageError(f'{name} has neither "messages" nor "prompt" and "completion"; hint: it has {", ".join(row)}')
    return render(tokenizer, name, row["prompt"], row["completion"])


def defect(item: Encoded, loaded: Loaded, max_length: int) -> str | None:
    """Why a row cannot be trained on; None when it can."""
    if all(token in loaded.end_ids for token in item.completion):
        return "the completion is empty"
    if len(item.prompt) + len(item.completion) > max_length:
        return "longer than max_length"
    if max(*item.prompt, *item.completion) >= loaded.model.config.vocab_size:
        return "a token id is outside the vocabulary"
    return None


def read_documents(files: Sequence[Path], loaded: Loaded, max_length: int) -> tuple[list[Encoded], Counter[str]]:
    """All rows as token ids, and how many were refused by reason."""
    kept: list[Encoded] = []
    refused: Counter[str] = Counter()
    for path in files:
        for group in grouped(read_rows(path), GROUP):
            texts = [document(name, row, loaded.tokenizer) for name, row in group]
            for item in encode(texts, loaded.tokenizer, loaded.end_ids):
                reason = defect(item, loaded, max_length)
                if reason is None:
                    kept.append(item)
                else:
                    refused[reason] += 1
    return kept, refused


def content_ids(documents: Sequence[Encoded]) -> list[str]:
    """A name per document: the hash of its tokens, numbered where a document occurs again."""
    seen: Counter[str] = Counter()
    names = []
    for item in documents:
        digest = hashlib.sha256(b"%d:" % len(item.prompt) + bytes(item.prompt) + bytes(item.completion)).hexdigest()[
            :32
        ]
        names.append(f"{digest}-{seen[digest]}")
        seen[digest] += 1
    return names


class SftObjective:
    """loss = - sum over scored tokens of log pi(token | before) / their number in the step."""

    metrics = ("tokens",)
    limits: tuple[Limit, ...] = ()

    def __init__(self, documents: Sequence[Encoded], loaded: Loaded, options: SftOptions) -> None:
        self.ids = content_ids(documents)
        self.options = options
        self.device = loaded.device
        given = [len(d.prompt) if options.completion_only else 1 for d in documents]
        self.trees = [tree_of(d.prompt + d.completion, n) for d, n in zip(documents, given, strict=True)]
        self.shapes = [tree.shape for tree in self.trees]
        self.lengths = [shape.n_plain for shape in self.shapes]
        self.weights = [float(*shape.sizes) for shape in self.shapes]

    def steps(self, epoch: int) -> Iterator[list[int]]:
        order = shuffled(self.ids, self.options.seed, epoch)
        return steps_by_tokens(order, self.lengths, self.options.batch_tokens)

    def outcome(self, model: Any, items: Sequence[int]) -> Outcome:
        packed = lay([self.trees[i] for i in items], self.device)
        losses_B = -completion_logps(model, packed, self.options.head_mib << 20)
        tokens_B1 = losses_B.new_tensor([[self.weights[i]] for i in items])
        return Outcome(losses_B.sum(), losses_B.detach(), tokens_B1)

    def numbers(self, means: dict[str, float], n_items: int, seconds: float) -> dict[str, float]:
        return {"documents_per_s": n_items / seconds, "scored_tokens": means["tokens"] * n_items}


def run(options: SftOptions) -> dict[str, Any]:
    """`python -m trainer sft`."""
    files = data_files(options.data, (".parquet", ".jsonl"))
    out = prepare_out(options)
    loaded = load(options, init=options.init, seed=options.seed)
    documents, refused = read_documents(files, loaded, options.max_length)
    for reason, count in refused.items():
        say(f"refused {count} rows: {reason}")
    if not documents:
        raise UsageError(
            f"no rows left to train on in {', '.join(options.data)}; hint: {dict(refused) or 'the files are empty'}"
        )
    objective = SftObjective(documents, loaded, options)
    data_hash = hashlib.sha256("\n".join(sorted(objective.ids)).encode()).hexdigest()[:32]
    identity = fingerprint(options, data=data_hash, **loaded.hashes)
    before = finished(out, identity)
    if before is not None:
        return before
    say(f"{len(documents)} rows, {sum(objective.lengths)} tokens, on {loaded.device} in {loaded.dtype}")
    with joined(loaded.device) as ranks:
        optimizer = open_optimizer(loaded, options, ranks)
        result = train(Job(loaded, optimizer, objective, options, identity, ranks))
    return {**result, "refused": dict(refused)}
