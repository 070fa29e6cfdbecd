"""The columns of every file, in Arrow types. docs/format.md says what they mean; a test keeps the two equal."""

from __future__ import annotations

import pyarrow as pa

MESSAGES = pa.list_(pa.struct([pa.field("role", pa.string(), False), pa.field("content", pa.string(), False)]))
TOKEN_IDS = pa.list_(pa.int32())


def _schema(required: dict[str, pa.DataType], optional: dict[str, pa.DataType]) -> pa.Schema:
    return pa.schema(
        [pa.field(name, kind, nullable=False) for name, kind in required.items()]
        + [pa.field(name, kind, nullable=True) for name, kind in optional.items()]
    )


PROMPTS = _schema(
    {"prompt_id": pa.string(), "messages": MESSAGES, "metadata": pa.string()},
    {"target": pa.string()},
)

COMPLETIONS = _schema(
    {
        "completion_id": pa.string(),
        "prompt_id": pa.string(),
        "source": pa.string(),
        "text": pa.string(),
        "finish_reason": pa.string(),
        "n_tokens": pa.int32(),
        "model": pa.string(),
    },
    {
        "temperature": pa.float64(),
        "top_p": pa.float64(),
        "seed": pa.int64(),
        "logp": pa.float64(),
        "prompt_token_ids": TOKEN_IDS,
        "token_ids": TOKEN_IDS,
        "model_hash": pa.string(),
        "tokenizer_hash": pa.string(),
        "template_hash": pa.string(),
        "error": pa.string(),
    },
)

LABELS = _schema(
    {
        "completion_id": pa.string(),
        "prompt_id": pa.string(),
        "labeler": pa.string(),
        "labeler_version": pa.string(),
        "reason": pa.string(),
    },
    {"value": pa.float64(), "abstain": pa.string()},
)

COMPARISONS = _schema(
    {
        "comparison_id": pa.string(),
        "prompt_id": pa.string(),
        "a_id": pa.string(),
        "b_id": pa.string(),
        "labeler": pa.string(),
        "labeler_version": pa.string(),
        "reason": pa.string(),
    },
    {"prefers": pa.string(), "prefers_forward": pa.string(), "prefers_backward": pa.string(), "abstain": pa.string()},
)

PAIRS = _schema(
    {
        "pair_id": pa.string(),
        "prompt_id": pa.string(),
        "prompt": MESSAGES,
        "chosen": MESSAGES,
        "rejected": MESSAGES,
        "chosen_id": pa.string(),
        "rejected_id": pa.string(),
        "score_chosen": pa.float64(),
        "score_rejected": pa.float64(),
        "margin": pa.float64(),
        "labelers": pa.list_(pa.string()),
        "labeler_versions": pa.list_(pa.string()),
        "source_chosen": pa.string(),
        "source_rejected": pa.string(),
        "weight": pa.float64(),
        "strategy": pa.string(),
        "metadata": pa.string(),
    },
    {
        "prompt_token_ids": TOKEN_IDS,
        "chosen_token_ids": TOKEN_IDS,
        "rejected_token_ids": TOKEN_IDS,
        "tokenizer_hash": pa.string(),
        "template_hash": pa.string(),
    },
)

SAMPLER_LOGPS = _schema(
    {"pair_id": pa.string()},
    {
        "logp_chosen": pa.float64(),
        "logp_rejected": pa.float64(),
        "model_hash_chosen": pa.string(),
        "model_hash_rejected": pa.string(),
    },
)

# A pair shard inside a run: the published columns and, beside them, what the side file is cut from.
PAIR_SHARD = pa.schema([*PAIRS, *[field for field in SAMPLER_LOGPS if field.name != "pair_id"]])

TABLES = {
    "prompts": PROMPTS,
    "completions": COMPLETIONS,
    "labels": LABELS,
    "comparisons": COMPARISONS,
    "pairs": PAIRS,
    "sampler_logps": SAMPLER_LOGPS,
}
