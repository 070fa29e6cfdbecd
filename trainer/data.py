"""Text to token ids: how a conversation becomes a prompt and a completion that the model can be trained on."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import pyarrow.parquet as pq

from trainer.errors import UsageError

T = TypeVar("T")
Messages = list[dict[str, Any]]
Ids: TypeAlias = "array[int]"  # of 4 bytes a token
UNREADABLE = "unreadable"  # the one key of a row whose text is not UTF-8


@dataclass(frozen=True)
class Texts:
    """A prompt as the model reads it, and the same with the completion behind it. `name` is for messages to people."""

    name: str
    prompt: str
    full: str
    special: bool  # whether the tokenizer must add its own special tokens: true for plain text only


@dataclass(frozen=True)
class Encoded:
    """The token ids of a prompt and of a completion that ends with the end token."""

    prompt: Ids
    completion: Ids


def as_messages(value: Any, role: str) -> Messages:
    """A conversation, from one or from a plain text. A message's fields that are null are not its own (Parquet fills them in)."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    return [{key: part for key, part in message.items() if part is not None} for message in value]


def render(tokenizer: Any, name: str, prompt: Any, completion: Any) -> Texts:
    """The text of prompt and completion: by the chat template, or plain where both are texts and there is no template.

    Raises:
        UsageError: there are messages but no chat template, or the template refuses them.
    """
    if not tokenizer.chat_template:
        if not (isinstance(prompt, str) and isinstance(completion, str)):
            raise UsageError(
                f"{name} holds messages, but the tokenizer has no chat template; hint: add chat_template.jinja to the model"
            )
        return Texts(name, prompt, prompt + completion + tokenizer.eos_token, special=True)
    asked, answered = as_messages(prompt, "user"), as_messages(completion, "assistant")
    try:
        head = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        full = tokenizer.apply_chat_template([*asked, *answered], tokenize=False)
    except Exception as error:  # jinja raises what the template's author chose
        raise UsageError(f"the chat template refuses {name}: {error}; hint: check its roles and contents") from error
    return Texts(name, head, full, special=False)


def with_end(completion: list[int], tokenizer: Any, end_ids: Sequence[int]) -> list[int]:
    """The completion up to its last end token, when only blanks follow it; else with the end token behind it."""
    for index in range(len(completion) - 1, -1, -1):
        if completion[index] in end_ids:
            if not tokenizer.decode(completion[index + 1 :]).strip():
                return completion[: index + 1]
            break
    return [*completion, end_ids[0]]


def encode(texts: Sequence[Texts], tokenizer: Any, end_ids: Sequence[int]) -> Iterator[Encoded]:
    """Token ids of each text pair, in order.

    Raises:
        UsageError: the prompt's tokens are not the beginning of the conversation's (the model would learn from another prompt
            than it is asked with), naming the row.
    """
    if not texts:
        return
    special = texts[0].special
    prompts = tokenizer([t.prompt for t in texts], add_special_tokens=special)["input_ids"]
    fulls = tokenizer([t.full for t in texts], add_special_tokens=special)["input_ids"]
    for text, prompt, full in zip(texts, prompts, fulls, strict=True):
        if full[: len(prompt)] != prompt:
            raise UsageError(
                f"{text.name}: the tokens of its prompt are not the beginning of its conversation's tokens; hint: "
                "the chat template must render the prompt with add_generation_prompt exactly as it begins the full conversation"
            )
        completion = full[len(prompt) :]
        yield Encoded(array("i", prompt), array("i", with_end(completion, tokenizer, end_ids) if completion else []))


def shorter_prompt(prompt: Ids, excess: int, bos: int | None) -> Ids:
    """The prompt without so many tokens of its beginning, the beginning-of-text token apart; at least its last token stays."""
    head = prompt[:1] if prompt and prompt[0] == bos else prompt[:0]
    return head + prompt[min(len(head) + max(excess, 0), len(prompt) - 1) :] if excess > 0 else prompt


def data_files(sources: Sequence[str], suffixes: tuple[str, ...] = (".parquet",)) -> list[Path]:
    """The files to read: a dataset folder's data/*.parquet, a folder's own files, or the files named.

    Raises:
        UsageError: one does not exist or holds nothing to read.
    """
    files: list[Path] = []
    for source in sources:
        path = Path(source)
        if path.is_dir():
            inner = path / "data" if (path / "data").is_dir() else path
            found = sorted(p for p in inner.iterdir() if p.suffix in suffixes and not p.name.startswith("."))
        else:
            found = [path] if path.is_file() and path.suffix in suffixes else []
        if not found:
            raise UsageError(
                f"no {' or '.join(suffixes)} file at {source}; hint: give a dataset folder (with data/) or files"
            )
        files += found
    return files


def parsed(name: str, line: str) -> tuple[str, dict[str, Any]]:
    """One JSONL row with its name.

    Raises:
        ValueError: naming the line.
    """
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{name} is not an object")
    return name, row


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row with a name for messages to people, from Parquet or JSONL.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                wanted = None if columns is None else [c for c in columns if c in file.schema_arrow.names]
                # Group by group: asked for all, Arrow keeps each group until the last is read.
                parts = (file.iter_batches(1024, row_groups=[g], columns=wanted) for g in range(file.num_row_groups))
                rows = (row for batch in chain.from_iterable(parts) for row in rows_of(batch))
                yield from ((f"{path.name} row {n}", row) for n, row in enumerate(rows, 1))
        else:
            with path.open(encoding="utf-8") as lines:
                yield from (parsed(f"{path.name} line {n}", line) for n, line in enumerate(lines, 1) if line.strip())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}; hint: is it whole, and of the type its name says?"
        ) from error


def rows_of(batch: Any) -> list[dict[str, Any]]:
    """The rows of a record batch; one whose text is not UTF-8 (a lone surrogate, say) says only that."""
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
        return rows
    except UnicodeDecodeError as error:
        if len(batch) == 1:
            return [{UNREADABLE: str(error)}]
        return [row for i in range(len(batch)) for row in rows_of(batch.slice(i, 1))]


def grouped(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` rows; the last one may be shorter. (itertools.batched needs Python 3.12.)"""
    iterator = iter(rows)
    while group := list(islice(iterator, size)):
        yield group
