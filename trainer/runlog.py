"""What a run says while it goes: a bar on the terminal, one JSON line a step, TensorBoard events."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm


def say(text: str) -> None:
    """One line of talk, above the bar; of torchrun's processes only the first talks."""
    if os.environ.get("RANK", "0") != "0":
        return
    tqdm.write(f"trainer: {text}", file=sys.stderr)


class RunLog:
    """Writes `log.jsonl` and TensorBoard's files. On other ranks than the first it is silent."""

    def __init__(self, out: Path, *, total: int, start: int, tensorboard: bool, active: bool) -> None:
        terminal = sys.stderr.isatty()
        self.bar = tqdm(
            total=total,
            initial=start,
            unit="step",
            disable=not active,
            mininterval=0.5 if terminal else 30,
            file=sys.stderr,
        )
        self.file: IO[str] | None = _kept_until(out / "log.jsonl", start) if active else None
        self.board = _board(out, start) if active and tensorboard else None

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """One step's numbers, 1-based."""
        if self.file is None:
            return
        self.file.write(json.dumps({"step": step, **numbers}) + "\n")
        self.file.flush()
        shown = {k: f"{numbers[k]:.4g}" for k in ("loss", "accuracy", "margin", "tokens_per_s") if k in numbers}
        self.bar.set_postfix(shown, refresh=False)
        if self.board is not None:
            for name, value in numbers.items():
                self.board.add_scalar(name, value, step)

    def advance(self) -> None:
        self.bar.update()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()
        if self.file is not None:
            self.file.close()
        if self.board is not None:
            self.board.close()


def _kept_until(path: Path, start: int) -> IO[str]:
    """The log opened for appending, without lines of steps that will be done again."""
    lines = path.read_text().splitlines() if start and path.exists() else []
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= start]
    path.write_text("".join(line + "\n" for line in kept))
    return path.open("a")


def _board(out: Path, start: int) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        say("TensorBoard is not installed, so only log.jsonl is written; hint: pip install tensorboard")
        return None
    return SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)
