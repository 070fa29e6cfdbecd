"""The facts of a large run's shards, as many as fit: shards drawn by their prompts' hashes stand for all."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import pyarrow.compute as pc

from pipeline.auditing.evidence import Evidence
from pipeline.auditing.facts import Facts, facts_of, together

MOST_ROWS = 100_000
"""Labels, pairs and verdicts whose facts are kept, some 20 MB. Source: own; a share of so many is known to half a point."""


@dataclass
class Drawn:
    """The facts of the shards whose smallest prompt ids are smallest: ids are hashes, so this is a draw that repeats."""

    most_rows: int = MOST_ROWS
    n_labels: int = 0
    n_comparisons: int = 0
    n_left_out: int = 0
    _kept: list[tuple[int, int, Facts]] = field(default_factory=list)
    _rows: int = 0

    def shard(self, evidence: Evidence) -> None:
        """Takes a shard, and gives up the last ones of the draw where there is no room."""
        self.n_labels += evidence.labels.num_rows
        self.n_comparisons += evidence.comparisons.num_rows
        smallest = pc.min(evidence.prompts["prompt_id"]).as_py() or "0"
        rank = -int(content_rank(smallest))
        if self._rows >= self.most_rows and rank < self._kept[0][0]:
            self.n_left_out += 1
            return
        n_rows = evidence.labels.num_rows + evidence.comparisons.num_rows + evidence.pairs.num_rows
        heapq.heappush(self._kept, (rank, n_rows, facts_of(evidence)))
        self._rows += n_rows
        while len(self._kept) > 1 and self._rows - self._kept[0][1] >= self.most_rows:
            self._rows -= heapq.heappop(self._kept)[1]
            self.n_left_out += 1

    def together(self) -> Facts:
        """The facts of the drawn shards."""
        return together([facts for _, _, facts in sorted(self._kept, key=lambda each: -each[0])])

    def described(self) -> str:
        """What was drawn."""
        n_kept = len(self._kept)
        return f"what follows is of {n_kept} of {n_kept + self.n_left_out} shards, drawn by the hashes of their prompts"


def content_rank(prompt_id: str) -> int:
    """A prompt id as a number; ids that are no hashes count by their bytes."""
    return int.from_bytes(prompt_id.encode(), "big")
