"""Gathered, chunked, padded log-probabilities equal the plain computation from full logits, one row at a time."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM  # noqa: E402

from trainer.errors import TrainerError  # noqa: E402
from trainer.logps import Row, check_head, completion_logps, pad  # noqa: E402


def row(ids: list[int], n_given: int) -> Row:
    return Row(array("i", ids), n_given)


ROWS = [row([0, 5, 6, 7, 8, 9, 1], 3), row([0, 20, 21, 1], 2), row([0, 40, 41, 42, 43, 44, 45, 46, 47, 1], 6)]


def plain(model: Any, sequence: Row) -> Any:
    ids = torch.tensor([list(sequence.ids)])
    logps = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    return logps.gather(1, ids[0, 1:, None])[sequence.n_given - 1 :].sum()


@pytest.mark.parametrize("head_bytes", [1 << 28, 4 * 300 * 4], ids=["one piece", "pieces of four tokens"])
def test_values_and_gradients_equal_the_plain_computation(model: Path, head_bytes: int) -> None:
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    expected = torch.stack([plain(network, each) for each in ROWS])
    expected.square().sum().backward()
    wanted = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()
    found = completion_logps(network, pad(ROWS, torch.device("cpu")), head_bytes)
    found.square().sum().backward()
    assert torch.allclose(found, expected, atol=1e-5)
    for name, parameter in network.named_parameters():
        assert (parameter.grad - wanted[name]).norm() <= 1e-5 * wanted[name].norm(), name


def test_the_first_token_is_never_scored() -> None:
    batch = pad([row([7, 8, 9], 0)], torch.device("cpu"))
    assert batch.target_N.tolist() == [8, 9]


def test_a_head_that_scales_its_logits_is_refused(model: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    check_head(network, torch.device("cpu"))

    def double(module: Any, args: Any, output: Any) -> None:
        output.logits = output.logits * 2

    network.register_forward_hook(double)
    with pytest.raises(TrainerError, match="head_logits"):
        check_head(network, torch.device("cpu"))
