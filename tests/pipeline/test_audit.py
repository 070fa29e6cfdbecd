"""The audit on whole small runs: an honest one passes, and labels that follow something else are found and named."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from pipeline.auditing.audit import as_json, audit_run, table
from pipeline.config import load
from pipeline.run import Finished, run
from tests.pipeline.audited import HONEST, PLUGIN, UPSIDE_DOWN, Runs, answered, one, same_text, spoil


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


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
