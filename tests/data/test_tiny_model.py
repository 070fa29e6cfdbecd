"""The shipped model folder, read without torch: sizes, tokenizer, chat template."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import jinja2
import pytest
from tokenizers import Tokenizer

from data import make

FOLDER = Path(__file__).resolve().parents[2] / "data" / "tiny-model"


def read_json(name: str) -> Any:
    return json.loads((FOLDER / name).read_text("utf-8"))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


def rendered(*contents: str, ask: bool) -> str:
    roles = ("user", "assistant") * len(contents)
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    template = jinja2.Template((FOLDER / "chat_template.jinja").read_text("utf-8"))
    return template.render(
        messages=messages,
        bos_token=make.SPECIAL[make.BEGIN],
        eos_token=make.SPECIAL[make.END],
        add_generation_prompt=ask,
    )


def test_the_folder_holds_what_is_shipped_and_nothing_else() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(make.SHIPPED)
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 4_500_000


def test_the_weights_are_bfloat16_and_as_many_as_the_config_says() -> None:
    with (FOLDER / "model.safetensors").open("rb") as file:
        [length] = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    assert {tensor["dtype"] for tensor in header.values()} == {"BF16"}
    assert sum(math.prod(tensor["shape"]) for tensor in header.values()) == 1_967_808


def test_the_config_is_the_one_that_is_made() -> None:
    config = read_json("config.json")
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "eos_token_id", "dtype"):
        assert config[key] == make.CONFIG[key]
    assert read_json("generation_config.json")["eos_token_id"] == make.END


@pytest.mark.parametrize(
    "text", ["tea", "  a\n\tb  ", "naïve 日本 🙂", "1,234.5", "\x00\r\n", "def f(x):\n    return x"]
)
def test_every_text_comes_back_from_its_tokens(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_special_tokens_are_single_and_never_added_unasked(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_to_id(token) for token in make.SPECIAL] == list(range(len(make.SPECIAL)))
    assert make.BEGIN not in tokenizer.encode("tea", add_special_tokens=True).ids


def test_a_chat_begins_once_and_the_end_token_ends_the_assistants_turn(tokenizer: Tokenizer) -> None:
    asked, answered = rendered("Say hi", ask=True), rendered("Say hi", "hi", ask=False)
    assert answered == asked + "hi<|end|>"
    ids = tokenizer.encode(answered, add_special_tokens=False).ids
    assert ids[0] == make.BEGIN
    assert ids[-1] == make.END
    assert ids.count(make.BEGIN) == ids.count(make.END) == 1
