"""A judge that errs, simulated with a seed: through Compare and Pairing as a run goes through them."""

from __future__ import annotations

import random
import re

import pyarrow as pa

from labelers.discovery import LabelerSpec
from labelers.types import Prompt
from pipeline.compare import Compare
from pipeline.engines import EngineInfo, Generation, Progress, Sampled
from pipeline.pair import Pairing
from pipeline.pairing.settings import Pairs
from pipeline.schema import COMPLETIONS, PROMPTS


class Erring:
    """Prefers the larger quality, in four of five questions; each order is a question of its own."""

    info = EngineInfo("erring")

    def generate(self, requests):
        for request in requests:
            text = request.messages[-1].content
            first, second = re.findall(r"quality (\d+)", text)[:2]
            right = random.Random(text.partition("<")[0] + first + ":" + second).random() < 0.8
            yield Generation(request.id, (Sampled("[[A]]" if (first > second) == right else "[[B]]", "stop"),))

    def progress(self):
        return Progress()

    def close(self):
        pass


def test_pairs_of_a_judge_that_is_right_in_80_percent_are_better_than_80_percent_right():
    prompt = Prompt.of("Which is better?")
    messages = [{"role": "user", "content": "Which is better?"}]
    prompts = [{"prompt_id": prompt.id, "messages": messages, "metadata": "{}", "target": None}]
    rows = [
        {"completion_id": f"{i * 7919 % 100003:032x}", "prompt_id": prompt.id, "source": "s", "text": f"quality {i:03d}",
         "finish_reason": "stop", "n_tokens": 3, "model": "m"}
        for i in range(100)
    ]  # fmt: skip
    tables = pa.Table.from_pylist(prompts, PROMPTS), pa.Table.from_pylist(rows, COMPLETIONS)
    with Compare(LabelerSpec("judge"), "judge", match_ups=600).open(Erring()) as transform:
        comparisons = transform(*tables).table
    with Pairing(Pairs(max_per_prompt=600), (), n_labels=0, n_comparisons=1).open() as transform:
        pairs = transform(*tables, comparisons).table.to_pylist()
    right = [p["chosen"][0]["content"] > p["rejected"][0]["content"] for p in pairs]
    assert len(right) > 200
    assert sum(right) / len(right) > 0.9
