"""What makes two runs the same run: a hash of the options that change the weights, and of the inputs. Standard library only."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from trainer.options import TrainOptions

# Options that change where or how fast a run goes, never the weights it ends with: not part of the fingerprint.
NOT_IN_FINGERPRINT = frozenset(
    {
        "out",
        "data",
        "model",
        "cache",
        "adapter",
        "eval_data",
        "resume",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
        "tensorboard",
        "wandb",
        "shard",
        "recompute",
        "drift_sample",
        "labels",
        "reference_model",
    }
)


def config_hash(parts: Any) -> str:
    """The first 32 hexadecimal digits of the SHA-256 of canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def fingerprint(options: TrainOptions, **content: str | None) -> str:
    """The identity of a run: its options that change the weights, and the hashes of its inputs.

    Those of `held_out` data change the weights only where an evaluation may end the run.
    """
    if not options.patience and "held_out" in content:
        content["held_out"] = None
    kept = {k: v for k, v in dataclasses.asdict(options).items() if k not in NOT_IN_FINGERPRINT}
    return config_hash([type(options).__name__, kept, content])
