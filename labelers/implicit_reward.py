"""How much more likely has training made a completion?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from labelers.protocol import Context
from labelers.reward_model import rewards
from labelers.types import Abstain, Candidate, Example, Needs, Prompt, Score

_ROME = Prompt.of("What is the capital of Italy?")


@dataclass(frozen=True)
class ImplicitReward:
    """Prefers the completion that a policy trained with DPO has made more likely than its reference, the more the better.

    ## What it prefers
    The score is beta * (log pi - log pi_ref) of the completion: what DPO trains as its reward (arXiv 2305.18290). Policy and
    reference are the engine's: `engine = { use = "implicit_reward", policy = "runs/a/policy", reference = "BASE" }`, and so
    are `beta` and `per_token` (divide by the completion's tokens). The numbers are the trainer's own.

    ## Why
    A policy that was trained on preferences can rank completions of new prompts, at the cost of two forward passes and
    without a judge: labels for the next round (DICE, arXiv 2406.09760), and a look at what the last round learnt.

    ## Example
    Question `What is the capital of Italy?`: a policy that learnt to answer it prefers `Rome.` to `Milan.`

    ## Known problems
    - It repeats what the policy believes already: round after round its mistakes grow. Mix in pairs of another labeler.
    - Sums grow with length; `per_token = true` takes that out, and with it some of the meaning.
    - Text that was cut at the token limit is scored as if it had ended, unless `cut = "abstain"`.
    - A control token written out in a completion is read by the models as that token.
    """

    cut: Literal["score", "abstain"] = "score"
    """A completion that was cut at its token limit: `score` it as if it had ended there, or `abstain`."""

    name = "implicit_reward"
    version = "1"
    needs = Needs(engine=True)
    asks = "rewards"
    examples = (Example(_ROME, better="Rome.", worse="Milan."),)

    def score(self, batch: Sequence[Candidate], ctx: Context) -> Sequence[Score | Abstain]:
        return rewards(batch, ctx, self.cut)
