"""Kernels over trees give a model's own numbers, and one that does not is not taken."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from transformers import AttentionInterface, AutoModelForCausalLM, GPT2Config, MambaConfig  # noqa: E402

from tests.trainer.architectures import CONFIGS, TREES, tiny, tree  # noqa: E402
from trainer import attention_choice, attention_cuda  # noqa: E402
from trainer.attention import segments  # noqa: E402
from trainer.attention_choice import answer, difference, prepare, sample, switch, why_not  # noqa: E402
from trainer.logps import completion_logps, takes_trees  # noqa: E402
from trainer.packing import lay  # noqa: E402
from trainer.start import compile_layers  # noqa: E402

CPU = torch.device("cpu")


def logps(model: Any) -> Any:
    return completion_logps(model, lay(TREES, CPU), 1 << 28)


def varlen_by_hand(
    query: Any, key: Any, value: Any, query_ends: Any, key_ends: Any, longest_query: int, longest_key: int,
    *, scale: float, window_size: tuple[int, int], enable_gqa: bool,
) -> Any:  # fmt: skip
    """What torch documents of varlen_attn, sequence by sequence: causal from the last key backwards."""
    parts = []
    for a, b, c, d in zip(query_ends, query_ends[1:], key_ends, key_ends[1:], strict=False):
        q, k, v = query[a:b], key[c:d], value[c:d]
        repeats = q.shape[1] // k.shape[1]
        assert enable_gqa == (repeats > 1)
        assert len(q) <= longest_query
        assert len(k) <= longest_key
        k, v = (x.repeat_interleave(repeats, 1).transpose(0, 1) for x in (k, v))
        behind = torch.arange(len(q))[:, None] + k.shape[1] - len(q) - torch.arange(k.shape[1])
        seen = (behind >= -window_size[1]) & (behind <= (window_size[0] if window_size[0] >= 0 else 1 << 30))
        scores = (scale * q.transpose(0, 1) @ k.transpose(1, 2)).masked_fill(~seen, float("-inf"))
        parts.append((scores.softmax(-1) @ v).transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@torch.no_grad()
def test_flex_attention_hides_other_branches_and_knows_windows_and_caps(name: str) -> None:
    model = tiny(name)
    expected = logps(model)
    switch(model, "tree_flex")
    assert torch.allclose(logps(model), expected, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "gemma2"])
def test_variable_lengths_are_laid_out_for_flash_attention(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_cuda, "varlen_attn", varlen_by_hand)
    model = tiny(name)
    packed = lay(TREES, CPU)
    expected = answer(model, packed)
    switch(model, "tree_varlen")
    assert max(difference(answer(model, packed), expected)) < 1e-5


def test_flash_attention_is_not_taken_for_capped_scores() -> None:
    model = tiny("gemma2")
    packed = sample(model, CPU)
    reason = why_not(model, "tree_varlen", packed, answer(model, packed))
    assert "cap" in str(reason)


def test_a_kernel_that_lets_branches_see_each_other_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def careless(module: Any, query: Any, key: Any, value: Any, mask: Any, *, scaling: float, **others: Any) -> Any:
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=True
        )
        return out.transpose(1, 2), None

    AttentionInterface.register("tree_careless", careless)
    monkeypatch.setattr(attention_choice, "candidates", lambda device, dtype: ["tree_careless"])
    model = tiny("llama")
    expected = logps(model)
    prepare(model, CPU)
    assert not takes_trees(model)
    assert torch.equal(logps(model), expected)
    assert "not taken: relative errors of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "taken"),
    [
        (GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=2, n_positions=128, bos_token_id=0, eos_token_id=1), True),
        (MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=4), False),
    ],
    ids=["absolute positions", "a state that runs through the row"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_other_models_get_what_is_exact_for_them(config: Any, taken: bool) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    expected = logps(model)
    prepare(model, CPU)
    assert takes_trees(model) is taken
    assert torch.allclose(logps(model), expected, atol=1e-4)


def test_an_attention_asked_for_by_name_stays() -> None:
    model = tiny("llama")
    prepare(model, CPU, "sdpa")
    assert model.config._attn_implementation == "eager"


def test_bfloat16_is_within_its_limits() -> None:
    model = tiny("qwen3").bfloat16()
    packed = sample(model, CPU)
    assert why_not(model, "tree_segments", packed, answer(model, packed)) is None


def test_small_trees_are_one_block_and_large_ones_are_cut() -> None:
    small, large = (lay([each], CPU).branches for each in (tree(8, 8, 8), tree(100, 100, 100)))
    (one,) = segments(small, None, torch.float32)
    assert (one.begin, one.end, one.root_end - one.root) == (0, 24, 0)
    assert [(s.begin, s.end, s.root, s.root_end) for s in segments(large, None, torch.float32)] == [
        (0, 100, 0, 0), (100, 200, 0, 100), (200, 300, 0, 100),
    ]  # fmt: skip
    assert one.mask_QL[16, 8] == float("-inf")
    assert one.mask_QL[16, 7] == 0


@pytest.mark.filterwarnings("ignore")
def test_compiled_layers_give_the_same_numbers_and_are_not_compiled_again_for_other_lengths() -> None:
    model = tiny("llama", num_hidden_layers=1)
    prepare(model, CPU)
    rows = [lay(trees, CPU) for trees in (TREES, [tree(9, 8, 7), tree(20, 11)], [tree(31, 18, 7)])]
    expected = [completion_logps(model, packed, 1 << 28) for packed in rows]
    compile_layers(model, backend="eager")
    found = [completion_logps(model, packed, 1 << 28) for packed in rows[:1]]
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    found += [completion_logps(model, packed, 1 << 28) for packed in rows[1:]]
    assert all(torch.allclose(ours, theirs, atol=1e-5) for ours, theirs in zip(found, expected, strict=True))
    assert 0 < torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
