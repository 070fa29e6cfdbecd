"""Runs that grow: prompts that come and go over one file of completions, and what was asked of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline.config import Config, load
from pipeline.engines.replay import RunningReplay
from tests.pipeline.conftest import write_jsonl

GOOD = "def f(x):\n    return x"
BAD = "def f(x:\n    return x"
N_KNOWN = 220
"""Prompts that the file of completions knows; the file never changes, so that what is asked for is what is new."""


class Growing:
    """A config whose prompts can be changed from one refresh to the next."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "runs"
        self.run = self.root / "growing"
        self.more: dict[int, dict[str, str]] = {}
        """A prompt's number -> columns beside the others, or instead of them."""
        self.completions({})

    def completions(self, other: dict[int, Sequence[str]]) -> None:
        """Four completions of every prompt, two good and two bad; `other` replaces those of some."""
        rows = [{"prompt": prompt(i), "completion": list(other.get(i, texts(i)))} for i in range(N_KNOWN)]
        write_jsonl(self.folder / "completions.jsonl", rows)

    def config(self, prompts: Sequence[int], *settings: str, shard_size: int = 2, labeler: str = "compiles") -> Config:
        """The config over these prompts."""
        rows = [{"prompt": prompt(i), "family": "code", **self.more.get(i, {})} for i in prompts]
        write_jsonl(self.folder / "prompts.jsonl", rows)
        path = self.folder / "config.toml"
        path.write_text(
            f"""
            name = "growing"
            [prompts]
            path = "prompts.jsonl"
            shard_size = {shard_size}
            [[sources]]
            name = "people"
            engine = {{ use = "replay", path = "completions.jsonl" }}
            [[labelers]]
            use = "{labeler}"
            """
        )
        return load(path, settings)

    def plugin(self, body: str) -> str:
        """A labeler in a file beside the config, with this body of `score`."""
        (self.folder / "mine.py").write_text(
            "from dataclasses import dataclass\n"
            "from labelers.types import Example, Needs, Prompt, Score\n"
            "@dataclass(frozen=True)\n"
            "class Mine:\n"
            "    name, version, needs, pass_at = 'mine', '1', Needs(), 1.0\n"
            "    examples = [Example(Prompt.of('p'), better='x', worse='x:')]\n"
            "    def score(self, batch, ctx):\n"
            f"        {body}\n"
        )
        return "./mine.py:Mine"


def texts(number: int) -> list[str]:
    """Two good and two bad completions; neither length nor place tells them apart, as the audit demands."""
    good, bad = ("  # and a long remark", "") if number % 2 else ("", "  # and a long remark")
    found = [f"{GOOD}  # 1{good}", f"{BAD}  # 1{bad}", f"{GOOD}  # 2{good}", f"{BAD}  # 2{bad}"]
    turn = number // 2 % 4
    return found[turn:] + found[:turn]


def prompt(number: int) -> str:
    """A prompt's text."""
    return f"write function {number}"


def no_executor() -> NoReturn:
    """Given to a build that has nothing to do."""
    raise AssertionError("an executor was started")


class Asked:
    """Counts the requests that the real engine is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.requests = 0
        generate = RunningReplay.generate

        def counted(engine, requests):
            self.requests += len(requests)
            return generate(engine, requests)

        monkeypatch.setattr(RunningReplay, "generate", counted)

    def since(self) -> int:
        """Requests since this was asked last."""
        n, self.requests = self.requests, 0
        return n
