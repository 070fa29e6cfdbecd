"""A distilabel pipeline that scores rows, for benchmarks/scale_peers.py.

Its steps are found by their annotations and are pickled: they need a module of their own, whose annotations are not postponed.
"""

from typing import Any

from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts, StepInput, step

from benchmarks.scale_peers import by_hand

BATCH_ROWS = 512
"""Ten times its default: with 50 it takes twice as long (shared/sampling-speed.md: 7-8 and 17-20 CPU seconds for 20,000 rows)."""


@step(inputs=["prompt", "completion", "target", "family"], outputs=["score"])
def label(inputs: StepInput):  # type: ignore[no-untyped-def]
    """Adds a score to each row."""
    for row in inputs:
        row["score"] = by_hand(row)
    yield inputs


def scored(rows: list[dict[str, Any]]) -> Any:
    """The rows with a `score` each, as a dataset."""
    with Pipeline(name="scale") as pipeline:
        loaded = LoadDataFromDicts(data=rows, batch_size=BATCH_ROWS)
        loaded >> label(input_batch_size=BATCH_ROWS)
    return pipeline.run(use_cache=False)["default"]["train"]
