"""Kills, damaged checkpoints and numbers that are not finite, done to a real training run; pytest does a few of each.

    python -m tests.trainer.faults            all of them (some three minutes); prints one JSON object

30 SIGKILLs, a third inside a save; 9 kinds of damaged checkpoint, each done to the newest 1, 2 and 3 of three; NaN and inf put
into weights, activations, gradients and data weights at 10 steps.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.trainer.conftest import pair_row, save_model, write_dataset
from tests.trainer.runs import alarms, interrupt_at, same, timeless, words

# Damaged checkpoints: what is done to the folder of one; `swapped` and `of_another_step` give it an older one's content.


def largest(folder: Path) -> Path:
    """The file that holds the tensors."""
    return max(folder.glob("*.distcp"), key=lambda path: path.stat().st_size)


def oldest(folder: Path) -> Path:
    """The checkpoint of the lowest step beside this one, or another run's where there is none."""
    return min(path for path in folder.parent.glob("step-*") if path != folder)


def truncated(folder: Path) -> None:
    """The last bytes are missing."""
    path = largest(folder)
    path.write_bytes(path.read_bytes()[:-100])


def flipped(folder: Path) -> None:
    """One bit is another."""
    path = largest(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def missing(folder: Path) -> None:
    """A file is gone."""
    (folder / ".metadata").unlink()


def empty(folder: Path) -> None:
    """A file has no bytes."""
    largest(folder).write_bytes(b"")


def swapped(folder: Path) -> None:
    """The tensors of an earlier step under the newest one's name."""
    shutil.copyfile(largest(oldest(folder)), largest(folder))


def without_manifest(folder: Path) -> None:
    """Killed before the manifest."""
    (folder / "manifest.json").unlink()


def flipped_manifest(folder: Path) -> None:
    """The manifest says something else."""
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"means"', '"meant"'))


def of_another_step(folder: Path) -> None:
    """An earlier checkpoint under the newest one's name."""
    shutil.rmtree(folder)
    shutil.copytree(oldest(folder), folder)


def half_renamed(folder: Path) -> None:
    """Killed before the rename."""
    folder.rename(folder.with_name(folder.name.replace("step-", ".staging-")))


DAMAGES = [
    truncated,
    flipped,
    missing,
    empty,
    swapped,
    without_manifest,
    flipped_manifest,
    of_another_step,
    half_renamed,
]


# Numbers that are not finite.


def not_finite(kind: str, step: int, value: float) -> contextlib.ExitStack:
    """Inside, a run meets the value: in its weights after this step, else during it."""
    from trainer.dpo import DpoObjective
    from trainer.optim import MasterAdamW

    done = Counter[str]()
    objectives: list[Any] = []
    update, outcome, begin = MasterAdamW.step, DpoObjective.outcome, DpoObjective.__init__

    def counted(self: Any, rate: float) -> None:
        update(self, rate)
        done["steps"] += 1
        if kind == "weights" and done["steps"] == step:
            self.masters[0].data.view(-1)[7] = value
            self.publish()
        weigh()

    def weigh() -> None:
        if kind == "data weights" and done["steps"] == step - 1:
            plan = [items for epoch in range(2) for items in objectives[0].steps(epoch)]
            objectives[0].weights[plan[step - 1][0]] = value

    def poisoned(self: Any, model: Any, items: Any) -> Any:
        if done["steps"] != step - 1 or kind not in ("activations", "gradients"):
            return outcome(self, model, items)
        norm = model.model.norm
        hook = norm.register_forward_hook(lambda *seen: poison(seen[2], kind, value))
        try:
            return outcome(self, model, items)
        finally:
            hook.remove()

    def weighed(self: Any, *given: Any) -> None:
        begin(self, *given)
        objectives.append(self)
        weigh()

    stack = contextlib.ExitStack()
    stack.enter_context(patch.object(MasterAdamW, "step", counted))
    stack.enter_context(patch.object(DpoObjective, "outcome", poisoned))
    stack.enter_context(patch.object(DpoObjective, "__init__", weighed))
    return stack


def poison(hidden: Any, kind: str, value: float) -> Any:
    """The hidden states with the value in every position's first number, or in their gradient only."""
    if kind == "activations":
        changed = hidden.clone()
        changed[..., 0] = value
        return changed
    hidden.register_hook(lambda gradient: gradient + value)
    return hidden


def tensors(checkpoint: Path) -> Iterator[Any]:
    """All tensors of a checkpoint."""
    import torch
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        dcp_to_torch_save(checkpoint, Path(folder) / "state.pt")
        state = torch.load(Path(folder) / "state.pt", weights_only=True)
    yield from state["weights"].values()
    for moments in state["adam"].values():
        yield from moments.values()


def check_stopped(out: Path, step: int, ids: set[str]) -> None:
    """What must hold after a run met a number that is not finite at or after this step."""
    (alarm,) = alarms(out)
    assert alarm["alarm"] == "not_finite", alarm
    assert step <= alarm["step"] <= step + 1, alarm
    assert alarm["ids"], alarm
    assert set(alarm["ids"]) <= ids
    assert not (out / "model.safetensors").exists()
    for path in (out / "checkpoints").glob("step-*"):
        assert all(tensor.isfinite().all() for tensor in tensors(path)), path


# Kills.


def killed(argv: list[str], out: Path, wait_s: float, *, in_save: bool) -> bool:
    """Starts the run in a child and kills it after a while, or a while after it begins to save. Whether it was in a save."""
    child = os.fork()
    if child == 0:
        from trainer.cli import main

        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
            os._exit(main(argv))
    if in_save:
        end = time.monotonic() + 60
        while not any((out / "checkpoints").glob(".staging-*")) and time.monotonic() < end:
            pass
    time.sleep(wait_s)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and any((out / "checkpoints").glob(".staging-*"))


def kill_and_resume(argv: Callable[[Path], list[str]], whole: Path, out: Path, wait_s: float, *, in_save: bool) -> bool:
    """One kill, the resume, and the comparison with the run that was left alone. Whether the kill was inside a save."""
    from trainer.cli import main

    inside = killed(argv(out), out, wait_s, in_save=in_save)
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(argv(out)) == 0
    assert same(whole, out)
    assert timeless(whole) == timeless(out)
    return inside


# All of them.


def quietly(argv: list[str]) -> int:
    """Runs the command line without its output; its exit code."""
    from trainer.cli import main

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return main(argv)


def all_kills(make: Callable[[Path], list[str]], folder: Path, count: int = 30) -> dict[str, int]:
    """Kills at random moments, every third one in a save."""
    began = time.monotonic()
    assert quietly(make(folder / "whole")) == 0
    length = time.monotonic() - began
    draw = random.Random(0)
    inside = 0
    for n in range(count):
        in_save = n % 3 == 0
        wait_s = draw.uniform(0, 0.01) if in_save else draw.uniform(0, length)
        with contextlib.redirect_stderr(io.StringIO()):
            inside += kill_and_resume(make, folder / "whole", folder / f"kill-{n}", wait_s, in_save=in_save)
    return {"kills": count, "inside a save": inside, "resumed to the same weights and log": count}


def all_damages(make: Callable[[Path], list[str]], folder: Path) -> dict[str, int]:
    """Every kind of damage to the newest one, two and three of three checkpoints."""
    import pytest

    assert quietly(make(folder / "whole")) == 0
    with pytest.MonkeyPatch.context() as changes:
        interrupt_at(changes, step=6)
        assert quietly(make(folder / "stopped")) == 130
    found = Counter[str]()
    for damage in DAMAGES:
        for depth in (1, 2, 3):
            out = folder / f"{damage.__name__}-{depth}"
            shutil.copytree(folder / "stopped", out)
            newest = sorted((out / "checkpoints").glob("step-*"), reverse=True)
            shutil.copytree(
                newest[-1], out / "checkpoints" / "step-00000000"
            )  # content for `swapped`; not whole by its name
            for path in newest[:depth]:
                damage(path)
            code = quietly(make(out))
            assert code == 0, (damage, depth, code)
            assert same(folder / "whole", out), (damage, depth)
            found[damage.__name__] += 1
    return dict(found)


def all_not_finite(make: Callable[[Path], list[str]], folder: Path, ids: set[str]) -> dict[str, int]:
    """NaN and inf, in four places, at ten steps."""
    found = Counter[str]()
    for kind in ("weights", "activations", "gradients", "data weights"):
        for value in (float("nan"), float("inf")):
            for step in range(1, 11):
                out = folder / f"{kind}-{value}-{step}"
                with not_finite(kind, step, value):
                    code = quietly(make(out))
                assert code == 1, (kind, value, step, code)
                check_stopped(out, step, ids)
                found[kind] += 1
    return dict(found)


def main() -> int:
    """Does everything; the first thing that does not hold ends it."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        rows = [pair_row(n) for n in range(20)]
        data, model = write_dataset(folder / "dataset", rows), save_model(folder / "model", seed=0)

        def make(out: Path) -> list[str]:
            return words(data, model, out, "--checkpoint-every", 1, "--keep-checkpoints", 3, "--batch-pairs", 4)

        began = time.monotonic()
        parts: dict[str, Callable[[], dict[str, int]]] = {
            "kills": lambda: all_kills(make, folder / "kills"),
            "damaged checkpoints": lambda: all_damages(make, folder / "damages"),
            "not finite": lambda: all_not_finite(make, folder / "numbers", {row["pair_id"] for row in rows}),
        }
        result: dict[str, object] = {}
        for name, part in parts.items():
            result[name] = part()
            print(name, result[name], file=sys.stderr)
        print(json.dumps({**result, "seconds": round(time.monotonic() - began)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
