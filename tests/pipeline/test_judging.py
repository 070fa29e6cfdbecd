"""Judges and rubrics in whole runs: from a config to confined workers, with an engine that is a function."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from labelers.types import content_id
from pipeline.config import load
from pipeline.engines import EngineInfo, Generation, Progress, Request, Sampled
from pipeline.engines.replay import Replay, RunningReplay
from pipeline.plan import make_plan
from pipeline.rows import read_rows
from pipeline.run import run

ROOT = Path(__file__).parents[2]
ENGINE = 'engine = { use = "replay", path = "completions.jsonl", model = "judge-model" }'


class Both:
    """Replays completions to a run's prompts, and gives a function's reply to every other request, which it keeps."""

    asked: list[Request]

    def __init__(self, spec: Replay, reply: Callable[[Request], str]) -> None:
        self._replay, self._reply = RunningReplay(spec), reply
        self.info, self.asked = EngineInfo(spec.model), []

    def generate(self, requests: Any) -> Iterator[Generation]:
        for request in requests:
            (found,) = self._replay.generate([request])
            if found.error:
                self.asked.append(request)
                found = Generation(request.id, (Sampled(self._reply(request), "stop"),))
            yield found

    def progress(self) -> Progress:
        return Progress()

    def close(self) -> None: ...


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Request], str]], list[Both]]:
    """engines(reply): every replay engine that is opened from now on also answers by `reply`; they are put in the list."""

    def scripted(reply: Callable[[Request], str]) -> list[Both]:
        opened: list[Both] = []

        def open_(spec: Replay) -> Both:
            opened.append(Both(spec, reply))
            return opened[-1]

        monkeypatch.setattr(Replay, "open", open_)
        return opened

    return scripted


def rows(folder: Path, kind: str) -> list[Any]:
    return [row.values for file in sorted(folder.glob(f"{kind}-*/*.parquet")) for row in read_rows(str(file))]


def by_position(request: Request) -> str:
    return "[[A]]"


def text_of(request: Request) -> str:
    return request.messages[-1].content


def test_a_template_beside_the_config_asks_the_question_and_its_content_names_the_folder(
    replayed: Any, engines: Any, tmp_path: Path
) -> None:
    (tmp_path / "ask.txt").write_text("MINE {{prompt}} 1) {{a}} 2) {{b}}")
    replayed(labeler=f'use = "judge"\noptions = {{ template = "ask.txt" }}\n{ENGINE}')
    config = load(tmp_path / "config.toml")
    opened = engines(by_position)
    finished = run(config, tmp_path / "runs")
    asked = [request for engine in opened for request in engine.asked]
    assert asked
    assert all("MINE" in request.messages[0].content for request in asked)
    before = make_plan(config, finished.folder).of_kind("comparisons")[0].folder
    (tmp_path / "ask.txt").write_text("OTHER {{prompt}} {{a}} {{b}}")
    assert make_plan(config, finished.folder).of_kind("comparisons")[0].folder != before


def test_a_judge_that_follows_the_position_makes_no_pair_with_votes_either(
    replayed: Any, engines: Any, tmp_path: Path
) -> None:
    replayed(labeler=f'use = "judge"\nvotes = 2\n{ENGINE}')
    engines(by_position)
    finished = run(load(tmp_path / "config.toml"), tmp_path / "runs")
    found = rows(finished.folder, "comparisons")
    assert finished.rows == 0
    assert {row["prefers"] for row in found} == {"tie"}
    assert {(row["prefers_forward"], row["prefers_backward"]) for row in found} == {("a", "b")}


def test_a_rubric_scores_in_a_run_and_its_form_reaches_the_engine(replayed: Any, engines: Any, tmp_path: Path) -> None:
    options = 'options = { form = "json", criteria = ["It compiles."], scale = [0, 10] }'
    replayed(labeler=f'use = "rubric"\nreply_tokens = 99\n{options}\n{ENGINE}')

    def grade(request: Request) -> str:
        return json.dumps({"reason": "so", "grades": [0 if "def f(x:" in text_of(request) else 10]})

    opened = engines(grade)
    finished = run(load(tmp_path / "config.toml"), tmp_path / "runs")
    assert {row["value"] for row in rows(finished.folder, "labels")} == {0.0, 1.0}
    assert finished.rows > 0
    asked = [request for engine in opened for request in engine.asked]
    assert {request.sampling.max_tokens for request in asked} == {99}
    assert all(json.loads(request.schema)["properties"]["grades"]["maxItems"] == 1 for request in asked)


def test_replies_that_cannot_be_read_are_abstentions_in_the_table_and_never_low_scores(
    replayed: Any, engines: Any, tmp_path: Path
) -> None:
    replayed(labeler=f'use = "rubric"\nmax_abstained = 1.0\noptions = {{ criteria = ["It compiles."] }}\n{ENGINE}')
    engines(lambda request: "no idea" if "# 1" in text_of(request) else "[[1: 5]]")
    finished = run(load(tmp_path / "config.toml"), tmp_path / "runs")
    found = rows(finished.folder, "labels")
    assert {(row["value"], row["abstain"]) for row in found} == {(1.0, None), (None, "unparsable")}
    assert finished.rows == 0


def test_the_plan_on_the_command_line_forecasts_the_judges_questions(replayed: Any, tmp_path: Path) -> None:
    replayed("sources.0.n=4", labeler=f'use = "judge"\n{ENGINE}\n[budget]\ntokens = 10')
    command = [sys.executable, "-m", "pipeline", "plan", "config.toml", "--set", "sources.0.n=4"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "judge asks its model 32 questions, " in done.stdout
    assert "the budget does not last" in done.stdout


@pytest.mark.parametrize("votes", [0, 2])
def test_a_judge_that_is_right_80_percent_of_the_time_makes_pairs_that_are_right_more_often(
    replayed: Any, engines: Any, tmp_path: Path, votes: int
) -> None:
    """Its slips are drawn by a hash of the question and the vote's seed, so that the run is the same every time."""
    replayed(n_prompts=100, shard_size=50, labeler=f'use = "judge"\nvotes = {votes}\n{ENGINE}')

    def judge(request: Request) -> str:
        text = text_of(request)
        draw = int(content_id("draw", text, request.seed)[:8], 16) / 16**8
        first, second = ("def f(x:" in part for part in text.partition("Answer A:")[2].split("Answer B:")[:2])
        if first == second:
            return "[[A]]" if draw < 0.5 else "[[B]]"
        return "[[A]]" if (draw < 0.8) == second else "[[B]]"

    engines(judge)
    finished = run(load(tmp_path / "config.toml", ["audit.enforce=false"]), tmp_path / "runs")
    pairs = [row.values for file in (finished.folder / "dataset/data").glob("*") for row in read_rows(str(file))]
    good = [("def f(x:" not in p["chosen"][0]["content"], "def f(x:" not in p["rejected"][0]["content"]) for p in pairs]
    mixed = [chosen for chosen, rejected in good if chosen != rejected]
    assert len(mixed) > 40
    assert sum(mixed) / len(mixed) > 0.88
