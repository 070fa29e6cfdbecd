"""Supervised fine-tuning: the mean negative log-likelihood of completion tokens.

Legend: B documents, N their scored tokens.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer.batches import shuffled, steps_by_tokens
from trainer.command import carry_out
from trainer.config import SftOptions
from trainer.data import UNREADABLE, Encoded, Texts, data_files, encode, grouped, read_rows, render, shorter_prompt
from trainer.defects import CUT_PROMPT, NOT_UNICODE, Refused, contents, control_tokens, text_defect
from trainer.errors import UsageError
from trainer.identity import fingerprint
from trainer.logps import completion_logps
from trainer.model import Loaded, load
from trainer.packing import lay, tree_of
from trainer.ranks import Ranks
from trainer.runlog import say
from trainer.sharding import Turns
from trainer.start import prepare_out
from trainer.train import Outcome
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


def document_texts(row: dict[str, Any]) -> list[str]:
    """All texts of a row."""
    parts = [row.get("messages"), row.get("prompt"), row.get("completion")]
    return [text for part in parts if part for text in contents(part, "user")]


def documents(
    files: Sequence[Path], loaded: Loaded, max_length: int, refused: Refused, *, cut_prompt: bool = False
) -> Iterator[tuple[str, dict[str, Any], Encoded]]:
    """Each usable row with its name and its token ids; the others (and with `cut_prompt` those cut) go to `refused`."""
    control = control_tokens(loaded.tokenizer)
    for path in files:
        for group in grouped(read_rows(path), GROUP):
            texts, rows = [], []
            for name, row in group:
                reason = NOT_UNICODE if UNREADABLE in row else text_defect(document_texts(row), control)
                if reason is None:
                    texts.append(document(name, row, loaded.tokenizer))
                    rows.append(row)
                else:
                    refused.add(reason, name)
            for text, row, item in zip(texts, rows, encode(texts, loaded.tokenizer, loaded.end_ids), strict=True):
                excess = len(item.prompt) + len(item.completion) - max_length
                if cut_prompt and 0 < excess < len(item.prompt):
                    item = replace(item, prompt=shorter_prompt(item.prompt, excess, loaded.tokenizer.bos_token_id))
                    refused.add(CUT_PROMPT, text.name)
                reason = defect(item, loaded, max_length)
                if reason is None:
                    yield text.name, row, item
                else:
                    refused.add(reason, text.name)


def read_documents(
    files: Sequence[Path], loaded: Loaded, max_length: int, *, cut_prompt: bool = False
) -> tuple[list[Encoded], Refused]:
    """All usable rows as token ids, and what was refused."""
    refused = Refused()
    found = documents(files, loaded, max_length, refused, cut_prompt=cut_prompt)
    return [item for _, _, item in found], refused


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

    def begin(self, model: Any, parts: Turns, ranks: Ranks) -> None:
        """Nothing: each item's loss is its own."""

    def outcome(self, model: Any, items: Sequence[int]) -> Outcome:
        packed = lay([self.trees[i] for i in items], self.device)
        losses_B = -completion_logps(model, packed, self.options.head_mib << 20)
        tokens_B1 = losses_B.new_tensor([[self.weights[i]] for i in items])
        return Outcome(losses_B.sum(), losses_B.detach(), tokens_B1)

    def numbers(self, means: dict[str, float], n_items: int, seconds: float) -> dict[str, float]:
        return {"documents_per_s": n_items / seconds, "scored_tokens": means["tokens"] * n_items}


def content_hash(objective: SftObjective) -> str:
    """The identity of what is trained on."""
    return hashlib.sha256("\n".join(sorted(objective.ids)).encode()).hexdigest()[:32]


def documents_of(
    options: SftOptions, sources: Sequence[str], loaded: Loaded, told: Path
) -> tuple[list[Encoded], Refused]:
    """The documents of some files; what was refused is said and written.

    Raises:
        UsageError: none is left.
    """
    files = data_files(sources, (".parquet", ".jsonl"))
    found, refused = read_documents(files, loaded, options.max_length, cut_prompt=options.cut_prompt)
    refused.tell()
    refused.write(told)
    if not found:
        raise UsageError(f"no rows left in {', '.join(sources)}; hint: {dict(refused.counts) or 'the files are empty'}")
    return found, refused


def run(options: SftOptions) -> dict[str, Any]:
    """`python -m trainer sft`."""
    data_files(options.data, (".parquet", ".jsonl"))  # a wrong path is said before a model is read
    out = prepare_out(options)
    loaded = load(options, init=options.init, seed=options.seed)
    found, refused = documents_of(options, options.data, loaded, out / "refused.jsonl")
    objective = SftObjective(found, loaded, options)
    held = documents_of(options, options.eval_data, loaded, out / "refused-eval.jsonl")[0] if options.eval_data else []
    held_out = SftObjective(held, loaded, options) if held else None
    hashes = [content_hash(each) if each else None for each in (objective, held_out)]
    identity = fingerprint(options, data=hashes[0], held_out=hashes[1], **loaded.hashes)
    say(f"{len(found)} rows, {sum(objective.lengths)} tokens, on {loaded.device} in {loaded.dtype}")
    return carry_out(loaded, options, identity, lambda _: (objective, held_out), refused.counts)
