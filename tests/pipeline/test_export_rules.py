"""Exports hold to what the loaders of other trainers do, read in their sources at a commit and written down here again.

Nothing of theirs is run. Each rule says where it was read; when a loader changes, read it again and change the rule.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.publishing.export import Exported, export
from tests.pipeline.test_export import Message, load, message, nasty_pairs, options, pair, write_dataset

MODEL = Path(__file__).resolve().parents[2] / "data" / "tiny-model"
READ = {
    "axolotl": ("axolotl-ai-cloud/axolotl", "067b021c8b87", "src/axolotl/prompt_strategies/dpo/chat_template.py"),
    "llama-factory": ("hiyouga/LLaMA-Factory", "ff6d4d12eeb0", "src/llamafactory/data/parser.py"),
    "openrlhf": ("OpenRLHF/OpenRLHF", "3c3be6234e0c", "openrlhf/cli/train_dpo.py"),
    "torchtune": ("pytorch/torchtune", "bd2a0fc7c314", "torchtune/datasets/_preference.py"),
}
"""Trainer -> repository, commit and file of its rules; docs/training-elsewhere.md names the same."""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """A real tokenizer with a chat template."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture
def exported(tmp_path: Path) -> Any:
    """exported(layout): an export of texts and turns of all kinds."""
    system = [message("system", "Be brief."), message("user", "a"), message("assistant", "b"), message("user", "c")]
    plain = [pair(90, [message("user", "q")], "yes, because", "no"), pair(91, system, "line\n\nbreak", "<b>x</b>")]
    folder = write_dataset(tmp_path / "published", [*nasty_pairs(), *plain])

    def make(layout: Any) -> Exported:
        return export(folder, layout, tmp_path / layout)

    return make


def rows(done: Exported) -> list[dict[str, Any]]:
    return list(load("parquet", data_files=[str(shard) for shard in done.shards], split="train"))


# Axolotl: `default` reads these keys of a data set by ds_cfg.get, the loader path, split and type (utils/data/shared.py).
AXOLOTL_KEYS = {
    "path",
    "split",
    "type",
    "field_messages",
    "field_chosen",
    "field_rejected",
    "message_property_mappings",
    "roles",
}


def axolotl_side(tokenizer: Any, content: str) -> str:
    """How `default` renders a completion: behind a dummy turn, cut where its text is found."""
    turns = [message("user", "[[dummy_message]]"), message("assistant", content)]
    rendered: str = tokenizer.apply_chat_template(turns, add_generation_prompt=False, tokenize=False)
    return rendered[rendered.find(content) :].rstrip()


def test_axolotl_reads_every_key_that_we_write(exported: Any) -> None:
    config = yaml.safe_load(exported("axolotl").config.read_text())
    assert set(config) == {"rl", "chat_template", "datasets"}
    assert [set(each) - AXOLOTL_KEYS for each in config["datasets"]] == [set()]
    assert Path(config["datasets"][0]["path"]).exists()  # a path that exists is local, before any hub is asked


def test_axolotl_finds_a_completion_again_in_what_the_template_renders(exported: Any, tokenizer: Any) -> None:
    for row in rows(exported("axolotl")):
        content = row["chosen"]["content"]
        if content == content.strip():
            assert axolotl_side(tokenizer, content).startswith(content)
            assert len(axolotl_side(tokenizer, content)) <= len(content) + len(tokenizer.eos_token) + 1


def test_axolotl_is_said_to_spoil_texts_with_white_space_at_an_end_and_empty_ones(
    tmp_path: Path, tokenizer: Any
) -> None:
    assert "[[dummy_message]]" in axolotl_side(tokenizer, "")
    prompt = [message("user", "q")]
    published = write_dataset(
        tmp_path / "d", [pair(0, prompt, "fine", ""), pair(1, prompt, "fine\n", "x"), pair(2, prompt, "a", "b")]
    )
    [note] = export(published, "axolotl", tmp_path / "a").notes
    assert note.startswith("2 of 3 pairs have a completion that is empty")
    assert export(published, "trl", tmp_path / "t").notes == ()


# LLaMA-Factory: DatasetAttr.join reads these keys; SharegptDatasetConverter the rows; _load_single_dataset the files.
FACTORY_ENTRY = {"file_name", "formatting", "ranking", "subset", "split", "folder", "num_samples", "columns", "tags"}
FACTORY_COLUMNS = {
    *("prompt", "query", "response", "history", "messages", "system", "tools"),
    *("images", "videos", "audios", "chosen", "rejected", "kto_tag"),
}
FACTORY_TAGS = {"role_tag", "content_tag", "user_tag", "assistant_tag", "observation_tag", "function_tag", "system_tag"}


def factory_takes(row: dict[str, Any], entry: dict[str, Any]) -> bool:
    """Whether SharegptDatasetConverter keeps a row: it begins with `odd` roles, alternates, and has an odd number of turns."""
    columns, tags = entry["columns"], entry["tags"]
    turns: list[Message] = row[columns["messages"]]
    if turns and turns[0][tags["role_tag"]] == tags["system_tag"]:
        turns = turns[1:]
    accepted = [(tags["user_tag"], tags["observation_tag"]), (tags["assistant_tag"], tags["function_tag"])]
    alternate = all(turn[tags["role_tag"]] in accepted[place % 2] for place, turn in enumerate(turns))
    sides = [row[columns[name]] for name in ("chosen", "rejected")]
    return alternate and len(turns) % 2 == 1 and all(side[tags["role_tag"]] in accepted[-1] for side in sides)


def test_llama_factory_reads_every_key_that_we_write_and_keeps_every_row(exported: Any) -> None:
    done = exported("llama-factory")
    config = yaml.safe_load(done.config.read_text())
    entry = json.loads((Path(config["dataset_dir"]) / "dataset_info.json").read_text())[config["dataset"]]
    assert set(entry) <= FACTORY_ENTRY
    assert set(entry["columns"]) <= FACTORY_COLUMNS
    assert set(entry["tags"]) == FACTORY_TAGS  # join sets a tag that is not named to None
    assert entry["ranking"] is True  # or "The dataset is not applicable in the current training stage."
    assert all(factory_takes(row, entry) for row in rows(done))
    assert all(isinstance(row[name], dict) for row in rows(done) for name in ("chosen", "rejected"))


def test_what_llama_factory_would_drop_is_what_we_say_that_it_drops(tmp_path: Path) -> None:
    twice = [message("user", "a"), message("user", "b")]
    published = write_dataset(tmp_path / "d", [pair(0, [message("user", "q")], "c", "r"), pair(1, twice, "c", "r")])
    done = export(published, "llama-factory", tmp_path / "a")
    entry = json.loads((done.folder / "dataset_info.json").read_text())["preference_pairs"]
    assert [factory_takes(row, entry) for row in rows(done)] == [True, False]
    assert done.notes[0].startswith("1 of 2 prompts do not alternate")


# OpenRLHF: the options of train_dpo.py; openrlhf/datasets/reward_dataset.py `preprocess_data` cuts the prompt off as a prefix.
OPENRLHF_OPTIONS = {
    "--data.dataset", "--data.dataset_probs", "--data.dataset_split", "--data.prompt_key", "--data.chosen_key",
    "--data.rejected_key", "--data.input_template", "--data.apply_chat_template", "--data.tokenizer_chat_template",
    "--data.max_len", "--data.max_samples",
}  # fmt: skip


def test_openrlhf_has_every_option_that_we_write(exported: Any) -> None:
    given = options(exported("openrlhf").config)
    assert set(given) <= OPENRLHF_OPTIONS
    assert given["--data.apply_chat_template"] == []  # store_true


def test_openrlhf_cuts_the_prompt_off_and_the_completion_is_left(exported: Any, tokenizer: Any) -> None:
    for row in rows(exported("openrlhf")):
        prompt = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(row["prompt"] + row["chosen"], tokenize=False)
        assert whole.startswith(prompt)
        assert whole[len(prompt) :].startswith(row["chosen"][0]["content"])


# torchtune: preference_dataset's parameters, the rest goes to load_dataset; Message takes these roles (data/_messages.py).
TORCHTUNE_KEYS = {
    "_component_",
    "source",
    "column_map",
    "train_on_input",
    "new_system_prompt",
    "filter_fn",
    "split",
    "data_files",
}
TORCHTUNE_ROLES = {"system", "user", "assistant", "ipython", "tool"}


def test_torchtune_reads_every_key_that_we_write_and_knows_every_role(exported: Any) -> None:
    done = exported("torchtune")
    given = yaml.safe_load(done.config.read_text())["dataset"]
    assert set(given) <= TORCHTUNE_KEYS
    for row in rows(done):
        for side in ("chosen", "rejected"):
            assert {turn["role"] for turn in row[side]} <= TORCHTUNE_ROLES
            assert all(isinstance(turn["content"], str) for turn in row[side])
            assert row[side][-1]["role"] == "assistant"  # what is trained on by default: the assistant's turns


@pytest.mark.parametrize("trainer", READ)
def test_the_page_says_where_each_rule_was_read(trainer: str) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "training-elsewhere.md").read_text()
    assert all(part in page for part in READ[trainer])
