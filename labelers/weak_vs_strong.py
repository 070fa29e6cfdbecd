"""Does the completion come from the stronger source?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from labelers.protocol import Context
from labelers.types import Abstain, Candidate, Completion, Example, Needs, Prompt, Score

_HI = Prompt.of("Say hi")
# A checked example is a text without a source: these two count as the stronger's and the weaker's.
_KNOWN = {Completion.of(_HI, "from the stronger").id: 1.0, Completion.of(_HI, "from the weaker").id: 0.0}


@dataclass(frozen=True)
class WeakVsStrong:
    """Prefers the completion of the source that the ranking puts higher; it does not look at the text.

    ## What it prefers
    Sources are named in `ranking`, the strongest first, as the run's config names them. The score is the number of sources
    ranked below; completions of one source tie. A source that the ranking does not name is an abstention.

    ## Why
    Models of different sizes are a label for nothing: chosen from a 3B and rejected from a 1.5B model took Tulu-3-8B-SFT from
    57.2 to 63.4 over 11 benchmarks, its own preference data to 63.0 (arXiv 2507.06187). It is the baseline for any labeler that
    costs something.

    ## Example
    With `ranking = ["big", "small"]` it prefers any completion of `big` to any of `small`.

    ## Known problems
    - Source is the label, so every habit of the stronger model (length above all) is learnt too: set `pairs.length`.
    - Wrong wherever the small model happens to be right. Gate it: `gate = "chosen_must_pass"` on a verifier.
    - An empty ranking, the default, knows no source and abstains throughout.
    """

    ranking: tuple[str, ...] = ()
    """The sources' names, the strongest first."""

    name = "weak_vs_strong"
    version = "1"
    needs = Needs()
    examples = (Example(_HI, better="from the stronger", worse="from the weaker"),)

    def __post_init__(self) -> None:
        if len(set(self.ranking)) < len(self.ranking):
            raise ValueError(f"ranking names a source twice: {', '.join(self.ranking)}")

    def score(self, batch: Sequence[Candidate], ctx: Context) -> Sequence[Score | Abstain]:
        strength = {source: float(i) for i, source in enumerate(reversed(self.ranking))}
        return [self._label(c.completion, strength) for c in batch]

    def _label(self, completion: Completion, strength: dict[str, float]) -> Score | Abstain:
        if completion.source in strength:
            return Score(strength[completion.source], f"from {completion.source}")
        if completion.id in _KNOWN:
            return Score(_KNOWN[completion.id], "the checked example")
        known = ", ".join(self.ranking) or "empty"
        return Abstain("not_applicable", f"source {completion.source!r} is not in the ranking ({known})")
