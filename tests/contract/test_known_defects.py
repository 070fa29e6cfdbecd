"""The 17 label defects that field-notes.md found in other systems' files: each would be caught here, by its number."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from labelers.discovery import LabelerSpec, build
from labelers.testing import ScriptedEngine
from labelers.types import Candidate, Completion, Message, Prompt, Score, content_id
from pipeline.auditing.audit import audit_run
from pipeline.auditing.facts import Facts
from pipeline.compare import Compare
from pipeline.config import load
from pipeline.engines import EngineInfo, Generation, Progress, Request, Sampled, Sampling
from pipeline.label import Label
from pipeline.pair import Pairing
from pipeline.pairing.combine import Role
from pipeline.pairing.eligible import RULES, Pairs, Scored, choose
from pipeline.run import Finished, run
from pipeline.sample import Sample
from pipeline.schema import COMPLETIONS, PAIR_SHARD, PROMPTS
from pipeline.storage.shards import read_receipt, read_shard, write_shard
from pipeline.work import Made, Work, perform

Row = dict[str, Any]


@dataclass(frozen=True)
class Judge:
    """An engine that replies with a function of the question."""

    reply: Callable[[str], str | None]
    info: EngineInfo = EngineInfo("scripted")

    def generate(self, requests: Any) -> Any:
        for request in requests:
            text = self.reply(request.messages[-1].content)
            yield Generation(
                request.id, () if text is None else (Sampled(text, "stop"),), error=None if text else "none"
            )

    def progress(self) -> Progress:
        return Progress()

    def close(self) -> None:
        pass


def tables(groups: dict[str, list[str]], **more: Any) -> tuple[pa.Table, pa.Table]:
    """Prompts and their completions as the stages read them."""
    prompts, rows = [], []
    for text, completions in groups.items():
        prompt = Prompt.of(text)
        messages = [{"role": "user", "content": text}]
        prompts.append({"prompt_id": prompt.id, "messages": messages, "metadata": "{}", "target": None})
        rows += [
            {
                "completion_id": content_id(prompt.id, i), "prompt_id": prompt.id, "source": "s", "text": completion,
                "finish_reason": "stop", "n_tokens": 3, "model": "m", **more,
            }
            for i, completion in enumerate(completions)
        ]  # fmt: skip
    return pa.Table.from_pylist(prompts, PROMPTS), pa.Table.from_pylist(rows, COMPLETIONS)


def judged(reply: Callable[[str], str | None], groups: dict[str, list[str]]) -> tuple[list[Row], list[Row]]:
    """The comparisons of the shipped judge and the pairs that they make."""
    prompts, completions = tables(groups)
    with Compare(LabelerSpec("judge"), "judge", max_abstained=1.0).open(Judge(reply)) as transform:
        comparisons = transform(prompts, completions).table
    with Pairing(Pairs(), (), n_labels=0, n_comparisons=1).open() as transform:
        return comparisons.to_pylist(), transform(prompts, completions, comparisons).table.to_pylist()


def labelled(tmp_path: Path, body: str, groups: dict[str, list[str]]) -> tuple[list[Row], list[Row]]:
    """The labels of a plugin whose score() is `body`, and the pairs that they make."""
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom labelers.types import Abstain, Example, Needs, Prompt, Score\n\n"
        "@dataclass(frozen=True)\nclass Mine:\n    name, version, needs = 'mine', '1', Needs()\n"
        "    examples = [Example(Prompt.of('p'), better='good', worse='bad')]\n"
        f"    def score(self, batch, ctx):\n        {body}\n"
    )
    prompts, completions = tables(groups)
    spec = LabelerSpec(f"{tmp_path / 'mine.py'}:Mine")
    with Label(spec, "mine", max_abstained=1.0).open() as transform:
        labels = transform(prompts, completions).table
    with Pairing(Pairs(), (Role("mine"),)).open() as transform:
        return labels.to_pylist(), transform(prompts, completions, labels).table.to_pylist()


def built(tmp_path: Path, prompts: str, said: list[Row], more: str = "") -> Finished:
    """A whole run of replayed completions under `compiles`."""
    (tmp_path / "prompts.jsonl").write_text(prompts)
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said))
    (tmp_path / "c.toml").write_text(
        f'name = "c"\n[prompts]\npath = "prompts.jsonl"\n{more}\n[[sources]]\nname = "people"\n'
        'engine = { use = "replay", path = "said.jsonl" }\n[[labelers]]\nuse = "compiles"\n'
    )
    return run(load(tmp_path / "c.toml"), tmp_path / "runs")


def pairs_of(finished: Finished) -> list[Row]:
    return [row for shard in sorted(finished.folder.glob("pairs-*/*.parquet")) for row in read_shard(shard).to_pylist()]


def spoil(finished: Finished, **values: Any) -> None:
    """Overwrites columns of the first pair."""
    shard = sorted(finished.folder.glob("pairs-*/*.parquet"))[0]
    rows, receipt = read_shard(shard).to_pylist(), read_receipt(shard)
    assert receipt is not None
    rows[0].update(values)
    write_shard(shard, pa.Table.from_pylist(rows, PAIR_SHARD), receipt.inputs)


def state(finished: Finished, check: str) -> str:
    return next(f.state for f in audit_run(finished.folder).findings if f.check == check)


def scored(name: str, score: float, passed: bool | None = None, text: str = "", *, cut: bool = False) -> Scored:
    return Scored(name, text or name, score, passed, cut, 3)


GOOD, BAD = "x = 1", "x = = 1"


def test_defect_01_the_verdict_decides_who_is_chosen_whichever_place_it_had() -> None:
    groups = {f"question {i}": ["xxx", "yyy"] for i in range(12)}
    comparisons, pairs = judged(lambda text: "[[A]]" if text.index("xxx") < text.index("yyy") else "[[B]]", groups)
    assert {pair["chosen"][0]["content"] for pair in pairs} == {"xxx"}
    assert {row["prefers"] for row in comparisons} == {"a", "b"}  # it stood in both places


def test_defect_02_an_unreadable_row_shifts_no_other(tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": f"question {i}"}) for i in range(6)]
    said = [{"prompt": f"question {i}", "completion": [f"x = {i}", f"x = = {i}"]} for i in range(6)]
    lines[2] = "{not json"
    pairs = pairs_of(built(tmp_path, "\n".join(lines) + "\n", said, 'on_bad_row = "skip"'))
    numbers = [
        {re.findall(r"\d", turn["content"])[0] for turn in (*row["prompt"], *row["chosen"], *row["rejected"])}
        for row in pairs
    ]
    assert sorted(numbers, key=min) == [{"0"}, {"1"}, {"3"}, {"4"}, {"5"}]


@pytest.mark.parametrize("reply", ["I cannot say.", "[[A]] or [[B]]", None])
def test_defect_03_a_reply_that_cannot_be_read_rejects_nobody(reply: str | None) -> None:
    comparisons, pairs = judged(lambda text: reply, {"question": ["xxx", "yyy"]})
    assert [row["prefers"] for row in comparisons] == [None]
    assert pairs == []


def test_defect_03_an_abstention_is_never_the_lowest_score(tmp_path: Path) -> None:
    body = "return [Abstain('unparsable') if 'odd' in c.completion.text else Score(1.0) for c in batch]"
    _, pairs = labelled(tmp_path, body, {"question": ["fine", "well", "odd"]})
    assert pairs == []


@pytest.mark.parametrize("rule", [*RULES, "auto"])
def test_defect_04_equal_scores_and_copies_of_one_text_make_no_pair(rule: Any) -> None:
    assert choose([scored("a", 1.0, True), scored("b", 1.0, True)], Pairs(rule)).pairs == ()
    copies = [scored("a", 1.0, True, "same"), scored("b", 0.0, False, "same ")]
    assert choose(copies, Pairs(rule)).pairs == ()


def test_defect_04_a_score_of_none_is_an_abstention_of_that_text(tmp_path: Path) -> None:
    body = "return [Score(None if 'odd' in c.completion.text else float('good' in c.completion.text)) for c in batch]"
    labels, pairs = labelled(tmp_path, body, {"question": ["good", "bad", "odd"]})
    assert [row["abstain"] for row in labels] == [None, None, "crashed"]
    assert [(p["chosen"][0]["content"], p["rejected"][0]["content"]) for p in pairs] == [("good", "bad")]


def test_defect_05_the_system_prompt_is_part_of_the_prompts_id() -> None:
    user = Message("user", "question")
    ids = {
        Prompt.make(messages).id
        for messages in ([user], [Message("system", "a"), user], [Message("system", "b"), user])
    }
    assert len(ids) == 3


def test_defect_06_what_passed_is_not_rejected_and_all_correct_makes_no_pair() -> None:
    passed = [scored("a", 1.0, True), scored("b", 0.9, True), scored("c", 0.8, True)]
    assert choose(passed, Pairs()).pairs == ()
    chosen = choose([*passed, scored("d", 0.0, False)], Pairs())
    assert {rejected.id for _, rejected in chosen.pairs} == {"d"}


@pytest.mark.parametrize("rule", [*RULES, "auto"])
def test_defect_07_best_and_worst_are_never_one_completion(rule: Any) -> None:
    assert choose([scored("only", 1.0, True)], Pairs(rule)).pairs == ()
    group = [scored("a", 1.0, True), scored("b", 1.0, True), scored("c", 0.0, False)]
    assert all(c.id != r.id and c.score > r.score for c, r in choose(group, Pairs(rule)).pairs)


def test_defect_08_position_temperature_and_model_that_go_with_the_label_are_reported() -> None:
    from pipeline.auditing.confounds import confounds, entangled, orders
    from pipeline.auditing.limits import Audit

    n = 60
    ids = [f"{i // 2}" for i in range(2 * n)]
    hot = [0.9, 0.3] * n
    labels = pa.table({
        "labeler": ["j"] * 2 * n, "prompt_id": ids, "completion_id": [f"{i}" for i in range(2 * n)],
        "value": [float(t > 0.5) for t in hot], "abstain": pa.nulls(2 * n, pa.string()), "length": [3.0] * 2 * n,
        "place": [0.0, 1.0] * n, "source": ["A" if t > 0.5 else "B" for t in hot], "temperature": hot, "text_code": range(2 * n),
    })  # fmt: skip
    pairs = pa.table({
        "margin": [1.0] * n, "labelers": ["j"] * n,
        **{f"{name}_{side}": [value] * n for side, row in (("chosen", (3.0, 0.0, "A", 0.9)), ("rejected", (3.0, 1.0, "B", 0.3)))
           for name, value in zip(("length", "place", "source", "temperature"), row, strict=True)},
    })  # fmt: skip
    comparisons = pa.table({
        "labeler": ["j"] * n, "prompt_id": ids[::2], "a_id": ids[::2], "b_id": ids[1::2], "prefers": ["tie"] * n,
        "prefers_forward": ["a"] * n, "prefers_backward": ["b"] * n, "abstain": pa.nulls(n, pa.string()),
    })  # fmt: skip
    facts = Facts(labels, pairs, comparisons)
    found = {f.check: f.state for f in (*confounds(facts, Audit(), {}), *entangled(facts), *orders(facts, Audit(), ()))}
    assert found["labels by source"] == found["labels by temperature"] == found["labels by place in group"] == "FAIL"
    assert found["position"] == found["order flips"] == "FAIL"
    assert found["source and temperature"] == "warn"


def test_defect_08_a_judge_that_is_the_generator_is_reported(tmp_path: Path) -> None:
    from pipeline.judges import warnings

    (tmp_path / "p.jsonl").write_text('{"prompt": "p"}\n')
    model = 'engine = { use = "http", base_url = "http://127.0.0.1:1/v1", model = "org/same" }'
    (tmp_path / "c.toml").write_text(
        f'name = "c"\n[prompts]\npath = "p.jsonl"\n[[sources]]\nname = "s"\n{model}\n[[labelers]]\nuse = "judge"\n{model}\n'
    )
    assert "same model (same)" in warnings(load(tmp_path / "c.toml"))[0]


def test_defect_09_ten_is_not_one_and_one_is_not_ten() -> None:
    prompt = Prompt.of("p")
    candidate = Candidate(prompt, Completion.of(prompt, "text"))
    rubric: Any = build("rubric", {"criteria": ["it is right"], "scale": [1, 10]})
    values = [
        rubric.score([candidate], ScriptedEngine(lambda chat, grade=grade: f"[[1: {grade}]]"))[0].value
        for grade in (1, 10)
    ]
    assert values == [0.0, 1.0]


def test_defect_10_chosen_that_equals_rejected_fails_the_audit(tmp_path: Path) -> None:
    finished = built(tmp_path, '{"prompt": "question"}\n', [{"prompt": "question", "completion": [GOOD, BAD]}])
    assert state(finished, "chosen is rejected") == "ok"
    spoil(finished, rejected=pairs_of(finished)[0]["chosen"])
    assert state(finished, "chosen is rejected") == "FAIL"


def test_defect_11_chosen_and_rejected_of_two_prompts_fail_the_audit(tmp_path: Path) -> None:
    said = [{"prompt": f"question {i}", "completion": [f"x = {i}", f"x = = {i}"]} for i in range(2)]
    finished = built(tmp_path, "".join(json.dumps({"prompt": f"question {i}"}) + "\n" for i in range(2)), said)
    first, second = pairs_of(finished)
    assert {first["prompt_id"], second["prompt_id"]} == {Prompt.of("question 0").id, Prompt.of("question 1").id}
    spoil(finished, rejected=second["rejected"], rejected_id=second["rejected_id"])
    assert state(finished, "prompt") == "FAIL"


def test_defect_11_a_margin_of_0_fails_the_audit(tmp_path: Path) -> None:
    finished = built(tmp_path, '{"prompt": "question"}\n', [{"prompt": "question", "completion": [GOOD, BAD]}])
    spoil(finished, score_rejected=1.0, margin=0.0)
    assert state(finished, "margin") == "FAIL"


def test_defect_12_a_blank_line_in_a_rationale_is_no_further_rating() -> None:
    prompt = Prompt.of("p")
    rubric: Any = build("rubric", {"criteria": ["it is right", "it is short"], "scale": [1, 5]})
    reply = "Well.\n\nIt is right.\n\n[[1: 5]]\n\n\nAnd short.\n\n[[2: 5]]\n\n"
    batch = [Candidate(prompt, Completion.of(prompt, text)) for text in ("one", "two")]
    answers = rubric.score(batch, ScriptedEngine(lambda chat: reply))
    assert [answer.value for answer in answers] == [1.0, 1.0]
    comparisons, _ = judged(lambda text: "First.\n\nSecond.\n\n[[C]]\n\n", {"question": ["xxx", "yyy"]})
    assert [row["prefers"] for row in comparisons] == ["tie"]


@pytest.mark.parametrize("ending", ["raise SystemExit(0)", "__import__('os')._exit(0)", "import os; os._exit(0)"])
def test_defect_13_a_labeler_that_ends_its_process_is_no_success(tmp_path: Path, ending: str) -> None:
    body = f"if any('odd' in c.completion.text for c in batch):\n            {ending}\n        return [Score(1.0) for c in batch]"
    labels, _ = labelled(tmp_path, body, {"question": ["fine", "odd"]})
    assert [(row["value"], row["abstain"]) for row in labels] == [(1.0, None), (None, "crashed")]


@pytest.mark.parametrize("ending", ["raise SystemExit(0)", "import os; os._exit(0)", "print('1 passed'); exit(0)"])
def test_defect_13_a_program_that_ends_with_0_has_not_passed_its_tests(ending: str) -> None:
    from labelers.programs import missing, opened_launcher
    from pipeline.label import Tools

    labeler: Any = build("tests")
    if missing(labeler.needs):
        pytest.skip(f"cannot run completions here: {missing(labeler.needs)}")
    prompt = Prompt.of("Write f.", target=["assert f(3) == 9"])
    texts = ["def f(x):\n    return x * x", f"def f(x):\n    {ending}", ending]
    with opened_launcher(labeler.needs) as launcher:
        answers = labeler.score(
            [Candidate(prompt, Completion.of(prompt, t)) for t in texts],
            Tools(Path("unused"), run_program=launcher.run),
        )
    assert [answer.value if isinstance(answer, Score) else answer for answer in answers] == [1.0, 0.0, 0.0]


def test_defect_14_a_tie_makes_no_pair() -> None:
    comparisons, pairs = judged(lambda text: "[[C]]", {"question": ["xxx", "yyy"]})
    assert [row["prefers"] for row in comparisons] == ["tie"]
    assert pairs == []


def test_defect_15_a_shard_that_could_not_be_made_is_not_complete(tmp_path: Path) -> None:
    prompts, _ = tables({"question": []})
    write_shard(tmp_path / "prompts.parquet", prompts)
    stage = Sample("s", Judge(lambda text: text), Sampling())  # type: ignore[arg-type]
    work = Work(stage, (tmp_path / "prompts.parquet",), tmp_path / "out.parquet")

    def lost(*_: Any) -> Made:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        perform(work, lost)
    assert read_receipt(work.output) is None
    assert not work.output.exists()


@dataclass(frozen=True)
class Sampler(Judge):
    """Three completions of each prompt, the last one cut; none of a prompt that is too long."""

    reply: Callable[[str], str | None] = lambda text: text
    limit: int = 100
    asked: list[str] = field(default_factory=list)

    def generate(self, requests: Any) -> Any:
        request: Request
        for request in requests:
            if len(request.messages[-1].content) > self.limit:
                yield Generation(request.id, error="the prompt is too long")
                continue
            outputs = [Sampled(f"{word}", "stop", seed=i) for i, word in enumerate(("good", "bad"))]
            yield Generation(request.id, (*outputs, Sampled("good and cut", "length", seed=2)))


def sampled(groups: dict[str, list[str]]) -> tuple[pa.Table, list[Row]]:
    prompts, _ = tables(groups)
    with Sample("s", Sampler(), Sampling(n=3)).open(Sampler()) as transform:  # type: ignore[arg-type]
        return prompts, transform(prompts).table.to_pylist()


def test_defect_16_every_output_is_kept_and_what_was_cut_is_never_chosen() -> None:
    _, rows = sampled({"question": []})
    assert [(row["text"], row["finish_reason"]) for row in rows] == [
        ("good", "stop"),
        ("bad", "stop"),
        ("good and cut", "length"),
    ]
    for rule in RULES:
        group = [scored("cut", 2.0, True, cut=True), scored("bad", 0.0, False)]
        assert choose(group, Pairs(rule)).pairs == ()  # type: ignore[arg-type]


def test_defect_17_one_over_long_prompt_costs_itself_alone() -> None:
    _, rows = sampled({"one": [], "two" * 100: [], "three": []})
    assert [row["error"] for row in rows].count("the prompt is too long") == 1
    assert sum(row["error"] is None for row in rows) == 6


ELSEWHERE = {
    13: "tests/labelers/test_sandbox.py::test_a_plugin_that_ends_the_process_while_it_is_built_is_a_broken_plugin",
    15: "tests/pipeline/test_shards.py::test_an_interrupted_write_leaves_what_was_there",
    17: "tests/e2e/test_sources.py::test_one_over_long_prompt_fails_alone_and_two_sources_share_the_engine",
}
"""Where a defect is also tested with what cannot be had here: an engine, a kill."""


@pytest.mark.parametrize("node", ELSEWHERE.values(), ids=[f"defect {number}" for number in ELSEWHERE])
def test_a_test_that_stands_elsewhere_is_still_there(node: str) -> None:
    file, _, name = node.partition("::")
    assert f"def {name}(" in (Path(__file__).parents[2] / file).read_text()


def test_each_of_the_17_defects_has_a_test() -> None:
    names = re.findall(r"^def test_defect_(\d+)_", Path(__file__).read_text(), re.MULTILINE)
    assert {int(number) for number in names} == set(range(1, 18))
