"""Hashes as docs/format.md defines them, and a saved folder that others load."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from trainer.config import SftOptions  # noqa: E402
from trainer.model import load, model_hash, template_hash, tokenizer_hash  # noqa: E402
from trainer.ranks import Ranks  # noqa: E402
from trainer.saving import save_trained  # noqa: E402


def digits(value: object) -> str:
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode("ascii")).hexdigest()[:32]


def test_the_hashes_follow_the_format(model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert tokenizer_hash(tokenizer) == digits(sorted([k, v] for k, v in tokenizer.get_vocab().items()))
    assert template_hash(tokenizer) == hashlib.sha256(tokenizer.chat_template.encode()).hexdigest()[:32]
    files = [model / "config.json", model / "model.safetensors"]
    entries = [[f.name, f.stat().st_size, hashlib.sha256(f.read_bytes()).hexdigest()] for f in files]
    assert model_hash(str(model)) == digits(entries)


def test_a_large_file_is_hashed_by_its_ends(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    mib = 1 << 20
    content = b"a" * mib + b"b" * mib + b"c" * mib
    (tmp_path / "model.safetensors").write_bytes(content)
    ends = hashlib.sha256(content[:mib] + content[-mib:]).hexdigest()
    small = ["config.json", 2, hashlib.sha256(b"{}").hexdigest()]
    assert model_hash(str(tmp_path)) == digits([small, ["model.safetensors", 3 * mib, ends]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_saved_folder_loads_with_the_same_weights_and_tokenizer(model: Path, tmp_path: Path, dtype: Any) -> None:
    save_dtype: Any = str(dtype).removeprefix("torch.")
    options = SftOptions(data=("-",), model=str(model), out=str(tmp_path), device="cpu", save_dtype=save_dtype)
    loaded = load(options)
    before = {name: weight.to(dtype) for name, weight in loaded.model.state_dict().items()}
    save_trained(loaded, loaded.model.named_parameters(), options, Ranks())
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.dtype == dtype
    assert all(torch.equal(weight, before[name]) for name, weight in again.state_dict().items())
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / name).read_bytes() == (model / name).read_bytes()
    assert (tmp_path / "generation_config.json").is_file()


def test_random_weights_depend_on_the_seed_only(model: Path) -> None:
    options = SftOptions(data=("-",), model=str(model), out="-", device="cpu")
    first, again, other = (load(options, init="random", seed=seed).model.lm_head.weight for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
