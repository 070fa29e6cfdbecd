"""What is trained on: the sampler's ids where they are this model's, else the template's, and nothing that cannot teach."""

from __future__ import annotations

import json
from collections import Counter
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


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def degenerates(loaded: Loaded) -> list[tuple[str, dict[str, Any]]]:
    """Rows that teach nothing or something wrong, each with the reason it is refused for."""
    rows = [
        ("duplicate pair_id", pair_row(0)),
        ("chosen and rejected are equal", pair_row(1, chosen=answer("same"), rejected=answer("same"))),
        ("chosen and rejected are equal", stored(loaded, rejected_token_ids=[30, 31, 1])),
        ("a completion is empty", pair_row(2, chosen=answer(""))),
        ("a completion is empty", stored(loaded, rejected_token_ids=[])),
        ("a completion is empty", stored(loaded, rejected_token_ids=[1])),
        ("a completion is blank", pair_row(2, rejected=answer(" \n\t "))),
        ("longer than max_length", pair_row(3, rejected=answer("word " * 300))),
        ("longer than max_length", pair_row(4, prompt=user("word " * 300))),
        ("both completions are cut off", stored(loaded, chosen_token_ids=[30, 31])),
        ("an end token stands inside a completion", stored(loaded, rejected_token_ids=[40, 1, 41, 1])),
        ("prompt, chosen or rejected is missing", pair_row(5, rejected=None)),
        ("prompt, chosen or rejected is missing", pair_row(5, prompt=[])),
        ("prompt, chosen or rejected is missing", pair_row(5, chosen=[{"role": "assistant", "content": None}])),
        ("its weight is not positive", pair_row(6, weight=0.0)),
        ("its weight is not positive", pair_row(7, weight=float("nan"))),
        ("its weight is not positive", pair_row(7, weight=float("inf"))),
        ("a token id is outside the vocabulary", stored(loaded, rejected_token_ids=[9999, 1])),
        ("a control token stands in its text", pair_row(8, chosen=answer("yes</s><|user|>more"))),
        ("a control token stands in its text", pair_row(8, prompt=user("what does <s> mean?"))),
        ("the prompt has no user message", pair_row(9, prompt=[{"role": "system", "content": "Be brief."}])),
        ("a completion is not one assistant message", pair_row(10, chosen=user("I am no answer"))),
        ("a completion is not one assistant message", pair_row(10, chosen=answer("one") + answer("two"))),
    ]
    return [
        (reason, row | {"pair_id": row["pair_id"] if n == 0 else f"bad-{n}"}) for n, (reason, row) in enumerate(rows)
    ]


def test_degenerate_pairs_are_never_trained_on_but_counted_by_reason_and_named(tmp_path: Path, loaded: Loaded) -> None:
    bad = degenerates(loaded)
    found = read(tmp_path, loaded, [pair_row(0), *(row for _, row in bad)])
    assert [pair.pair_id for pair in found.pairs] == [pair_row(0)["pair_id"]]
    assert found.refused == dict(Counter(reason for reason, _ in bad))
    found.refusals.write(tmp_path / "refused.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "refused.jsonl").read_text().splitlines()]
    expected = {
        (reason, row["pair_id"], f"train-00000-of-00001.parquet row {n}") for n, (reason, row) in enumerate(bad, 2)
    }
    assert {(line["reason"], line["id"], line["row"]) for line in lines} == expected


def test_text_that_is_not_unicode_is_refused_and_its_neighbours_are_kept(tmp_path: Path, loaded: Loaded) -> None:
    """A lone surrogate: Arrow checks no text that comes from another writer."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = pa.array([b"good", b"half \xed\xa0\xbd a pair", b"fine"]).view(pa.string())
    columns = {"prompt": pa.array(["a", "b", "c"]), "chosen": texts, "rejected": pa.array(["x", "y", "z"])}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    found = read_pairs([tmp_path / "x.parquet"], loaded, 256)
    assert sorted(loaded.tokenizer.decode(list(pair.chosen)) for pair in found.pairs) == ["fine</s>", "good</s>"]
    assert found.refused == {"its text is not valid Unicode": 1}


def test_a_row_of_escaped_surrogates_is_refused_in_sft_too(trainer: Any, model: Path, tmp_path: Path) -> None:
    rows = [
        '{"prompt": "a", "completion": "b"}',
        r'{"prompt": "a", "completion": "\ud800"}',
        '{"prompt": "a", "completion": "<s>"}',
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    argv = ["sft", "--data", tmp_path / "rows.jsonl", "--model", model, "--out", tmp_path / "out", "--no-tensorboard"]
    code, result, said = trainer(*argv)
    assert code == 0
    assert result["refused"] == {"its text is not valid Unicode": 1, "a control token stands in its text": 1}
    assert "rows.jsonl line 2" in said


def test_control_tokens_as_text_never_become_control_tokens(tmp_path: Path, loaded: Loaded) -> None:
    """The sampler wrote them letter by letter, and its ids say so; without ids the row is refused."""
    plain = (
        loaded.tokenizer("</", add_special_tokens=False)["input_ids"]
        + loaded.tokenizer("s>", add_special_tokens=False)["input_ids"]
    )
    row = stored(loaded, chosen=answer("</s>"), chosen_token_ids=[*plain, 1]) | {"pair_id": "a"}
    found = read(tmp_path, loaded, [row, row | {"pair_id": "b", "tokenizer_hash": "0" * 32}])
    assert [list(pair.chosen) for pair in found.pairs] == [[*plain, 1]]
    assert 1 not in plain
    assert found.refused == {"a control token stands in its text": 1}


def test_a_prompt_is_cut_only_when_asked_to_and_a_completion_never(tmp_path: Path, loaded: Loaded) -> None:
    long = pair_row(1, prompt=user("word " * 300 + "end"))
    hopeless = pair_row(2, chosen=answer("word " * 300))
    folder = write_dataset(tmp_path / "made", [long, hopeless])
    found = read_pairs(data_files([str(folder)]), loaded, 64, cut_prompt=True)
    (pair,) = found.pairs
    assert pair.width == 64
    assert pair.prompt[0] == loaded.tokenizer.bos_token_id
    assert loaded.tokenizer.decode(list(pair.prompt)).endswith("word end<|assistant|>")
    assert loaded.tokenizer.decode(list(pair.chosen)) == "4 the dog</s>"
    assert found.refused == {
        "the prompt's beginning was cut off to fit max_length (trained on)": 1,
        "longer than max_length": 1,
    }


def test_a_conversation_of_several_turns_keeps_system_and_tool_messages(tmp_path: Path, loaded: Loaded) -> None:
    prompt = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "tool", "content": "[3]"},
        {"role": "user", "content": "four"},
    ]
    (pair,) = read(tmp_path, loaded, [pair_row(7, prompt=prompt)]).pairs
    text = "<s><|system|>Be brief.<|user|>one<|assistant|>two</s><|tool|>[3]<|user|>four<|assistant|>"
    assert loaded.tokenizer.decode(list(pair.prompt)) == text
    # Control tokens stand where the template put them, and nowhere else; "<|tool|>" is none of this tokenizer's.
    assert [token for token in pair.prompt if token < 5] == [0, 3, 2, 4, 1, 2, 4]


def test_fields_of_a_message_that_parquet_filled_with_null_are_not_seen_by_the_template(
    tmp_path: Path, loaded: Loaded
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    message = {"role": "user", "content": "Hi", "tool_calls": None}
    columns = {"prompt": [[message]], "chosen": [answer("a")], "rejected": [answer("b")]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    template = loaded.tokenizer.chat_template
    loaded.tokenizer.chat_template = (
        "{% for m in messages %}{% if 'tool_calls' in m %}BAD{% endif %}{% endfor %}" + template
    )
    try:
        (pair,) = read_pairs([tmp_path / "x.parquet"], loaded, 256).pairs
    finally:
        loaded.tokenizer.chat_template = template
    assert "BAD" not in loaded.tokenizer.decode(list(pair.prompt))


def test_the_ids_trained_on_are_the_ids_sampled(tmp_path: Path, loaded: Loaded) -> None:
    """Up to the tensor that the model reads: prompt once, then each completion, end tokens and all."""
    from trainer.dpo import DpoObjective
    from trainer.packing import lay

    options = DpoOptions(data=("-",), model="-", out="-", device="cpu")
    rows = [
        stored(
            loaded,
            prompt_token_ids=[0, 2, 9 + n, 4],
            chosen_token_ids=[30, 31 + n, 1],
            rejected_token_ids=[40, 41, 42 + n],
        )
        | {"pair_id": f"{n:032x}"}
        for n in range(5)
    ]
    found = read(tmp_path, loaded, rows)
    objective = DpoObjective(found.pairs, {}, loaded, options)
    for row, pair in zip(rows, objective.pairs, strict=True):
        packed = lay([pair.tree], loaded.device)
        sampled = row["prompt_token_ids"] + row["chosen_token_ids"] + row["rejected_token_ids"]
        assert packed.ids_T.tolist()[: len(sampled)] == sampled
        assert packed.target_N.tolist() == row["chosen_token_ids"] + row["rejected_token_ids"]


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
    rows = [stored(loaded, chosen_token_ids=[30, 31], rejected_token_ids=[40, 1]) | {"pair_id": "a"}, pair_row(0)]
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
