"""Activations are kept where they fit and computed again where they do not, to the same gradients."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.trainer.architectures import TREES, tiny, tree  # noqa: E402
from trainer import memory  # noqa: E402
from trainer.attention_choice import prepare  # noqa: E402
from trainer.config import SftOptions  # noqa: E402
from trainer.logps import completion_logps  # noqa: E402
from trainer.memory import kept_bytes, spare  # noqa: E402
from trainer.packing import lay  # noqa: E402

CPU = torch.device("cpu")


def options(**changes: Any) -> SftOptions:
    return SftOptions(data=("-",), model="-", out="-", **changes)


def gradients(model: Any) -> list[Any]:
    model.zero_grad()
    completion_logps(model, lay(TREES, CPU), 1 << 28).sum().backward()
    return [weight.grad.clone() for weight in model.parameters()]


def test_computing_again_keeps_less_and_gives_the_same_gradients() -> None:
    model = tiny("qwen3")
    prepare(model, CPU)
    wanted, before = gradients(model), kept_bytes(model, lay(TREES, CPU))
    assert spare(model, CPU, options(recompute="always"))
    assert kept_bytes(model, lay(TREES, CPU)) < before / 3
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(gradients(model), wanted, strict=True))


def test_what_is_kept_grows_with_the_tokens_and_not_with_the_weights() -> None:
    model = tiny("llama")
    prepare(model, CPU)
    one, two = (kept_bytes(model, lay([tree(20, 20, 20)] * n, CPU)) for n in (1, 2))
    assert 1.8 < two / one < 2.2
    larger = tiny("llama", vocab_size=9700)
    prepare(larger, CPU)
    assert kept_bytes(larger, lay([tree(20, 20, 20)], CPU)) == one


def test_the_estimate_decides_by_the_memory_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny("llama")
    prepare(model, CPU)
    assert not spare(model, CPU, options())
    monkeypatch.setattr(memory, "free_bytes", lambda device: 100 << 20)
    assert spare(model, CPU, options())
    assert "computed again" in capsys.readouterr().err
