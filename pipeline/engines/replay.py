"""Completions that exist already, from people or from elsewhere: read from a file instead of sampled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from labelers.types import Message, content_id
from pipeline.engines import EngineInfo, Generation, Progress, Request, Sampled, finish_reason, valid_text
from pipeline.errors import BadPrompts, ConfigError
from pipeline.rows import Row, chat, read_rows
from pipeline.shards import file_sha256


@dataclass(frozen=True)
class Replay:
    """A file of completions, one row each or one row a prompt with a list of them.

    Args:
        path: JSONL, JSON, CSV or Parquet, compressed or not.
        prompt: the column with the prompt: a text or a list of messages, equal to the run's own prompt.
        completion: the column with the completion, or with a list of completions.
        finish_reason: the column that says `stop` or `length`; rows without it count as finished.
        model: what made them, for the lineage.
    """

    path: str
    use: Literal["replay"] = "replay"
    prompt: str = "prompt"
    completion: str = "completion"
    finish_reason: str = "finish_reason"
    model: str = "human"

    def check(self) -> None:
        """Raises ConfigError when the file is missing."""
        if not Path(self.path).is_file():
            raise ConfigError(f"replay file {self.path}: no such file")

    def identity(self) -> Mapping[str, Any]:
        """The file's content."""
        columns = (self.prompt, self.completion, self.finish_reason)
        return {"use": self.use, "file": file_sha256(Path(self.path)), "columns": columns, "model": self.model}

    def open(self) -> RunningReplay:
        """Reads the file."""
        self.check()
        return RunningReplay(self)


class RunningReplay:
    """The file's completions by prompt."""

    def __init__(self, spec: Replay) -> None:
        self.info = EngineInfo(spec.model)
        self._progress = Progress()
        self._by_prompt: dict[str, list[Sampled]] = {}
        for row in read_rows(spec.path):
            messages, found = _parse(spec, row)
            self._by_prompt.setdefault(_key(messages), []).extend(found)

    def generate(self, requests: Sequence[Request]) -> Iterator[Generation]:
        """Every completion that the file has for each prompt; the request's n does not cut them."""
        for request in requests:
            outputs = tuple(self._by_prompt.get(_key(request.messages), ()))
            self._progress = Progress(self._progress.requests + 1)
            yield Generation(
                request.id, outputs, error=None if outputs else "the file has no completion of this prompt"
            )

    def progress(self) -> Progress:
        """Requests answered so far."""
        return self._progress

    def close(self) -> None:
        """Nothing is held."""


def _key(messages: Sequence[Message]) -> str:
    return content_id([[m.role, m.content] for m in messages])


def _parse(spec: Replay, row: Row) -> tuple[Sequence[Message], list[Sampled]]:
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
    return messages, [Sampled(valid_text(text), ended) for text in texts]
