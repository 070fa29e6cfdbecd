"""What people's verdicts are good for: the files that a run reads, and how far people agree with each other and with labelers."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.auditing.agreement import krippendorff_alpha
from pipeline.review.index import Index
from pipeline.review.store import Given, Store
from pipeline.storage.shards import replacing

VERDICTS, RESPONSES = "verdicts.jsonl", "responses.jsonl"


@dataclass(frozen=True)
class Agreement:
    """How two judge the same items.

    Args:
        with_: a labeler, or "each other".
        n: items that both judged.
        share: of those, the ones that they judge alike; None where there is none.
        alpha: Krippendorff's, nominal: 1 for always, 0 for chance; None where nothing varies.
    """

    with_: str
    n: int
    share: float | None
    alpha: float | None


def write_files(folder: Path, store: Store, index: Index) -> None:
    """Writes what a rebuild of the run reads: the `human` labeler's verdicts, and the responses as a `replay` source."""
    _write(folder / VERDICTS, [verdict_line(given) for given in store.verdicts()])
    responses = store.responses()
    if responses:
        _write(folder / RESPONSES, [line for row in responses if (line := _response_line(row, index))])


def verdict_line(given: Given) -> dict[str, Any]:
    """A verdict as docs/format.md, "Human verdicts", lays it out. Both bad is a tie for training, and keeps its name."""
    prefers = {"left": "a", "right": "b"}.get(given.choice, "tie")
    line = {
        "prompt_id": given.prompt_id, "a_id": given.left_id, "b_id": given.right_id, "prefers": prefers,
        "reviewer": given.reviewer, "seconds": given.seconds, "note": given.note, "time": given.at,
    }  # fmt: skip
    return {**line, "both_bad": True} if given.choice == "both_bad" else line


def next_steps(folder: Path) -> str:
    """The lines of a config that make a run use what people said."""
    lines = ["[[labelers]]", 'use = "human"', f"options = {{ path = {json.dumps(str(folder / VERDICTS))} }}"]
    if (folder / RESPONSES).is_file():
        path = json.dumps(str(folder / RESPONSES))
        lines += ["", "[[sources]]", 'name = "human"', f'engine = {{ use = "replay", path = {path} }}']
    return "\n".join(lines)


def agreements(store: Store) -> list[Agreement]:
    """How far people agree with each other, and their majority with each labeler."""
    said: defaultdict[str, dict[str, int]] = defaultdict(dict)
    by_item = {item["item_id"]: item for item in store.items()}
    for given in store.verdicts():
        said[given.item_id][given.reviewer] = _sign(given, by_item[given.item_id])
    found = [_among_people(said)]
    majority = {item: _majority(list(votes.values())) for item, votes in said.items()}
    labelers = sorted({name for item in majority for name in by_item[item]["said"]})
    return found + [_with_labeler(name, majority, by_item) for name in labelers]


def reviewers(store: Store) -> Counter[str]:
    """Reviewer -> verdicts that stand."""
    return Counter(given.reviewer for given in store.verdicts())


def _sign(given: Given, item: Mapping[str, Any]) -> int:
    return 0 if given.preferred is None else 1 if given.preferred == item["a_id"] else -1


def _majority(votes: Sequence[int]) -> int:
    """What more than half said; without such a majority neither."""
    best, n = Counter(votes).most_common(1)[0]
    return best if 2 * n > len(votes) else 0


def _among_people(said: Mapping[str, Mapping[str, int]]) -> Agreement:
    names = sorted({name for votes in said.values() for name in votes})
    shared = [votes for votes in said.values() if len(votes) > 1]
    if not shared:
        return Agreement("each other", 0, None, None)
    table = [[float(votes[name]) if name in votes else np.nan for votes in shared] for name in names]
    alike = float(np.mean([len(set(votes.values())) == 1 for votes in shared]))
    return Agreement("each other", len(shared), alike, krippendorff_alpha(table, "nominal"))


def _with_labeler(name: str, majority: Mapping[str, int], by_item: Mapping[str, Any]) -> Agreement:
    both = [(vote, by_item[item]["said"][name]) for item, vote in majority.items() if name in by_item[item]["said"]]
    share = float(np.mean([first == second for first, second in both]))
    columns = [[float(value) for value in side] for side in zip(*both, strict=True)]
    return Agreement(name, len(both), share, krippendorff_alpha(columns, "nominal"))


def _response_line(row: Mapping[str, Any], index: Index) -> dict[str, Any] | None:
    group = index.group(row["prompt_id"])
    if group is None:  # of an older build: the prompt is not the run's any more
        return None
    kept = {key: row[key] for key in ("reviewer", "based_on", "at")}
    target = {} if group.target is None else {"target": json.loads(group.target)}
    return {"prompt": list(group.messages), **target, "completion": row["text"], **kept}


def _write(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    with replacing(path) as beside:
        beside.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
