"""`python -m trainer rewards` without a process: which lines get a number, and what of a model decides it."""

from __future__ import annotations

import io
import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TEXTS = ["yes", "the quick brown fox jumps over the lazy dog " * 3, "", "7"]


def conversation(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": "numbers"}, {"role": "assistant", "content": text}]


@pytest.fixture
def classifier(model: Path, tmp_path: Path) -> Callable[..., Path]:
    """A classifier on the tiny model: classifier(num_labels=1, pad_token_id=None)."""
    import torch
    from transformers import LlamaForSequenceClassification

    def make(num_labels: int = 1, pad_token_id: int | None = None) -> Path:
        torch.manual_seed(3)
        made = LlamaForSequenceClassification.from_pretrained(model, num_labels=num_labels, dtype=torch.float32)
        made.score.weight.data.normal_()
        made.config.pad_token_id = pad_token_id
        made.save_pretrained(tmp_path / "classifier")
        for file in model.glob("*"):
            if file.name.startswith(("tokenizer", "chat_template", "special")):
                shutil.copyfile(file, tmp_path / "classifier" / file.name)
        return tmp_path / "classifier"

    return make


def scorer(folder: Path, **options: Any) -> Any:
    from trainer.config import RewardsOptions
    from trainer.rewards import RewardModel

    return RewardModel(RewardsOptions(model=str(folder), device="cpu", **options))


@pytest.mark.parametrize("padding", [None, 1, 5])
def test_a_number_is_read_at_the_last_real_token_whatever_the_model_says_of_padding(
    classifier: Callable[..., Path], padding: int | None
) -> None:
    """1 is the end token as well, as in many models; 5 is an ordinary one."""
    import torch
    from transformers import AutoModelForSequenceClassification

    folder = classifier(pad_token_id=padding)
    ours = scorer(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        alone = [model(torch.tensor([ours.ids(conversation(text))])).logits.item() for text in TEXTS]
    assert ours([conversation(text) for text in TEXTS]) == pytest.approx(alone, rel=1e-4, abs=1e-4)


def test_the_forward_passes_do_not_change_the_numbers(classifier: Callable[..., Path]) -> None:
    folder = classifier()
    chats = [conversation(text) for text in TEXTS * 5]
    together, one_by_one = scorer(folder)(chats), scorer(folder, micro_batch_tokens=1)(chats)
    assert together == pytest.approx(one_by_one, rel=1e-4, abs=1e-4)


def test_what_is_too_long_gets_nothing(classifier: Callable[..., Path]) -> None:
    ours = scorer(classifier(), max_length=40)
    assert [value is None for value in ours([conversation("yes"), conversation("yes " * 60)])] == [False, True]
    unlimited = scorer(classifier())
    assert unlimited.max_length == 256


def test_a_classifier_with_several_outputs_is_refused(classifier: Callable[..., Path]) -> None:
    from trainer.errors import UsageError

    with pytest.raises(UsageError, match=r"has 3 outputs; hint: a reward model has one"):
        scorer(classifier(num_labels=3))


def test_a_language_model_is_refused(model: Path) -> None:
    from trainer.errors import UsageError

    with pytest.raises(UsageError, match=r"lacks score\.weight, so it is no reward model"):
        scorer(model)


def test_models_of_different_tokenizers_are_no_policy_and_reference(model: Path, tmp_path: Path) -> None:
    from trainer.config import RewardsOptions
    from trainer.errors import UsageError
    from trainer.rewards import ImplicitReward

    other = shutil.copytree(model, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    swapped = {"a": tokenizer["model"]["vocab"]["b"], "b": tokenizer["model"]["vocab"]["a"]}
    tokenizer["model"]["vocab"] |= swapped
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UsageError, match="different tokenizers"):
        ImplicitReward(RewardsOptions(policy=str(model), reference=str(other), device="cpu"))


def answered(lines: str) -> tuple[list[int], list[Any]]:
    """The sizes of the groups, and all answers, of a scorer that gives 1, 2, 3 ... and then infinity."""
    from trainer.rewards import answers_to, groups

    def score(conversations: Any) -> list[float]:
        return [math.inf if c[-1]["content"] == "inf" else float(len(c[-1]["content"])) for c in conversations]

    found = list(groups(io.StringIO(lines)))
    return [len(group) for group in found], [answer for group in found for answer in answers_to(group, score)]


def test_every_line_gets_an_answer_in_its_place_and_what_is_no_conversation_gets_null() -> None:
    odd = ["{", "[]", "5", '"x"', json.dumps(conversation("x")[:1]), '[{"role": "user"}, {"content": 5}]', "[" * 5000]
    lines = [json.dumps(conversation("ab")), *odd, json.dumps(conversation("\ud800")), json.dumps(conversation("abc"))]
    sizes, answers = answered("\n".join([*lines, json.dumps(conversation("inf"))]))
    assert sizes == [11]
    assert answers == [2.0, *[None] * 8, 3.0, None]


def test_a_blank_line_asks_for_answers() -> None:
    line = json.dumps(conversation("ab")) + "\n"
    assert answered(f"{line}{line}\n\n{line}\n")[0] == [2, 1]
    assert answered("\n\n")[0] == []


def test_the_command_writes_numbers_and_nothing_else_to_stdout(
    classifier: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainer.cli import main

    written = io.StringIO()
    monkeypatch.setattr(sys, "__stdout__", written)
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(conversation("yes")) + "\nnonsense\n"))
    assert main(["rewards", "--model", str(classifier()), "--device", "cpu"]) == 0
    first, second = map(json.loads, written.getvalue().splitlines())
    assert isinstance(first, float)
    assert second is None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "--model, or --policy and --reference"),
        (["--model", "a", "--policy", "b", "--reference", "c"], "--model, or --policy and --reference"),
        (["--policy", "b"], "--model, or --policy and --reference"),
        (["--model", "a", "--beta", "0"], "beta is 0.0"),
        (["--model", "./nothing"], "does not exist"),
    ],
)
def test_a_wrong_command_is_exit_code_2(trainer: Any, argv: list[str], says: str) -> None:
    code, _, said = trainer("rewards", *argv)
    assert code == 2
    assert says in said
