"""Runs a page as a reader would: its files saved, its commands typed one after the other, what they print compared.

What cannot be had in seconds is taken from a recording: completions that real vLLM gave to this very config
(tests/docs/recorded/), put in the place of the engine. Everything after the sampling is done for real.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.docs.blocks import ROOT, Block

RECORDED = Path(__file__).parent / "recorded"
VLLM = re.compile(r'engine = \{ use = "vllm", model = "(.+?)".*?\}')
LONGEST_S = 240


@dataclass(frozen=True)
class Ran:
    """A block that was run, and what it printed; `said` is empty for a file that was saved."""

    block: Block
    code: int
    printed: str
    said: str = ""


def checkout(folder: Path) -> Path:
    """A folder in which the pages' relative paths are right and nothing of the repository can be written."""
    (folder / "data").symlink_to(ROOT / "data")
    shutil.copytree(ROOT / "examples", folder / "examples")
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return folder


def follow(blocks: Sequence[Block], folder: Path, recording: str = "", **environment: str) -> list[Ran]:
    """Saves and runs the blocks of a page in order; stops at the first that fails."""
    done: list[Ran] = []
    for block in blocks:
        if block.not_run:
            continue
        if block.file:
            (folder / block.file).write_text(_replayed(block.text, recording), encoding="utf-8")
        elif block.language == "bash":
            done.append(_typed(block, folder, environment))
        elif block.language == "python":
            done.append(_typed(block, folder, environment, "python"))
        if done and done[-1].code:
            break
    return done


def _typed(block: Block, folder: Path, environment: dict[str, str], shell: str = "bash") -> Ran:
    command = ["bash", "-eo", "pipefail", "-c", block.text] if shell == "bash" else ["python", "-c", block.text]
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    settings = {**os.environ, "PATH": path, "PYTHONPATH": f"{ROOT}", "PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = subprocess.run(
        command, cwd=folder, env=settings, capture_output=True, text=True, timeout=LONGEST_S, check=False
    )
    return Ran(block, done.returncode, done.stdout, done.stderr)


def _replayed(text: str, recording: str) -> str:
    path = RECORDED / f"{recording}.jsonl"
    return VLLM.sub(rf'engine = {{ use = "replay", path = "{path}", model = "\1" }}', text) if path.is_file() else text


def shows(page: str, printed: str) -> bool:
    """Whether a page's output is what was printed; `...` on the page stands for anything."""
    parts = [re.escape(_trimmed(part)) for part in re.split(r"\.\.\.", _trimmed(page))]
    return re.fullmatch(r"(?s:.*?)".join(parts).replace("\\\n", "\n"), _trimmed(printed)) is not None


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
