"""The real engine dies and is started again; models follow each other on one device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.e2e.conftest import MODEL, ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def lives(*arguments: str | Path) -> tuple[dict[str, Any], str]:
    """What tests/e2e/engine_lives.py found, and what was said on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.engine_lives", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=840, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.fixture
def other_model(tmp_path: Path) -> Path:
    """The shipped model with other weights."""
    folder = tmp_path / "other"
    folder.mkdir()
    for file in MODEL.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    weights = {name: tensor * 0.9 for name, tensor in load_file(MODEL / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_memory_that_does_not_suffice_halves_the_sequences_and_models_follow_each_other_on_one_device(other_model):
    found, said = lives("here", other_model)
    assert found["same after halving"]
    assert (found["concurrency"], found["deaths"]) == (4, 1)
    assert "out of memory with 8 sequences at a time); it is started again with 4 sequences at a time" in said
    assert found["another model answers differently"]
    assert found["same after another model"]
    memory = found["memory_mb"]
    assert memory["closed"] < memory["open"] - 200, "a closed engine gives its 256 MiB of cache back"
    assert memory["closed again"] < memory["closed"] + 100, "four engines leave no more behind than one"


def test_an_engine_process_that_is_killed_is_started_again_and_none_outlives_the_run():
    found, said = lives("apart")
    assert "max seq len" in found["refused"], "why it does not start is known to its own process alone"
    assert "hint: set max_model_len lower" in found["refused"]
    assert found["same after a kill"]
    assert (found["answers"], found["deaths"], found["is another"]) == (24, 1, True)
    assert "was ended by signal 9" in said
    deadline = time.monotonic() + 120
    while Path(f"/proc/{found['engine']}").exists():
        assert time.monotonic() < deadline, "the engine's process outlives the run that it belonged to"
        time.sleep(0.1)
