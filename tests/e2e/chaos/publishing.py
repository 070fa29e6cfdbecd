"""Kills in the window in which a version is published, with a reader in a loop: it must always see one whole version."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.e2e.chaos.kills import ended, names
from tests.e2e.chaos.reader import Read, of, reading
from tests.e2e.chaos.runs import NAME, Golden
from tests.e2e.chaos.zygote import Zygote

BEYOND = 1.5
"""Kills fall into so many times the window, from the first file of a version on: some come just after the pointer was swapped."""


@dataclass
class Published:
    """What came of publishing under fire.

    Args:
        kills: publishers killed between a version's first file and the swap of the pointer, or just after.
        published: of those, whose version stood all the same.
        readings, loadings: what the reader did, with pyarrow and with `datasets`.
        versions: how many different versions it saw.
        mixtures: readings that were none of the versions.
    """

    kills: int = 0
    published: int = 0
    readings: int = 0
    loadings: int = 0
    versions: int = 0
    mixtures: int = 0
    failed: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The figures."""
        return {**asdict(self), "passed": not (self.mixtures or self.failed)}


def publish_under_fire(zygote: Zygote, golden: Golden, home: Path, kills: int, seed: int) -> Published:
    """Publishes versions of different sizes, each publisher killed, until `kills` have been."""
    folder = home / "publishing" / NAME
    folder.parent.mkdir(parents=True)
    golden.before("end", folder)
    draw, found, most = random.Random(f"publishing {seed}"), Published(), golden.prompts
    expected = {of(ids_of(folder, most))}
    with reading(folder / "dataset") as read:
        window_s = 0.0
        while found.kills < kills:
            most -= 1
            expected.add(of(ids_of(folder, most)))
            publisher = _Publisher(zygote, golden, folder, most)
            if not window_s:  # the first one is left in peace
                window_s = publisher.window_s()
                continue
            found.kills += publisher.killed(draw.uniform(0, BEYOND * window_s))
            found.published += publisher.has_published()
    return _verdict(found, read, expected)


class _Publisher:
    """A run that makes a version of the first `prompts` prompts."""

    def __init__(self, zygote: Zygote, golden: Golden, folder: Path, prompts: int) -> None:
        self._folder, self._log = folder, folder.parent / "log"
        self._pointed = os.readlink(folder / "dataset")
        there = names(folder, "publish")
        arguments = golden.arguments(folder.parent, f"prompts.limit={prompts}")
        self._life = zygote.start(arguments, self._log, folder.parent / "requests")
        while names(folder, "publish") == there and not ended(self._life.pid):
            time.sleep(0.001)

    def has_published(self) -> bool:
        """Whether `dataset` points at its version."""
        return os.readlink(self._folder / "dataset") != self._pointed

    def window_s(self) -> float:
        """Seconds from its first file to the swap of the pointer."""
        began = time.monotonic()
        while not self.has_published() and not ended(self._life.pid):
            time.sleep(0.001)
        seconds = time.monotonic() - began
        assert self._life.wait() == 0, self._log.read_text()
        return seconds

    def killed(self, wait_s: float) -> bool:
        """Whether it was still there to be killed after `wait_s`."""
        time.sleep(wait_s)
        with suppress(ProcessLookupError):
            os.kill(self._life.pid, signal.SIGKILL)
        code = self._life.wait()
        assert code in (0, -signal.SIGKILL), f"exit {code}: {self._log.read_text()}"
        return code != 0


def ids_of(folder: Path, prompts: int) -> list[str]:
    """The pairs of a run's first prompts, in the order of its shards."""
    kept = [
        pq.read_table(p, columns=["prompt_id"])["prompt_id"].to_pylist()
        for p in sorted(folder.glob("prompts/*.parquet"))
    ]
    wanted = set([each for shard in kept for each in shard][:prompts])
    tables = [pq.read_table(p, columns=["pair_id", "prompt_id"]) for p in sorted(folder.glob("pairs-*/*.parquet"))]
    return [row["pair_id"] for table in tables for row in table.to_pylist() if row["prompt_id"] in wanted]


def _verdict(found: Published, read: Read, expected: set[str]) -> Published:
    found.readings, found.loadings, found.failed = read.readings, read.loadings, read.failed
    found.versions = len(read.sets.keys() & expected)
    found.mixtures = sum(times for seen, times in read.sets.items() if seen not in expected)
    return found
