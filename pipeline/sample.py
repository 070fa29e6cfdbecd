"""The stage that samples: prompts in, every completion of every prompt out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import pyarrow as pa

from labelers.types import Message, Needs, content_id, content_ids
from pipeline.engines import Engine, EngineInfo, EngineSpec, Generation, Request, Sampled, Sampling
from pipeline.errors import EngineFailed
from pipeline.prompts import chats_of, family_by_id
from pipeline.schema import COMPLETIONS, PROMPTS
from pipeline.spending.budget import Meter, ask
from pipeline.storage.shards import Counts
from pipeline.work import Made, Transform

TOO_FEW_TO_TELL = 10
"""Requests of a shard that may all fail without a doubt about the engine (own)."""


@dataclass(frozen=True)
class Sample:
    """Asks an engine for `sampling.n` completions of each prompt.

    Args:
        source: the source's name in the config; part of each completion's seed, so that two sources never share draws.
        seed: the run's seed.
        meter: counts what is paid for; it decides nothing of the text, so it is no part of the identity.
    """

    source: str
    engine: EngineSpec
    sampling: Sampling
    seed: int = 0
    meter: Meter | None = None

    version: ClassVar[str] = "1"
    needs: ClassVar[Needs] = Needs(engine=True)
    reads: ClassVar[tuple[pa.Schema, ...]] = (PROMPTS,)
    writes: ClassVar[pa.Schema] = COMPLETIONS

    def identity(self) -> dict[str, Any]:
        """What decides the completions, for the fingerprint."""
        return {
            "source": self.source,
            "engine": self.engine.identity(),
            "sampling": asdict(self.sampling),
            "seed": self.seed,
        }

    @contextmanager
    def open(self, engine: Engine | None = None) -> Iterator[Transform]:
        """The transform, on the engine that the executor lends."""
        assert engine is not None, "an executor lends its engine to a stage that names one"
        yield lambda prompts: self._sample(prompts, engine)

    def _sample(self, prompts: pa.Table, engine: Engine) -> Made:
        done = ask(engine, self.requests(chats_of(prompts)), self.meter)
        require_some(self.source, list(done.values()))
        table = self._table([_with_rows(done[i]) for i in prompts["prompt_id"].to_pylist()], engine.info)
        return Made(table, counts_of(table, family_by_id(prompts)))

    def requests(self, chats: Mapping[str, tuple[Message, ...]]) -> list[Request]:
        """What the engine is asked: one request a prompt."""
        return [Request(i, said, self.sampling, self._seed(i)) for i, said in chats.items()]

    def _seed(self, prompt_id: str) -> int:
        # Derived by hash: engines add the completion's index, so nearby seeds would share completions.
        return int(content_id("seed", self.seed, self.source, prompt_id)[:12], 16)

    def _table(self, answers: Sequence[Generation], info: EngineInfo) -> pa.Table:
        """By columns: this runs while the engine steps in the same process, and a row at a time takes four times as long."""
        owners = [answer for answer in answers for _ in answer.outputs]
        drawn = [output for answer in answers for output in answer.outputs]
        columns: dict[str, list[Any]] = {
            "completion_id": self._ids(answers, owners, drawn),
            "prompt_id": [answer.request_id for answer in owners],
            "text": [output.text for output in drawn],
            "finish_reason": [output.finish_reason for output in drawn],
            "n_tokens": [output.n_tokens for output in drawn],
            "temperature": [None if output.seed is None else self.sampling.temperature for output in drawn],
            "top_p": [None if output.seed is None else self.sampling.top_p for output in drawn],
            "seed": [output.seed for output in drawn],
            "logp": [output.logp for output in drawn],
            "token_ids": [output.token_ids for output in drawn],
            "error": list(map(_error, owners, drawn)),
        }
        constant = {"source": self.source, **asdict(info)}
        arrays = {name: pa.array(values, COMPLETIONS.field(name).type) for name, values in columns.items()}
        arrays |= {name: pa.repeat(pa.scalar(value, pa.string()), len(drawn)) for name, value in constant.items()}
        arrays["prompt_token_ids"] = _prompt_token_ids(answers)
        return pa.table([arrays[name] for name in COMPLETIONS.names], COMPLETIONS)

    def _ids(self, answers: Sequence[Generation], owners: Sequence[Generation], drawn: Sequence[Sampled]) -> list[str]:
        """Each completion's identity: its prompt, source, seed and text, and how often they came before."""
        ids = content_ids(
            [answer.request_id for answer in owners],
            [self.source] * len(drawn),
            [output.seed for output in drawn],
            [output.text for output in drawn],
            [n for answer in answers for n in _repeats(answer.outputs)],
        )
        for i, answer in enumerate(owners):
            if answer.error is not None:
                ids[i] = content_id(answer.request_id, self.source, "failed")
        return ids


def _with_rows(answer: Generation) -> Generation:
    """An answer that failed stands as one row, which says why."""
    return answer if answer.error is None else replace(answer, outputs=(Sampled("", "error"),))


def _error(answer: Generation, output: Sampled) -> str | None:
    gave_up = "the engine gave it up" if output.finish_reason == "error" else None
    return gave_up if answer.error is None else answer.error


def _repeats(outputs: Sequence[Sampled]) -> Iterator[int]:
    """How often each text came before from the same seed: people repeat themselves."""
    seen: dict[tuple[str, int | None], int] = {}
    for output in outputs:
        key = output.text, output.seed
        yield (before := seen.get(key, 0))
        seen[key] = before + 1


def require_some(source: str, answers: Sequence[Generation]) -> None:
    """Raises EngineFailed when no request of a shard was answered: a shard of failures would be finished, and stay so."""
    failed = Counter(answer.error for answer in answers if answer.error is not None)
    if len(answers) < TOO_FEW_TO_TELL or failed.total() < len(answers):
        return
    (why, times), *_ = failed.most_common(1)
    raise EngineFailed(
        f"source {source}: none of the {len(answers)} requests of a shard was answered, {times} times since: {why}; "
        "finished shards are kept; hint: does the model take prompts as long as these?"
    )


def _prompt_token_ids(answers: Sequence[Generation]) -> pa.Array:
    """The prompt's ids beside each completion that has its own; converted once a prompt, not once a completion."""
    prompts = pa.array([answer.prompt_token_ids for answer in answers], COMPLETIONS.field("prompt_token_ids").type)
    rows = [None if output.token_ids is None else i for i, answer in enumerate(answers) for output in answer.outputs]
    return prompts.take(pa.array(rows, pa.int64()))


def counts_of(completions: pa.Table, families: Mapping[str, str]) -> Counts:
    """What a shard's receipt says of its completions.

    Args:
        families: prompt id -> the group that it is reported under.
    """
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    columns = (completions[name].to_pylist() for name in ("prompt_id", "finish_reason", "n_tokens", "error"))
    for prompt_id, finish_reason, n_tokens, error in zip(*columns, strict=True):
        family = counts[families[prompt_id]]
        if error is not None:
            family["failed"] += 1
            continue
        family["completions"] += 1
        family["tokens"] += n_tokens
        family["truncated"] += finish_reason == "length"
    return {family: dict(kinds) for family, kinds in counts.items()}
