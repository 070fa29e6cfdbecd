"""Log-probabilities over trees equal the plain computation: full logits of one row at a time, values and gradients."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM  # noqa: E402

from tests.trainer.architectures import CONFIGS, TREES, tiny  # noqa: E402
from trainer.attention_choice import prepare, switch  # noqa: E402
from trainer.errors import TrainerError  # noqa: E402
from trainer.logps import check_head, completion_logps, end_hidden, logps_of, takes_trees, token_logps  # noqa: E402
from trainer.packing import Tree, lay  # noqa: E402

CPU = torch.device("cpu")
ROOM = 1 << 28


def plain(model: Any, temperature: float = 1.0) -> Any:
    """Every completion behind its own prompt, one row a forward pass, log-softmax of the model's own logits."""
    sums = []
    for tree in TREES:
        for completion in tree.completions:
            ids = torch.tensor([[*tree.prompt, *completion]])
            logps = (model(input_ids=ids).logits[0, :-1].float() / temperature).log_softmax(-1)
            sums.append(logps.gather(1, ids[0, 1:, None])[len(tree.prompt) - 1 :].sum())
    return torch.stack(sums)


def gradients(model: Any, logps: Any) -> dict[str, Any]:
    """Those of a weighted mean of log-probs a token, as a loss has."""
    model.zero_grad()
    n_tokens = sum(len(c) for tree in TREES for c in tree.completions)
    (logps * torch.linspace(-1, 1, len(logps))).sum().div(n_tokens).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", CONFIGS)
def test_shared_prefix_packed_and_chunked_gradients_equal_the_plain_ones(name: str) -> None:
    model = tiny(name)
    expected = plain(model)
    wanted = gradients(model, expected)
    prepare(model, CPU)
    assert takes_trees(model)
    for room in (ROOM, 4 * 97 * 4):  # everything at once, and four positions at a time
        found = completion_logps(model, lay(TREES, CPU), room)
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)
        for key, grad in gradients(model, found).items():
            assert (grad - wanted[key]).abs().max() <= 1e-5, key


def test_a_model_that_was_not_prepared_gets_padded_rows_and_the_same_numbers() -> None:
    model = tiny("llama")
    expected = plain(model)
    found = completion_logps(model, lay(TREES, CPU), ROOM)
    assert not takes_trees(model)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma2"], ids=["fused head", "capped head"])
def test_log_probs_at_a_temperature_are_of_the_divided_logits(name: str) -> None:
    model = tiny(name)
    expected = plain(model, temperature=1.7)
    wanted = gradients(model, expected)
    prepare(model, CPU)
    found = completion_logps(model, lay(TREES, CPU), 4 * 97 * 4, temperature=1.7)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert all((grad - wanted[key]).abs().max() <= 1e-5 for key, grad in gradients(model, found).items())


def test_a_sum_is_of_its_own_completions_tokens_in_order() -> None:
    model = tiny("llama")
    packed = lay(TREES, CPU)
    per_token = token_logps(model, packed, ROOM).split(packed.sizes)
    assert torch.allclose(torch.stack([part.sum() for part in per_token]), plain(model), rtol=1e-5, atol=1e-5)


def test_equal_prompts_and_completions_are_computed_once_and_answered_in_order() -> None:
    model = tiny("llama")
    prepare(model, CPU)
    p, q, a, b, c = (array("i", ids) for ids in ([1, 2, 3], [4, 5], [6, 7], [8], [9, 10, 11]))
    pairs = [Tree(p, (a, b)), Tree(q, (c, a)), Tree(p, (a, c))]
    apart = [completion_logps(model, lay([tree], CPU), ROOM) for tree in pairs]
    assert torch.allclose(logps_of(model, pairs, CPU, ROOM), torch.cat(apart), atol=1e-5)


@pytest.mark.parametrize("kernel", ["tree_segments", "sdpa"])
def test_the_hidden_state_at_a_completions_end_is_the_plain_rows_last(kernel: str) -> None:
    model = tiny("qwen3")
    rows = [torch.tensor([[*tree.prompt, *c]]) for tree in TREES for c in tree.completions]
    expected = torch.cat([model.base_model(input_ids=ids).last_hidden_state[:, -1] for ids in rows])
    switch(model, kernel)
    assert torch.allclose(end_hidden(model, lay(TREES, CPU)), expected, atol=1e-4)


def test_bfloat16_sums_are_as_near_to_float32_as_plain_ones() -> None:
    model = tiny("llama")
    exact = plain(model)
    rounded = tiny("llama").bfloat16()
    theirs = (plain(rounded) - exact).abs().mean()
    prepare(rounded, CPU)
    ours = (completion_logps(rounded, lay(TREES, CPU), ROOM) - exact).abs().mean()
    assert ours <= 1.5 * theirs


def test_a_head_that_scales_its_logits_is_refused(model: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    check_head(network, CPU)

    def double(module: Any, args: Any, output: Any) -> None:
        output.logits = output.logits * 2

    network.register_forward_hook(double)
    with pytest.raises(TrainerError, match="head_logits"):
        check_head(network, CPU)
