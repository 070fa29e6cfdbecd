"""The stage that samples: prompts in, every completion of every prompt out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import pyarrow as pa

from labelers.types import Needs, Prompt, content_id
from pipeline.engines import Engine, EngineInfo, EngineSpec, Generation, Request, Sampled, Sampling
from pipeline.prompts import family_of, prompts_of
from pipeline.schema import COMPLETIONS, PROMPTS
from pipeline.shards import Counts
from pipeline.work import Made, Transform


@dataclass(frozen=True)
class Sample:
    """Asks an engine for `sampling.n` completions of each prompt.

    Args:
        source: the source's name in the config; part of each completion's seed, so that two sources never share draws.
        seed: the run's seed.
    """

    source: str
    engine: EngineSpec
    sampling: Sampling
    seed: int = 0

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
        done = {generation.request_id: generation for generation in engine.generate(self.requests(prompts))}
        rows = [row for prompt_id in prompts for row in self._rows(done[prompt_id], engine.info)]
        return Made(pa.Table.from_pylist(rows, COMPLETIONS), _counts(prompts, rows))

    def requests(self, prompts: dict[str, Prompt]) -> list[Request]:
        """What the engine is asked: one request a prompt."""
        return [Request(p.id, p.messages, self.sampling, self._seed(p)) for p in prompts.values()]

    def _seed(self, prompt: Prompt) -> int:
        # Derived by hash: engines add the completion's index, so nearby seeds would share completions.
        return int(content_id("seed", self.seed, self.source, prompt.id)[:12], 16)

    def _rows(self, generation: Generation, info: EngineInfo) -> list[dict[str, Any]]:
        if generation.error is not None:
            failed = Sampled("", "error")
            return [self._row(generation, failed, content_id(generation.request_id, self.source, "failed"), info)]
        repeats: Counter[tuple[str, int | None]] = Counter()
        rows = []
        for output in generation.outputs:
            # The same text from the same seed (people repeat themselves) is told apart by how often it came before.
            repeat = repeats[output.text, output.seed]
            repeats[output.text, output.seed] += 1
            identity = content_id(generation.request_id, self.source, output.seed, output.text, repeat)
            rows.append(self._row(generation, output, identity, info))
        return rows

    def _row(self, generation: Generation, output: Sampled, identity: str, info: EngineInfo) -> dict[str, Any]:
        sampled = output.seed is not None
        error = generation.error or ("the engine gave it up" if output.finish_reason == "error" else None)
        return {
            "completion_id": identity,
            "prompt_id": generation.request_id,
            "source": self.source,
            "text": output.text,
            "finish_reason": output.finish_reason,
            "n_tokens": output.n_tokens,
            "temperature": self.sampling.temperature if sampled else None,
            "top_p": self.sampling.top_p if sampled else None,
            "seed": output.seed,
            "logp": output.logp,
            "prompt_token_ids": generation.prompt_token_ids if output.token_ids is not None else None,
            "token_ids": output.token_ids,
            "error": error,
            **asdict(info),
        }


def _counts(prompts: dict[str, Prompt], rows: list[dict[str, Any]]) -> Counts:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        family = counts[family_of(prompts[row["prompt_id"]].metadata)]
        if row["error"] is not None:
            family["failed"] += 1
            continue
        family["completions"] += 1
        family["tokens"] += row["n_tokens"]
        family["truncated"] += row["finish_reason"] == "length"
    return {family: dict(kinds) for family, kinds in counts.items()}
