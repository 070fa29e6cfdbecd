"""More votes where a judge contradicts itself: only there, and in both orders alike, so that no order wins by asking.

The first answers, one in each order, are greedy. Where both are verdicts and differ, each order is asked `votes` times more at
temperature 1. An order's say is what more than half of its readable votes prefer, else a tie; the two orders must then agree
like first answers (pipeline/compare.py, `merge`). So a judge that follows the position is never outvoted into a verdict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from labelers.types import Abstain, Comparison, Verdict

Outcome = Verdict | Abstain
Ask = Callable[[Sequence[Comparison], int], Sequence[Outcome]]
"""Asks about comparisons as they stand; the number is 1 for the first extra vote, 2 for the second, and so on."""


def contested(forward: Outcome, backward: Outcome) -> bool:
    """Whether the two orders gave different verdicts. `backward` is in terms of the question itself."""
    match forward, backward:
        case Verdict(first), Verdict(second):
            return first != second
        case _:
            return False


def with_votes(
    ask: Ask, questions: Sequence[Comparison], forward: Sequence[Outcome], backward: Sequence[Outcome], votes: int
) -> tuple[list[Outcome], list[Outcome]]:
    """What each order says of each question once the contested ones were voted on; the others as they were.

    Args:
        forward: the first answers to the questions.
        backward: the first answers to the swapped questions, in terms of the questions.
        votes: extra votes in each order.
    """
    places = [i for i, pair in enumerate(zip(forward, backward, strict=True)) if contested(*pair)] if votes else []
    ballots = {i: ([forward[i]], [backward[i]]) for i in places}
    for number in range(1, votes + 1) if places else ():
        asked = [questions[i] for i in places]
        answers = ask([*asked, *(q.swap() for q in asked)], number)
        for i, first, second in zip(places, answers[: len(places)], answers[len(places) :], strict=True):
            ballots[i][0].append(first)
            ballots[i][1].append(second.swap() if isinstance(second, Verdict) else second)
    says = {i: (majority(first), majority(second)) for i, (first, second) in ballots.items()}
    return (
        [says[i][0] if i in says else answer for i, answer in enumerate(forward)],
        [says[i][1] if i in says else answer for i, answer in enumerate(backward)],
    )


def majority(ballot: Sequence[Outcome]) -> Outcome:
    """What more than half of the readable votes prefer, with the count as its reason; a tie where nothing is."""
    readable = [vote.prefers for vote in ballot if isinstance(vote, Verdict)]
    if not readable:
        return ballot[0]
    prefers, count = Counter(readable).most_common(1)[0]
    if 2 * count <= len(readable):
        return Verdict("tie", f"no majority in {len(readable)} votes")
    return Verdict(prefers, f"{count} of {len(readable)} votes")
