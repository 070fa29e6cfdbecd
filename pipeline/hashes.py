"""The hashes that docs/format.md defines: which tokenizer, chat template and model made a row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MIB = 1 << 20


def tokenizer_hash(vocab: Mapping[str, int]) -> str:
    """Equal for two tokenizers in which the same ids mean the same text.

    Args:
        vocab: `tokenizer.get_vocab()`, added tokens included.
    """
    return _of_json(sorted([token, number] for token, number in vocab.items()))


def template_hash(text: str | None) -> str | None:
    """The chat template's hash; None where there is no template."""
    return None if text is None else _digits(text.encode("utf-8"))


def model_hash(folder: Path) -> str:
    """The hash of a model on disk: its config and the head and tail of each weight file, so seconds for 100 GB.

    Raises:
        FileNotFoundError: the folder holds no model.
    """
    files = [path for path in (folder / "config.json", *folder.glob("*.safetensors")) if path.is_file()]
    if not files:
        raise FileNotFoundError(
            f"{folder}: no config.json and no *.safetensors; hint: give the folder that `save_pretrained` wrote"
        )
    return _of_json(sorted([path.name, path.stat().st_size, _head_and_tail(path)] for path in files))


def hub_model_hash(name: str, commit: str) -> str:
    """The hash of a model named on the Hub.

    Args:
        commit: the resolved commit, never a branch's name: a branch moves.
    """
    return _digits(f"{name}@{commit}".encode())


def _of_json(value: Any) -> str:
    return _digits(json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode("ascii"))


def _digits(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _head_and_tail(path: Path) -> str:
    """SHA-256 of the first and the last MiB; of the whole file where the two would meet."""
    with path.open("rb") as file:
        if path.stat().st_size <= 2 * MIB:
            return hashlib.sha256(file.read()).hexdigest()
        digest = hashlib.sha256(file.read(MIB))
        file.seek(-MIB, 2)
        digest.update(file.read(MIB))
        return digest.hexdigest()
