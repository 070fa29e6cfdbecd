"""A judge's server that misbehaves in 15 ways, in a whole run: every pair is right, every other question an abstention.

    python -m tests.pipeline.misbehaving [N] > benchmarks/results/...-servers-cpu.json

N questions meet each way (100), half of them once before the answer, half for good.
"""

from __future__ import annotations

import json
import math
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pipeline.config import load
from pipeline.rows import read_rows
from pipeline.run import run
from tests.pipeline.conftest import BAD, GOOD, write_jsonl
from tests.serving import (
    WHOLE,
    Answer,
    Body,
    ChatServer,
    answer_to_another,
    drip,
    failing,
    half_an_answer,
    hang_up,
    huge,
    saying,
    serving,
    silent,
)

WAYS: dict[str, Answer] = {
    "429 with Retry-After": failing(429, "1"),
    "429 without": failing(429, None),
    "500": failing(500),
    "503": failing(503, None),
    "no answer in time": silent,
    "a reset": hang_up,
    "a slow drip": drip,
    "a page": (200, b"<html><body>Please log in</body></html>"),
    "half a JSON": (200, WHOLE[: len(WHOLE) // 2]),
    "half an answer": half_an_answer,
    "nothing": (200, b""),
    "another form": (200, b'{"choices": [{"index": 0, "message": {"content": 5}}]}'),
    "an answer to another question": answer_to_another,
    "a huge body": huge,
    "words without a verdict": saying("Both have merits. [[D]] [[A]] or [[B]]?"),
}


def misbehave(body: Body, tries: int) -> Answer:
    """The misbehaviour that the prompt names, for good or once; else the right verdict."""
    question = body["messages"][-1]["content"]
    named = re.search(r"way (\d+) (once|for good)", question)
    assert named is not None
    name, way = list(WAYS.items())[int(named[1])]
    if tries < times(name, named[2]):
        return way
    first, second = (BAD in part for part in question.partition("Answer A:")[2].split("Answer B:")[:2])
    return saying("[[B]]" if first else "[[A]]") if first != second else saying("[[C]]")


def times(name: str, kind: str) -> float:
    """How often a question meets a way. A server that says it is busy is waited for, so it says so only for a while: longer
    than the tries of one request. (One that says so for ever stops the run: test_breaker.py.)"""
    if kind == "once":
        return 1
    return 5 if name.startswith("429") else math.inf


def is_right(way: str) -> bool:
    """Whether a question that met this way is to be judged at last; else it is an abstention."""
    name, _, kind = way.rpartition(", ")
    return (
        name != "words without a verdict" and times(name, kind) < math.inf
    )  # words are an answer: not asked for again


def write(folder: Path, server: ChatServer, n: int) -> Path:
    """A config in which `n` questions meet each way, half of them for good, in an order that mixes the ways."""
    kinds = [f"way {way} {kind} {i // 2}" for i in range(n) for way in range(len(WAYS)) for kind in _kinds(i)]
    write_jsonl(folder / "prompts.jsonl", [{"prompt": kind, "family": kind.split(" ", 1)[1][:-2]} for kind in kinds])
    write_jsonl(folder / "completions.jsonl", [{"prompt": kind, "completion": [GOOD, BAD]} for kind in kinds])
    config = folder / "config.toml"
    config.write_text(
        'name = "judged"\n[prompts]\npath = "prompts.jsonl"\n[audit]\nenforce = false\n'
        '[[sources]]\nname = "people"\nengine = { use = "replay", path = "completions.jsonl" }\n'
        f'[[labelers]]\nuse = "judge"\nmatch_ups = 1\nmax_abstained = 1.0\nengine = {{ use = "http", model = "served", '
        f'base_url = "{server.url}", timeout_s = 1.0, max_retries = 2 }}\n'
    )
    return config


def _kinds(i: int) -> tuple[str, ...]:
    return ("once",) if i % 2 else ("for good",)


def judged(folder: Path, n: int) -> dict[str, Any]:
    """Runs it; says for each way what came of its questions, and how many pairs are wrong."""
    with serving(ChatServer(misbehave)) as server:
        started = time.monotonic()
        finished = run(load(write(folder, server, n)), folder / "runs")
        seconds = time.monotonic() - started
        asked = len(server.bodies)
    pairs = list(_rows(finished.folder, "pairs"))
    wrong_pairs = [pair["prompt"][0]["content"] for pair in pairs if pair["chosen"][0]["content"] != GOOD]
    paired = Counter(_way(pair["prompt"][0]["content"]) for pair in pairs)
    prompts = {row["prompt_id"]: row["messages"][0]["content"] for row in _rows(finished.folder, "prompts")}
    abstained = Counter(
        _way(prompts[row["prompt_id"]]) for row in _rows(finished.folder, "comparisons") if row["abstain"]
    )
    ways = {
        f"{name}, {kind}": {"right pairs": paired[i, kind], "abstained": abstained[i, kind]}
        for i, name in enumerate(WAYS)
        for kind in ("once", "for good")
    }
    return {
        "wrong pairs": wrong_pairs,
        "prompts": len(prompts),
        "requests": asked,
        "seconds": round(seconds, 1),
        "ways": ways,
    }


def _way(prompt: str) -> tuple[int, str]:
    _, number, rest = prompt.split(" ", 2)
    return int(number), rest.rpartition(" ")[0]


def _rows(folder: Path, kind: str) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.glob(f"{kind}*/[0-9]*.parquet")):
        yield from (row.values for row in read_rows(str(file)))


def wrong(found: dict[str, Any], n: int) -> list[str]:
    """What is not as promised."""
    expected = {way: (n // 2, 0) if is_right(way) else (0, n // 2) for way in found["ways"]}
    odd = [way for way, came in found["ways"].items() if tuple(came.values()) != expected[way]]
    return [*found["wrong pairs"], *odd]


def main() -> None:
    """Prints what came of it as JSON; exits 1 when a pair is wrong or a question is lost."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with (
        tempfile.TemporaryDirectory() as folder,
        patch("pipeline.engines.http.FIRST_PAUSE_S", 0.05),
        patch("openai._base_client.INITIAL_RETRY_DELAY", 0.05),
        patch("pipeline.engines.breaker.FIRST_PAUSE_S", 0.2),
        patch("pipeline.engines.breaker.LONGEST_PAUSE_S", 2.0),
    ):
        found = judged(Path(folder), n)
    print(json.dumps(found, indent=1))
    sys.exit(1 if wrong(found, n) else 0)


if __name__ == "__main__":
    main()
