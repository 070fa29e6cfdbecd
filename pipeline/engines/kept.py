"""Answers that an engine has given, kept beside the shard that waits for the others: a killed run asks for none of them again.

A line of a journal each: the hash of what follows, and the answer as JSON. A torn or strange line is no answer. The file goes
when its shard is there. Shards in a store are made again as a whole: nothing can be added to an object.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from labelers.types import content_id
from pipeline.engines import Engine, Generation, Request, RewardEngine, Sampled
from pipeline.storage.journal import Journal
from pipeline.storage.shards import Receipt
from pipeline.storage.stores import is_store
from pipeline.work import Work, perform

INSTANT = ("replay",)
"""Kinds of engine whose answers are not worth keeping."""
SUFFIX = ".answers"


def perform_on(engine: Engine, work: Work) -> Receipt:
    """Does the work on a running engine; completions and replies that were given for it before a kill are taken as they are."""
    spec = work.stage.engine
    if is_store(work.output) or spec is None or spec.use in INSTANT or isinstance(engine, RewardEngine):
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
    """An engine whose answers are written down as they come, and that knows those which were given before it was opened.

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
        """See pipeline.engines.Engine."""
        keys = {request.id: _key(request) for request in requests}
        for answer in self._engine.generate(requests):
            if answer.error is None and all(output.finish_reason != "error" for output in answer.outputs):
                self._answers.add(_line(keys[answer.request_id], answer))
            yield answer

    def known(self, request: Request) -> Generation | None:
        """The answer that this request got before: it was paid for then."""
        if said := self._kept.get(_key(request)):
            prompt_token_ids, outputs = said
            drawn = [Sampled(text, reason, ids, logp, seed, n) for text, reason, _, logp, seed, n, ids in outputs]
            return Generation(request.id, tuple(drawn), prompt_token_ids)
        return None

    @cached_property
    def _kept(self) -> dict[str, tuple[Any, Any]]:
        found = {}
        for line in self._answers.news().splitlines():
            digest, _, body = line.partition(b" ")
            if digest == _digest(body):
                key, *said = json.loads(body)
                found[key] = tuple(said)
        return found


def recalled(engine: Engine, requests: Sequence[Request]) -> list[Generation]:
    """The answers to these requests that the engine need not be asked for."""
    found = map(engine.known, requests) if isinstance(engine, Keeping) else ()
    return [answer for answer in found if answer]


def _key(request: Request) -> str:
    """What decides an answer, besides the engine and the length: those name the shard's folder."""
    turns = [[message.role, message.content] for message in request.messages]
    return content_id(request.seed, request.sampling.temperature, request.schema, turns)


def _line(key: str, answer: Generation) -> bytes:
    outputs = [[*o._replace(token_ids=None), _ids(o.token_ids)] for o in answer.outputs]
    body = json.dumps([key, _ids(answer.prompt_token_ids), outputs]).encode()
    return _digest(body) + b" " + body


def _ids(token_ids: Sequence[int] | None) -> list[int] | None:
    return None if token_ids is None else list(map(int, token_ids))


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:16].encode()
