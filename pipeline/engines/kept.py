"""Answers that an engine has given, kept beside the shard that waits for the others: a killed run asks for none of them again.

A line of a journal each: the hash of what follows, and the answer as JSON. A torn or strange line is no answer. The file goes
when its shard is there. Shards in a store are sampled again as a whole: nothing can be added to an object.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from labelers.types import content_id
from pipeline.engines import Engine, Generation, Request, Sampled, Usage
from pipeline.schema import COMPLETIONS
from pipeline.storage.journal import Journal
from pipeline.storage.shards import Receipt
from pipeline.storage.stores import is_store
from pipeline.work import Work, perform

FREE = Usage(0, 0)
"""What a kept answer costs: it was paid for when it was given."""
INSTANT = ("replay",)
"""Kinds of engine whose answers are not worth keeping."""
SUFFIX = ".answers"


def perform_on(engine: Engine, work: Work) -> Receipt:
    """Does the work on a running engine; completions that were sampled for it before a kill are taken as they are."""
    spec = work.stage.engine
    if work.stage.writes is not COMPLETIONS or is_store(work.output) or spec is None or spec.use in INSTANT:
        with work.stage.open(engine) as transform:
            return perform(work, transform)
    answers = answers_path(work.output)
    with work.stage.open(Keeping(engine, answers)) as transform:
        receipt = perform(work, transform)
    answers.unlink(missing_ok=True)
    return receipt


def answers_path(shard: Path) -> Path:
    """Where the answers for an unfinished shard lie."""
    return shard.with_name(f".{shard.stem}{SUFFIX}")


def unfinished(folder: Path) -> Iterator[tuple[Path, Path]]:
    """The shards of a folder that answers are kept for, each with the file of its answers."""
    for answers in folder.glob(f".*{SUFFIX}"):
        yield answers.with_name(f"{answers.stem[1:]}.parquet"), answers


class Keeping:
    """An engine that gives an answer it has given before, and writes each new one down as it comes.

    Args:
        engine: the one that is asked.
        answers: the file; other processes add nothing to it.
    """

    def __init__(self, engine: Engine, answers: Path) -> None:
        self.info = engine.info
        self.progress = engine.progress
        self.close = engine.close
        self._engine, self._answers = engine, Journal(answers)

    def generate(self, requests: Sequence[Request]) -> Iterator[Generation]:
        """See pipeline.engines.Engine; kept answers come first."""
        keys = {request.id: _key(request) for request in requests}
        kept = self._kept()
        known = {request.id: kept[keys[request.id]] for request in requests if keys[request.id] in kept}
        for request_id, answer in known.items():
            yield replace(answer, request_id=request_id)
        left = [request for request in requests if request.id not in known]
        if not left:
            return
        for answer in self._engine.generate(left):
            if answer.error is None and all(output.finish_reason != "error" for output in answer.outputs):
                self._answers.add(_line(keys[answer.request_id], answer))
            yield answer

    def _kept(self) -> dict[str, Generation]:
        found = {}
        for line in self._answers.news().splitlines():
            digest, _, body = line.partition(b" ")
            if digest == _digest(body):
                key, answer = _answer(json.loads(body))
                found[key] = answer
        return found


def _key(request: Request) -> str:
    """What decides an answer, besides the engine and the sampling: those name the shard's folder."""
    turns = [[message.role, message.content] for message in request.messages]
    return content_id(request.id, request.seed, request.schema, turns)


def _line(key: str, answer: Generation) -> bytes:
    outputs = [[*o._replace(token_ids=None), _ids(o.token_ids)] for o in answer.outputs]
    body = json.dumps([key, _ids(answer.prompt_token_ids), outputs]).encode()
    return _digest(body) + b" " + body


def _answer(said: Any) -> tuple[str, Generation]:
    key, prompt_token_ids, outputs = said
    drawn = [Sampled(text, reason, ids, logp, seed, n) for text, reason, _, logp, seed, n, ids in outputs]
    return key, Generation(key, tuple(drawn), prompt_token_ids, usage=FREE)


def _ids(token_ids: Sequence[int] | None) -> list[int] | None:
    return None if token_ids is None else list(map(int, token_ids))


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:16].encode()
