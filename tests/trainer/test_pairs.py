"""What is trained on: the sampler's ids where they are this model's, else the template's, and nothing that cannot teach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from trainer.config import DpoOptions
from trainer.data import data_files, read_rows
from trainer.errors import UsageError
from trainer.model import Loaded, load
from trainer.pairs import PairSet, read_pairs, tell

from .conftest import pair_row, write_dataset


@pytest.fixture(scope="module")
def loaded(model: Path) -> Loaded:
    return load(DpoOptions(data=("-",), model=str(model), out="-", device="cpu"))


def read(tmp_path: Path, loaded: Loaded, rows: list[dict[str, Any]], max_length: int = 256) -> PairSet:
    folder = write_dataset(tmp_path / "made", rows)
    return read_pairs(data_files([str(folder)]), loaded, max_length)


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def test_rendered_completions_end_with_one_end_token_and_the_prompt_begins_with_one_bos(
    tmp_path: Path, loaded: Loaded
) -> None:
    pair = read(tmp_path, loaded, [pair_row(7)]).pairs[0]
    text = loaded.tokenizer.decode(list(pair.prompt))
    assert text == "<s><|user|>Add 7 and 21!!<|assistant|>"
    assert loaded.tokenizer.decode(list(pair.chosen)) == "28 the dog</s>"
    assert list(pair.rejected).count(1) == 1


def stored(loaded: Loaded, **changes: Any) -> dict[str, Any]:
    ids = {"prompt_token_ids": [0, 2, 9, 4], "chosen_token_ids": [30, 31, 1], "rejected_token_ids": [40, 41, 42]}
    return pair_row(3, tokenizer_hash=loaded.tokenizer_hash, template_hash=loaded.template_hash, **(ids | changes))


def test_stored_token_ids_are_taken_as_they_are(tmp_path: Path, loaded: Loaded) -> None:
    found = read(tmp_path, loaded, [stored(loaded)])
    pair = found.pairs[0]
    assert (list(pair.prompt), list(pair.chosen), list(pair.rejected)) == ([0, 2, 9, 4], [30, 31, 1], [40, 41, 42])
    assert found.n_stored == 1


@pytest.mark.parametrize("column", ["tokenizer_hash", "template_hash"])
def test_stored_token_ids_of_another_tokenizer_or_template_are_not_used(
    tmp_path: Path, loaded: Loaded, column: str
) -> None:
    found = read(tmp_path, loaded, [stored(loaded) | {column: "0" * 32}])
    assert found.n_stored == 0
    assert loaded.tokenizer.decode(list(found.pairs[0].chosen)) == "12</s>"


def test_degenerate_pairs_are_refused_and_counted_by_reason(tmp_path: Path, loaded: Loaded) -> None:
    rows = [
        pair_row(0),
        pair_row(0),
        pair_row(1, chosen=answer("same"), rejected=answer("same")),
        pair_row(2, chosen=answer("")),
        pair_row(3, rejected=answer("word " * 300)),
        pair_row(4, prompt=[{"role": "user", "content": "word " * 300}]),
        pair_row(5, rejected=None),
        pair_row(6, weight=0.0),
        pair_row(7, weight=float("nan")),
        stored(loaded, rejected_token_ids=[30, 31, 1]) | {"pair_id": "a"},
        stored(loaded, rejected_token_ids=[]) | {"pair_id": "b"},
        stored(loaded, rejected_token_ids=[9999]) | {"pair_id": "c"},
    ]
    found = read(tmp_path, loaded, rows)
    assert [pair.pair_id for pair in found.pairs] == [rows[0]["pair_id"]]
    assert found.refused == {
        "duplicate pair_id": 1,
        "chosen and rejected are equal": 2,
        "a completion is empty": 2,
        "longer than max_length": 2,
        "prompt, chosen or rejected is missing": 1,
        "its weight is not positive": 2,
        "a token id is outside the vocabulary": 1,
    }


def test_no_pair_left_is_an_error_that_counts_the_reasons(trainer: Any, model: Path, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "bad", [pair_row(1, chosen=answer("same"), rejected=answer("same"))])
    code, _, said = trainer("dpo", "--data", data, "--model", model, "--out", tmp_path / "out")
    assert code == 2
    assert "no pairs left" in said
    assert "chosen and rejected are equal" in said


def test_a_prompt_that_is_no_token_prefix_names_the_row(tmp_path: Path, loaded: Loaded) -> None:
    template = loaded.tokenizer.chat_template
    loaded.tokenizer.chat_template = template.replace(
        "{% if add_generation_prompt %}", "{% if add_generation_prompt %}now:"
    )
    try:
        with pytest.raises(UsageError, match=r"train-00000-of-00001\.parquet row 1.*add_generation_prompt"):
            read(tmp_path, loaded, [pair_row(0)])
    finally:
        loaded.tokenizer.chat_template = template


def test_blanks_behind_the_end_token_are_left_out(tmp_path: Path, loaded: Loaded) -> None:
    template = loaded.tokenizer.chat_template
    loaded.tokenizer.chat_template = template.replace("{{ eos_token }}", "{{ eos_token }}\n")
    try:
        pair = read(tmp_path, loaded, [pair_row(7)]).pairs[0]
    finally:
        loaded.tokenizer.chat_template = template
    assert loaded.tokenizer.decode(list(pair.chosen)) == "28 the dog</s>"


def test_few_chosen_with_an_end_token_are_warned_of(
    tmp_path: Path, loaded: Loaded, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [stored(loaded, chosen_token_ids=[30, 31]) | {"pair_id": "a"}, pair_row(0)]
    tell(read(tmp_path, loaded, rows), loaded, "here")
    assert "warning: only 50% of chosen end" in capsys.readouterr().err


def test_a_missing_column_is_named(tmp_path: Path, loaded: Loaded) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"prompt": ["a"], "chosen": ["b"]}), tmp_path / "x.parquet")
    with pytest.raises(UsageError, match="no column rejected"):
        read_pairs([tmp_path / "x.parquet"], loaded, 256)


def test_a_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "made", [pair_row(n) for n in range(50)]) / "data" / "train-00000-of-00001.parquet"
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match="cannot be read"):
        list(read_rows(path))
