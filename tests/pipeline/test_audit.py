"""The audit on whole small runs: an honest one passes, and each way to be wrong is found and named."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.audit import as_json, audit_run, table
from pipeline.audit_limits import Audit, Finding
from pipeline.config import load
from pipeline.run import Finished, run
from pipeline.schema import PAIR_SHARD
from pipeline.shards import read_receipt, read_shard, write_shard

PLUGIN = '''
from dataclasses import dataclass
from labelers.types import Abstain, Example, Needs, Prompt, Score, Verdict

@dataclass(frozen=True)
class Mine:
    """Prefers completions that say good."""
    name, version, needs = "mine", "1", Needs()
    examples = [Example(Prompt.of("p"), better="good", worse="bad")]
    symmetric = False
    {method}
'''
HONEST = "def score(self, batch, ctx): return [Score(float('good' in c.completion.text)) for c in batch]"


class Runs:
    """Makes small runs of replayed completions in a folder of the test's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, rows: Sequence[Mapping[str, Any]]) -> str:
        (self.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return name

    def make(
        self, method: str, answers: Mapping[str, Sequence[str]], *settings: str, extra: str = "", engine: str = ""
    ) -> Finished:
        """A run of the plugin with `method` on prompt -> completions."""
        (self.folder / "mine.py").write_text(PLUGIN.format(method=method))
        self.write("prompts.jsonl", [{"prompt": prompt} for prompt in answers])
        self.write("said.jsonl", [{"prompt": prompt, "completion": list(texts)} for prompt, texts in answers.items()])
        config = self.folder / "config.toml"
        config.write_text(
            f"""
            name = "audited"
            [prompts]
            path = "prompts.jsonl"
            [[sources]]
            name = "people"
            engine = {{ use = "replay", path = "said.jsonl" }}
            [[labelers]]
            use = "./mine.py:Mine"
            {engine}
            {extra}
            """
        )
        return run(load(config, settings), self.folder / "runs")


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def answered(n: int, *, seed: int = 0) -> dict[str, list[str]]:
    """Prompts with two good and two bad answers of random lengths, in random order."""
    draw = random.Random(seed)
    found = {}
    for i in range(n):
        texts = [f"{word} {'word ' * draw.randint(1, 40)}{j}" for j, word in enumerate(["good", "good", "bad", "bad"])]
        draw.shuffle(texts)
        found[f"question {i}"] = texts
    return found


def seen(finished: Finished | Path, check: str) -> list[Finding]:
    audited = audit_run(finished) if isinstance(finished, Path) else finished.audited
    assert audited is not None
    return [finding for finding in audited.findings if finding.check == check]


def one(finished: Finished | Path, check: str) -> Finding:
    (finding,) = seen(finished, check)
    return finding


def test_an_honest_run_passes_and_is_published(runs: Runs) -> None:
    finished = runs.make(HONEST, answered(40))
    assert finished.audited is not None
    assert finished.audited.failed == ()
    assert finished.version is not None


def test_the_audit_of_a_finished_run_says_what_its_build_said(runs: Runs) -> None:
    finished = runs.make(HONEST, answered(10))
    again = audit_run(finished.folder)
    assert finished.audited is not None
    assert [f for f in again.findings if f.check != "published"] == list(finished.audited.findings)
    assert one(finished.folder, "published").state == "ok"


def test_it_fits_on_a_screen_and_goes_to_json(runs: Runs) -> None:
    audited = runs.make(HONEST, answered(40)).audited
    assert audited is not None
    lines = table(audited.findings).splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 220
    kept = json.loads(json.dumps(as_json(audited)))
    assert {f["check"] for f in kept["findings"]} >= {"chosen is rejected", "canary: identical", "pairs by length"}


# Rows


def spoil(folder: Path, edit: Callable[[list[dict[str, Any]]], None]) -> None:
    """Edits the rows of the first pair shard, with a receipt that vouches for them."""
    shard = sorted(folder.glob("pairs-*/*.parquet"))[0]
    rows = read_shard(shard).to_pylist()
    receipt = read_receipt(shard)
    assert receipt is not None
    edit(rows)
    write_shard(shard, pa.Table.from_pylist(rows, PAIR_SHARD), receipt.inputs, receipt.seconds, receipt.counts)


def same_text(rows: list[dict[str, Any]]) -> None:
    rows[0]["rejected"] = rows[0]["chosen"]


def same_but_blanks(rows: list[dict[str, Any]]) -> None:
    rows[0]["rejected"] = [{"role": "assistant", "content": f"  {rows[0]['chosen'][0]['content']}\n"}]


def other_prompt(rows: list[dict[str, Any]]) -> None:
    rows[0]["prompt"] = rows[-1]["prompt"]


def shifted_prompts(rows: list[dict[str, Any]]) -> None:
    ids = [row["prompt_id"] for row in rows]
    for row, other in zip(rows, [*ids[1:], ids[0]], strict=True):
        row["prompt_id"] = other


def swapped(rows: list[dict[str, Any]]) -> None:
    row = rows[0]
    for name in ("{}", "{}_id", "source_{}"):
        a, b = name.format("chosen"), name.format("rejected")
        row[a], row[b] = row[b], row[a]


def wrong_margin(rows: list[dict[str, Any]]) -> None:
    rows[0]["margin"] = 5.0


def rejected_is_better(rows: list[dict[str, Any]]) -> None:
    rows[0]["score_chosen"], rows[0]["score_rejected"] = 0.0, 1.0
    rows[0]["margin"] = -1.0


def other_id(rows: list[dict[str, Any]]) -> None:
    rows[0]["pair_id"] = "0" * 32


def other_text(rows: list[dict[str, Any]]) -> None:
    rows[0]["chosen"] = [{"role": "assistant", "content": "good, but nobody said it"}]


def twice(rows: list[dict[str, Any]]) -> None:
    rows.append(rows[0])


def other_labeler(rows: list[dict[str, Any]]) -> None:
    rows[0]["labelers"] = ["nobody"]


def other_version(rows: list[dict[str, Any]]) -> None:
    rows[0]["labeler_versions"] = ["0"]


@pytest.mark.parametrize(
    ("edit", "check"),
    [
        (same_text, "chosen is rejected"),
        (same_but_blanks, "chosen is rejected"),
        (other_prompt, "prompt"),
        (shifted_prompts, "prompt"),
        (swapped, "labels"),
        (wrong_margin, "margin"),
        (rejected_is_better, "margin"),
        (other_id, "ids"),
        (other_text, "ids"),
        (twice, "ids"),
        (other_labeler, "labels"),
        (other_version, "labels"),
    ],
)
def test_a_spoiled_row_fails_its_check_and_is_named(runs: Runs, edit: Any, check: str) -> None:
    folder = runs.make(HONEST, answered(10)).folder
    spoil(folder, edit)
    finding = one(folder, check)
    assert finding.state == "FAIL"
    assert finding.rows
    assert finding.rows[0] in finding.seen


def test_a_published_row_that_is_not_the_shards_is_found(runs: Runs) -> None:
    folder = runs.make(HONEST, answered(10)).folder
    spoil(folder, other_text)
    assert one(folder, "published").state == "FAIL"


def test_a_label_that_changed_after_pairing_is_found(runs: Runs) -> None:
    folder = runs.make(HONEST, answered(10)).folder
    shard = sorted(folder.glob("labels-*/*.parquet"))[0]
    table_ = read_shard(shard)
    flipped = [{**row, "value": 1.0 - row["value"]} for row in table_.to_pylist()]
    write_shard(shard, pa.Table.from_pylist(flipped, table_.schema))
    assert one(folder, "labels").state == "FAIL"
    assert one(folder, "canary: again").state == "FAIL"


def test_an_abstained_chosen_is_found(runs: Runs) -> None:
    folder = runs.make(HONEST, answered(10)).folder
    shard = sorted(folder.glob("labels-*/*.parquet"))[0]
    table_ = read_shard(shard)
    rows = [{**row, "value": None, "abstain": "timeout"} for row in table_.to_pylist()]
    write_shard(shard, pa.Table.from_pylist(rows, table_.schema))
    assert "abstained on chosen" in one(folder, "labels").seen


def test_a_chosen_that_was_cut_off_is_found(runs: Runs) -> None:
    folder = runs.make(HONEST, answered(10)).folder
    shard = sorted(folder.glob("completions-*/*.parquet"))[0]
    table_ = read_shard(shard)
    rows = [{**row, "finish_reason": "length"} for row in table_.to_pylist()]
    write_shard(shard, pa.Table.from_pylist(rows, table_.schema))
    assert one(folder, "truncated").state == "FAIL"


# Canaries

BY_PLACE = "def score(self, batch, ctx): return [Score(float(i)) for i, _ in enumerate(batch)]"
BY_ID = "def score(self, batch, ctx): return [Score(float(int(c.completion.id[:6], 16))) for c in batch]"
LIKES_NOTHING = "def score(self, batch, ctx): return [Score(-float(len(c.completion.text))) for c in batch]"
UPSIDE_DOWN = "def score(self, batch, ctx): return [Score(-float('good' in c.completion.text)) for c in batch]"
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
        (LIKES_NOTHING, "canary: empty"),
        (NO_VOWELS, "canary: garbage"),
    ],
)
def test_a_canary_that_is_judged_wrongly_fails_the_build(runs: Runs, method: str, check: str) -> None:
    finished = runs.make(method, answered(40))
    assert one(finished, check).state == "FAIL"
    assert "Mine" in one(finished, check).seen
    assert finished.version is None


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


# Confounds


def lengths(n: int, longer_is_good: float) -> dict[str, list[str]]:
    draw = random.Random(1)
    found = {}
    for i in range(n):
        short, long = "word " * draw.randint(1, 9), "word " * draw.randint(20, 40)
        good, bad = (long, short) if draw.random() < longer_is_good else (short, long)
        found[f"question {i}"] = [f"good {good}", f"bad {bad}"]
    return found


def test_labels_that_length_explains_fail_with_effect_and_chance(runs: Runs) -> None:
    finding = one(runs.make(HONEST, lengths(100, 1.0)), "pairs by length")
    assert (finding.state, finding.value) == ("FAIL", 1.0)
    assert finding.p is not None
    assert finding.p < 1e-9


def test_labels_that_have_nothing_to_do_with_length_pass(runs: Runs) -> None:
    finished = runs.make(HONEST, lengths(100, 0.5))
    assert one(finished, "pairs by length").state == "ok"
    assert one(finished, "labels by length").state == "ok"


def test_a_few_pairs_warn_and_never_fail(runs: Runs) -> None:
    finished = runs.make(HONEST, lengths(8, 1.0))
    assert one(finished, "pairs by length").state == "warn"
    assert finished.version is not None


def two_sources(runs: Runs, tmp_path: Path, first_wins: float) -> Finished:
    draw = random.Random(2)
    prompts = [f"question {i}" for i in range(60)]
    words = [("good", "bad") if draw.random() < first_wins else ("bad", "good") for _ in prompts]
    for side, name in enumerate(("one", "two")):
        rows = [{"prompt": p, "completion": f"{w[side]} {draw.random()}"} for p, w in zip(prompts, words, strict=True)]
        runs.write(f"{name}.jsonl", rows)
    (tmp_path / "mine.py").write_text(PLUGIN.format(method=HONEST))
    runs.write("prompts.jsonl", [{"prompt": p} for p in prompts])
    sources = "".join(
        f'[[sources]]\nname = "{name}"\nengine = {{ use = "replay", path = "{name}.jsonl" }}\n'
        for name in ("one", "two")
    )
    (tmp_path / "c.toml").write_text(
        f'name = "c"\n[prompts]\npath = "prompts.jsonl"\n{sources}[[labelers]]\nuse = "./mine.py:Mine"\n'
    )
    return run(load(tmp_path / "c.toml"), tmp_path / "runs")


def test_labels_that_the_source_explains_fail(runs: Runs, tmp_path: Path) -> None:
    finding = one(two_sources(runs, tmp_path, 1.0), "labels by source")
    assert finding.state == "FAIL"
    assert finding.value == pytest.approx(1.0)


def test_sources_that_win_equally_often_pass(runs: Runs, tmp_path: Path) -> None:
    assert one(two_sources(runs, tmp_path, 0.5), "labels by source").state == "ok"


# Judges


class Server(ThreadingHTTPServer):
    """A judge: replies with what `verdict` makes of the question."""

    daemon_threads = True
    verdict: Callable[[str], str]

    @property
    def engine(self) -> str:
        return f'engine = {{ use = "http", base_url = "http://127.0.0.1:{self.server_address[1]}/v1", model = "m" }}'


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.reply({"object": "list", "data": [{"id": "m", "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = self.server.verdict(body["messages"][-1]["content"])
        message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
        self.reply(
            {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [message], "usage": usage}
        )

    def reply(self, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def judge() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


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


def test_a_judge_that_follows_the_position_makes_no_pair_and_the_audit_says_why(runs: Runs, judge: Server) -> None:
    judge.verdict = lambda question: "a"
    finished = runs.make(ASKS, two_answers(40), engine=judge.engine)
    assert finished.rows == 0
    position = one(finished, "position")
    assert position.state == "FAIL"
    assert "prefers the one shown first in 100% of 80 decided verdicts" in position.seen
    assert "flip with the order and make no pair" in position.seen
    assert "40 of 40 verdicts flip with the order, and a flip is a tie" in one(finished, "pairs").seen
    assert one(finished, "order flips").state == "FAIL"


def test_a_judge_that_is_right_four_times_of_five_makes_pairs_that_are_better_than_that(
    runs: Runs, judge: Server
) -> None:
    judge.verdict = lambda question: right(question, 0.8)
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


def test_a_verdict_that_only_one_order_gave_is_found(runs: Runs, judge: Server) -> None:
    judge.verdict = lambda question: right(question, 1.0)
    folder = runs.make(ASKS, two_answers(10), engine=judge.engine).folder
    shard = sorted(folder.glob("comparisons-*/*.parquet"))[0]
    table_ = read_shard(shard)
    rows = [{**row, "prefers_backward": None} for row in table_.to_pylist()]
    write_shard(shard, pa.Table.from_pylist(rows, table_.schema))
    assert one(folder, "both orders").state == "FAIL"


def test_a_judge_is_asked_canaries_only_when_told_to(runs: Runs, judge: Server) -> None:
    from pipeline.canaries import lent

    judge.verdict = lambda question: right(question, 1.0)
    folder = runs.make(ASKS, two_answers(10), engine=judge.engine).folder
    assert "asks a model; hint: python -m pipeline audit RUN --ask" in one(folder, "canaries").seen
    asked = {f.check: f for f in audit_run(folder, lent).findings}
    assert asked["canary: identical"].state == asked["canary: garbage"].state == "ok"
    assert asked["canary: identical"].n == Audit().costly_canaries


# Agreement, abstentions, held-out


def test_labelers_that_contradict_each_other_are_named(runs: Runs, tmp_path: Path) -> None:
    contrary = PLUGIN.format(method=UPSIDE_DOWN).replace('"good", worse="bad"', '"bad", worse="good"')
    (tmp_path / "contrary.py").write_text(contrary)
    extra = '[[labelers]]\nuse = "./contrary.py:Mine"\nname = "Contrary"\nweight = 0.5'
    finding = one(runs.make(HONEST, answered(40), extra=extra), "agreement")
    assert finding.state == "warn"
    assert finding.value is not None
    assert finding.value < -0.9
    assert "Contrary and Mine" in finding.seen


def test_abstentions_are_told_by_labeler_and_kind(runs: Runs) -> None:
    method = (
        "def score(self, batch, ctx): return [Abstain('timeout') if c.prompt.messages[0].content[-1] in '78' "
        "else Score(float('good' in c.completion.text)) for c in batch]"
    )
    finding = one(runs.make(method, answered(40), "labelers.0.max_abstained=1.0"), "abstentions")
    assert finding.state == "warn"
    assert finding.seen == "Mine: 20.0% of 160 (32 timeout)"


def test_a_training_prompt_that_repeats_a_held_out_one_fails(runs: Runs) -> None:
    runs.write("held.jsonl", [{"prompt": "question 3"}, {"prompt": "something else altogether"}])
    finished = runs.make(HONEST, answered(10), extra='[audit]\nheldout = "held.jsonl"')
    finding = one(finished, "held-out")
    assert (finding.state, finding.value) == ("FAIL", 0.5)
    assert "1 word for word" in finding.seen


# The command


def command(*arguments: str) -> tuple[int, str, str]:
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    return done.returncode, done.stdout, done.stderr


def test_the_command_exits_0_with_a_table_and_1_when_a_check_fails(runs: Runs) -> None:
    folder = runs.make(HONEST, answered(10)).folder
    code, out, _ = command("audit", str(folder))
    assert code == 0
    assert "canary: identical" in out
    spoil(folder, same_text)
    code, out, _ = command("audit", str(folder), "--json")
    assert code == 1
    assert json.loads(out)["state"] == "FAIL"


def test_a_failed_build_publishes_nothing_and_exits_1_unless_told_otherwise(runs: Runs, tmp_path: Path) -> None:
    runs.make(UPSIDE_DOWN, answered(10))
    arguments = ("run", str(tmp_path / "config.toml"), "--root", str(tmp_path / "runs"))
    code, _, err = command(*arguments)
    assert code == 1
    assert "canary: example" in err
    assert "nothing was published" in err
    code, _, err = command(*arguments, "--set", "audit.enforce=false")
    assert code == 0
    assert "WARNING" in err


def test_the_page_explains_every_check(runs: Runs) -> None:
    page = (Path(__file__).parents[2] / "docs" / "auditing.md").read_text()
    audited = runs.make(HONEST, answered(10)).audited
    assert audited is not None
    unexplained = {
        f.check.removeprefix("labels by ") for f in audited.findings if f.check.split(":")[-1].strip() not in page
    }
    assert (
        unexplained - {word for word in ("length", "place in group", "source", "temperature") if word in page} == set()
    )
