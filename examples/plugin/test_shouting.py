"""The test that every plugin wants: it keeps the contract, and one case of its own."""

from labelers.discovery import LabelerSpec, build
from labelers.testing import check
from labelers.types import Candidate, Completion, Prompt

PROMPT = Prompt.of("Say hi")


def value(text, **options):
    (answer,) = build("shouting", options).score([Candidate(PROMPT, Completion.of(PROMPT, text))], None)
    return answer.value


def test_it_keeps_the_contract():
    spec = LabelerSpec("shouting")
    assert check(spec.build(), spec=spec) == []


def test_capitals_beyond_the_allowed_ones_cost():
    assert value("ONE TWO three four", allowed=2) == 1.0
    assert value("ONE TWO three four", allowed=1) == 0.75
