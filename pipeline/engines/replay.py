"""Completions that exist already, from people or from elsewhere: read from files instead of sampled."""

from __future__ import annotations

import functools
import itertools
import marshal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from labelers.types import Message, content_id
from pipeline.engines import EngineInfo, Generation, Progress, Request, Sampled, finish_reason, valid_text
from pipeline.errors import BadPrompts, ConfigError
from pipeline.freed import trim
from pipeline.rows import Row, chat, read_rows
from pipeline.storage.shards import input_sha256
from pipeline.storage.spool import Spool, filled_elsewhere
from pipeline.storage.stores import place_of

ROWS_AT_ONCE = 1000
WORTH_A_PROCESS = 4 << 20
"""Bytes of files from which they are read by a process of their own: starting one takes half a second, and while the run reads
its prompts two threads of one Python take longer than one after the other (docs/log.md)."""


@dataclass(frozen=True)
class Replay:
    """Completions in a file or several, one row each or one row a prompt with a list of them.

    Args:
        path: JSONL, JSON, CSV or Parquet, compressed or not; a path or several.
        prompt: the column with the prompt: a text or a list of messages, equal to the run's own prompt.
        completion: the column with the completion, or with a list of completions.
        finish_reason: the column that says `stop` or `length`; rows without it count as finished.
        model: what made them, for the lineage.
    """

    path: str | tuple[str, ...]
    use: Literal["replay"] = "replay"
    prompt: str = "prompt"
    completion: str = "completion"
    finish_reason: str = "finish_reason"
    model: str = "human"

    @property
    def paths(self) -> tuple[str, ...]:
        """The files, in the order given."""
        return (self.path,) if isinstance(self.path, str) else self.path

    def check(self) -> None:
        """Raises ConfigError when a file is missing."""
        for path in self.paths:
            if not place_of(path).is_file():
                raise ConfigError(f"replay file {path}: no such file")

    def identity(self) -> Mapping[str, Any]:
        """The files' content."""
        columns = (self.prompt, self.completion, self.finish_reason)
        hashes = [input_sha256(place_of(path)) for path in self.paths]
        held = hashes[0] if isinstance(self.path, str) else hashes
        return {"use": self.use, "file": held, "columns": columns, "model": self.model}

    def open(self) -> RunningReplay:
        """Reads the files."""
        self.check()
        return RunningReplay(self)


class RunningReplay:
    """The files' completions by prompt; they stay on the disk, however many they are."""

    def __init__(self, spec: Replay) -> None:
        self.info = EngineInfo(spec.model)
        self._progress = Progress()
        fill = functools.partial(_fill, spec)
        if sum(place_of(path).stat().st_size for path in spec.paths) < WORTH_A_PROCESS:
            self._by_prompt = Spool()
            fill(self._by_prompt)
        else:
            self._by_prompt = filled_elsewhere(fill)

    def generate(self, requests: Sequence[Request]) -> Iterator[Generation]:
        """Every completion that the file has for each prompt; the request's n does not cut them."""
        for request in requests:
            found = self._by_prompt.find(_key(request.messages))
            outputs = tuple(Sampled(*each) for value in found for each in marshal.loads(value))
            self._progress = Progress(self._progress.requests + 1)
            yield Generation(
                request.id, outputs, error=None if outputs else "the file has no completion of this prompt"
            )

    def progress(self) -> Progress:
        """Requests answered so far."""
        return self._progress

    def close(self) -> None:
        """Gives the disk back."""
        self._by_prompt.close()


def _fill(spec: Replay, spool: Spool) -> None:
    """Puts what the files hold into the spool."""
    rows = (_parse(spec, row) for path in spec.paths for row in read_rows(path))
    while some := list(itertools.islice(rows, ROWS_AT_ONCE)):
        spool.add((_key(messages), marshal.dumps(found)) for messages, found in some)
        trim()


def _key(messages: Sequence[Message]) -> str:
    return content_id([[m.role, m.content] for m in messages])


def _parse(spec: Replay, row: Row) -> tuple[Sequence[Message], list[tuple[str, str]]]:
    """A row's prompt, and text and end of each completion."""
    if row.error:
        raise BadPrompts(f"{row.where}: {row.error}")
    try:
        messages, value = chat(row.values[spec.prompt]), row.values[spec.completion]
    except KeyError as missing:
        raise BadPrompts(
            f"{row.where}: has no column {missing}; it has {', '.join(map(str, row.values))}; "
            "hint: name yours, e.g. --set sources.0.engine.completion=response"
        ) from None
    except ValueError as error:
        raise BadPrompts(f"{row.where}: {error}") from error
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise BadPrompts(f"{row.where}: {spec.completion} is {value!r:.80}; hint: a text or a list of texts")
    ended = finish_reason(row.values.get(spec.finish_reason) or "stop")
    return messages, [(text if text.isascii() else valid_text(text), ended) for text in texts]
