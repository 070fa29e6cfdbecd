"""Small runs of replayed completions: the whole pipeline without an engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Config, load

GOOD = "def f(x):\n    return x"
BAD = "def f(x:\n    return [x]"


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_replay(folder: Path, n_prompts: int = 4, shard_size: int = 2, labeler: str = 'use = "compiles"') -> Path:
    """A config of `n_prompts` prompts with two good and two bad completions each, `shard_size` prompts a shard."""
    prompts = [{"prompt": f"write function {i}", "family": "code"} for i in range(n_prompts)]
    write_jsonl(folder / "prompts.jsonl", prompts)
    texts = [f"{GOOD}  # 1", f"{GOOD}  # 2", f"{BAD}  # 1", f"{BAD}  # 2"]
    write_jsonl(folder / "completions.jsonl", [{**p, "completion": texts} for p in prompts])
    config = folder / "config.toml"
    config.write_text(
        f"""
        name = "replayed"
        [prompts]
        path = "prompts.jsonl"
        shard_size = {shard_size}
        [[sources]]
        name = "people"
        engine = {{ use = "replay", path = "completions.jsonl" }}
        [[labelers]]
        {labeler}
        """
    )
    return config


@pytest.fixture
def replayed(tmp_path: Path) -> Callable[..., Config]:
    """Loads the config that `write_replay` writes, with settings laid over it."""

    def make(*settings: str, **shape: Any) -> Config:
        return load(write_replay(tmp_path, **shape), settings)

    return make


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses between tries of a request, and short ones while a server is left alone: tests need no patience."""
    monkeypatch.setattr("pipeline.engines.http.FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.0)
    monkeypatch.setattr("pipeline.engines.breaker.FIRST_PAUSE_S", 0.1)
    monkeypatch.setattr("pipeline.engines.breaker.LONGEST_PAUSE_S", 0.2)
