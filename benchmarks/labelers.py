"""What a label costs on one core, beside the plainest safe way to get it, in the same run.

    .venv/bin/python benchmarks/labelers.py [--repeats 5]

Each labeler is measured bare (a call in this process) and confined (the real path: batches through a worker process of
labelers/sandbox.py). Medians; the two sides take turns. What `tests` costs is in benchmarks/programs.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this file's own folder would offer it as `labelers`

from labelers import sandbox  # noqa: E402
from labelers.discovery import LabelerSpec  # noqa: E402
from labelers.testing import ScriptedEngine  # noqa: E402
from labelers.types import Candidate, Completion, Prompt  # noqa: E402

BATCH = 64
CODE = """def mean(values):
    \"\"\"The arithmetic mean.\"\"\"
    total = 0.0
    for number, value in enumerate(values, start={i}):
        total += value
    if not values:
        raise ValueError("no values")
    return total / len(values)


class Counter{i}:
    def __init__(self, start={i}):
        self.count = start

    def add(self, step=1):
        self.count += step
        return self.count
"""
SCHEMA = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "age": {"type": "integer", "minimum": 0},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 10},
        "address": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
FORMAT = {
    "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
    "kwargs": [{}, {"num_words": 5, "relation": "at least"}],
}


def code(i: int) -> str:
    """A module of half a kilobyte."""
    return CODE.format(i=i)


def person(i: int) -> str:
    """A document that fits the schema; every fourth does not."""
    document: dict[str, Any] = {"name": f"P{i}", "age": i, "tags": ["a", "b"], "address": {"city": "Paris"}}
    return json.dumps({**document, "age": "old"} if i % 4 == 0 else document)


def sums(i: int) -> str:
    """A worked answer with its number last."""
    return f"We add 40 and {i}. 40 + {i} = {40 + i}. So the answer is {40 + i}."


def bullets(i: int) -> str:
    """Two bullet points."""
    return f"* apples are red and there are {i} of them\n* pears are green and good\n\nThis is the end of it."


WORK: dict[str, tuple[Any, Callable[[int], str], int]] = {
    "compiles": (None, code, 1_000),
    "json_schema": (SCHEMA, person, 10_000),
    "regression": ("#### 72", sums, 10_000),
    "format": (FORMAT, bullets, 10_000),
}
"""labeler -> the prompt's target, the i-th completion, how many."""


def batches(target: Any, text: Callable[[int], str], count: int) -> list[list[Candidate]]:
    """Different candidates of one prompt, in batches."""
    prompt = Prompt.of("?", target=target)
    every = [Candidate(prompt, Completion(f"c{i}", prompt.id, text(i))) for i in range(count)]
    return [every[i : i + BATCH] for i in range(0, count, BATCH)]


def timed(act: Callable[[], Any]) -> float:
    """Seconds."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def process_each(texts: list[str]) -> None:
    """A process for each completion, which compiles it."""
    for text in texts:
        program = "import sys; compile(sys.stdin.read(), '<completion>', 'exec')"
        subprocess.run([sys.executable, "-I", "-S", "-c", program], input=text.encode(), check=True)


def validate_each(texts: list[str]) -> None:
    """`json.loads` and `jsonschema.validate`, as its documentation shows."""
    for text in texts:
        try:
            jsonschema.validate(json.loads(text), SCHEMA)
        except jsonschema.ValidationError:
            continue


def validator_once(texts: list[str]) -> None:
    """The same with one validator for all, `is_valid`."""
    validator = jsonschema.Draft7Validator(SCHEMA)
    for text in texts:
        validator.is_valid(json.loads(text))


PLAIN: dict[str, list[tuple[str, Callable[[list[str]], None], int]]] = {
    "compiles": [("a process each", process_each, 20)],
    "json_schema": [
        ("jsonschema.validate each", validate_each, 300),
        ("one jsonschema validator", validator_once, 2_000),
    ],
}
"""labeler -> name of the plain way, the way, how many completions."""


def rates(use: str, repeats: int) -> dict[str, float]:
    """Completions per second: confined, bare, and each plain way; the median of so many turns."""
    target, text, count = WORK[use]
    work = batches(target, text, count)
    spec, found = LabelerSpec(use), dict[str, list[float]]()
    labeler: Any = spec.build()
    with tempfile.TemporaryDirectory() as scratch:
        tools = ScriptedEngine(scratch=Path(scratch))
        with sandbox.opened(spec, tools) as worker:
            items = [item for batch in work for item in batch]
            worker.score(items[:BATCH])
            labeler.score(items[:BATCH], tools)
            for _ in range(repeats):
                found.setdefault("confined", []).append(count / timed(lambda: worker.score(items)))
                seconds = timed(lambda: [labeler.score(batch, tools) for batch in work])
                found.setdefault("bare", []).append(count / seconds)
                for name, way, few in PLAIN.get(use, []):
                    texts = [text(i) for i in range(few)]
                    found.setdefault(name, []).append(few / timed(lambda way=way, texts=texts: way(texts)))
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    """Prints the medians and the ratios as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    result: dict[str, Any] = {
        "command": f"python benchmarks/labelers.py --repeats {repeats}",
        "hardware": f"1 of {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "completions_per_second": {use: rates(use, repeats) for use in WORK},
    }
    per_second = result["completions_per_second"]
    result["times_the_plain_way"] = {
        f"{use}, {place}, against {name}": round(per_second[use][place] / per_second[use][name], 1)
        for use, ways in PLAIN.items()
        for name, _, _ in ways
        for place in ("confined", "bare")
    }
    print(json.dumps(result, indent=1, default=round))


if __name__ == "__main__":
    main()
