"""What makes large runs quick and flat in memory changes no result."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelers.types import Message, Prompt
from pipeline.auditing.drawn import Drawn
from pipeline.auditing.evidence import Evidence, read_evidence, recall_places
from pipeline.auditing.spotless import spotless
from pipeline.engines import Request, Sampling, replay
from pipeline.engines.replay import Replay
from pipeline.errors import BadPrompts, EngineFailed
from pipeline.known import Known
from pipeline.pairing import grading
from pipeline.pairing.combine import Role
from pipeline.pairing.settings import Pairs
from pipeline.schema import COMPARISONS, COMPLETIONS, LABELS, PAIR_SHARD, PROMPTS
from pipeline.storage.spool import Spool, Table, filled_elsewhere
from tests.pipeline.audited import HONEST, Runs

ROLES = (Role("first", weight=-2.0, pass_at=0.5, noise=0.1), Role("second", weight=0.5, noise=0.2))


def shard(seed: int) -> tuple[list[str], pa.Table, list[pa.Table]]:
    """Prompts of one labeler or of two, with completions that failed, abstentions and prompts that nobody labelled."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    labels: dict[str, list[dict[str, Any]]] = {"first": [], "second": []}
    for i in range(400):
        prompt = f"p{i % 60}"
        row = dict.fromkeys(COMPLETIONS.names) | {
            "completion_id": f"c{i}",
            "prompt_id": prompt,
            "text": "x" * rng.randint(1, 9),
        }
        row |= {"source": rng.choice("ab"), "finish_reason": rng.choice(["stop", "length"]), "model": "m"}
        row |= {"n_tokens": rng.choice([0, 3]) if i % 60 < 20 else 4, "error": "no" if rng.random() < 0.1 else None}
        rows.append(row)
        name = "first" if i % 60 < 30 else "second" if i % 60 < 50 else rng.choice([*labels, ""]) if i % 60 < 58 else ""
        if name:
            abstains = rng.random() < 0.2
            told = {
                "value": None if abstains else rng.choice([0.0, 0.25, 1.0]),
                "abstain": "timeout" if abstains else None,
            }
            labels[name].append(
                {
                    "completion_id": f"c{i}",
                    "prompt_id": prompt,
                    "labeler": name,
                    "labeler_version": "1",
                    "reason": "",
                    **told,
                }
            )
    tables = [pa.Table.from_pylist(each, LABELS) for each in labels.values()]
    return [f"p{i}" for i in range(62)], pa.Table.from_pylist(rows, COMPLETIONS), tables


@pytest.mark.parametrize("band", [None, (0.2, 0.8)])
def test_groups_graded_the_quick_way_are_those_of_the_long_way(band: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given = (*shard(1), [], ROLES, Pairs(pass_rate=band))
    quick = grading.graded(*given)
    monkeypatch.setattr(grading, "_single", lambda *_: None)
    assert quick == grading.graded(*given)
    assert {reason for group in quick for reason in group.dropped} >= {
        "prompt without a completion", "prompt without a labeler", "completion a labeler abstained on",
    }  # fmt: skip


def test_a_completion_with_two_labels_is_graded_the_long_way() -> None:
    _, _, (first, second) = shard(2)
    again = first.set_column(2, "labeler", pa.array(["second"] * first.num_rows)).cast(LABELS)
    assert grading._single([first, second], ROLES, Pairs()) is not None
    assert grading._single([first, again], ROLES, Pairs()) is None


@pytest.mark.parametrize("worth", [0, replay.WORTH_A_PROCESS])
def test_rows_of_a_prompt_that_are_scattered_over_files_are_replayed_in_their_order(
    worth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "WORTH_A_PROCESS", worth)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    rows = [("q", "one"), ("other", "x"), ("q", ["two", "thr\u00e9e"])], [("q", "four")]
    for number, said in enumerate(rows):
        lines = (json.dumps({"prompt": prompt, "completion": text}) + "\n" for prompt, text in said)
        (tmp_path / f"{number}.jsonl").write_text("".join(lines))
    engine = Replay((str(tmp_path / "0.jsonl"), str(tmp_path / "1.jsonl"))).open()
    asked = [Request(name, (Message("user", name),), Sampling(), 0) for name in ("q", "unknown")]
    found, unknown = engine.generate(asked)
    engine.close()
    assert [output.text for output in found.outputs] == ["one", "two", "thr\u00e9e", "four"]
    assert (unknown.outputs, bool(unknown.error)) == ((), True)
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_file_of_many_row_groups_is_read_in_the_memory_of_one(tmp_path: Path) -> None:
    draw, path = random.Random(0), tmp_path / "rows.parquet"
    schema = pa.schema({"prompt": pa.string(), "completion": pa.list_(pa.string())})
    with pq.ParquetWriter(path, schema, compression="none") as file:
        for _ in range(100):
            texts = [[draw.randbytes(50).hex() for _ in range(9)] for _ in range(1000)]
            file.write_table(pa.table({"prompt": [own[0] for own in texts], "completion": texts}, schema))
    measure = (
        "import re, sys; from pipeline.rows import read_rows; rows = read_rows(sys.argv[1]); next(rows); "
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) << 10; before = peak(); "
        "print(1 + sum(1 for _ in rows), peak() - before)"
    )
    command = [sys.executable, "-c", measure, str(path)]
    n, grown = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert (n, grown < path.stat().st_size / 2) == (100_000, True), f"{grown} of {path.stat().st_size}"


def test_what_is_wrong_with_a_large_file_is_said_as_of_a_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "WORTH_A_PROCESS", 0)
    (tmp_path / "bad.jsonl").write_text('{"prompt": "q"}\n')
    with pytest.raises(BadPrompts, match=r"bad.jsonl:1: has no column 'completion'; .*hint"):
        Replay(str(tmp_path / "bad.jsonl")).open()


def test_a_process_that_dies_over_a_spool_is_said_so() -> None:
    with pytest.raises(EngineFailed, match="hint"):
        filled_elsewhere(dies)


def dies(spool: Spool) -> None:
    """In place of an engine's filling."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_spool_beyond_its_memory_gives_back_all_that_it_was_given() -> None:
    spool = Spool()
    spool.add((f"k{i % 100}", f"{i} ".encode() * 2000) for i in range(5000))  # some 40 MB, and it keeps 16 of them
    assert [value.split(b" ")[0] for value in spool.find("k7")] == [str(i).encode() for i in range(7, 5000, 100)]
    assert spool.find("k100") == []
    spool.close()


def test_a_table_keeps_the_first_value_of_a_key() -> None:
    table = Table()
    assert (table.enter("a", "1"), table.enter("a", "2"), table.get("a"), table.get("b")) == (None, "1", "1", None)


def test_a_barred_prompt_met_again_is_a_repeat_and_not_active() -> None:
    known = Known()
    known.lie_in(0, [("old", "{}"), ("gone", "{}")])
    assert [known.meet(name) for name in ("new", "old", "barred", "old")] == [False, False, False, True]
    known.bar("barred")
    known.written_to(1, [("new", "{}"), ("barred", "{}")])
    assert (known.meet("barred"), known.used(), known.active().gone) == (True, {0, 1}, frozenset({"gone", "barred"}))


def evidence(prompt: str) -> Evidence:
    """A shard of one prompt and three labels."""
    made = Prompt.of(prompt)
    prompts = [{"prompt_id": made.id, "messages": [{"role": "user", "content": prompt}], "metadata": "{}"}]
    said = [{"completion_id": f"{prompt}{i}", "prompt_id": made.id, "value": 1.0} for i in range(3)]
    rows = [dict.fromkeys(LABELS.names, "") | row | {"abstain": None} for row in said]
    completions = [dict.fromkeys(COMPLETIONS.names) | row | {"n_tokens": 1, "text": ""} for row in said]
    schema = pa.schema([field.with_nullable(True) for field in COMPLETIONS])
    return Evidence(
        pa.Table.from_pylist(prompts, PROMPTS),
        pa.Table.from_pylist([{k: v for k, v in row.items() if k != "value"} for row in completions], schema),
        pa.Table.from_pylist(rows, LABELS),
        COMPARISONS.empty_table(),
        PAIR_SHARD.empty_table(),
    )


def test_the_same_shards_are_drawn_in_any_order_and_no_more_than_fit() -> None:
    shards = [evidence(f"prompt {i}") for i in range(40)]
    kept = set()
    for order in (shards, shards[::-1], sorted(shards, key=lambda e: str(e.prompts["prompt_id"][0]))):
        drawn = Drawn(most_rows=30)
        for each in order:
            drawn.shard(each)
        facts = drawn.together()
        kept.add((facts.labels.num_rows, tuple(sorted(facts.labels["prompt_id"].to_pylist()))))
        assert (drawn.n_labels, drawn.n_left_out) == (120, 30)
    assert len(kept) == 1


def test_an_honest_shard_needs_no_look_at_its_rows(tmp_path: Path) -> None:
    finished = Runs(tmp_path).make(HONEST, {f"p{i}": ["a good one", "a bad one", "a good one"] for i in range(6)})
    found = list(read_evidence(recall_places(finished.folder)))
    assert all(spotless(each, {"mine": 1.0, "Mine": 1.0}) for each in found)
    assert not any(spotless(each, {"mine": -1.0, "Mine": -1.0}) for each in found)
