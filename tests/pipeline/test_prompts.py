from __future__ import annotations

import bz2
import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import BadPrompts, ConfigError
from pipeline.prompts import Fields, Prompts, import_prompts, prompts_of
from pipeline.schema import PROMPTS
from pipeline.storage.shards import read_shard

ROWS = [{"prompt": "one", "family": "x"}, {"prompt": "two", "family": "y"}]


def imported(path, folder, **settings):
    found = import_prompts(Prompts(str(path), **settings), folder / "shards")
    prompts = {}
    for shard in found.shards:
        prompts.update(prompts_of(read_shard(shard, PROMPTS)))
    return found, [prompts[p] for p in prompts if p in found.active]


def jsonl(path, *lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def in_every_format(folder):
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / "p.jsonl").write_text(text)
    (folder / "p.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (folder / "p.jsonl.bz2").write_bytes(bz2.compress(text.encode()))
    (folder / "p.json").write_text(json.dumps(ROWS))
    (folder / "wrapped.json").write_text(json.dumps({"version": 1, "data": ROWS}))
    with (folder / "p.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "family"])
        writer.writeheader()
        writer.writerows(ROWS)
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "p.parquet")
    return ["p.jsonl", "p.jsonl.gz", "p.jsonl.bz2", "p.json", "wrapped.json", "p.csv", "p.parquet"]


def test_every_format_gives_the_same_prompts(tmp_path):
    ids = set()
    for name in in_every_format(tmp_path):
        found, prompts = imported(tmp_path / name, tmp_path / name.replace(".", "-"))
        assert [p.messages[0].content for p in prompts] == ["one", "two"]
        assert found.families == {"x": 1, "y": 1}
        ids.add(tuple(prompt.id for prompt in prompts))
    assert len(ids) == 1


def test_a_url_is_read_like_a_path(tmp_path):
    path = jsonl(tmp_path / "p.jsonl", *ROWS)
    assert len(imported(f"file://{path}", tmp_path)[1]) == 2


def test_a_dataset_folder_is_read_through_datasets(tmp_path):
    folder = tmp_path / "set" / "data"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "train-00000-of-00001.parquet")
    assert len(imported(tmp_path / "set", tmp_path / "run")[1]) == 2


def test_exact_duplicates_are_dropped_and_counted(tmp_path):
    found, prompts = imported(jsonl(tmp_path / "p.jsonl", *ROWS, ROWS[0]), tmp_path)
    assert (len(prompts), found.duplicates) == (2, 1)


def test_the_same_text_with_another_target_or_system_message_is_another_prompt(tmp_path):
    rows = [
        {"prompt": "q", "answer": 1, "sys": None},
        {"prompt": "q", "answer": 2, "sys": None},
        {"prompt": "q", "answer": 1, "sys": "be kind"},
    ]
    found, prompts = imported(
        jsonl(tmp_path / "p.jsonl", *rows), tmp_path, fields=Fields(target="answer", system="sys")
    )
    assert (len({p.id for p in prompts}), found.duplicates) == (3, 0)
    assert prompts[2].messages[0].role == "system"


def test_several_target_columns_become_one_object(tmp_path):
    row = {"prompt": "q", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    fields = Fields(target=("instruction_id_list", "kwargs"))
    prompt = imported(jsonl(tmp_path / "p.jsonl", row), tmp_path, fields=fields)[1][0]
    assert prompt.target == {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}


def test_a_list_of_messages_is_a_conversation(tmp_path):
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    prompt = imported(jsonl(tmp_path / "p.jsonl", {"messages": turns}), tmp_path, fields=Fields(prompt="messages"))[1][
        0
    ]
    assert [(m.role, m.content) for m in prompt.messages] == [("system", "s"), ("user", "u")]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "is not JSON"),
        ("[1]", "not an object"),
        ({"question": "q"}, "has no column 'prompt', it has question .*prompts.fields.prompt"),
        ({"prompt": ""}, "empty"),
        ({"prompt": "  \n"}, "empty"),
        ({"prompt": 7}, "a text or a list"),
        ({"prompt": [{"role": "robot", "content": "x"}]}, "role is 'robot'"),
        ({"prompt": [{"role": "user"}]}, "a message is"),
        ({"prompt": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, "last message"),
        ('{"prompt": "a lone surrogate \\ud800"}', "surrogates not allowed"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_bad_row_is_named_with_its_line_and_stops_or_is_skipped(tmp_path, line, says):
    path = jsonl(tmp_path / "p.jsonl", ROWS[0], line, ROWS[1])
    with pytest.raises(BadPrompts, match=rf"p\.jsonl:2: .*{says}"):
        imported(path, tmp_path)
    found, prompts = imported(path, tmp_path / "skipping", on_bad_row="skip")
    assert [p.messages[0].content for p in prompts] == ["one", "two"]
    assert len(found.bad) == 1


def test_a_target_that_json_cannot_hold_is_a_bad_row(tmp_path):
    path = jsonl(tmp_path / "p.jsonl", '{"prompt": "q", "answer": NaN}')
    with pytest.raises(BadPrompts, match=r"p\.jsonl:1"):
        imported(path, tmp_path, fields=Fields(target="answer"))


@pytest.mark.parametrize("name", ["missing.jsonl", "missing.csv", "missing.parquet", "s p a c e.xyz"])
def test_a_missing_or_unknown_file_is_named(tmp_path, name):
    with pytest.raises(BadPrompts, match=f"{name}.*hint"):
        imported(tmp_path / name, tmp_path)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_an_error(tmp_path, content):
    path = tmp_path / "p.jsonl"
    path.write_text(content)
    with pytest.raises(BadPrompts, match="holds no prompt"):
        imported(path, tmp_path)


@pytest.mark.parametrize("name", ["p.parquet", "p.jsonl.gz"])
def test_a_damaged_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"not what it says")
    with pytest.raises(BadPrompts, match=name):
        imported(tmp_path / name, tmp_path)


def test_new_prompts_make_new_shards_and_leave_the_old_ones(tmp_path):
    path = jsonl(tmp_path / "p.jsonl", *({"prompt": f"p{i}"} for i in range(5)))
    first, _ = imported(path, tmp_path, shard_size=2)
    before = {shard: shard.read_bytes() for shard in first.shards}
    jsonl(path, *({"prompt": f"p{i}"} for i in (8, 0, 1, 2, 3, 4, 9)))
    second, prompts = imported(path, tmp_path, shard_size=2)
    assert [len(first.shards), len(second.shards)] == [3, 4]
    assert all(shard.read_bytes() == content for shard, content in before.items())
    assert len(prompts) == 7


def test_a_prompt_that_left_the_file_is_no_longer_active(tmp_path):
    path = jsonl(tmp_path / "p.jsonl", *({"prompt": f"p{i}"} for i in range(4)))
    imported(path, tmp_path, shard_size=2)
    jsonl(path, {"prompt": "p3"})
    found, prompts = imported(path, tmp_path, shard_size=2)
    assert [p.messages[0].content for p in prompts] == ["p3"]
    assert len(found.shards) == 1


def test_the_limit_takes_the_first(tmp_path):
    path = jsonl(tmp_path / "p.jsonl", *({"prompt": f"p{i}"} for i in range(5)))
    assert [p.messages[0].content for p in imported(path, tmp_path, limit=2)[1]] == ["p0", "p1"]


def test_other_columns_are_kept_as_metadata(tmp_path):
    row = {"prompt": "q", "task_id": "T/1", "level": 3, "answer": 7}
    prompt = imported(jsonl(tmp_path / "p.jsonl", row), tmp_path, fields=Fields(target="answer"))[1][0]
    assert prompt.metadata == {"task_id": "T/1", "level": 3}
    assert prompt.target == 7


def test_the_parts_of_a_file_are_apart_and_make_the_whole(tmp_path):
    path = jsonl(tmp_path / "p.jsonl", *({"prompt": f"prompt {i}"} for i in range(60)))
    parts = [{p.id for p in imported(path, tmp_path / str(k), part=f"{k}/3")[1]} for k in (1, 2, 3)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 60
    assert min(map(len, parts)) > 8


@pytest.mark.parametrize("part", ["0/3", "4/3", "3", "1/x", "-1/3", "a"])
def test_a_part_that_is_none_is_refused(part):
    with pytest.raises(ConfigError, match="hint: k/n"):
        Prompts("p.jsonl", part=part)
