"""The same completions labelled, paired and written by plain pipelines, for benchmarks/scale.py: what a user would write instead.

    python benchmarks/scale_peers.py KIND FOLDER OUT [--functions ours|plain] [--processes N]

KIND is `map` (`datasets.map` a row at a time), `map_batched` (a thousand rows at a time) or `distilabel` (in an environment that
has it). Each starts from one row a completion in a Parquet file, scores every row, groups the rows by prompt, takes pairs of a
better and a worse one, and writes Parquet. None of them isolates a labeler, resumes, audits, or drops near-duplicates.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this folder has a labelers.py too

Row = dict[str, Any]
PAIRS_PER_PROMPT = 4


def main() -> None:
    """Runs one of them and prints its rows, pairs and seconds as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(PEERS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--functions", choices=["ours", "plain"], default="plain")
    parser.add_argument("--processes", type=int, default=None)
    arguments = parser.parse_args()
    source = arguments.folder / "rows.parquet"
    wall, cpu = time.monotonic(), time.process_time()
    rows, pairs = PEERS[arguments.kind](source, arguments.out, score_of(arguments.functions), arguments.processes)
    seconds = {"wall_s": time.monotonic() - wall, "cpu_s": time.process_time() - cpu}
    print(json.dumps({"rows": rows, "pairs": pairs, **seconds}))


def score_of(functions: str) -> Callable[[Row], float]:
    """What scores a row: this project's labelers, one call a row, or what one writes by hand."""
    return _ours() if functions == "ours" else by_hand


def _ours() -> Callable[[Row], float]:
    from benchmarks.scale_texts import LABELERS
    from labelers.discovery import build
    from labelers.types import Candidate, Completion, Prompt

    labelers: dict[str, Any] = {family: build(*spec) for family, spec in LABELERS.items()}

    def score(row: Row) -> float:
        prompt = Prompt.of(row["prompt"], json.loads(row["target"]))
        (label,) = labelers[row["family"]].score([Candidate(prompt, Completion.of(prompt, row["completion"]))], None)
        return float(label.value)

    return score


def by_hand(row: Row) -> float:
    """A row's score by what one would write without this project: compile(), json and jsonschema, regular expressions."""
    text, target = row["completion"], json.loads(row["target"])
    match row["family"]:
        case "functions":
            return _compiles(text)
        case "records":
            return _fits(text, target)
        case "objects":
            return _parses(text)
        case "estimates":
            numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
            return -abs(float(numbers[-1].replace(",", "")) - target) / abs(target) if numbers else -1e6
        case _:
            return _keeps(text, target)


def _compiles(text: str) -> float:
    try:
        compile(text, "<completion>", "exec")
    except (SyntaxError, ValueError):
        return 0.0
    return 1.0


def _parses(text: str) -> float:
    try:
        return float(isinstance(json.loads(text), dict))
    except ValueError:
        return 0.0


def _fits(text: str, schema: Row) -> float:
    import jsonschema

    try:
        jsonschema.validate(json.loads(text), schema)
    except (ValueError, jsonschema.ValidationError):
        return 0.0
    return 1.0


def _keeps(text: str, constraints: list[Row]) -> float:
    for rule in constraints:
        match rule["id"]:
            case "detectable_format:number_bullet_lists":
                kept = len(re.findall(r"^\s*[*-] ", text, re.MULTILINE)) == rule["num_bullets"]
            case "keywords:existence":
                kept = all(re.search(word, text, re.IGNORECASE) for word in rule["keywords"])
            case _:
                kept = len(re.findall(r"\w+", text)) < rule["num_words"]
        if not kept:
            return 0.0
    return 1.0


def _with_map(source: Path, out: Path, score: Callable[[Row], float], processes: int | None) -> tuple[int, int]:
    import datasets

    rows = _loaded(source, out)
    rows = rows.map(lambda row: {"score": score(row)}, num_proc=processes)
    assert isinstance(rows, datasets.Dataset)
    return rows.num_rows, _pair(rows, out)


def _with_batched_map(source: Path, out: Path, score: Callable[[Row], float], processes: int | None) -> tuple[int, int]:
    rows = _loaded(source, out)

    def scored(batch: dict[str, list[Any]]) -> dict[str, list[float]]:
        names = list(batch)
        return {"score": [score(dict(zip(names, row, strict=True))) for row in zip(*batch.values(), strict=True)]}

    rows = rows.map(scored, batched=True, num_proc=processes)
    return rows.num_rows, _pair(rows, out)


def _loaded(source: Path, out: Path) -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset("parquet", data_files=str(source), split="train", cache_dir=str(out / "cache"))


def _pair(rows: Any, out: Path) -> int:
    """Groups in pandas; of each prompt the best with the worst and so on, while one scores more than the other."""
    import datasets

    pairs: list[Row] = []
    for prompt, group in rows.to_pandas().groupby("prompt", sort=False):
        ranked = group.drop_duplicates("completion").sort_values("score", ascending=False)
        texts, scores = ranked["completion"].tolist(), ranked["score"].tolist()
        for i in range(min(PAIRS_PER_PROMPT, len(texts) // 2)):
            if scores[i] <= scores[-1 - i]:
                break
            pairs.append(_chat(prompt, texts[i], texts[-1 - i], scores[i], scores[-1 - i]))
    datasets.Dataset.from_list(pairs).to_parquet(out / "pairs.parquet")
    return len(pairs)


def _chat(prompt: Any, chosen: str, rejected: str, score_chosen: float, score_rejected: float) -> Row:
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "score_chosen": score_chosen,
        "score_rejected": score_rejected,
    }


def _with_distilabel(source: Path, out: Path, score: Callable[[Row], float], processes: int | None) -> tuple[int, int]:
    from benchmarks.scale_distilabel import scored

    rows = scored(_loaded(source, out).to_list())
    return rows.num_rows, _pair(rows, out)


PEERS = {"map": _with_map, "map_batched": _with_batched_map, "distilabel": _with_distilabel}

if __name__ == "__main__":
    main()
