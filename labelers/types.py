"""The values that flow through a labeler: what goes in (prompts, completions) and the three outcomes that come out.

Standard library only. Everything is frozen: a value is never edited, only replaced.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from labelers.encoding import quick_encode

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "error"]
AbstainKind = Literal["not_applicable", "unparsable", "timeout", "unavailable", "crashed"]
Preference = Literal["a", "b", "tie"]
ROLES, ABSTAIN_KINDS, PREFERENCES = get_args(Role), get_args(AbstainKind), get_args(Preference)
"""The same as values, for checks."""


def content_id(*parts: Any) -> str:
    """The identity of a value: 32 hexadecimal digits of the SHA-256 of its canonical JSON (never its position)."""
    text = ",".join([_PLAIN.get(type(part), _json)(part) for part in parts])
    return hashlib.sha256(f"[{text}]".encode("ascii")).hexdigest()[:32]


def content_ids(*columns: Sequence[Any]) -> list[str]:
    """`content_id` of each row of these columns, all as long: two thirds of its time where each column has values of one kind."""
    rows = zip(*[map(_encoder_of(column), column) for column in columns], strict=True)
    return [hashlib.sha256(f"[{','.join(row)}]".encode("ascii")).hexdigest()[:32] for row in rows]


def _encoder_of(column: Sequence[Any]) -> Callable[[Any], str]:
    kinds = set(map(type, column))
    return _PLAIN.get(kinds.pop(), _json) if len(kinds) == 1 else _encoded


def _encoded(value: Any) -> str:
    return _PLAIN.get(type(value), _json)(value)


_json = quick_encode(ascii_only=True, sort_keys=True, separators=(",", ":"), nan=True)
_PLAIN = {str: json.encoder.encode_basestring_ascii, int: int.__repr__, type(None): lambda _: "null"}
"""What the encoder does to these, without its five function calls: half of the time of an id."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"role is {self.role!r}; hint: one of {', '.join(ROLES)}")
        if not isinstance(self.content, str):
            raise TypeError(f"content is {type(self.content).__name__}; hint: a message's content is text")


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked, and what is known about its answer.

    Args:
        id: hash of messages and target; make a prompt with `Prompt.of` or `Prompt.make` and it is right.
        messages: the conversation so far, at least one message.
        target: the known answer: a number, a text, a JSON schema, tests. Any JSON value; None when nothing is known.
        metadata: what labelers and reports may route by (`family`, difficulty, ...). Not part of the id.
    """

    id: str
    messages: tuple[Message, ...]
    target: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def make(cls, messages: Sequence[Message], target: Any = None, metadata: Mapping[str, Any] | None = None) -> Prompt:
        """A prompt whose id is the hash of all its messages (the system message too) and its target.

        Raises:
            ValueError: there is no message, or the target is not a JSON value.
        """
        if not messages:
            raise ValueError("a prompt needs at least one message")
        identity = content_id([[m.role, m.content] for m in messages], target)
        return cls(identity, tuple(messages), target, dict(metadata or {}))

    @classmethod
    def of(cls, text: str, target: Any = None, **metadata: Any) -> Prompt:
        """A prompt of one user message."""
        return cls.make([Message("user", text)], target, metadata)


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer to a prompt, from a model or a person.

    Args:
        finish_reason: `stop` it ended itself; `length` it was cut; `error` it was never made.
        source: where it comes from, a name from the run's config. A judge never sees it.
        n_tokens: tokens sampled, the end token included; 0 when unknown (people).
    """

    id: str
    prompt_id: str
    text: str
    finish_reason: FinishReason = "stop"
    source: str = ""
    n_tokens: int = 0

    @classmethod
    def of(cls, prompt: Prompt, text: str, source: str = "") -> Completion:
        """A finished completion of `prompt`, for tests and examples."""
        return cls(content_id(prompt.id, source, text), prompt.id, text, "stop", source)


@dataclass(frozen=True, slots=True)
class Score:
    """A pointwise label; higher is better.

    Raises:
        TypeError: the value is not a number.
        ValueError: the value is nan or infinite; return `Abstain` for what could not be judged.
    """

    value: float
    reason: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise TypeError(f"a score's value is {type(self.value).__name__}; hint: return Score(float(...))")
        if not math.isfinite(self.value):
            raise ValueError(f"a score's value is {self.value}; hint: return Abstain(kind, reason) for the unknown")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A pairwise label: which of two completions is better, or that they are equal."""

    prefers: Preference
    reason: str = ""

    def __post_init__(self) -> None:
        if self.prefers not in PREFERENCES:
            raise ValueError(f"a verdict prefers {self.prefers!r}; hint: one of {', '.join(PREFERENCES)}")

    def swap(self) -> Verdict:
        """The same verdict on the swapped comparison."""
        match self.prefers:
            case "a":
                return Verdict("b", self.reason)
            case "b":
                return Verdict("a", self.reason)
            case "tie":
                return self


@dataclass(frozen=True, slots=True)
class Abstain:
    """Not judged, and why. An abstention is never paired and always counted.

    Args:
        kind: `not_applicable` the labeler does not fit this prompt; `unparsable` the target or a judge's reply cannot
            be read; `timeout` the labeler took too long; `unavailable` a tool or server is missing; `crashed` it
            raised.
    """

    kind: AbstainKind
    reason: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ABSTAIN_KINDS:
            raise ValueError(f"an abstention's kind is {self.kind!r}; hint: one of {', '.join(ABSTAIN_KINDS)}")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A prompt and one completion of it: the question to a pointwise labeler."""

    prompt: Prompt
    completion: Completion


@dataclass(frozen=True, slots=True)
class Comparison:
    """A prompt and two completions of it: the question to a pairwise labeler."""

    prompt: Prompt
    a: Completion
    b: Completion

    def swap(self) -> Comparison:
        """The same question in the other order."""
        return Comparison(self.prompt, self.b, self.a)


@dataclass(frozen=True, slots=True)
class Example:
    """What a labeler promises: on this prompt it prefers `better` to `worse`. Used by `check` and by its page."""

    prompt: Prompt
    better: str
    worse: str


@dataclass(frozen=True, slots=True)
class Needs:
    """What a labeler or stage needs from the machine: data that executors map to slots, never a permission.

    Args:
        memory_gb: resident memory of one worker, in 10^9 bytes.
        programs: what `ctx.run_program` will be asked to start (compilers); a missing one is an error before sampling.
        sandbox: runs completions; allowed only where the run's config says so.
        network: opens connections.
        engine: asks a model through `ctx.generate` or `ctx.rewards`.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory_gb: float = 1.0
    programs: tuple[str, ...] = ()
    sandbox: bool = False
    network: bool = False
    engine: bool = False
