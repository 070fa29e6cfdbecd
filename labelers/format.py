"""Does a completion keep to the format that was asked for?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from labelers import own_rules, rlvr_if  # noqa: F401  (they enter their checks)
from labelers.constraints import Constraint, UnreadableConstraints, constraints_of, split
from labelers.ifeval import CHECKS, BadConstraint, bind, run_check
from labelers.options import near
from labelers.protocol import Context
from labelers.safe_regex import BadPattern, compiled
from labelers.types import Abstain, Candidate, Example, Needs, Prompt, Score

_REGEX_IDS = ("regex:fullmatch", "regex:search")

_LIST = Prompt.of(
    "Name two fruits as bullet points, without commas.",
    target=[{"id": "detectable_format:number_bullet_lists", "num_bullets": 2}, {"id": "punctuation:no_comma"}],
)


_GERMAN = Prompt.of("Describe the sky in German.", target={"id": "language:response_language", "language": "de"})


@dataclass(frozen=True)
class Format:
    """Prefers completions that keep to verifiable constraints: length, case, bullets, keywords, patterns ...

    ## What it prefers
    A constraint is `{"id": ..., its arguments}`. They come from the options, or else from the prompt's target, or else from
    its metadata: a list of constraints, one constraint, IFEval's own `{"instruction_id_list": [...], "kwargs": [...]}`, or
    RLVR-IF's `{"func_name": ..., arguments}`, also as text; nulls are ignored. The ids are
    - IFEval's 25 under their published names, as `{"id": "length_constraints:number_words", "num_words": 100, "relation":
      "less than"}`,
    - RLVR-IF's 25 functions (`validate_lowercase`, `verify_keywords` ...), whose rules differ from IFEval's,
    - our own: `regex:fullmatch` and `regex:search` with `pattern`; `startend:start_checker` with `start_phrase`; and
      `count:` characters, words, sentences, lines, paragraphs, bullets, numbered_items, headings with `at_least`, `at_most`.
    The score is 1 when all are kept and 0 when not, or the `fraction` that is kept. A blank completion keeps none.

    ## Why
    Whether an answer has three bullet points is a fact that a program can check and that a judge gets wrong.

    ## Example
    `punctuation:no_comma`: `apples and pears` scores 1, `apples, pears` scores 0.

    ## Known problems
    - Languages are told by py3langid, not by IFEval's langdetect; where it is not sure (a few words) it abstains. The two
      `english_` case rules refuse other scripts and what is surely another language.
    - Sentences and words in capitals are counted between two bounds, as their original splitters are not in the standard
      library; where the bounds disagree about the answer it abstains.
    - An unknown id, or missing arguments, make the whole prompt abstain, unless another constraint is surely broken and the
      score is `all`.
    - Keywords are taken literally; IFEval takes them as patterns (the same for its own prompts).
    - A comma or a bullet in a code block counts.
    """

    constraints: tuple[dict[str, Any], ...] = ()
    """Constraints for every prompt; when there are any, targets are not read."""
    score_as: Literal["all", "fraction"] = "all"
    """`all`: 1 when every constraint is kept, else 0; `fraction`: the share that is kept."""
    strict: bool = True
    """true: the text as it is; false: IFEval's loose rule, any of 8 variants: without first line, last line, asterisks."""
    regex_timeout_s: float = 1.0
    """Longest time for one pattern on one text: half of isolation.md's deadline per item; then it abstains."""
    max_chars: int = 1_048_576
    """Longer text is not judged: 1 MiB, the size cap in isolation.md, layer L0."""

    name = "format"
    version = "2"
    needs = Needs()
    examples = (
        Example(_LIST, better="* apples\n* pears", worse="* apples, sweet\n* pears"),
        Example(_LIST, better="- apples\n- pears", worse="apples and pears"),
        Example(_GERMAN, better="Der Himmel ist heute blau, und die Sonne scheint.", worse="The sky is blue today."),
    )
    pass_at = 1.0

    def __post_init__(self) -> None:
        if self.regex_timeout_s <= 0 or self.max_chars < 1:
            raise ValueError("regex_timeout_s and max_chars must be above 0")
        for constraint in self.constraints:
            identifier, arguments = split(constraint)
            if identifier not in CHECKS and identifier not in _REGEX_IDS:
                raise ValueError(
                    f"unknown constraint {identifier!r}; hint: {near(identifier, [*CHECKS, *_REGEX_IDS], 'ids')}"
                )
            if identifier in CHECKS:
                bind(identifier, arguments)

    def score(self, batch: Sequence[Candidate], ctx: Context) -> Sequence[Score | Abstain]:
        own = [_ready(split(constraint)) for constraint in self.constraints]
        read: dict[int, list[Ready] | Abstain] = {}  # by the prompt object: its completions come one after the other
        return [self._judge(candidate, own, read) for candidate in batch]

    def _judge(self, candidate: Candidate, own: list[Ready], read: dict[int, list[Ready] | Abstain]) -> Score | Abstain:
        text = candidate.completion.text
        if len(text) > self.max_chars:
            return Abstain("not_applicable", f"{len(text)} characters, more than max_chars={self.max_chars}")
        constraints = own or read.get(id(candidate.prompt))
        if constraints is None:
            constraints = read[id(candidate.prompt)] = _constraints_of(candidate.prompt)
        if isinstance(constraints, Abstain):
            return constraints
        return self._summed([(identifier, self._check(identifier, text, a)) for identifier, a in constraints])

    def _summed(self, outcomes: list[tuple[str, bool | Abstain]]) -> Score | Abstain:
        """All or the fraction kept; undecided unless what is known settles it."""
        broken = [identifier for identifier, outcome in outcomes if outcome is False]
        abstained = [outcome for _, outcome in outcomes if isinstance(outcome, Abstain)]
        reason = f"not kept: {', '.join(broken)}" if broken else "all kept"
        if self.score_as == "all" and broken:
            return Score(0.0, reason)
        if abstained:
            return abstained[0]
        return Score(1 - len(broken) / len(outcomes), reason)

    def _check(self, identifier: str, text: str, arguments: Mapping[str, Any] | Abstain) -> bool | Abstain:
        """Whether any variant of the text keeps the constraint (only the text itself when strict)."""
        if isinstance(arguments, Abstain):
            return arguments
        if identifier not in CHECKS and identifier not in _REGEX_IDS:
            return Abstain("not_applicable", f"unknown constraint {identifier!r}")
        outcomes = []
        for variant in [text] if self.strict else _variants(text):
            outcome = self._check_one(identifier, variant, arguments)
            if outcome is True or (isinstance(outcome, Abstain) and outcome.kind == "unparsable"):
                return outcome
            outcomes.append(outcome)
        return next((o for o in outcomes if isinstance(o, Abstain)), False)

    def _check_one(self, identifier: str, text: str, arguments: Mapping[str, Any]) -> bool | Abstain:
        try:
            if identifier in _REGEX_IDS:
                return _matches(identifier, text, arguments, self.regex_timeout_s)
            kept = run_check(identifier, text, arguments)
        except BadConstraint as error:
            return Abstain("unparsable", str(error))
        except TimeoutError:
            return Abstain("timeout", f"{identifier} took over {self.regex_timeout_s:g} s")
        return Abstain("not_applicable", f"{identifier} cannot be told for this text") if kept is None else kept


Ready = tuple[str, Mapping[str, Any] | Abstain]
"""A constraint's id, and its arguments or why they cannot be used."""


def _ready(constraint: Constraint) -> Ready:
    identifier, arguments = constraint
    try:
        if identifier in CHECKS:
            bind(identifier, arguments)
    except BadConstraint as error:
        return identifier, Abstain("unparsable", str(error))
    return constraint


def _constraints_of(prompt: Prompt) -> list[Ready] | Abstain:
    """A prompt's own constraints; why there are none."""
    try:
        found = [_ready(constraint) for constraint in constraints_of(prompt)]
    except UnreadableConstraints as error:
        return Abstain("unparsable", f"the constraints: {error}")
    none = "no constraints, neither in the options nor in the prompt's target or metadata"
    return found or Abstain("not_applicable", none)


def _matches(identifier: str, text: str, arguments: Mapping[str, Any], timeout_s: float) -> bool:
    """Whether the pattern matches. Raises: BadConstraint; TimeoutError."""
    pattern = arguments.get("pattern")
    if not isinstance(pattern, str) or set(arguments) != {"pattern"}:
        raise BadConstraint(f"{identifier} takes one argument, `pattern`, a text")
    try:
        found = compiled(pattern)
    except BadPattern as error:
        raise BadConstraint(f"{identifier}: {error}") from error
    match = found.fullmatch if identifier == "regex:fullmatch" else found.search
    return match(text, timeout=timeout_s) is not None


def _variants(text: str) -> Iterator[str]:
    """IFEval's 8 readings of a text: as it is, without its first, last, or both lines; each with and without asterisks."""
    lines = text.split("\n")
    cuts = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    for cut in cuts:
        yield cut
        yield cut.replace("*", "")
