"""Every layout is read back by the keys that its trainer documents, and holds the rows that went in."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.errors import UnreadableShard
from pipeline.publishing.export import BadExport, Exported, as_layout, export
from pipeline.publishing.layouts import LAYOUTS, Layout
from pipeline.schema import PAIRS
from pipeline.storage.shards import write_parquet

Message = dict[str, str]
Row = tuple[list[Message], Message, Message]  # prompt, chosen, rejected

NASTY = [
    "",
    "2020-01-01 10:00:00",  # a JSON reader of Arrow would make this a timestamp
    "line\nbreak\r\nand\ttab, \"quotes\", 'more', back\\slash",
    "=cmd|' /C calc'!A0",
    "nul \x00 bell \x07 escape \x1b[31m",
    "separators \u2028 and \u2029, a byte order mark \ufeff, right to left \u202e",
    "emoji 👩‍👩‍👧 and a spelt surrogate \\ud83d",
    "{% raw %}{{ prompt }}<|im_end|>[[dummy_message]]",
    "x" * 70_000,
    "null",
    "---\n- yaml: {a: b}",
]


def message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def pair(number: int, prompt: list[Message], chosen: str, rejected: str, weight: float = 1.0) -> dict[str, Any]:
    row: dict[str, Any] = {field.name: None for field in PAIRS}
    row |= {name: f"{name}-{number}" for name in PAIRS.names if PAIRS.field(name).type == pa.string()}
    row |= {
        "prompt": prompt, "chosen": [message("assistant", chosen)], "rejected": [message("assistant", rejected)],
        "score_chosen": 1.0, "score_rejected": 0.0, "margin": 1.0, "labelers": ["a"], "labeler_versions": ["1"],
        "weight": weight, "metadata": "{}",
    }  # fmt: skip
    return row


def nasty_pairs() -> list[dict[str, Any]]:
    rows = []
    for number, text in enumerate(NASTY):
        turns = [message("user", text)]
        if number % 2:
            turns = [message("system", text), message("user", "q"), message("assistant", text), message("user", text)]
        rows.append(pair(number, turns, text + "!", text))
    return rows


def write_dataset(folder: Path, *shards: list[dict[str, Any]]) -> Path:
    (folder / "data").mkdir(parents=True)
    for index, rows in enumerate(shards):
        name = f"train-{index:05d}-of-{len(shards):05d}.parquet"
        write_parquet(folder / "data" / name, pa.Table.from_pylist(rows, schema=PAIRS))
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    rows = nasty_pairs()
    return write_dataset(tmp_path / "published", rows[:4], [], rows[4:])


def rows_of(pairs: list[dict[str, Any]]) -> list[Row]:
    return [(row["prompt"], row["chosen"][0], row["rejected"][0]) for row in pairs]


# One reader a trainer, written from its documentation: it opens what the config names, by the keys the config names.


def load(*args: Any, **kwargs: Any) -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset(*args, **kwargs)


def options(path: Path) -> dict[str, list[str]]:
    """`--key value ...` as a shell would split it."""
    found: dict[str, list[str]] = {}
    key = ""
    for word in shlex.split(path.read_text()):
        if word.startswith("--"):
            key = word
            found[key] = []
        else:
            found[key].append(word)
    return found


def read_trl(done: Exported) -> Iterator[Row]:
    """TRL: `dataset_name` is any path of `load_dataset`; prompt, chosen, rejected are lists of messages."""
    config = yaml.safe_load(done.config.read_text())
    for row in load(config["dataset_name"])[config["dataset_train_split"]]:
        assert not {name for name in row if "logps" in name}
        assert [turn["role"] for turn in row["chosen"] + row["rejected"]] == ["assistant", "assistant"]
        yield row["prompt"], row["chosen"][0], row["rejected"][0]


def read_axolotl(done: Exported) -> Iterator[Row]:
    """Axolotl, chat_template.default: messages, chosen and rejected one message each; every role is mapped."""
    config = yaml.safe_load(done.config.read_text())
    [source] = config["datasets"]
    assert (config["rl"], source["type"]) == ("dpo", "chat_template.default")
    role, content = (source["message_property_mappings"][key] for key in ("role", "content"))
    known = {word: name for name, words in source["roles"].items() for word in words}
    for row in load(source["path"], split=source["split"]):
        sides = [row[source["field_chosen"]], row[source["field_rejected"]]]
        read = [message(known[turn[role]], turn[content]) for turn in [*row[source["field_messages"]], *sides]]
        yield read[:-2], read[-2], read[-1]


def read_openrlhf(done: Exported) -> Iterator[Row]:
    """OpenRLHF: prompt + chosen is one conversation; the path holds no separator; a `margin` column would be read."""
    given = options(done.config)
    [path], [split] = given["--data.dataset"], given["--data.dataset_split"]
    keys = [given[f"--data.{name}_key"][0] for name in ("prompt", "chosen", "rejected")]
    assert given["--data.apply_chat_template"] == []
    assert "," not in path
    assert "@" not in path
    rows = load(path)[split]
    assert "margin" not in rows.column_names
    for row in rows:
        prompt, chosen, rejected = (row[key] for key in keys)
        yield prompt, (prompt + chosen)[-1], (prompt + rejected)[-1]


def read_llama_factory(done: Exported) -> Iterator[Row]:
    """LLaMA-Factory, sharegpt with ranking: every file of the folder has one type; chosen and rejected are mappings."""
    config = yaml.safe_load(done.config.read_text())
    folder = Path(config["dataset_dir"])
    entry = json.loads((folder / "dataset_info.json").read_text())[config["dataset"]]
    columns, tags = entry["columns"], entry["tags"]
    assert (config["stage"], entry["ranking"], entry["formatting"]) == ("dpo", True, "sharegpt")
    assert (tags["role_tag"], tags["content_tag"]) == ("role", "content")
    files = sorted(str(path) for path in (folder / entry["file_name"]).iterdir())
    assert {Path(name).suffix for name in files} == {".parquet"}
    for row in load("parquet", data_files=files, split="train"):
        turns = row[columns["messages"]]
        alternating = turns[1:] if turns[0]["role"] == tags["system_tag"] else turns
        assert len(alternating) % 2 == 1
        assert all(
            turn["role"] == tags["user_tag" if index % 2 == 0 else "assistant_tag"]
            for index, turn in enumerate(alternating)
        )
        chosen, rejected = row[columns["chosen"]], row[columns["rejected"]]
        assert {chosen["role"], rejected["role"]} == {tags["assistant_tag"]}
        yield turns, chosen, rejected


def read_whole_conversations(rows: Any) -> Iterator[Row]:
    for row in rows:
        assert row["chosen"][:-1] == row["rejected"][:-1]
        yield row["chosen"][:-1], row["chosen"][-1], row["rejected"][-1]


def read_torchtune(done: Exported) -> Iterator[Row]:
    """torchtune: local files by their type and `data_files`; two conversations that share their prompt."""
    given = yaml.safe_load(done.config.read_text())["dataset"]
    assert given.pop("_component_") == "torchtune.datasets.preference_dataset"
    return read_whole_conversations(load(given.pop("source"), **given))


def read_open_instruct(done: Exported) -> Iterator[Row]:
    """open-instruct: path and share in turns; a local file ends in .parquet, a share has a point or it is a count."""
    given = options(done.config)
    assert given["--mixer_list_splits"] == ["train"]
    mixed = given["--mixer_list"]
    for path, share in zip(mixed[::2], mixed[1::2], strict=True):
        assert path.endswith(".parquet")
        assert "." in share
        assert float(share) == 1
        rows = load("parquet", data_files=path, split="train")
        assert len(rows) > 0  # a share of an empty file divides by zero there
        yield from read_whole_conversations(rows)


def read_nemo_rl(done: Exported) -> Iterator[Row]:
    """NeMo-RL, PreferenceDataset: a context and two ranked completions, the lower rank preferred."""
    given = yaml.safe_load(done.config.read_text())["data"]
    assert (given["train"]["dataset_name"], given["validation"]) == ("PreferenceDataset", None)
    for row in load(given["train"]["data_path"])[given["train"]["split"]]:
        best, worst = sorted(row["completions"], key=lambda each: int(each["rank"]))
        assert best["rank"] < worst["rank"]
        yield row["context"], best["completion"][0], worst["completion"][0]


READERS: dict[Layout, Callable[[Exported], Iterator[Row]]] = {
    "trl": read_trl,
    "axolotl": read_axolotl,
    "openrlhf": read_openrlhf,
    "llama-factory": read_llama_factory,
    "torchtune": read_torchtune,
    "open-instruct": read_open_instruct,
    "nemo-rl": read_nemo_rl,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_trainers_documented_keys_give_back_every_row(layout: Layout, dataset: Path, tmp_path: Path) -> None:
    done = export(dataset, layout, tmp_path / "out with 'spaces'")
    assert list(READERS[layout](done)) == rows_of(nasty_pairs())
    assert done.rows == len(NASTY)
    assert len(done.shards) == 2  # the empty one is left out


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_shard_larger_than_a_batch_keeps_its_order(layout: Layout, tmp_path: Path) -> None:
    pairs = [pair(n, [message("user", str(n))] * (1 + 2 * (n % 2)), f"c{n}", f"r{n}") for n in range(2500)]
    for row in pairs[1::2]:
        row["prompt"][1] = message("assistant", "mid")
    done = export(write_dataset(tmp_path / "data set", pairs), layout, tmp_path / "out")
    assert [row["pair_id"] for row in pq.read_table(done.shards[0]).to_pylist()] == [p["pair_id"] for p in pairs]
    assert list(READERS[layout](done)) == rows_of(pairs)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_folder_itself_opens_as_a_dataset(layout: Layout, dataset: Path, tmp_path: Path) -> None:
    done = export(dataset, layout, tmp_path / "out")
    assert load(str(done.folder), split="train").num_rows == len(NASTY)
    assert done.command in (done.folder / "README.md").read_text()


def test_a_runs_folder_means_its_newest_version(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "dataset").symlink_to(dataset)
    assert export(run, "trl", tmp_path / "out").rows == len(NASTY)


def test_an_empty_folder_may_be_written(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert export(dataset, "trl", tmp_path / "out").config.exists()


def test_a_folder_in_use_is_refused_with_a_hint(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(BadExport, match="not empty; hint: name a new folder"):
        export(dataset, "trl", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_published_version_is_never_written_into(dataset: Path) -> None:
    with pytest.raises(BadExport, match="never changes"):
        export(dataset, "trl", dataset / "trl")


@pytest.mark.parametrize("path", ["nowhere", "."])
def test_a_folder_that_is_no_dataset_is_an_error(path: str, tmp_path: Path) -> None:
    with pytest.raises(BadExport, match=r"holds no data/train-\*.parquet; hint"):
        export(tmp_path / path, "trl", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_of_other_columns_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "d" / "data").mkdir(parents=True)
    write_parquet(tmp_path / "d" / "data" / "train-00000-of-00001.parquet", pa.table({"text": ["a"]}))
    with pytest.raises(BadExport, match="lacks pair_id, prompt"):
        export(tmp_path / "d", "trl", tmp_path / "out")


def test_a_dataset_without_pairs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadExport, match="holds no pairs"):
        export(write_dataset(tmp_path / "d", []), "trl", tmp_path / "out")


def test_two_messages_in_chosen_are_an_error(tmp_path: Path) -> None:
    row = pair(0, [message("user", "q")], "a", "b")
    row["chosen"] *= 2
    with pytest.raises(BadExport, match="chosen is not one message"):
        export(write_dataset(tmp_path / "d", [row]), "axolotl", tmp_path / "out")


def test_a_failure_half_way_leaves_nothing(dataset: Path, tmp_path: Path) -> None:
    last = sorted((dataset / "data").iterdir())[-1]
    content = bytearray(last.read_bytes())
    content[40:400] = os.urandom(360)
    last.write_bytes(content)
    with pytest.raises(UnreadableShard, match=f"{last.name}: cannot be read .* hint"):
        export(dataset, "trl", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


def test_an_unknown_layout_names_the_nearest() -> None:
    with pytest.raises(BadExport, match="did you mean llama-factory"):
        as_layout("llamafactory")
    with pytest.raises(BadExport, match="one of trl, axolotl"):
        as_layout("zzz")


def test_what_the_trainer_would_drop_or_ignore_is_said(tmp_path: Path) -> None:
    twice = [message("user", "a"), message("user", "b")]
    rows = [pair(0, [message("user", "q")], "c", "r"), pair(1, twice, "c", "r", weight=0.5)]
    published = write_dataset(tmp_path / "d", rows)
    assert len(export(published, "llama-factory", tmp_path / "a").notes) == 2
    [note] = export(published, "trl", tmp_path / "b").notes
    assert note.startswith("1 of 2 pairs have a weight other than 1")


def test_openrlhf_refuses_a_path_that_it_would_split(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(BadExport, match="separators"):
        export(dataset, "openrlhf", tmp_path / "a,b")


def test_the_same_dataset_gives_the_same_bytes(dataset: Path, tmp_path: Path) -> None:
    first, second = (export(dataset, "nemo-rl", tmp_path / name) for name in ("a", "b"))
    assert [path.read_bytes() for path in first.shards] == [path.read_bytes() for path in second.shards]
