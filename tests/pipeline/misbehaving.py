"""A judge's server that misbehaves in 15 ways, in a whole run: every pair is right, every other question an abstention.

    python -m tests.pipeline.misbehaving [TIMES] > benchmarks/results/...-servers-cpu.json

Half of the prompts get the misbehaviour once and then the answer, half get it for good.
"""

from __future__ import annotations

import json
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
    if named[2] == "for good" or tries == 0:
        return list(WAYS.values())[int(named[1])]
    first, second = (BAD in part for part in question.partition("Answer A:")[2].split("Answer B:")[:2])
    return saying("[[B]]" if first else "[[A]]") if first != second else saying("[[C]]")


def write(folder: Path, server: ChatServer, times: int) -> Path:
    """A config in which `times` questions meet each way, half of them for good, in an order that mixes the ways."""
    kinds = [f"way {way} {kind} {i // 2}" for i in range(times) for way in range(len(WAYS)) for kind in _kinds(i)]
    write_jsonl(folder / "prompts.jsonl", [{"prompt": kind, "family": kind.split(" ", 1)[1][:-2]} for kind in kinds])
    write_jsonl(folder / "completions.jsonl", [{"prompt": kind, "completion": [GOOD, BAD]} for kind in kinds])
    config = folder / "config.toml"
    config.write_text(
        'name = "judged"\n[prompts]\npath = "prompts.jsonl"\n[audit]\nenforce = false\n'
        '[[sources]]\nname = "people"\nengine = { use = "replay", path = "completions.jsonl" }\n'
        f'[[labelers]]\nuse = "judge"\nmatch_ups = 1\nmax_abstained = 1.0\nengine = {{ use = "http", model = "served", '
        f'base_url = "{server.url}", timeout_s = 0.5, max_retries = 2 }}\n'
    )
    return config


def _kinds(i: int) -> tuple[str, ...]:
    return ("once",) if i % 2 else ("for good",)


def judged(folder: Path, times: int) -> dict[str, Any]:
    """Runs it; says for each way what came of its questions, and how many pairs are wrong."""
    with serving(ChatServer(misbehave)) as server:
        started = time.monotonic()
        finished = run(load(write(folder, server, times)), folder / "runs")
        seconds = time.monotonic() - started
        asked = len(server.bodies)
    pairs = list(_rows(finished.folder, "pairs"))
    wrong = [pair["prompt"][0]["content"] for pair in pairs if pair["chosen"][0]["content"] != GOOD]
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
        "wrong pairs": wrong,
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


def main() -> None:
    """Prints what came of it as JSON; exits 1 when a pair is wrong or a question is lost."""
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    with (
        tempfile.TemporaryDirectory() as folder,
        patch("pipeline.engines.http.FIRST_PAUSE_S", 0.05),
        patch("openai._base_client.INITIAL_RETRY_DELAY", 0.05),
        patch("pipeline.engines.breaker.FIRST_PAUSE_S", 0.2),
    ):
        found = judged(Path(folder), times)
    print(json.dumps(found, indent=1))
    lost = [n for way in found["ways"].values() if (n := sum(way.values())) not in (times // 2, times - times // 2)]
    sys.exit(1 if found["wrong pairs"] or lost else 0)


if __name__ == "__main__":
    main()
