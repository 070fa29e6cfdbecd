"""What a run says while it goes: a bar on the terminal, one JSON line a step, TensorBoard events, Weights & Biases."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trainer.errors import EnvironmentProblem


def say(text: str) -> None:
    """One line of talk, above the bar; of torchrun's processes only the first talks."""
    if os.environ.get("RANK", "0") != "0":
        return
    tqdm.write(f"trainer: {text}", file=sys.stderr)


class JsonLines:
    """A file of JSON lines, each with a "step": opened for appending, without lines of steps that will be done again."""

    def __init__(self, path: Path, start: int) -> None:
        lines = path.read_text().splitlines() if start and path.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= start]
        staged = path.with_name(f".{path.name}.staged")
        with staged.open("w") as file:
            file.writelines(line + "\n" for line in kept)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
        self.file = path.open("a")

    def write(self, content: dict[str, Any]) -> None:
        """One line, handed to the system at once: a killed process loses none."""
        self.file.write(json.dumps(content) + "\n")
        self.file.flush()

    def sync(self) -> None:
        """Returns when all lines are on the disk."""
        os.fsync(self.file.fileno())


class RunLog:
    """Writes `log.jsonl`, `alarms.jsonl`, TensorBoard and Weights & Biases. On other ranks than the first it is silent."""

    def __init__(
        self, out: Path, *, total: int, start: int, tensorboard: bool, active: bool, wandb: str = "", run_id: str = ""
    ) -> None:
        self.wandb = _wandb(out, wandb, run_id) if active and wandb else None  # first: it alone may fail
        terminal = sys.stderr.isatty()
        self.bar = tqdm(
            total=total,
            initial=start,
            unit="step",
            disable=not active,
            mininterval=0.5 if terminal else 30,
            file=sys.stderr,
        )
        self.lines = JsonLines(out / "log.jsonl", start) if active else None
        self.alarms = JsonLines(out / "alarms.jsonl", start) if active else None
        self.board = _board(out, start) if active and tensorboard else None

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """One step's numbers, 1-based."""
        if self.lines is None:
            return
        self.lines.write({"step": step, **numbers})
        shown = {k: f"{numbers[k]:.4g}" for k in ("loss", "accuracy", "margin", "tokens_per_s") if k in numbers}
        self.bar.set_postfix(shown, refresh=False)
        if self.board is not None:
            for name, value in numbers.items():
                self.board.add_scalar(name, value, step)
        if self.wandb is not None:
            self.wandb.log(numbers, step=step)

    def alarm(self, content: dict[str, Any]) -> None:
        """One line of what the watchdog saw."""
        if self.alarms is not None:
            self.alarms.write(content)

    def sync(self) -> None:
        """Returns when the lines are on the disk: a checkpoint must not outlive them."""
        for lines in (self.lines, self.alarms):
            if lines is not None:
                lines.sync()

    def advance(self) -> None:
        self.bar.update()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()
        for lines in (self.lines, self.alarms):
            if lines is not None:
                lines.file.close()
        if self.board is not None:
            self.board.close()
        if self.wandb is not None:
            self.wandb.finish()


def _board(out: Path, start: int) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        say("TensorBoard is not installed, so only log.jsonl is written; hint: pip install tensorboard")
        return None
    return SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)


def _wandb(out: Path, project: str, run_id: str) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise EnvironmentProblem("--wandb needs the package wandb; hint: pip install wandb") from error
    return wandb.init(project=project, dir=str(out), id=run_id, name=out.name, resume="allow")
