"""SIGKILL at random moments of a stage, again and again, until the run is done; and what it came to."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.chaos.runs import NAME, STAGES, Golden, doubled
from tests.e2e.chaos.watcher import watched
from tests.e2e.chaos.zygote import Life, Zygote

KILLS_A_ROUND = (10, 2)
"""Kills that one run is meant to suffer before it ends, so that many shards are made by runs that were killed before; and of
publishing, which is one step."""


@dataclass
class Verdict:
    """What a stage under fire came to.

    Args:
        kills: runs killed while the stage was at work.
        rounds: runs that were killed until they were done, each held against the undisturbed one.
        differences: files that were not the undisturbed run's.
        doubled: rows that were there twice.
        remade: finished shards that a later life made again.
        most_lost: the most shards' worth of requests that a killed life had answered and a later one answered again.
        mean_lost: the same, over the kills.
        looks, files, torn: what the watcher saw.
    """

    stage: str
    kills: int = 0
    rounds: int = 0
    differences: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    remade: list[str] = field(default_factory=list)
    most_lost: float = 0.0
    mean_lost: float = 0.0
    looks: int = 0
    files: int = 0
    torn: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Nothing lost, doubled, different, made again or torn, and at most one shard's work lost by a kill."""
        return not (self.differences or self.doubled or self.remade or self.torn) and self.most_lost <= 1

    def as_json(self) -> dict[str, Any]:
        """The figures."""
        return {**asdict(self), "passed": self.passed}


class Fire:
    """Kills runs of one stage."""

    def __init__(self, zygote: Zygote, golden: Golden, stage: str, home: Path, seed: int) -> None:
        self._zygote, self._golden, self._stage = zygote, golden, stage
        self._root = home / stage
        self._folder = self._root / NAME
        self._log, self._requests = self._root / "log", self._root / "requests"
        self._draw = random.Random(f"{stage} {seed}")
        self.verdict = Verdict(stage)
        self._lasts = 0.0
        self._answered: dict[str, int] = {}  # request -> the kill that ended the life which answered it last
        self._lost: Counter[int] = Counter()  # kill -> requests that were answered again

    def run(self, kills: int) -> Verdict:
        """Rounds of the stage until it has been killed `kills` times; the last round is done in peace."""
        began = time.monotonic()
        self._root.mkdir(parents=True)
        with watched(self._root) as seen:
            self._lasts = self._undisturbed()
            while self.verdict.kills < kills:
                self._round(kills)
        self.verdict.looks, self.verdict.files, self.verdict.torn = seen.looks, seen.files, seen.torn
        lost = [requests / self._golden.shard_size for requests in self._lost.values()]
        self.verdict.most_lost = max(lost, default=0.0)
        self.verdict.mean_lost = round(sum(lost) / self.verdict.kills, 3)
        self.verdict.seconds = round(time.monotonic() - began, 1)
        return self.verdict

    def _undisturbed(self) -> float:
        """How long the stage is at work when nobody disturbs it."""
        self._reset()
        life, there = self._life()
        self._await(life, there)
        began, whole = time.monotonic(), names(self._golden.folder, self._stage)
        while not whole <= names(self._folder, self._stage) and not ended(life.pid):
            time.sleep(0.001)
        seconds = time.monotonic() - began
        self._end(life)
        return seconds

    def _round(self, kills: int) -> None:
        self._reset()
        self._answered = {}
        while True:
            before = receipts(self._folder)
            life, there = self._life()
            if self.verdict.kills < kills and self._await(life, there):
                time.sleep(self._draw.uniform(0, 2 * self._lasts / KILLS_A_ROUND[self._stage == "publish"]))
                killed = self._kill(life)
            else:
                self._end(life)
                killed = False
            self._account(before)
            if not killed:
                break
            self.verdict.kills += 1
        self.verdict.rounds += 1
        self.verdict.differences += self._golden.differences(self._folder)
        for kind, key in (("completions-", "completion_id"), ("pairs-", "pair_id")):
            self.verdict.doubled += doubled(self._folder, kind, key)

    def _life(self) -> tuple[Life, frozenset[str]]:
        """A run that has just been started, and what the stage's folder held."""
        there = names(self._folder, self._stage)
        self._requests.unlink(missing_ok=True)
        return self._zygote.start(self._golden.arguments(self._root), self._log, self._requests), there

    def _await(self, life: Life, there: frozenset[str]) -> bool:
        """Waits until the stage is at work; False when the run ended first."""
        while names(self._folder, self._stage) == there:
            if ended(life.pid):
                return False
            time.sleep(0.001)
        return True

    def _account(self, before: dict[str, tuple[int, int]]) -> None:
        """Takes in what the last life made again, and what it answered again: the kill that ended who answered it lost that."""
        after = receipts(self._folder)
        self.verdict.remade += [name for name, mark in before.items() if after.get(name) != mark]
        answered = self._requests.read_text().split() if self._requests.exists() else []
        self._lost.update(self._answered[request] for request in set(answered) & self._answered.keys())
        self._answered.update(dict.fromkeys(answered, self.verdict.kills))

    def _kill(self, life: Life) -> bool:
        """Whether the run was still there to be killed."""
        with suppress(ProcessLookupError):
            os.kill(life.pid, signal.SIGKILL)
        return self._end(life) != 0

    def _end(self, life: Life) -> int:
        code = life.wait()
        assert code in (0, -signal.SIGKILL), f"exit {code}: {self._log.read_text()}"
        return code

    def _reset(self) -> None:
        gone = self._root / ".gone"
        if self._folder.exists():
            self._folder.rename(gone)  # at once: whoever watches must not see it fall apart
            shutil.rmtree(gone)
        self._golden.before(self._stage, self._folder)


def ended(pid: int) -> bool:
    """Whether the process is gone, or waits to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def names(folder: Path, stage: str) -> frozenset[str]:
    """What the stage's folder holds, unfinished files too. One that a kill left empty may go meanwhile: a run sweeps first."""
    found: set[str] = set()
    for place in folder.glob(f"{STAGES[stage]}*"):
        with suppress(FileNotFoundError):
            found.update(os.listdir(place))
    return frozenset(found)


def receipts(folder: Path) -> dict[str, tuple[int, int]]:
    """Every receipt of the run with its inode and time: made again it has others."""
    found = {}
    for path in folder.glob("*/[0-9]*.json"):
        if path.parent.name != "versions":
            facts = path.stat()
            found[f"{path.parent.name}/{path.name}"] = (facts.st_ino, facts.st_mtime_ns)
    return found
