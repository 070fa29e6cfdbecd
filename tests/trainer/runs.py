"""Training runs for tests: their command lines, and what they left behind."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

TIMINGS = ("pairs_per_s", "completions_per_s", "tokens_per_s", "eval_pairs_per_s", "eval_completions_per_s")


def words(data: Path, model: Path, out: Path, *more: object) -> list[str]:
    """A short DPO run: 20 pairs are 8 steps."""
    common = ["dpo", "--data", data, "--model", model, "--out", out, "--lr", "1e-3", "--no-tensorboard"]
    settings = ["--batch-pairs", 6, "--epochs", 2, "--micro-batch-tokens", 128]
    return [str(word) for word in (*common, *settings, *more)]


def log(out: Path) -> list[dict[str, float]]:
    """The run's log."""
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def timeless(out: Path) -> list[dict[str, float]]:
    """The run's log without how long things took."""
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in log(out)]


def alarms(out: Path) -> list[dict[str, Any]]:
    """What the watchdog wrote."""
    return [json.loads(line) for line in (out / "alarms.jsonl").read_text().splitlines()]


def weights(out: Path) -> dict[str, Any]:
    """The saved model's weights."""
    from safetensors.torch import load_file

    found: dict[str, Any] = load_file(out / "model.safetensors")
    return found


def same(a: Path, b: Path) -> bool:
    """Whether two saved models are equal bit by bit."""
    import torch

    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ctrl-C arrives while this step's numbers are looked at: the last checkpoint is after the next step."""
    from trainer.watchdog import Watchdog

    look = Watchdog.look

    def interrupting(self: Any, at: int, *more: Any) -> None:
        look(self, at, *more)
        if at == step:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Watchdog, "look", interrupting)
