"""The stage that samples: prompts in, every completion of every prompt out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import pyarrow as pa

from labelers.types import Needs, Prompt, content_id
from pipeline.engines import Engine, EngineInfo, EngineSpec, Generation, Request, Sampled, Sampling
from pipeline.errors import EngineFailed
from pipeline.prompts import family_of, prompts_of
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
        yield lambda prompts: self._sample(prompts_of(prompts), engine)

    def _sample(self, prompts: dict[str, Prompt], engine: Engine) -> Made:
        done = ask(engine, self.requests(prompts), self.meter)
        require_some(self.source, list(done.values()))
        drawn = [draw for prompt_id in prompts for draw in self._drawn(done[prompt_id])]
        table = self._table(drawn, engine.info)
        return Made(table, counts_of(table, {p.id: family_of(p.metadata) for p in prompts.values()}))

    def requests(self, prompts: dict[str, Prompt]) -> list[Request]:
        """What the engine is asked: one request a prompt."""
        return [Request(p.id, p.messages, self.sampling, self._seed(p)) for p in prompts.values()]

    def _seed(self, prompt: Prompt) -> int:
        # Derived by hash: engines add the completion's index, so nearby seeds would share completions.
        return int(content_id("seed", self.seed, self.source, prompt.id)[:12], 16)

    def _drawn(self, generation: Generation) -> list[_Draw]:
        if generation.error is not None:
            identity = content_id(generation.request_id, self.source, "failed")
            return [_Draw(identity, generation, Sampled("", "error"), generation.error)]
        repeats: Counter[tuple[str, int | None]] = Counter()
        drawn = []
        for output in generation.outputs:
            # The same text from the same seed (people repeat themselves) is told apart by how often it came before.
            repeat = repeats[output.text, output.seed]
            repeats[output.text, output.seed] += 1
            identity = content_id(generation.request_id, self.source, output.seed, output.text, repeat)
            error = "the engine gave it up" if output.finish_reason == "error" else None
            drawn.append(_Draw(identity, generation, output, error))
        return drawn

    def _table(self, drawn: list[_Draw], info: EngineInfo) -> pa.Table:
        """By columns: this runs while the engine steps in the same process, and a row at a time takes four times as long."""
        outputs = [draw.output for draw in drawn]
        constant = {"source": self.source, **asdict(info)}
        columns: dict[str, list[Any]] = {
            "completion_id": [draw.completion_id for draw in drawn],
            "prompt_id": [draw.generation.request_id for draw in drawn],
            "text": [output.text for output in outputs],
            "finish_reason": [output.finish_reason for output in outputs],
            "n_tokens": [output.n_tokens for output in outputs],
            "temperature": [None if output.seed is None else self.sampling.temperature for output in outputs],
            "top_p": [None if output.seed is None else self.sampling.top_p for output in outputs],
            "seed": [output.seed for output in outputs],
            "logp": [output.logp for output in outputs],
            "token_ids": [output.token_ids for output in outputs],
            "error": [draw.error for draw in drawn],
        }
        arrays = {name: pa.array(values, COMPLETIONS.field(name).type) for name, values in columns.items()}
        arrays |= {name: pa.repeat(pa.scalar(value, pa.string()), len(drawn)) for name, value in constant.items()}
        arrays["prompt_token_ids"] = _prompt_token_ids(drawn)
        return pa.table([arrays[name] for name in COMPLETIONS.names], COMPLETIONS)


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


@dataclass(frozen=True, slots=True)
class _Draw:
    """A completion on its way into the table."""

    completion_id: str
    generation: Generation
    output: Sampled
    error: str | None


def _prompt_token_ids(drawn: list[_Draw]) -> pa.Array:
    """The prompt's ids beside each completion that has its own; converted once a prompt, not once a completion."""
    generations = list({id(draw.generation): draw.generation for draw in drawn}.values())
    place = {id(generation): i for i, generation in enumerate(generations)}
    prompts = pa.array([g.prompt_token_ids for g in generations], COMPLETIONS.field("prompt_token_ids").type)
    rows = [None if draw.output.token_ids is None else place[id(draw.generation)] for draw in drawn]
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
