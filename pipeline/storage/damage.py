"""Files of a run that are not what was written: found by hash, moved aside with a word on why, never deleted."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import Damaged
from pipeline.observing.logs import say
from pipeline.publishing.history import now
from pipeline.storage.folders import move
from pipeline.storage.shards import (
    Receipt,
    file_sha256,
    read_json,
    read_receipt,
    receipt_of,
    receipt_path,
    storing,
    write_json,
)
from pipeline.storage.stores import stamp
from pipeline.work import Work, finished

QUARANTINE = "quarantine"
"""The folder in a run's folder that damaged files are moved to."""
CHECKED = "checked.json"
"""The file in a run's folder that says what each file was like when the run last looked at it."""


def quarantine(run: Path, path: Path, why: str) -> Path:
    """Moves a file out of the way, a shard together with its receipt, and says so. The caller holds the run's folder.

    Returns:
        The folder that it lies in now; `why.json` in it says when, what and why.
    """
    with storing(run):
        numbers = [int(place.name) for place in (run / QUARANTINE).glob("[0-9]*")]
        aside = run / QUARANTINE / f"{max(numbers, default=0) + 1:04d}"
        name = path.relative_to(run)
        write_json(aside / "why.json", {"at": now(), "file": name.as_posix(), "why": why})
        for each in _together(path):
            move(each, aside / name.parent / each.name)
    say(f"warning: {name}: {why}; moved to {aside}, and made again where this run needs it")
    return aside


def _together(path: Path) -> list[Path]:
    """The file and what makes no sense without it. The receipt goes first: a shard without one does not exist."""
    is_shard = path.suffix == ".parquet" or path.with_suffix(".parquet").is_file()
    both = [path.with_suffix(".json"), path.with_suffix(".parquet")] if is_shard else [path]
    return [each for each in both if each.is_symlink() or each.exists()]


def rows_lost(folder: Path) -> dict[int, int]:
    """The rows that the shards of a folder had which lie in quarantine, by the shards' numbers; none where they do not say."""
    found = {}
    for receipt in sorted((folder.parent / QUARANTINE).glob(f"*/{folder.name}/[0-9]*.json")):
        with contextlib.suppress(Damaged):
            found[int(receipt.stem)] = receipt_of(receipt.with_suffix(".parquet")).rows
    return found


@dataclass
class Checked:
    """What the files of a run were like when it last looked: what has not been touched since is not read again.

    Losing it costs reading everything once. The caller holds the run's folder, except for `fault`.

    Args:
        seen: file, below the run's folder -> its SHA-256 and its stamp then.
    """

    run: Path
    seen: dict[str, list[str]] = field(default_factory=dict)
    _changed: bool = False

    @classmethod
    def recall(cls, run: Path) -> Checked:
        """What was noted last; nothing where nothing was, or where the note is torn."""
        try:
            said: dict[str, Any] = read_json(run / CHECKED)
        except (FileNotFoundError, Damaged):
            said = {}
        return cls(run, said.get("seen", {}))

    def save(self) -> None:
        """Writes it down, where there is anything new."""
        if self._changed:
            write_json(self.run / CHECKED, {"seen": self.seen})
            self._changed = False

    def finished(self, work: Work) -> Receipt | None:
        """The receipt of work that is done and whole. What is damaged is moved aside, so that the work is to do."""
        if why := self.misfit(work.output):
            self.put_aside(work.output, why)
        receipt = finished(work)
        if receipt and (why := self.fault(work.output, receipt.sha256)):
            self.put_aside(work.output, why)
            receipt = None
        if receipt is None:
            self._forget(work.output)
        return receipt

    def whole(self, shard: Path) -> bool:
        """Whether a shard that no work makes (a prompt shard) is whole. A damaged one is moved aside."""
        receipt = read_receipt(shard)
        why = self.misfit(shard) or (self.fault(shard, receipt.sha256) if receipt else None)
        if why:
            self.put_aside(shard, why)
        return receipt is not None and why is None

    def misfit(self, shard: Path) -> str | None:
        """How a shard and its receipt do not fit each other, or what was there; None where they do, or neither is there."""
        known = self.seen.get(self._name(shard))
        if not receipt_path(shard).exists():
            return "its receipt is gone" if known and shard.exists() else None
        try:
            receipt = receipt_of(shard)
        except Damaged as damage:
            return f"its receipt {damage.what}"
        if not shard.exists():
            return "is gone, and its receipt is there"
        if (n_bytes := shard.stat().st_size) != receipt.n_bytes:
            return f"has {n_bytes} bytes and was written with {receipt.n_bytes}"
        if known and known[0] != receipt.sha256:
            return f"is not the shard that was here (SHA-256 {receipt.sha256[:12]}, there was {known[0][:12]})"
        return None

    def fault(self, path: Path, sha256: str) -> str | None:
        """How a file is not the one with this hash; None where it is. Reads it where it was touched since the last look."""
        if not path.exists():
            return "is gone"
        known = [sha256, stamp(path)]
        if self.seen.get(self._name(path)) == known:
            return None
        if (found := file_sha256(path)) != sha256:
            return f"has the SHA-256 {found[:12]} and was written with {sha256[:12]}"
        self._note(path, known)
        return None

    def made(self, path: Path, sha256: str) -> None:
        """Takes note of a file that was just written."""
        self._note(path, [sha256, stamp(path)])

    def doubt(self, path: Path) -> None:
        """Has the next look read the file, whatever its times say."""
        if known := self.seen.get(self._name(path)):
            self._note(path, [known[0], ""])

    def put_aside(self, path: Path, why: str) -> None:
        """Moves a damaged file into quarantine, and knows nothing of it any more."""
        self._forget(path)
        quarantine(self.run, path, why)

    def _note(self, path: Path, known: list[str]) -> None:
        self.seen[self._name(path)] = known
        self._changed = True

    def _forget(self, path: Path) -> None:
        if self.seen.pop(self._name(path), None):
            # At once: were this process killed now, the new file would be taken for a stranger.
            (self.run / CHECKED).unlink(missing_ok=True)
            self._changed = True

    def _name(self, path: Path) -> str:
        return path.relative_to(self.run).as_posix()
