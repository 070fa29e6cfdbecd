"""The dataset card: what a stranger must know before training on the pairs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pipeline.config import Config
from pipeline.observing.funnel import summarize, table
from pipeline.storage.shards import Counts

SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)

TEMPLATE = """---
configs:
- config_name: default
  description: {content}
  data_files:
  - split: train
    path: data/train-*.parquet
- config_name: sampler_logps
  description: {content}
  data_files:
  - split: train
    path: sampler_logps/train-*.parquet
license: {license}
size_categories:
- {size}
tags:
- preference
- dpo
- rlhf
---

# {name}, version {number}

{rows} preference pairs, made by preference-pipeline {code_version}: completions sampled, labelled by machine, paired.
One row is one pair: `prompt`, `chosen` and `rejected` are lists of `{{role, content}}`; `score_chosen`, `score_rejected` and
`margin` say how far apart the labelers saw them; `source_chosen` and `source_rejected` say where each came from.

    from datasets import load_dataset
    pairs = load_dataset("path/to/this/folder", split="train")

It trains as it is: `python -m trainer dpo --data path/to/this/folder --model MODEL --out policy`; TRL's DPOTrainer takes
`pairs` unchanged.
`sampler_logps` (a second config) holds the sampler's own log-probabilities by `pair_id`.

## What came of it

```
{summary}
```

## Made by

| source | model | sampling |
|---|---|---|
{sources}

| labeler | class | version | fingerprint |
|---|---|---|---|
{labelers}
{isolation}
Pair rule: {pairs}. Seed {seed}.{parent} A pair's two completions differ in score, are not the same text, and the chosen one ended
by itself. Labels are a machine's: they say what the labelers above measure, and nothing else about quality.
{warnings}
Licence: {license}.
"""


def card(
    config: Config,
    rows: int,
    counts: Mapping[str, Counts],
    lineage: Mapping[str, Any],
    number: int,
    content: str,
    lost: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The text of README.md of a dataset folder.

    Args:
        content: the version's content hash. `datasets` caches a local folder by its card alone (docs/decisions/0002), so the
            card must differ where the data differs.
        lost: the layers of isolation that the labelers did without, and why.
    """
    return TEMPLATE.format(
        content=content,
        name=config.name,
        number=number,
        rows=rows,
        size=next((name for limit, name in SIZES if rows < limit), "n>10M"),
        license=config.dataset.license,
        code_version=lineage["code"]["version"],
        summary=table(summarize(counts)),
        sources="\n".join(
            f"| {s.name} | {_model(s.engine)} | n {s.n}, temperature {s.temperature:g}, top-p {s.top_p:g} |"
            for s in config.sources
        ),
        labelers="\n".join(
            f"| {name} | {labeler['use']} | {labeler['version']} | {labeler['fingerprint'][:12]} |"
            for name, labeler in lineage["labelers"].items()
        ),
        isolation="\n" + "".join(f"**Labelled without the isolation layer {k}**: {v}.\n\n" for k, v in lost.items()),
        pairs=", ".join(f"{key} {value}" for key, value in lineage["pairs"].items()),
        seed=config.seed,
        parent=f" Parent run: {config.parent}." if config.parent else "",
        warnings="".join(f"\nWarning: {warning}.\n" for warning in lineage.get("warnings", ())),
    )


def _model(engine: Any) -> str:
    # The last part names the model; the rest of a path is nobody's business on a published card.
    return (
        str(engine.model).rstrip("/").rpartition("/")[2]
        if str(engine.model).startswith(("/", "."))
        else str(engine.model)
    )
