"""Rows of any file that people keep prompts and completions in, each with the place it came from."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from labelers.types import ROLES, Message
from pipeline.errors import BadPrompts
from pipeline.storage.shards import batches
from pipeline.storage.stores import CREDENTIALS, place_of

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
BOM = "\ufeff"
"""Taken off lines by hand: Python's codec that does it is written in Python, and there are lines by the million."""
READABLE = ".jsonl, .ndjson, .json, .csv, .parquet (and .gz, .bz2, .xz, .zst of the text ones), a folder, or a Hub name"


@dataclass(frozen=True)
class Row:
    """One row as it stands in its file, or why it cannot be read.

    Args:
        where: file and line (rows of Parquet and of Hub datasets are counted from 1).
    """

    where: str
    values: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


def read_rows(path: str, split: str = "train", subset: str | None = None) -> Iterator[Row]:
    """The rows of a file, local or remote (any fsspec URL), of a dataset folder, or of a dataset on the Hub.

    Raises:
        BadPrompts: there is no such file, or its kind is unknown.
    """
    name = path.lower()
    for ending in COMPRESSIONS:
        name = name.removesuffix(ending)
    reader = {".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}.get(
        "." + name.rpartition(".")[2]
    )
    try:
        yield from reader(path) if reader else _dataset(path, split, subset)
    except FileNotFoundError as error:
        raise BadPrompts(
            f"{path}: no such file; hint: paths in a config are looked for beside the config file"
        ) from error
    except (OSError, pa.ArrowException, EOFError) as error:
        raise BadPrompts(f"{path}: cannot be read: {error}") from error


def chat(value: Any) -> tuple[Message, ...]:
    """The messages that `value` stands for: a text is one user message.

    Raises:
        ValueError: it is neither text nor a list of {role, content} that ends with something to answer.
    """
    messages = (Message("user", value),) if isinstance(value, str) else _turns(value)
    if not any(m.content.strip() for m in messages):
        raise ValueError("the prompt is empty")
    if messages[-1].role == "assistant":
        raise ValueError("the last message is the assistant's; hint: cut it off, or give it to a replay source")
    return messages


def _turns(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"the prompt is {value!r:.80}; hint: a text or a list of {{role, content}}")
    messages = []
    for turn in value:
        if not isinstance(turn, Mapping) or not isinstance(turn.get("content"), str):
            raise ValueError(f"a message is {turn!r:.80}; hint: {{role, content}} with text in both")
        if turn.get("role") not in ROLES:
            raise ValueError(f"a message's role is {turn.get('role')!r}; hint: one of {', '.join(ROLES)}")
        messages.append(Message(turn["role"], turn["content"]))
    return tuple(messages)


def _open(path: str, compression: str | None = "infer") -> Any:
    import fsspec  # here: most commands read no rows, and it takes a tenth of their start
    from fsspec.compression import compr
    from fsspec.utils import infer_compression

    if path.partition("://")[0] not in CREDENTIALS:
        return fsspec.open(path, "rb", compression=compression)
    kind = infer_compression(path) if compression == "infer" else compression
    file = place_of(path).open("rb")
    return compr[kind](file, mode="rb") if kind else file


def _jsonl(path: str) -> Iterator[Row]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _parse(f"{path}:{number}", line)


def _parse(where: str, line: bytes) -> Row:
    try:
        value = json.loads(line.decode().removeprefix(BOM))
    except (ValueError, RecursionError) as error:
        return Row(where, error=f"is not JSON ({error})")
    return _object(where, value)


def _object(where: str, value: Any) -> Row:
    return Row(where, value) if isinstance(value, dict) else Row(where, error=f"is {value!r:.60}, not an object")


def _json(path: str) -> Iterator[Row]:
    with _open(path) as file:
        try:
            value = json.loads(file.read().decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise BadPrompts(f"{path}: is not JSON ({error}); hint: one object a line is .jsonl") from error
    lists = [value] if isinstance(value, list) else [v for v in value.values() if isinstance(v, list)]
    if len(lists) != 1:
        raise BadPrompts(f"{path}: hint: a list of objects, or an object that holds one list of them")
    for number, item in enumerate(lists[0], 1):
        yield _object(f"{path} item {number}", item)


def _csv(path: str) -> Iterator[Row]:
    with _open(path) as file:
        reader = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True)
        try:
            for row in reader:
                where = f"{path}:{reader.line_num}"
                wrong = None in row or None in row.values()
                yield Row(where, error="has another number of columns than the header") if wrong else Row(where, row)
        except (csv.Error, UnicodeDecodeError) as error:
            raise BadPrompts(f"{path}:{reader.line_num}: is not CSV in UTF-8 ({error})") from error


def _parquet(path: str) -> Iterator[Row]:
    with _open(path, compression=None) as file:
        number = 0
        for batch in batches(pq.ParquetFile(file), 1024):
            for values in batch.to_pylist():
                number += 1
                yield Row(f"{path} row {number}", values)


def _dataset(path: str, split: str, subset: str | None) -> Iterator[Row]:
    if not re.fullmatch(r"[\w.~/-]+", path):
        raise BadPrompts(f"{path}: of unknown kind; hint: {READABLE}")
    import datasets

    try:
        rows = datasets.load_dataset(path, subset, split=split, streaming=True)
        for number, values in enumerate(rows, 1):
            yield Row(f"{path} row {number}", values)
    except Exception as error:  # the library raises a wide family: offline, not found, no such split, bad files
        raise BadPrompts(
            f"{path}: datasets cannot load it: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}; "
            f"hint: {READABLE}; split is {split!r}"
        ) from error
