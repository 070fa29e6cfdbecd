"""Real vLLM on the shipped tiny model, through the command line, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "data" / "tiny-model"
ENGINE = f'{{ use = "vllm", model = "{MODEL}", in_process = true, enforce_eager = true, kv_cache_memory_mb = 128 }}'


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", *map(str, arguments)]


def run_cli(*arguments: str | Path, expect: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs `python -m ...` and fails with its output when it ends otherwise than expected."""
    done = subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=840,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_config(
    folder: Path, prompts: str, labelers: str, sources: str = "", fields: str = "{}", **prompt_settings: Any
) -> Path:
    """A config of one source of the tiny model (or `sources`), in `folder`/config.toml."""
    sources = sources or f'[[sources]]\nname = "tiny"\nn = 6\nmax_tokens = 80\nengine = {ENGINE}'
    settings = "\n".join(f"{key} = {json.dumps(value)}" for key, value in prompt_settings.items())
    path = folder / "config.toml"
    path.write_text(
        f'name = "run"\n[prompts]\npath = "{prompts}"\nfields = {fields}\n{settings}\n{sources}\n{labelers}\n'
    )
    return path


@pytest.fixture(scope="session")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quick start on its first 40 prompts, in 4 shards."""
    root = tmp_path_factory.mktemp("quick")
    done = run_cli("pipeline", "run", "--limit", "40", "--set", "prompts.shard_size=10", "--root", root)
    (root / "stdout").write_text(done.stdout)
    return root / "quickstart"
