"""Layers that a CPU computes its own way give transformers' numbers, and only where they are read."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.trainer.architectures import CONFIGS, TREES, tiny  # noqa: E402
from trainer import attention_choice  # noqa: E402
from trainer.attention_choice import prepare  # noqa: E402
from trainer.config import SftOptions  # noqa: E402
from trainer.last_layer import spare_last_mlp  # noqa: E402
from trainer.layers_cpu import (  # noqa: E402
    GatedSilu,
    RmsNorm,
    Rotary,
    faster,
    is_rotated_so,
    use_faster_layers,
    use_own_layers,
)
from trainer.logps import completion_logps, takes_trees  # noqa: E402
from trainer.memory import spare  # noqa: E402
from trainer.packing import lay  # noqa: E402

CPU = torch.device("cpu")


def drawn(*size: int) -> Any:
    return torch.randn(*size, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(size))).requires_grad_()


def gradients(model: Any) -> dict[str, Any]:
    model.zero_grad()
    logps = completion_logps(model, lay(TREES, CPU), 1 << 28)
    (logps * torch.linspace(-1, 1, len(logps))).sum().div(200).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_the_norms_gradient_is_that_of_its_formula() -> None:
    assert torch.autograd.gradcheck(lambda x, w: RmsNorm.apply(x, w, 1e-3), (drawn(2, 3, 5), drawn(5)))


def test_the_gated_silus_gradient_is_that_of_its_formula() -> None:
    assert torch.autograd.gradcheck(GatedSilu.apply, (drawn(2, 7), drawn(2, 7)))


def test_the_rotations_gradient_turns_back() -> None:
    angle = drawn(1, 3, 2).detach()
    cos, sin = (torch.cat([x, x], dim=-1)[:, None] for x in (angle.cos(), angle.sin()))
    assert torch.autograd.gradcheck(lambda q, k: Rotary.apply(q, k, cos, sin), (drawn(1, 2, 3, 4), drawn(1, 1, 3, 4)))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_replaced_layer_gives_the_models_numbers_and_gradients(name: str) -> None:
    model = tiny(name)
    expected = gradients(model)
    changed = use_faster_layers(model.base_model)
    assert len(changed) > len(model.base_model.layers)
    found = gradients(model)
    assert all((found[key] - expected[key]).abs().max() <= 1e-5 for key in expected)
    use_own_layers(changed)
    assert all(torch.equal(grad, expected[key]) for key, grad in gradients(model).items())


def test_llamas_layers_are_all_replaced_and_gemmas_norm_is_left_alone() -> None:
    kinds = {type(m).__name__ for m in tiny("llama").base_model.modules() if faster(m) is not None}
    assert kinds == {"Linear", "LlamaRMSNorm", "LlamaMLP", "LlamaAttention"}
    assert "Gemma3RMSNorm" not in {type(m).__name__ for m in tiny("gemma3").modules() if faster(m) is not None}


def test_a_rotation_of_neighbours_is_another_rotation() -> None:
    def neighbours(q: Any, k: Any, cos: Any, sin: Any) -> Any:
        def turned(x: Any) -> Any:
            return x * cos + torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2) * sin

        return turned(q), turned(k)

    assert not is_rotated_so(neighbours)


def test_the_last_mlp_sees_only_what_is_read_and_the_gradients_are_the_same() -> None:
    model = tiny("llama")
    attention_choice.switch(model, "tree_segments")
    expected, packed = gradients(model), lay(TREES, CPU)
    seen: list[int] = []
    assert spare_last_mlp(model) is not None
    model.base_model.layers[-1].mlp.gate_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    found = gradients(model)
    assert seen == [len(set(packed.place_N.tolist()))]
    assert seen[0] < len(packed.ids_T)
    assert all((found[key] - expected[key]).abs().max() <= 1e-6 for key in expected)


def test_the_last_mlp_sees_the_same_when_activations_are_computed_again() -> None:
    kept, again = tiny("llama"), tiny("llama")
    prepare(kept, CPU)
    prepare(again, CPU)
    assert spare(again, CPU, SftOptions(data=("-",), model="-", out="-", recompute="always"))
    expected = gradients(kept)
    assert all((grad - expected[key]).abs().max() <= 1e-6 for key, grad in gradients(again).items())


def test_a_shortcut_to_other_numbers_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def careless(model: Any) -> list[Any]:
        mlp = model.layers[0].mlp
        mlp.forward = lambda x: mlp.down_proj(mlp.gate_proj(x) * mlp.up_proj(x))
        return [mlp]

    model = tiny("llama")
    expected = completion_logps(model, lay(TREES, CPU), 1 << 28)
    monkeypatch.setattr(attention_choice, "use_faster_layers", careless)
    prepare(model, CPU)
    assert takes_trees(model)
    assert torch.allclose(completion_logps(model, lay(TREES, CPU), 1 << 28), expected, atol=1e-4)
    assert "shortcuts through the model's layers are not taken" in capsys.readouterr().err
