"""docs/format.md is what pipeline and trainer agree on: its tables are the schemas, its hashes are what both compute."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from pipeline import hashes
from pipeline.publishing import card
from pipeline.schema import MESSAGES, PAIR_SHARD, TABLES
from pipeline.storage.shards import write_parquet

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
TYPES = {
    "string": pa.string(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "messages": MESSAGES,
    "list<int32>": pa.list_(pa.int32()),
    "list<string>": pa.list_(pa.string()),
}
MIB = 1 << 20


def documented() -> dict[str, list[tuple[str, pa.DataType, bool]]]:
    """Section -> its columns: name, type, whether null is allowed."""
    tables = {}
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        rows = re.findall(r"^\| (\w+) \| ([\w<>]+)(\??) \|", section, flags=re.MULTILINE)
        columns = [(name, TYPES[kind], mark == "?") for name, kind, mark in rows if name != "column"]
        if columns:
            tables[section.splitlines()[0]] = columns
    return tables


def test_the_page_and_the_code_know_the_same_tables() -> None:
    assert list(documented()) == list(TABLES)


@pytest.mark.parametrize("table", TABLES)
def test_a_table_has_the_documented_columns_types_and_nulls(table: str) -> None:
    assert [(field.name, field.type, field.nullable) for field in TABLES[table]] == documented()[table]


def test_a_pair_shard_is_the_pairs_and_their_sampler_logps() -> None:
    beside = [name for name in TABLES["sampler_logps"].names if name != "pair_id"]
    assert PAIR_SHARD.names == [*TABLES["pairs"].names, *beside]


def test_the_published_pairs_have_no_log_probabilities() -> None:
    assert [name for name in TABLES["pairs"].names if "logp" in name] == []


# The hashes, computed here a third time from the page's words.


def digits(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode("ascii")


VOCABULARY = {"b": 0, "a": 1, "é": 2, "👩": 3, '"': 4, "<|end|>": 5}


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"a" * MIB + b"b" * MIB)
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"c" * MIB + b"skipped" + b"d" * MIB)
    (tmp_path / "tokenizer.json").write_text("not hashed")
    return tmp_path


def folder_by_the_page(folder: Path) -> str:
    small, large = b"a" * MIB + b"b" * MIB, b"c" * MIB + b"d" * MIB
    entries = [
        ["config.json", 2, hashlib.sha256(b"{}").hexdigest()],
        ["model-00001-of-00002.safetensors", 2 * MIB, hashlib.sha256(small).hexdigest()],
        ["model-00002-of-00002.safetensors", 2 * MIB + 7, hashlib.sha256(large).hexdigest()],
    ]
    return digits(compact(entries))


def test_the_pipelines_hashes_are_the_pages(model_folder: Path) -> None:
    pairs = sorted([token, number] for token, number in VOCABULARY.items())
    assert hashes.tokenizer_hash(VOCABULARY) == digits(compact(pairs))
    assert hashes.tokenizer_hash(dict(reversed(VOCABULARY.items()))) == hashes.tokenizer_hash(VOCABULARY)
    assert hashes.template_hash("{{ é }}") == digits("{{ é }}".encode())
    assert hashes.template_hash(None) is None
    assert hashes.model_hash(model_folder) == folder_by_the_page(model_folder)
    assert hashes.hub_model_hash("a/b", "0123") == digits(b"a/b@0123")


def test_a_folder_without_a_model_has_no_hash(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="hint"):
        hashes.model_hash(tmp_path)


def test_a_byte_in_the_head_or_tail_changes_the_models_hash(model_folder: Path) -> None:
    before = hashes.model_hash(model_folder)
    large = model_folder / "model-00002-of-00002.safetensors"
    content = bytearray(large.read_bytes())
    content[-1] ^= 1
    large.write_bytes(content)
    assert hashes.model_hash(model_folder) != before


def test_the_trainers_hashes_are_the_pipelines(model_folder: Path) -> None:
    from trainer import model

    tokenizer = SimpleNamespace(get_vocab=lambda: VOCABULARY, chat_template="{{ é }}")
    bare = SimpleNamespace(get_vocab=lambda: VOCABULARY, chat_template=None)
    assert model.tokenizer_hash(tokenizer) == hashes.tokenizer_hash(VOCABULARY)
    assert model.template_hash(tokenizer) == hashes.template_hash("{{ é }}")
    assert model.template_hash(bare) is None
    assert model.model_hash(str(model_folder)) == hashes.model_hash(model_folder)
    assert model.model_hash("a/b", "0123") == hashes.hub_model_hash("a/b", "0123")


def example(kind: pa.DataType, number: int) -> Any:
    """A value of a column's type."""
    if kind == MESSAGES:
        return [{"role": "user", "content": f"é 👩 \u2028 {number}"}]
    if pa.types.is_list(kind):
        return [example(kind.value_type, number)] * 2
    return f"text {number}" if kind == pa.string() else number


@pytest.mark.parametrize("table", ["pairs", "sampler_logps"])
def test_the_trainer_reads_what_the_pipeline_writes(table: str, tmp_path: Path) -> None:
    from trainer.data import data_files, read_rows

    schema = TABLES[table]
    full = [{field.name: example(field.type, number) for field in schema} for number in range(3)]
    bare = {field.name: None if field.nullable else example(field.type, 3) for field in schema}
    (tmp_path / "data").mkdir()
    written = tmp_path / "data" / "train-00000-of-00001.parquet"
    write_parquet(written, pa.Table.from_pylist([*full, bare], schema=schema))
    [path] = data_files([str(tmp_path)])
    assert [row for _, row in read_rows(path)] == [*full, bare]


def test_the_cards_header_differs_between_versions() -> None:
    """`datasets` keys its cache by the folder's name and this header: equal headers open an older version's rows."""
    header = card.TEMPLATE.split("---\n")[1]
    assert header.count("\n  description: {") == header.count("config_name:")
