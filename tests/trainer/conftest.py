"""Tiny random Llama models with a tokenizer trained here, and datasets in the published layout, written with plain pyarrow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}<|assistant|>{{ m['content'] }}{{ eos_token }}"
    "{% else %}<|{{ m['role'] }}|>{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CORPUS = ["the quick brown fox jumps over the lazy dog", "numbers 0 1 2 3 4 5 6 7 8 9 and signs +-*/=()[]{}:,."]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    pytest.importorskip("torch").set_num_threads(1)


def save_tokenizer(folder: Path) -> int:
    """A byte-level BPE tokenizer with a chat template that begins with the BOS token. Returns its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|user|>", "<|system|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def save_model(folder: Path, seed: int) -> Path:
    """A random Llama with 2 layers of 64 in float32, and its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=save_tokenizer(folder), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=0, eos_token_id=1, pad_token_id=1, initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), seed=0)


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another random model with the same tokenizer."""
    return save_model(tmp_path_factory.mktemp("other"), seed=1)


def pair_row(number: int, **changes: Any) -> dict[str, Any]:
    """One row of a published dataset; every number gives another one."""
    row = {
        "pair_id": hashlib.sha256(str(number).encode()).hexdigest()[:32],
        "prompt": [{"role": "user", "content": f"Add {number} and {number * 3}" + "!" * (number % 5)}],
        "chosen": [{"role": "assistant", "content": f"{number * 4}" + " the dog" * (number % 3)}],
        "rejected": [{"role": "assistant", "content": f"{number * 4 + 1} is a fox" + " and" * (number % 7)}],
        "weight": 1.0,
        "tokenizer_hash": None,
        "template_hash": None,
        "prompt_token_ids": None,
        "chosen_token_ids": None,
        "rejected_token_ids": None,
    }
    return row | changes


def write_dataset(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A published dataset folder: the card and data/train-*.parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    messages = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    ids = pa.list_(pa.int32())
    kinds = {"prompt": messages, "chosen": messages, "rejected": messages, "weight": pa.float64()}
    kinds |= {f"{side}_token_ids": ids for side in ("prompt", "chosen", "rejected")}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in pair_row(0)])
    (folder / "data").mkdir(parents=True)
    table = pa.Table.from_pylist(list(rows), schema=schema)
    pq.write_table(
        table, folder / "data" / "train-00000-of-00001.parquet", compression="zstd", write_page_checksum=True
    )
    card = (
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*.parquet\n---\n"
    )
    (folder / "README.md").write_text(card)
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Twenty good pairs."""
    return write_dataset(tmp_path / "dataset", [pair_row(n) for n in range(20)])


Trainer = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def trainer(capsys: pytest.CaptureFixture[str]) -> Trainer:
    """Runs the command line in this process: exit code, the result on stdout, and what was said on stderr."""
    from trainer.cli import main

    def call(*argv: object) -> tuple[int, dict[str, Any], str]:
        code = main([str(word) for word in argv])
        said = capsys.readouterr()
        return code, json.loads(said.out) if said.out else {}, said.err

    return call
