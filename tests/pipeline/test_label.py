"""What the labelling stage lends to a labeler, and when it calls one broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from labelers.types import Abstain, Prompt, Score
from pipeline.errors import BrokenLabeler
from pipeline.label import Tools, require_enough


def test_a_labeler_that_asks_a_model_without_having_one_stops_the_run():
    with pytest.raises(BrokenLabeler, match="hint: give it engine"):
        Tools(Path("unused")).generate([Prompt.of("x").messages])


def test_too_many_abstentions_stop_the_run_and_say_the_commonest_reason():
    labels = [Abstain("not_applicable", "no target")] * 6 + [Score(1.0)] * 4
    with pytest.raises(BrokenLabeler, match=r"abstained on 6 of 10 .* not_applicable: no target"):
        require_enough("mine", labels, 0.5)
    require_enough("mine", labels, 0.6)


def test_the_reason_of_an_abstention_reaches_the_terminal_without_its_escapes():
    labels = [Abstain("crashed", "\x1b]0;title\x07 \u202e")] * 20
    with pytest.raises(BrokenLabeler) as error:
        require_enough("mine", labels, 0.5)
    assert "\\x1b]0;title\\x07 \\u202e" in str(error.value)
