"""What number does a reward model give to a completion?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from labelers.protocol import Context
from labelers.types import Abstain, Candidate, Example, Message, Needs, Prompt, Score

_ROME = Prompt.of("What is the capital of Italy?")


@dataclass(frozen=True)
class RewardModel:
    """Prefers the completion that a reward model, trained on preferences, gives the higher number.

    ## What it prefers
    The model reads prompt and completion and gives one number, taken as it is. It runs on the GPU where there is one, in a
    process of its own: `engine = { use = "reward_model", model = "FOLDER_OR_HUB_NAME" }`. Its chat template lays the
    conversation out. A conversation that is too long for the model is never cut: it is an abstention.

    ## Why
    It has learnt what people prefer where nothing can be computed, and costs one forward pass where a judge writes a reply.

    ## Example
    Question `What is the capital of Italy?`: it prefers `Rome.` to `Milan.`

    ## Known problems
    - Numbers of different prompts cannot be compared, and there is no zero; only differences within a prompt mean something.
    - Reward models like length and a confident tone; look at the report's length figures. What is trained against them for
      long finds their mistakes.
    - A control token written out in a completion is read by the model as that token.
    - Models with several outputs, or with code of their own, are refused.
    """

    cut: Literal["score", "abstain"] = "score"
    """A completion that was cut at its token limit: `score` it as if it had ended there, or `abstain`."""

    name = "reward_model"
    version = "1"
    needs = Needs(engine=True)
    asks = "rewards"
    examples = (Example(_ROME, better="Rome.", worse="Milan."),)

    def score(self, batch: Sequence[Candidate], ctx: Context) -> Sequence[Score | Abstain]:
        return rewards(batch, ctx, self.cut)


def rewards(batch: Sequence[Candidate], ctx: Context, cut: Literal["score", "abstain"]) -> list[Score | Abstain]:
    """The engine's number for each candidate's whole conversation; an abstention where it has none.

    Args:
        cut: what to do with completions that were cut at their token limit.
    """
    asked = [c for c in batch if cut == "score" or c.completion.finish_reason != "length"]
    chats = [[*c.prompt.messages, Message("assistant", c.completion.text)] for c in asked]
    values = ctx.rewards(chats) if chats else []
    if len(values) != len(asked):
        raise ValueError(f"the engine gave {len(values)} rewards to {len(asked)} conversations")
    found = {id(c): _label(value) for c, value in zip(asked, values, strict=True)}
    return [found.get(id(c), Abstain("not_applicable", "the completion was cut at its token limit")) for c in batch]


def _label(value: float | None) -> Score | Abstain:
    if value is None:
        return Abstain("unavailable", "the model gave no reward: too long for it, or its chat template refuses it")
    return Score(value)
