"""The audit asks labelers questions whose answer is known, and looks at what judges said in both orders."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from labelers.types import Completion, Prompt
from pipeline.auditing.audit import audit_run
from pipeline.auditing.canaries import Ballot, Question
from pipeline.auditing.limits import Audit
from pipeline.config import load
from pipeline.run import run
from pipeline.storage.shards import read_shard, write_shard
from tests.pipeline.audited import PLUGIN, UPSIDE_DOWN, Runs, answered, one
from tests.serving import Answer, Body, ChatServer, saying, serving


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


# Canaries

BY_PLACE = "def score(self, batch, ctx): return [Score(float(i)) for i, _ in enumerate(batch)]"
BY_ID = "def score(self, batch, ctx): return [Score(float(int(c.completion.id[:6], 16))) for c in batch]"
LIKES_NOTHING = "def score(self, batch, ctx): return [Score(-float(len(c.completion.text))) for c in batch]"
NO_VOWELS = (
    "def score(self, batch, ctx): return [Score(float(c.completion.text == 'good') "
    "- sum(x in 'aeiou' for x in c.completion.text) / 99) for c in batch]"
)


@pytest.mark.parametrize(
    ("method", "check"),
    [
        (BY_PLACE, "canary: identical"),
        (BY_ID, "canary: identical"),
        (UPSIDE_DOWN, "canary: example"),
    ],
)
def test_a_canary_that_is_judged_wrongly_fails_the_build(runs: Runs, method: str, check: str) -> None:
    finished = runs.make(method, answered(40))
    assert one(finished, check).state == "FAIL"
    assert "Mine" in one(finished, check).seen
    assert finished.version is None


@pytest.mark.parametrize(("method", "check"), [(LIKES_NOTHING, "canary: empty"), (NO_VOWELS, "canary: garbage")])
def test_an_odd_taste_of_the_users_own_labeler_is_a_warning(runs: Runs, method: str, check: str) -> None:
    finished = runs.make(method, answered(40))
    assert one(finished, check).state == "warn"
    assert "Mine" in one(finished, check).seen


def test_an_odd_taste_of_a_built_in_labeler_fails_the_build() -> None:
    ballot = Ballot()
    prompt = Prompt.of("x")
    for i in range(40):
        better, empty = Completion.of(prompt, f"{i}"), Completion.of(prompt, "")
        ballot.note("judge", Question("empty", str(i), prompt, better, empty), -1, 1.0)
    finding = ballot.finding("empty", Audit())
    assert finding is not None
    assert finding.state == "FAIL"


def test_a_right_answer_below_nonsense_is_found(runs: Runs, tmp_path: Path) -> None:
    wrong = (
        "def score(self, batch, ctx): return [Score(float(c.completion.text != str(c.prompt.target))) for c in batch]"
    )
    answers = {f"what is {i} + 0?": [f"{i}", f"{i + 1}"] for i in range(40)}
    (tmp_path / "mine.py").write_text(PLUGIN.format(method=wrong))
    runs.write("prompts.jsonl", [{"prompt": p, "target": i} for i, p in enumerate(answers)])
    runs.write("said.jsonl", [{"prompt": p, "completion": texts} for p, texts in answers.items()])
    (tmp_path / "c.toml").write_text(
        'name = "c"\n[prompts]\npath = "prompts.jsonl"\nfields = { target = "target" }\n'
        '[[sources]]\nname = "people"\nengine = { use = "replay", path = "said.jsonl" }\n'
        '[[labelers]]\nuse = "./mine.py:Mine"\n'
    )
    finished = run(load(tmp_path / "c.toml"), tmp_path / "runs")
    assert one(finished, "canary: known answer").state == "FAIL"


# Judges


@pytest.fixture
def judge() -> Iterator[ChatServer]:
    with serving(ChatServer()) as server:
        yield server


def judging(verdict: Callable[[str], str]) -> Callable[[Body, int], Answer]:
    """Replies with what `verdict` makes of the question."""
    return lambda body, tries: saying(verdict(body["messages"][-1]["content"]))


ASKS = """needs = Needs(engine=True)
    def compare(self, batch, ctx):
        from labelers.types import Message
        asked = [[Message("user", f"FIRST {c.a.text} SECOND {c.b.text}")] for c in batch]
        return [Verdict(reply) if reply else Abstain("unavailable") for reply in ctx.generate(asked)]
"""


def right(question: str, share: float) -> str:
    """The right verdict in `share` of the questions, else the wrong one."""
    first, second = question.removeprefix("FIRST ").split(" SECOND ")
    better = (
        "a" if "good" in first and "good" not in second else "b" if "good" in second and "good" not in first else "tie"
    )
    flip = random.Random(f"1 {question}").random() >= share
    return {"a": "b", "b": "a", "tie": "tie"}[better] if flip else better


def two_answers(n: int) -> dict[str, list[str]]:
    return {prompt: [texts[0], texts[1]] for prompt, texts in ((p, sorted(t)[1:3]) for p, t in answered(n).items())}


def test_a_judge_that_follows_the_position_makes_no_pair_and_the_audit_says_why(runs: Runs, judge: ChatServer) -> None:
    judge.answer = judging(lambda question: "a")
    finished = runs.make(ASKS, two_answers(40), engine=judge.engine)
    assert finished.rows == 0
    position = one(finished, "position")
    assert position.state == "FAIL"
    assert "prefers the one shown first in 100% of 80 decided verdicts" in position.seen
    assert "flip with the order and make no pair" in position.seen
    assert "40 of 40 verdicts flip with the order, and a flip is a tie" in one(finished, "pairs").seen
    assert one(finished, "order flips").state == "FAIL"


def test_a_judge_that_is_right_four_times_of_five_makes_pairs_that_are_better_than_that(
    runs: Runs, judge: ChatServer
) -> None:
    judge.answer = judging(lambda question: right(question, 0.8))
    finished = runs.make(ASKS, two_answers(300), engine=judge.engine)
    pairs = [
        row for shard in sorted(finished.folder.glob("pairs-*/*.parquet")) for row in read_shard(shard).to_pylist()
    ]
    correct = sum(row["chosen"][0]["content"].startswith("good") for row in pairs) / len(pairs)
    assert len(pairs) > 150
    assert correct > 0.9
    assert one(finished, "position").state == "ok"
    noise = one(finished, "noise")
    assert noise.value == pytest.approx(1 - correct, abs=0.05)


def test_a_verdict_that_only_one_order_gave_is_found(runs: Runs, judge: ChatServer) -> None:
    judge.answer = judging(lambda question: right(question, 1.0))
    folder = runs.make(ASKS, two_answers(10), engine=judge.engine).folder
    shard = sorted(folder.glob("comparisons-*/*.parquet"))[0]
    table_ = read_shard(shard)
    rows = [{**row, "prefers_backward": None} for row in table_.to_pylist()]
    write_shard(shard, pa.Table.from_pylist(rows, table_.schema))
    assert one(folder, "both orders").state == "FAIL"


def test_a_judge_is_asked_canaries_only_when_told_to(runs: Runs, judge: ChatServer) -> None:
    from pipeline.auditing.canaries import lent

    judge.answer = judging(lambda question: right(question, 1.0))
    folder = runs.make(ASKS, two_answers(10), engine=judge.engine).folder
    assert "asks a model; hint: python -m pipeline audit RUN --ask" in one(folder, "canaries").seen
    asked = {f.check: f for f in audit_run(folder, lent).findings}
    assert asked["canary: identical"].state == asked["canary: garbage"].state == "ok"
    assert asked["canary: identical"].n == Audit().costly_canaries
