"""What a diff counts, and when it says that the rows that came are unlike those that were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError, UnreadableShard
from pipeline.publishing.diff import diff, table
from pipeline.publishing.drift import drifted, of_numbers, of_shares
from pipeline.refreshing.refresh import refresh
from tests.pipeline.refreshing import BAD, GOOD, Growing, texts

RANDOM = np.random.default_rng(7)


@pytest.fixture
def growing(tmp_path) -> Growing:
    return Growing(tmp_path)


def state(drift, measure: str) -> str:
    return next(d.state for d in drift if d.measure == measure)


def test_rows_are_added_removed_and_kept(growing):
    refresh(growing.config(range(4)), growing.root)
    found = refresh(growing.config(range(2, 8)), growing.root).diff
    assert (found.rows_before, found.rows_after) == (8, 12)
    assert (found.added, found.removed, found.relabelled, found.flipped) == (8, 4, 0, 0)
    assert (found.prompts_added, found.prompts_removed) == (4, 2)


def test_another_score_of_the_same_pair_is_a_relabelled_row(growing):
    score = "return [Score(float('x:' not in c.completion.text)) for c in batch]"
    refresh(growing.config(range(4), labeler=growing.plugin(score)), growing.root)
    mine = growing.plugin(score.replace("float(", "2 * float("))
    found = refresh(growing.config(range(4), labeler=mine), growing.root).diff
    assert (found.added, found.removed, found.relabelled) == (0, 0, 8)
    assert len(found.named["relabelled"]) == 8


def test_a_pair_whose_sides_changed_places_is_flipped(growing):
    score = "return [Score(float('x:' not in c.completion.text)) for c in batch]"
    refresh(growing.config(range(4), labeler=growing.plugin(score)), growing.root)
    mine = growing.plugin(score.replace("not in", "in"))
    found = refresh(growing.config(range(4), "audit.enforce=false", labeler=mine), growing.root).diff
    assert (found.added, found.removed, found.flipped) == (8, 8, 8)


def test_new_prompts_like_the_old_ones_are_no_drift(growing):
    refresh(growing.config(range(40), shard_size=20), growing.root)
    found = refresh(growing.config(range(60), shard_size=20), growing.root).diff
    assert {d.state for d in found.drift} == {"same"}


def test_new_prompts_with_longer_completions_have_drifted(growing):
    long = {i: [text + "  # " + "and more " * 20 for text in texts(i)] for i in range(40, 60)}
    growing.completions(long)
    refresh(growing.config(range(40), shard_size=20), growing.root)
    found = refresh(growing.config(range(60), shard_size=20), growing.root).diff
    assert state(found.drift, "chosen characters") == state(found.drift, "rejected characters") == "DRIFT"
    assert state(found.drift, "margin") == "same"


def test_new_prompts_that_fewer_completions_pass_have_drifted(growing):
    """One bad shard among many hardly moves the whole; the test looks at what came."""
    worse = {i: [f"{GOOD}  # 1", f"{BAD}  # 1", f"{BAD}  # 2", f"{BAD}  # 3", f"{BAD}  # 4"] for i in range(200, 220)}
    growing.completions(worse)
    refresh(growing.config(range(200), shard_size=20), growing.root)
    found = refresh(growing.config(range(220), "audit.enforce=false", shard_size=20), growing.root).diff
    passing = next(d for d in found.drift if d.measure == "pass rate, code")
    assert (passing.before, passing.came, passing.state) == (0.5, 0.2, "DRIFT")
    assert passing.after == pytest.approx(0.5 - 0.3 * 100 / 900)


def test_a_diff_reads_like_a_page(growing):
    refresh(growing.config(range(4)), growing.root)
    text = table(refresh(growing.config(range(6)), growing.root).diff)
    assert text.splitlines()[:2] == [
        "version 1 -> 2: 8 -> 12 pairs",
        "rows     4 added, 0 removed, 0 relabelled, 0 flipped, 0 with other metadata",
    ]
    assert "pass rate, code" in text


def test_any_two_versions_can_be_compared_in_either_direction(growing):
    for n in (2, 4, 6):
        refresh(growing.config(range(n)), growing.root)
    assert diff(growing.run, 1, 3).added == diff(growing.run, 3, 1).removed == 8


def test_a_version_whose_rows_are_gone_cannot_be_compared(growing):
    refresh(growing.config(range(2)), growing.root)
    for n in (4, 6):
        refresh(growing.config(range(n), "dataset.keep=1"), growing.root)
    with pytest.raises(ConfigError, match="rows of version 1 were removed"):
        diff(growing.run, 1, 3)


def test_a_damaged_version_is_named(growing):
    for n in (2, 4):
        refresh(growing.config(range(n)), growing.root)
    file = next((growing.run / "versions" / "0001" / "data").glob("*.parquet"))
    damage(file)
    with pytest.raises(UnreadableShard, match=str(file)):
        diff(growing.run, 1, 2)


def damage(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20] + b"\0" * 20)


def test_a_test_of_like_numbers_rarely_says_drift():
    said = [
        drifted([of_numbers("margin", RANDOM.normal(size=200), RANDOM.normal(size=200), RANDOM.normal(size=40))])[0]
        for _ in range(300)
    ]
    assert sum(d.state == "DRIFT" for d in said) <= 9  # 1 % of 300, and twice its deviation more


def test_a_test_of_shifted_numbers_says_drift():
    before, came = RANDOM.normal(size=500), RANDOM.normal(1.0, size=60)
    assert drifted([of_numbers("margin", before, before, came)])[0].state == "DRIFT"


def test_many_measures_are_corrected_for_their_number():
    one = of_shares("one", (50, 100), (50, 100), (37, 50))
    assert one.p is not None
    alone = drifted([one])[0].p
    among = drifted([one, *[of_shares(str(i), (50, 100), (50, 100), (25, 50)) for i in range(9)]])[0].p
    assert alone == pytest.approx(one.p)
    assert among == pytest.approx(10 * one.p)


def test_too_few_rows_are_not_tested():
    few = of_numbers("margin", np.ones(100), np.ones(100), np.zeros(4))
    none = of_shares("pass rate", (0, 0), (1, 2), (1, 2))
    assert [(d.p, d.state) for d in drifted([few, none])] == [(None, "untested")] * 2
    assert none.before is None
