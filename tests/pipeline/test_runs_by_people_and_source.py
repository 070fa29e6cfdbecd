"""Whole replay runs labelled by people's verdicts and by which source is the stronger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Config, load
from pipeline.errors import ConfigError
from pipeline.rows import read_rows
from pipeline.run import run
from tests.pipeline.conftest import write_jsonl, write_replay

PROMPTS = [f"question {i}" for i in range(4)]


def rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [row.values for path in sorted(folder.glob(f"{kind}*/*.parquet")) for row in read_rows(str(path))]


def texts(pair: dict[str, Any]) -> tuple[str, str]:
    return pair["chosen"][0]["content"], pair["rejected"][0]["content"]


@pytest.fixture
def shown(tmp_path: Path) -> dict[str, dict[str, str]]:
    """A first run samples what people are shown: prompt id -> text -> completion id."""
    write_replay(tmp_path)
    write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": p} for p in PROMPTS])
    said = ["first answer", "second one, in other words", "a third, unlike both of them"]
    write_jsonl(tmp_path / "completions.jsonl", [{"prompt": p, "completion": said} for p in PROMPTS])
    folder = run(load(tmp_path / "config.toml", ["audit.enforce=false"]), tmp_path / "runs").folder
    found: dict[str, dict[str, str]] = {}
    for row in rows(folder, "completions-"):
        found.setdefault(row["prompt_id"], {})[row["text"]] = row["completion_id"]
    assert [len(completions) for completions in found.values()] == [3] * len(PROMPTS)
    return found


def by_people(folder: Path, *verdicts: dict[str, str]) -> Config:
    """The same run, now labelled by people's verdicts."""
    path = write_jsonl(folder / "verdicts.jsonl", verdicts)
    options = json.dumps(str(path))
    return load(
        folder / "config.toml",
        ["labelers.0.use=human", f"labelers.0.options={{path={options}}}", "audit.enforce=false"],
    )


def test_people_decide_who_is_chosen_and_only_what_they_compared_is_paired(shown, tmp_path):
    verdicts, expected = [], set()
    for number, (prompt, ids) in enumerate(list(shown.items())[:3]):
        a, b, _ = sorted(ids)
        best = "a" if number % 2 else "b"
        verdicts += [{"a_id": ids[a], "b_id": ids[b], "prefers": best, "reviewer": r} for r in ("ada", "bob")]
        expected.add((prompt, *((a, b) if best == "a" else (b, a))))
    finished = run(by_people(tmp_path, *verdicts), tmp_path / "runs")
    assert {(pair["prompt_id"], *texts(pair)) for pair in rows(finished.folder, "dataset/data")} == expected
    assert {pair["labelers"][0] for pair in rows(finished.folder, "dataset/data")} == {"human"}


def test_people_who_disagree_make_a_tie_and_no_pair(shown, tmp_path):
    first, second = list(shown.values())[:2]
    (a, b, _), (c, d, _) = list(first.values()), list(second.values())
    split = [{"a_id": a, "b_id": b, "prefers": p, "reviewer": p} for p in "ab"]
    finished = run(by_people(tmp_path, *split, {"a_id": c, "b_id": d, "prefers": "a"}), tmp_path / "runs")
    [pair] = rows(finished.folder, "dataset/data")
    assert (pair["chosen_id"], pair["rejected_id"]) == (c, d)
    assert finished.families[0].dropped["prompt with no decided comparison"] == 1


def test_a_verdict_that_is_added_makes_its_pair_and_samples_nothing_again(shown, tmp_path):
    (a, b, _), (c, d, _) = (list(ids.values()) for ids in list(shown.values())[:2])
    said = [{"a_id": a, "b_id": b, "prefers": "a"}]
    assert run(by_people(tmp_path, *said), tmp_path / "runs").rows == 1
    finished = run(by_people(tmp_path, *said, {"a_id": c, "b_id": d, "prefers": "b"}), tmp_path / "runs")
    assert {p["chosen_id"] for p in rows(finished.folder, "dataset/data")} == {a, d}
    assert len(list(finished.folder.glob("completions-*"))) == 1


@pytest.fixture
def two_sources(tmp_path: Path) -> Path:
    """A config whose sources `small` and `big` replay two completions each of every prompt."""
    write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": p} for p in PROMPTS])
    config = 'name = "sizes"\n[prompts]\npath = "prompts.jsonl"\nshard_size = 2\n'
    for source in ("small", "big"):
        said = [f"{source} says one thing", f"so much for {source} and its many other words"]
        write_jsonl(tmp_path / f"{source}.jsonl", [{"prompt": p, "completion": said} for p in PROMPTS])
        config += f'[[sources]]\nname = "{source}"\nengine = {{ use = "replay", path = "{source}.jsonl" }}\n'
    config += '[[labelers]]\nuse = "weak_vs_strong"\noptions = { ranking = ["big", "small"] }\n'
    (tmp_path / "config.toml").write_text(config)
    return tmp_path / "config.toml"


def test_the_stronger_source_is_chosen_and_the_weaker_rejected_of_every_prompt(two_sources, tmp_path):
    finished = run(load(two_sources, ["audit.enforce=false"]), tmp_path / "runs")
    pairs = rows(finished.folder, "dataset/data")
    assert (finished.rows, len({pair["prompt_id"] for pair in pairs})) == (8, 4)
    assert {(pair["source_chosen"], pair["source_rejected"]) for pair in pairs} == {("big", "small")}
    assert all("big" in chosen and "small" in rejected for chosen, rejected in map(texts, pairs))


def test_completions_of_a_source_without_a_rank_are_abstained_on_and_in_no_pair(two_sources, tmp_path):
    two_sources.write_text(two_sources.read_text().replace('name = "small"', 'name = "tiny"'))
    more = '[[sources]]\nname = "small"\nengine = { use = "replay", path = "small.jsonl" }\n'
    two_sources.write_text(two_sources.read_text() + more)
    finished = run(load(two_sources, ["audit.enforce=false"]), tmp_path / "runs")
    assert finished.families[0].abstained == {"not_applicable": 8}
    assert {pair["source_rejected"] for pair in rows(finished.folder, "dataset/data")} == {"small"}


@pytest.mark.parametrize(
    ("ranking", "says"),
    [('["bigg", "small"]', "'bigg' is no source; hint: the sources are small, big"), ('["big"]', "fewer than two")],
)
def test_a_ranking_that_could_rank_nothing_is_refused_before_the_run(two_sources, ranking, says):
    with pytest.raises(ConfigError, match=says):
        load(two_sources, [f"labelers.0.options={{ranking={ranking}}}"])
