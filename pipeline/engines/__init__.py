"""What generates text. An engine's settings are a frozen dataclass whose `open()` starts it; each kind has its file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from labelers.types import FinishReason, Message


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    Args:
        n: completions per prompt.
        temperature: 0 is greedy.
        top_p: 1 is off; on CPU with a large vocabulary it costs most of a step.
        max_tokens: tokens per completion at most; a longer one is cut and never chosen.
        stop: texts that end a completion.
        logprobs: keep the summed log-probability of each completion (temperature 1, before top-p).
    """

    n: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    logprobs: bool = True


@dataclass(frozen=True)
class Request:
    """One prompt to be answered `sampling.n` times. The i-th completion's seed is `seed + i`.

    Args:
        schema: a JSON Schema, as text, that the engine holds the completions to; empty: none.
    """

    id: str
    messages: tuple[Message, ...]
    sampling: Sampling
    seed: int
    schema: str = ""


class Sampled(NamedTuple):
    """One completion as the engine gave it. `logp` in nats, summed over tokens; `n_tokens` 0 when nobody knows.

    A tuple: it is made a third as fast as a frozen dataclass, by the million.
    """

    text: str
    finish_reason: FinishReason
    token_ids: Sequence[int] | None = None
    logp: float | None = None
    seed: int | None = None
    n_tokens: int = 0


@dataclass(frozen=True)
class Usage:
    """What one request cost, in tokens."""

    prompt: int
    completion: int


@dataclass(frozen=True)
class Generation:
    """All completions of one request, or why there are none. `usage` is None where the engine does not say."""

    request_id: str
    outputs: tuple[Sampled, ...] = ()
    prompt_token_ids: Sequence[int] | None = None
    error: str | None = None
    usage: Usage | None = None


@dataclass(frozen=True)
class EngineInfo:
    """What made the completions; the hashes are defined in docs/format.md and None where the engine cannot know them."""

    model: str
    model_hash: str | None = None
    tokenizer_hash: str | None = None
    template_hash: str | None = None


@dataclass(frozen=True)
class Progress:
    """What an engine has finished since it started. `note`: what keeps it from going on, where something does."""

    requests: int = 0
    tokens: int = 0
    note: str = ""


class Engine(Protocol):
    """A running engine. All methods may be called from several threads at once."""

    info: EngineInfo

    def generate(self, requests: Sequence[Request]) -> Iterator[Generation]:
        """Each request's completions as soon as they are finished, in any order.

        Raises:
            EngineFailed: the engine died. A request that it refuses is a Generation with an error instead.
        """
        ...

    def progress(self) -> Progress: ...
    def close(self) -> None: ...


@runtime_checkable
class RewardEngine(Protocol):
    """A running engine that writes no text but gives conversations a number, for labelers that ask for rewards."""

    def rewards(self, chats: Sequence[Sequence[Message]]) -> Sequence[float | None]:
        """The number of each finished conversation, in order; None where the model takes it not or the number is not finite.

        Raises:
            EngineFailed: the model cannot be asked.
        """
        ...


class EngineSpec(Protocol):
    """The settings of an engine: a frozen dataclass, hashable, with `use` naming its kind."""

    @property
    def use(self) -> str: ...

    def check(self) -> None:
        """Finds what is wrong before anything is loaded. Raises ConfigError or EnvironmentLacks with a hint."""
        ...

    def identity(self) -> Mapping[str, Any]:
        """What decides the text that it generates: part of the fingerprint of every shard that it makes."""
        ...

    def open(self) -> Engine: ...


def valid_text(text: str) -> str:
    """`text` with what UTF-8 cannot hold (lone surrogates) replaced by U+FFFD, as vLLM does: one such kills an Arrow batch."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def finish_reason(reported: str | None) -> FinishReason:
    """The engine's word for how a completion ended, in ours; what is neither an end nor a cut is an error."""
    match reported:
        case "stop" | "length":
            return reported
        case _:
            return "error"
