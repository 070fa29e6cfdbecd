"""Twelve ways for a plugin to misbehave among a thousand good items: every neighbour right, each bad item named."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from labelers import sandbox
from labelers.discovery import LabelerSpec
from labelers.testing import ScriptedEngine
from labelers.types import Abstain, Prompt, Score
from pipeline.label import Label
from pipeline.schema import COMPLETIONS, PROMPTS
from tests.labelers.confined import FILE, WAYS, candidates

ROOT = Path(__file__).parents[2]
SPEC = LabelerSpec(f"{FILE}:Misbehaves")
NAMED = {
    "raise": ("crashed", "KeyError: 'poison' at confined.py"),
    "hang": ("timeout", "no answer within 2 s"),
    "segfault": ("crashed", "died of SIGSEGV"),
    "leak": ("crashed", "MemoryError"),
    "exit": ("crashed", "SystemExit"),
    "exit at once": ("crashed", "ended its process with exit code 0"),
    "fork": ("crashed", "PermissionError"),
    "wrong length": ("crashed", "gave 2 labels for 1 items"),
    "wrong type": ("crashed", "gave 1.0"),
    "NaN": ("crashed", "nan"),
    "10 MB reply": ("crashed", "10000000 characters"),
    "sleep": ("timeout", "no answer within 2 s"),
}
"""What the label of each bad item says; one that only prints (`print`) has done no harm, and keeps its score."""


def texts() -> list[str]:
    """A thousand good completions, and a bad one after every seventieth of them."""
    good = [f"good {'x' * (i % 50)} {i}" for i in range(1000)]
    for place, way in enumerate(WAYS):
        good.insert(70 * (place + 1), way)
    return good


def require_right(found: list[tuple[str, float | None, str | None, str]]) -> None:
    """Each (text, value, kind, reason) is what it must be."""
    neighbours = {text: value for text, value, _, _ in found if text not in WAYS}
    assert neighbours == {text: float(len(text)) for text in neighbours}
    assert len(neighbours) == 1000
    bad = {text: (value, kind, reason) for text, value, kind, reason in found if text in WAYS}
    assert bad.pop("print") == (5.0, None, "")
    assert set(bad) == set(NAMED)
    for way, (kind, said) in NAMED.items():
        value, kind_found, reason = bad[way]
        assert (value, kind_found) == (None, kind), (way, reason)
        assert said in reason, (way, reason)
        assert len(reason) <= 500


@pytest.mark.slow
def test_among_a_thousand_in_a_run_each_bad_item_costs_itself():
    prompt = Prompt.of("Say hi")
    prompts = [
        {"prompt_id": prompt.id, "messages": [{"role": "user", "content": "Say hi"}], "metadata": "{}", "target": None}
    ]
    rows = [
        {
            "completion_id": f"{i:032x}", "prompt_id": prompt.id, "source": "s", "text": text, "finish_reason": "stop",
            "n_tokens": 1, "model": "m",
        }
        for i, text in enumerate(texts())
    ]  # fmt: skip
    began = time.monotonic()
    with Label(SPEC, "misbehaves").open() as transform:
        table = transform(pa.Table.from_pylist(prompts, PROMPTS), pa.Table.from_pylist(rows, COMPLETIONS)).table
    labels = table.to_pylist()
    require_right([(t, row["value"], row["abstain"], row["reason"]) for t, row in zip(texts(), labels, strict=True)])
    assert time.monotonic() - began < 100  # two hangs; 8 s on an idle machine


@pytest.mark.slow
def test_among_a_thousand_on_the_command_line_each_bad_item_costs_itself():
    lines = "".join(json.dumps({"prompt": "Say hi", "completion": text}) + "\n" for text in texts())
    done = subprocess.run(
        [sys.executable, "-m", "labelers", "score", SPEC.use],
        input=lines, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    require_right([(t, row["value"], row["abstain"], row["reason"]) for t, row in zip(texts(), rows, strict=True)])


@pytest.mark.parametrize("way", sorted(NAMED.keys() - {"hang", "sleep"}))
def test_a_bad_item_between_two_good_ones_is_named(way):
    with sandbox.opened(SPEC, ScriptedEngine()) as worker:
        first, bad, last = worker.score(candidates("good", way, "fine!"))
    assert (first, last) == (Score(4.0), Score(5.0))
    assert isinstance(bad, Abstain)
    assert bad.kind == NAMED[way][0]
    assert NAMED[way][1] in bad.reason


def test_bad_items_only_are_abstained_and_the_labeler_is_not_called_broken():
    with sandbox.opened(SPEC, ScriptedEngine()) as worker:
        labels = worker.score(candidates("wrong type", "wrong length", "NaN"))
    assert [label.kind for label in labels if isinstance(label, Abstain)] == ["crashed"] * 3


def test_a_long_reason_is_cut_and_kept_on_one_side_of_the_pipe():
    source = "raise ValueError('\\x1b[31m' + 'y' * 100_000)"
    with sandbox.opened(LabelerSpec(f"{FILE}:Executes"), ScriptedEngine()) as worker:
        (label,) = worker.score(candidates(source))
    assert isinstance(label, Abstain)
    assert len(label.reason) <= 500
    assert label.reason.startswith("ValueError: \x1b[31myyy")
